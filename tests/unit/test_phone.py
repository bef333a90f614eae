"""
phone_corpus.csv: `raw` with Python's escapes; `expected_or_error` is E.164, or `! ` and a part of the reason.
"""

import csv
import re
from pathlib import Path
from unittest import mock

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneMetadata, geocoder

from ifinu import phone

with Path(__file__).with_name("phone_corpus.csv").open(encoding="utf-8", newline="") as file:
    CORPUS = list(csv.DictReader(file))

AREA_CODES = re.findall(
    r"\d\d",
    "11 12 13 14 15 16 17 18 19 21 22 24 27 28 31 32 33 34 35 37 38 41 42 43 44 45 46 47 48 49 51 53 54 55 "
    "61 62 63 64 65 66 67 68 69 71 73 74 75 77 79 81 82 83 84 85 86 87 88 89 91 92 93 94 95 96 97 98 99",
)


def unescaped(raw):
    return re.sub(r"\\(?:x..|u....|U........|[nrt])", lambda found: found[0].encode().decode("unicode_escape"), raw)


def is_a_person(line):
    return len(set(line[-8:])) > 1 and not line.startswith(("4003", "4004"))


area_codes = st.sampled_from(AREA_CODES)
mobile_lines = st.from_regex(r"9[6-9][0-9]{7}", fullmatch=True).filter(is_a_person)
newer_lines = st.from_regex(r"9[0-5][0-9]{7}", fullmatch=True).filter(is_a_person)
landlines = st.from_regex(r"[2-5][0-9]{7}", fullmatch=True).filter(is_a_person)
any_lines = st.one_of(mobile_lines, newer_lines, landlines)


