"""
Damaged text is refused and ordinary text is not.

damaged_corpus.tsv holds texts as a faulty program leaves them, each with the word that the error must name.
plain_corpus.txt holds texts that people write, one a line. Both use Python's escapes.
"""

import contextlib
import json
import re
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ifinu import damage, wire
from ifinu.errors import InvalidNotification
from ifinu.notification import Notification

HERE = Path(__file__).parent
BARE = {"id": "inv-42", "kind": "pagamento", "phone": "77998616740", "name": "Maria", "amount": "10.00"}


def unescaped(raw):
    return re.sub(r"\\(?:x..|u....|U........)", lambda found: found[0].encode().decode("unicode_escape"), raw)


def lines(name):
    return [unescaped(line) for line in (HERE / name).read_text("utf-8").splitlines() if line]


DAMAGED = [line.split("\t") for line in lines("damaged_corpus.tsv")]
PLAIN = lines("plain_corpus.txt")


@pytest.mark.parametrize("field", ["name", "description", "text"])
@pytest.mark.parametrize(("given", "named"), DAMAGED)
def test_damaged_text_is_refused_in_every_visible_field_naming_the_damage(field, given, named):
    with pytest.raises(ValidationError) as caught:
        Notification(**BARE | {field: given})
    (error,) = caught.value.errors()
    assert error["loc"] == (field,)
    assert named in error["msg"]


@pytest.mark.parametrize("given", PLAIN)
def test_text_that_people_write_is_not_refused(given):
    notification = Notification(**BARE | {"name": given, "description": given, "text": f"Olá! {given} ({given})"})
    assert notification.name == notification.description == given


@pytest.mark.parametrize(
    ("field", "given", "named"),
    [
        ("name", "Jo?o", "a question mark within a word"),
        ("name", "Jo%C3%A3o", "%C3%A3"),
        ("name", "Maria null", "null"),
        ("name", "null null", "null null"),
        ("name", "\u202eairaM", "U+202E"),
        ("name", "Maria\u200f", "U+200F"),
        ("description", "Plano \u2066anual", "U+2066"),
        ("text", "Pague: https://exemplo.com/\u200fa", "U+200F"),
        ("text", "Pague: https://exemplo.com/undefined", "undefined"),
        ("text", "Pague: https://exemplo.com/nil", "nil"),
        ("text", "Pague: https://exemplo.com/a?b=1&amp;c=2", "&amp;"),
        ("payment_link", "https://exemplo.com/b?id=1&amp;t=2", "&amp;"),
        ("payment_link", "https://undefined", "undefined"),
        ("payment_link", "https://exemplo.com/null", "null"),
        ("payment_link", "https://exemplo.com/?id=None&t=2", "None"),
        ("payment_link", "https://exemplo.com/{id}", "{id}"),
        ("payment_link", "https://exemplo.com/${id}", "${id}"),
        ("payment_link", "https://exemplo.com/%7Bid%7D", "%7Bid%7D"),
        ("payment_link", "https://exemplo.com/<id>", "<id>"),
        ("payment_link", "https://exemplo.com/\u202egpj", "U+202E"),
        ("payment_link", "https://exemplo.com/a\u200bb", "U+200B"),
        ("payment_link", "https://exemplo.com/Jo\ufffdo", "U+FFFD"),
        ("payment_link", "https:///pagar", "has no host"),
        ("payment_link", "https://loja@/pagar", "has no host"),
        ("payment_link", "https://[object Object]", "[object Object]"),
        ("attachment", "https://exemplo.com/{{arquivo}}.pdf", "{{arquivo}}"),
        ("attachment", "https://exemplo.com/#N/D", "#N/D"),
        ("pix_code", "NULL", "NULL"),
        ("pix_code", "undefined", "undefined"),
        ("pix_code", "000201\u202e6304ABCD", "U+202E"),
        ("id", "undefined", "undefined"),
        ("id", "[object Object]", "[object Object]"),
        ("id", "inv-\u202e42", "U+202E"),
        ("id", "inv-\ufffd", "U+FFFD"),
        ("tenant", "null", "null"),
        ("instance", "NaN", "NaN"),
    ],
)
def test_damage_that_only_one_field_can_have_is_refused_there(field, given, named):
    with pytest.raises(ValidationError) as caught:
        Notification(**BARE | {field: given})
    (error,) = caught.value.errors()
    assert error["loc"] == (field,)
    assert named in error["msg"]


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("payment_link", "https://exemplo.com/pagar/a_b*c*?x=1&copy=2#topo"),
        ("payment_link", "https://exemplo.com/b?nome=Jo%C3%A3o&desconto=50%25"),
        ("payment_link", "https://exemplo.com:8443/~loja/(1)/@maria;v=1/$10/null-safe/none"),
        ("payment_link", "https://[2001:db8::1]/a"),
        ("payment_link", "https://nullsec.exemplo.com/undefinedness"),
        ("attachment", "https://exemplo.com/ação/boleto.pdf"),
        ("text", "Copiado: \u202a+55 77 99861-6740\u202c"),
        ("text", "Em C:\\novo\\notas e \\\\servidor\\notas."),
        ("text", "Acesse https://exemplo.com/b?nome=Jo%C3%A3o, por favor."),
        ("id", "inv-null:{lembrete}"),
        ("id", "<b>&amp;%s"),
    ],
)
def test_text_that_one_field_may_have_is_accepted_there(field, given):
    assert getattr(Notification(**BARE | {field: given}), field) == given


