"""
Return files of banks: the payments in them, and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import date
from decimal import Decimal

import pytest
from bank_files import HEADER_240, HEADER_400, line_400, placed, segments
from hypothesis import given
from hypothesis import strategies as st

from ifinu.billing.charge_files.bank_returns import Settlement, is_bank_file, settlements
from ifinu.errors import ConfigurationError, InvalidBilling


def found(*lines: str) -> list[Settlement | tuple[int, InvalidBilling]]:
    return list(settlements("".join(f"{line}\r\n" for line in lines).encode("latin-1"), Counter()))


def test_a_settlement_of_240_columns_is_read_from_its_two_segments():
    (payment,) = found(HEADER_240, *segments("06"), placed(240, at_1="34100015"), placed(240, at_1="34199999"))
    assert isinstance(payment, Settlement)
    assert (payment.line, payment.amount, payment.paid_on) == (3, Decimal("149.90"), date(2026, 12, 10))
    assert payment.references == ("inv-42", "DOC1", "00000000000000012345", "12345")


@pytest.mark.parametrize("code", ["02", "03", "09", "28"])
def test_what_is_no_settlement_is_skipped(code: str):
    assert found(HEADER_240, *segments(code)) == []
    assert found(HEADER_400, line_400(code)) == []


@pytest.mark.parametrize(
    ("bank", "settled"), [("341", "06 07 08"), ("237", "06 15 17"), ("001", "05 06 07 08 15"), ("999", "06")]
)
def test_the_codes_of_a_settlement_in_400_columns_are_the_banks(bank: str, settled: str):
    header = HEADER_400[:76] + bank + HEADER_400[79:]
    codes = [f"{code:02}" for code in range(1, 30) if found(header, line_400(f"{code:02}"))]
    assert codes == settled.split()


def test_a_settlement_of_400_columns_is_read():
    (payment,) = found(HEADER_400, line_400("06"), "9".ljust(400), "\x1a")
    assert isinstance(payment, Settlement)
    assert (payment.line, payment.amount, payment.paid_on) == (2, Decimal("149.90"), date(2026, 12, 10))
    assert payment.references[:2] == ("inv-42", "DOC1")


def test_a_payment_has_the_same_id_in_another_file_and_two_payments_have_two():
    other = [*segments("02"), *segments("06"), *segments("06", amount="000000000000100")]
    first, again, third = *found(HEADER_240, *segments("06")), *found(HEADER_240, *other)
    assert isinstance(first, Settlement)
    assert isinstance(again, Settlement)
    assert isinstance(third, Settlement)
    assert first.event_id == again.event_id != third.event_id


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (segments("06", amount="000000000000000"), "no amount"),
        (segments("06", amount="abc"), "no amount"),
        (segments("06", day="31022026"), "no date"),
        (["short"], "no line of a return file"),
        (["9" * 241], "241 columns, not 240"),
        (segments("06")[:1], "segment U) is missing"),
        ([placed(240, at_1="34100015"), *segments("06")[1:]], "segment T) is missing"),
    ],
)
def test_a_line_that_cannot_be_read_is_given_back_with_its_number(lines: list[str], words: str):
    ((number, error),) = found(HEADER_240, *lines)  # type: ignore[misc]
    assert number in (2, len(lines) + 1)
    assert words in error.reason


def test_a_return_file_is_told_from_a_table_and_from_a_remessa():
    assert is_bank_file(f"{HEADER_240}\r\n".encode())
    assert is_bank_file(f"{HEADER_400}\n".encode())
    assert not is_bank_file(b"id;valor;vencimento\n")
    assert not is_bank_file(b"x" * 240 + b"\n")
    with pytest.raises(ConfigurationError, match="240 or 400"):
        list(settlements(b"id;valor\n", Counter()))
    for remessa in (placed(240, at_1="34100000", at_143="1"), "01REMESSA01COBRANCA".ljust(400)):
        assert is_bank_file(remessa.encode())
        with pytest.raises(ConfigurationError, match="retorno"):
            found(remessa)


@pytest.mark.parametrize(
    "written",
    [
        lambda lines: "\n".join(lines).encode(),
        lambda lines: "\r".join(lines).encode(),
        lambda lines: "".join(lines).encode() + b"\x1a",
        lambda lines: "\r\n".join(line.rstrip() for line in lines).encode() + b"\r\n\x1a",
        lambda lines: "\r\n".join(lines).encode("utf-8-sig"),
        lambda lines: f"{lines[0]}\n{lines[1]}\r\n{lines[2]}\r\n".encode("latin-1"),
    ],
    ids=["lf", "cr", "no ends", "no blanks at the ends", "utf-8", "mixed"],
)
def test_a_file_that_another_program_saved_again_is_read(written: Callable[[list[str]], bytes]):
    lines = [placed(240, at_1="34100000", at_73="ACADEMIA SÃO JOÃO", at_143="2"), *segments("06")]
    content = written(lines)
    assert is_bank_file(content[:1000])
    (payment,) = settlements(content, Counter())
    assert isinstance(payment, Settlement)
    assert payment.amount == Decimal("149.90")


def test_a_discount_that_the_bank_granted_counts_as_paid():
    t, u = segments("06", amount="000000000014490")
    (payment,) = found(HEADER_240, t, u[:32] + "000000000000400" + "000000000000100" + u[62:])
    assert isinstance(payment, Settlement)
    assert payment.amount == Decimal("149.90")
    line = line_400("06", amount="0000000014490")
    (payment,) = found(HEADER_400, line[:227] + "0000000000100" + "0000000000400" + line[253:])
    assert isinstance(payment, Settlement)
    assert payment.amount == Decimal("149.90")


def test_the_day_of_the_credit_counts_if_there_is_no_other():
    t, u = segments("06", day="00000000")
    (payment,) = found(HEADER_240, t, u[:145] + "11122026" + u[153:])
    assert isinstance(payment, Settlement)
    assert payment.paid_on == date(2026, 12, 11)


def test_entries_that_are_no_payments_are_counted_by_their_code():
    others = Counter[str]()
    lines = [HEADER_240, *segments("02"), *segments("03"), *segments("03"), *segments("06")]
    assert len(list(settlements("\n".join(lines).encode(), others))) == 1
    assert others == {"02": 1, "03": 2}


@given(st.lists(st.text(st.characters(max_codepoint=255, exclude_characters="\n\r"), min_size=240, max_size=240)))
def test_any_lines_are_read_or_given_back(lines: list[str]):
    for each in settlements("\n".join([HEADER_240, *lines]).encode("latin-1"), Counter()):
        assert isinstance(each, (Settlement, tuple))