def test_the_corpus_is_large_and_has_no_case_twice():
    assert len(CORPUS) >= 170
    assert len({row["raw"] for row in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("row", CORPUS, ids=lambda row: row["why"])
def test_corpus(row):
    raw, expected = unescaped(row["raw"]), row["expected_or_error"]
    if not expected.startswith("! "):
        assert phone.normalize(raw) == expected
        return
    with pytest.raises(ValueError, match=re.escape(expected[2:])) as caught:
        phone.normalize(raw)
    assert not re.search(r"\d{5}", str(caught.value))


def test_the_area_codes_are_libphonenumbers():
    plan = re.compile(PhoneMetadata.metadata_for_region("BR").mobile.national_number_pattern)
    existing = [f"{ddd}" for ddd in range(10, 100) if plan.fullmatch(f"{ddd}987654321")]
    assert existing == AREA_CODES
    for ddd in range(10, 100):
        if f"{ddd}" in AREA_CODES:
            assert phone.normalize(f"({ddd}) 98765-4321") == f"+55{ddd}987654321"
        else:
            with pytest.raises(ValueError, match=r"area code \(DDD\)"):
                phone.normalize(f"({ddd}) 98765-4321")


# As libphonenumber spells them.
STATES = {
    "Acre": "AC", "Alagoas": "AL", "Amapá": "AP", "Amazonas": "AM", "Bahia": "BA", "Ceará": "CE",
    "Distrito Federal": "DF", "Espirito Santo": "ES", "Goiás": "GO", "Maranhão": "MA", "Mato Grosso": "MT",
    "Mato Grosso do Sul": "MS", "Minas Gerais": "MG", "Pará": "PA", "Paraiba": "PB", "Paraná": "PR",
    "Pernambuco": "PE", "Piauí": "PI", "Rio de Janeiro": "RJ", "Rio Grande do Norte": "RN",
    "Rio Grande do Sul": "RS", "Rondônia": "RO", "Roraima": "RR", "Santa Catarina": "SC", "São Paulo": "SP",
    "Sergipe": "SE", "Tocantins": "TO",
}  # fmt: skip


def test_each_area_code_is_in_its_state():
    judged = {}
    for ddd in range(100):
        name = geocoder.description_for_number(phonenumbers.parse(f"+55{ddd:02}987654321"), "pt")
        if name:
            judged[f"{ddd:02}"] = STATES[name]
    assert len(judged) == 67
    assert {ddd: phone.state(f"+55{ddd}987654321") for ddd in judged} == judged
    assert set(phone._STATES) == set(judged)


@given(area_codes, any_lines)
def test_an_accepted_number_is_valid_to_libphonenumber(ddd, line):
    assert phonenumbers.is_valid_number(phonenumbers.parse(phone.normalize(ddd + line), None))


@given(area_codes, any_lines)
def test_every_spelling_of_a_number_is_the_same_number(ddd, line):
    national = ddd + line
    spellings = {
        national,
        f"({ddd}) {line[:-4]}-{line[-4:]}",
        f"{ddd}.{line[:-4]}.{line[-4:]}",
        f"55{national}",
        f"+55{national}",
        f"+55 (0) {ddd} {line}",
        f"0055{national}",
        f"0{national}",
        f"0xx{ddd} {line}",
        f"0 15 {ddd} {line}",
        f"021{national}",
        f"55{national}@s.whatsapp.net",
        f"{national}.0",
    }
    assert {phone.normalize(spelling) for spelling in spellings} == {f"+55{national}"}


@given(area_codes, mobile_lines)
def test_a_mobile_with_and_without_its_ninth_digit_is_the_same_number(ddd, line):
    old = ddd + line[1:]
    spellings = {ddd + line, old, f"55{old}", f"+55{old}", f"0{old}", f"55{old}@s.whatsapp.net", f"{old}.0"}
    assert {phone.normalize(spelling) for spelling in spellings} == {f"+55{ddd}{line}"}


@given(
    st.one_of(st.just(""), area_codes.map("({}) ".format)),
    any_lines,
    st.sampled_from(["", "-", ".", " "]),
    st.sampled_from(["/", " / ", "-", " - ", " "]),
    st.from_regex(r"[0-9]{1,3}", fullmatch=True),
)
def test_a_number_and_the_end_of_another_is_no_number(ddd, line, within, between, suffix):
    with pytest.raises(ValueError, match=r"digits|grouped|DDD|does not|begins|service|same"):
        phone.normalize(f"{ddd}{line[:-4]}{within}{line[-4:]}{between}{suffix}")


@given(landlines, st.sampled_from(["", "-", ".", " "]), st.from_regex(r"[0-9]{4}", fullmatch=True))
def test_a_number_and_four_digits_of_another_are_no_number(line, within, suffix):
    with pytest.raises(ValueError, match=r"digits|grouped|DDD|begins|service|same"):
        phone.normalize(f"{line[:-4]}{within}{line[-4:]}/{suffix}")


@given(area_codes, any_lines)
def test_normalizing_twice_changes_nothing(ddd, line):
    once = phone.normalize(ddd + line)
    assert phone.normalize(once) == once
    assert phone.normalize(phone.digits(once)) == once


@given(st.from_regex(phone._USUAL, fullmatch=True))
def test_a_usual_spelling_is_read_as_any_other(usual):
    with mock.patch.object(phone, "_USUAL", re.compile("(?!)")):
        read = number_or_error(usual)
    assert number_or_error(usual) == read


def number_or_error(text):
    try:
        return phone.normalize(text)
    except ValueError as exc:
        return str(exc)


@given(st.one_of(st.text(), st.text("0123456789+-() .x@", max_size=30)))
def test_any_text_is_a_number_or_a_value_error(text):
    try:
        e164 = phone.normalize(text)
    except ValueError:
        return
    assert re.fullmatch(r"\+55[1-9][0-9]{9,10}", e164)


@pytest.mark.parametrize(
    ("e164", "masked"),
    [
        ("+5577998616740", "+55 77 9****-6740"),
        ("+557732216740", "+55 77 3***-6740"),
        ("5577998616740", "****40"),
        ("maria@example.com", "****om"),
        ("1234567", "****"),
        ("", "****"),
    ],
)
def test_mask(e164, masked):
    assert phone.mask(e164) == masked


@given(st.text())
def test_the_mask_of_an_unreadable_number_shows_at_most_two_characters(text):
    masked = phone.mask(text)
    assert re.fullmatch(r"\*{4}.{0,2}|\+55 \d\d \d\*{3,4}-\d{4}", masked, re.DOTALL)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("no phone here, 2026-12-01", "no phone here, 2026-12-01"),
        (
            '[{"jid":"5577998616740@s.whatsapp.net","exists":false,"number":"557732216740"}]',
            '[{"jid":"+55 77 9****-6740@s.whatsapp.net","exists":false,"number":"+55 77 3***-6740"}]',
        ),
        ("call (77) 99861-6740.", "call +55 77 9****-6740."),
        ("call +55 77 9 9861 6740 now", "call +55 77 9****-6740 now"),
        ("77998616740,77998616741", "+55 77 9****-6740,+55 77 9****-6741"),
        ("77998616740 77998616741", "****41"),
        ("351912345678", "****78"),
        ("\u0667\u0667\u0669\u0669\u0668\u0666\u0661\u0666\u0667\u0664\u0660", "+55 77 9****-6740"),
    ],
)
def test_mask_in(text, masked):
    assert phone.mask_in(text) == masked


@given(st.text(max_size=30), area_codes, any_lines, st.text(max_size=30))
def test_no_number_survives_in_a_text(before, ddd, line, after):
    assert ddd + line not in phone.mask_in(f"{before}{ddd}{line}{after}")


@pytest.mark.parametrize(
    ("e164", "forms"),
    [
        ("+5577998616740", ("5577998616740", "557798616740")),
        ("+5511961234567", ("5511961234567", "551161234567")),
        ("+5511951234567", ("5511951234567",)),  # 5123-4567 is somebody's landline
        ("+557732216740", ("557732216740",)),
    ],
)
def test_ninth_digit_forms(e164, forms):
    assert phone.ninth_digit_forms(e164) == forms


@given(area_codes, any_lines)
def test_each_form_is_the_same_number(ddd, line):
    e164 = phone.normalize(ddd + line)
    assert {phone.normalize(form) for form in phone.ninth_digit_forms(e164)} == {e164}