@pytest.mark.parametrize(
    "given", ["{{Zulmira Canário}}", "<a Zulmira>", "{{Zulmira}}", "${77998616740}", "<b Zulmira>"]
)
def test_an_error_repeats_no_personal_data(given):
    with pytest.raises(ValidationError) as caught:
        Notification(**BARE | {"text": f"Olá Zulmira {given}"})
    assert "Zulmira" not in str(caught.value)
    assert "77998616740" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_accepted_or_refused(text):
    for refuse in (damage.refuse_in_name, damage.refuse_in_text, damage.refuse_in_link, damage.refuse_in_code):
        with contextlib.suppress(ValueError):
            refuse(text)


MARKS = [
    *((damage.refuse_in_name, mark) for mark in (*damage._ANYWHERE, damage._BIDI_CONTROLS, *damage._IN_NAMES)),
    *((damage.refuse_in_link, mark) for mark in (*damage._ANYWHERE, damage._BIDI_CONTROLS, *damage._IN_LINKS)),
    (damage.refuse_in_code, damage._ANYWHERE[0]),
    (damage.refuse_in_code, damage._BIDI_CONTROLS),
]


@pytest.mark.parametrize(("refuse", "mark"), MARKS)
@given(data=st.data())
def test_the_quick_check_passes_no_mark(refuse, mark, data):
    """The quick check spares most values the full one."""
    text = data.draw(st.from_regex(mark.pattern))
    with pytest.raises(ValueError, match=r"has|is"):
        refuse(text)


PIECES = (
    *"{}<>%$#[]*|&;\\?!()@_=/:. aR\u200b\u202e\ufffd", "nome", "&amp;", "&nbsp", "https://", "HTTP://", "a.b", "[::1]",
    "nil", "null", "undefined", "NaN", "None", "\\n", "C3=A3", "R$", "Err:502", "N/D", "%s", "Ã£", "b>", "7D", "(?",
)  # fmt: skip


@pytest.mark.parametrize(
    "refuse", [damage.refuse_in_text, damage.refuse_in_line, damage.refuse_in_name, damage.refuse_in_link]
)
@given(text=st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_the_quick_check_changes_no_answer(refuse, text):
    everything = re.compile("")
    nothing = re.compile("(?!)")
    with mock.patch.multiple(damage, _SUSPICIOUS=everything, _SUSPICIOUS_IN_LINKS=everything, _HAS_HOST=nothing):
        full = answer(refuse, text)
    assert answer(refuse, text) == full


def answer(refuse, text):
    try:
        return refuse(text)
    except ValueError as exc:
        return str(exc)


def test_a_file_of_texts_that_programs_left_damaged():
    """Lines of real producers: all are refused but the two undamaged ones."""
    accepted, refused = [], {}
    for line in (HERE.parent / "cases" / "damaged-or-unfilled.jsonl").read_text("utf-8").splitlines():
        body = json.loads(line)
        try:
            wire.decode(body)
        except InvalidNotification as exc:
            refused[body["id"]] = str(exc)
        else:
            accepted.append(body["id"])
    assert set(accepted) - {"t12"} == {"t11"}  # t12 is undamaged but has misspelt keys
    named = {
        "t1": "nome: has U+FFFD", "t2": "'Ã£'", "t3": "'&eacute;'", "t4": "link_pagamento: has '&amp;'",
        "t5": "'{{nome}}'", "t6": r"has '\n'", "t7": "'null'", "t8": "'undefined'", "t9": "'NaN'", "t10": "'#N/D'",
        "t15": "'[object Object]'", "t16": "'<b>'", "t17": "'NULL'", "t18": "'undefined'",
    }  # fmt: skip
    assert {id_: words for id_, words in named.items() if words not in refused[id_].replace("\\\\", "\\")} == {}
