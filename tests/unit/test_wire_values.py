import contextlib
import re
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifinu import values

DAY = date(2026, 12, 1)
TIME = datetime.fromisoformat


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("89,90", "89.90"),
        ("89.90", "89.90"),
        ("R$ 89,90", "89.90"),
        ("R$\u00a089,90", "89.90"),
        ("r$89,90", "89.90"),
        ("BRL 89,90", "89.90"),
        ("89,90 BRL", "89.90"),
        ("R$ 1.234,50 ", "1234.50"),
        ("1,234.50", "1234.50"),
        ("1 234,50", "1234.50"),
        ("1\u00a0234,50", "1234.50"),
        ("12.345.678,90", "12345678.90"),
        ("1.234.567", "1234567"),
        ("1234", "1234"),
        ("1234,5", "1234.5"),
        ("89,9000", "89.90"),
        ("89.9000", "89.90"),
        ("0.500", "0.50"),
        ("1234.500", "1234.50"),
        ("1.234,5000", "1234.50"),
        ("89.90000000000001", "89.90"),
        ("0,00", "0.00"),  # for its range, see Notification
    ],
)
def test_an_amount_of_one_meaning_is_read(text, read):
    assert values.amount(text) == Decimal(read)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1.234", "has two meanings, as 1.234 may be 1234.00 or 1.23"),
        ("1,234", "has two meanings"),
        ("89.900", "has two meanings"),
        ("1234,567", "no more than 2 decimal places"),
        ("1.234,567", "no more than 2 decimal places"),
        ("89,9010", "no more than 2 decimal places"),
        ("R$ 89,90-", "is negative"),
        ("-89,90", "is negative"),
        ("\u221289,90", "is negative"),
        ("(89,90)", "is negative"),
        ("1e2", "scientific notation"),
        ("1,5E+3", "scientific notation"),
        ("=89,90", "is a formula"),
        ("US$ 10.00", "is not in R$"),
        ("€ 10,00", "is not in R$"),
        ("RS 89,90", "is not an amount"),
        ("1.23,45", "is not an amount"),
        ("12.34.56", "is not an amount"),
        ("89,-", "is not an amount"),
        ("89,", "is not an amount"),
        ("1.234,50.10", "is not an amount"),
        ("٣", "is not an amount"),
        ("", "is not an amount"),
    ],
)
def test_an_amount_of_two_meanings_or_of_none_is_refused_in_words(text, reason):
    with pytest.raises(ValueError, match="^" + (r".*" if reason[0] in "ns" else "") + reason.replace("$", r"\$")):
        values.amount(text)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("01/12/26", DAY),
        ("1/12/2026", DAY),
        ("01-12-2026", DAY),
        ("01.12.2026", DAY),
        ("2026/12/01", DAY),
        ("2026-12-1", DAY),
        ("20261201", DAY),
        ("01122026", DAY),
        ("46357", DAY),
        ("46357.0", DAY),
        ("46357,0", DAY),
        ("46357,75", TIME("2026-12-01T18:00")),
        ("01 dez 2026", DAY),
        ("01/dez/2026", DAY),
        ("1-Dec-26", DAY),
        ("1º de dezembro de 2026", DAY),
        ("4 de março de 2027", date(2027, 3, 4)),
        ("12/01/2026", date(2026, 1, 12)),  # days first
        ("2026-12-01 00:00:00.000", TIME("2026-12-01T00:00")),
        ("01/12/2026 00:00", TIME("2026-12-01T00:00")),
        ("01/12/2026  9:30:00", TIME("2026-12-01T09:30")),
        ("01/12/2026, 10:30", TIME("2026-12-01T10:30")),
        ("2026-12-01 00:00:00+00", datetime(2026, 12, 1, tzinfo=UTC)),
        ("2026-12-01T00:00:00-0300", datetime(2026, 12, 1, tzinfo=timezone(timedelta(hours=-3)))),
        ("2026-12-01T23:59:59.999999999Z", datetime(2026, 12, 1, 23, 59, 59, 999999, UTC)),
    ],
)
def test_a_date_of_one_meaning_is_read(text, read):
    found = values.day_or_time(text)
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("01-12-26", "has two meanings, as 01-12-26 may be 2026-12-01 or 2001-12-26"),
        ("0000-00-00", "is not in the calendar"),
        ("00/00/0000", "is not in the calendar"),
        ("31/11/2026", "is not in the calendar"),
        ("29/02/2027", "is not in the calendar"),
        ("12/13/2026", "is not in the calendar"),
        ("99999999", "is not in the calendar"),
        ("12/1/2026 12:00:00 AM", "is an American time"),
        ("1764558000", "is a count of seconds or milliseconds"),
        ("1796094000000", "is a count of seconds or milliseconds"),
        ("12345", "is not a date"),
        ("12/2026", "is not a date"),
        ("01/xyz/2026", "is not a date"),
        ("amanhã", "is not a date"),
        ("", "is not a date"),
    ],
)
def test_a_date_of_two_meanings_or_of_none_is_refused_in_words(text, reason):
    with pytest.raises(ValueError, match=f"^{reason}"):
        values.day_or_time(text)


@given(
    st.from_regex(values._PLAIN, fullmatch=True), st.from_regex(values._ISO_DAY, fullmatch=True) | st.dates().map(str)
)
def test_a_usual_spelling_is_read_as_any_other(number, day):
    never = re.compile("(?!)")
    with mock.patch.multiple(values, _PLAIN=never, _ISO_DAY=never):
        read = value_or_error(values.amount, number), value_or_error(values.day_or_time, day)
    assert (value_or_error(values.amount, number), value_or_error(values.day_or_time, day)) == read


def value_or_error(read, text):
    try:
        return repr(read(text))
    except ValueError as exc:
        return str(exc)


@given(st.text() | st.text("0123456789.,-/: RT$EZe+'()", max_size=24))
def test_any_text_is_a_value_or_an_error(text):
    for read in (values.amount, values.day_or_time):
        with contextlib.suppress(ValueError):
            assert read(text) is not None
