"""
Return files of banks: the payments in them, and nothing else.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from bank_files import HEADER_240, HEADER_400, line_400, placed, segments
from hypothesis import given
from hypothesis import strategies as st

from ifinu.billing.charge_files import bank_returns
from ifinu.billing.charge_files.bank_returns import Settlement, is_return_file, settlements
from ifinu.errors import ConfigurationError, InvalidBilling


def found(*lines: str) -> list[Settlement | tuple[int, InvalidBilling]]:
    return list(settlements(f"{line}\r\n".encode("latin-1") for line in lines))


def test_a_settlement_of_240_columns_is_read_from_its_two_segments():
    (payment,) = found(HEADER_240, *segments("06"), placed(240, at_1="34100015"), placed(240, at_1="34199999"))
    assert isinstance(payment, Settlement)
    assert (payment.line, payment.amount, payment.paid_on) == (3, Decimal("149.90"), date(2026, 12, 10))
    assert payment.references == ("inv-42", "DOC1", "00000000000000012345")


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
        (["short"], "5 columns, not 240"),
    ],
)
def test_a_line_that_cannot_be_read_is_given_back_with_its_number(lines: list[str], words: str):
    ((number, error),) = found(HEADER_240, *lines)  # type: ignore[misc]
    assert number == len(lines) + 1
    assert words in error.reason


def test_a_return_file_is_told_from_a_table():
    assert is_return_file(f"{HEADER_240}\r\n".encode())
    assert is_return_file(f"{HEADER_400}\n".encode())
    assert not is_return_file(b"id;valor;vencimento\n")
    assert not is_return_file(b"x" * 240 + b"\n")
    with pytest.raises(ConfigurationError, match="240 or 400"):
        list(settlements([b"id;valor\n"]))


@given(st.lists(st.text(st.characters(max_codepoint=255, exclude_characters="\n\r"), min_size=240, max_size=240)))
def test_any_lines_are_read_or_given_back(lines: list[str]):
    for each in bank_returns.settlements(line.encode("latin-1") for line in [HEADER_240, *lines]):
        assert isinstance(each, (Settlement, tuple))
