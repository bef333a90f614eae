"""
Amounts and dates as people, spreadsheets and databases in Brazil write them.

A spelling with one meaning is accepted. A spelling with two meanings is refused, and the error names both. No error
repeats the value, so no amount reaches a log.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal

AMOUNT_HELP = "write 1234.50 or '1.234,50'"
DATE_HELP = "write 2026-12-01, 01/12/2026 or 2026-12-01T18:00:00-03:00"

_PLAIN = re.compile(r"\d+(?:\.\d\d)?", re.ASCII)
_REAL = re.compile(r"^(?:R\$|BRL)\s*|\s*(?:BRL|reais)$", re.IGNORECASE)
_OTHER_MONEY = re.compile(r"[$€£]|\b(?:USD|EUR)\b", re.IGNORECASE)
_NEGATIVE = re.compile(r"^[-\u2212].*\d|\d\s*[-\u2212]$|^\(.*\d.*\)$")
_SCIENTIFIC = re.compile(r"\d+(?:[.,]\d+)?E[+-]?\d+", re.ASCII | re.IGNORECASE)
_SPACED = re.compile(r"\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?:[.,]\d+)?", re.ASCII)
_ONE_MARK = re.compile(r"(\d+)[.,](\d+)", re.ASCII)
_GROUPED = re.compile(r"\d{1,3}(?:(?:\.\d{3})+,\d+|(?:,\d{3})+\.\d+|(?:\.\d{3}){2,}|(?:,\d{3}){2,})", re.ASCII)
_CENT = Decimal("0.01")
_DUST = Decimal("1e-9")  # the error of binary fractions: 89.90000000000001

_ISO_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_CLOCK = r"(?:[T ,]+(\d{1,2}:\d\d.*))?"
_YEAR_FIRST = re.compile(rf"(\d{{4}})([-/.])(\d{{1,2}})\2(\d{{1,2}}){_CLOCK}", re.ASCII)
_DAY_FIRST = re.compile(rf"(\d{{1,2}})([-/.])(\d{{1,2}})\2(\d{{4}}|\d\d){_CLOCK}", re.ASCII)
_IN_WORDS = re.compile(r"(\d{1,2})(?:o|\u00ba)?[ ./-]+(?:de )?([a-z]{3,9})\.?[ ./-]+(?:de )?(\d{4}|\d\d)", re.ASCII)
_EIGHT_DIGITS = re.compile(r"\d{8}", re.ASCII)
_SERIAL = re.compile(r"(\d{5})(?:[.,](\d+))?", re.ASCII)
_SINCE_1970 = re.compile(r"\d{10}(?:\d{3})?", re.ASCII)
_AMERICAN = re.compile(r"\d ?[AP]M$", re.IGNORECASE)
_EXCEL_EPOCH = datetime(1899, 12, 30)  # noqa: DTZ001 - a spreadsheet's times have no zone
_THIS_CENTURY = range(2000, 2100)
_MONTHS = (
    ("janeiro", "january"), ("fevereiro", "february"), ("marco", "march"), ("abril", "april"), ("maio", "may"),
    ("junho", "june"), ("julho", "july"), ("agosto", "august"), ("setembro", "september"), ("outubro", "october"),
    ("novembro", "november"), ("dezembro", "december"),
)  # fmt: skip


def amount(text: str) -> Decimal:
    """
    Parse an amount in BRL.

    Raises:
        ValueError: The text is not an amount, or has two meanings; the message says which.
    """
    if _PLAIN.fullmatch(text):
        return Decimal(text)
    bare = _REAL.sub("", text.strip()).strip()
    if bare.startswith("="):
        raise ValueError(f"is a formula, not its result; {AMOUNT_HELP}")
    if _OTHER_MONEY.search(bare):
        raise ValueError("is not in R$ (BRL)")
    if _NEGATIVE.search(bare):
        raise ValueError("is negative; it must be greater than 0")
    if _SCIENTIFIC.fullmatch(bare):
        raise ValueError("is in scientific notation, as spreadsheets shorten numbers; write all its digits")
    if _SPACED.fullmatch(bare):
        bare = "".join(bare.split())
    if bare.isascii() and bare.isdigit():
        return Decimal(bare)
    if match := _ONE_MARK.fullmatch(bare):
        whole, cents = match.groups()
        if len(cents) == 3 and len(whole) <= 3 and not whole.startswith("0"):
            raise ValueError("has two meanings, as 1.234 may be 1234.00 or 1.23; write 1234.00 or '1.234,00'")
        return exact(Decimal(f"{whole}.{cents}"))
    if _GROUPED.fullmatch(bare):
        mark = max(bare.rfind("."), bare.rfind(","))
        if bare.count(bare[mark]) > 1:  # thousands alone
            return Decimal(re.sub(r"[.,]", "", bare))
        return exact(Decimal(f"{re.sub(r'[.,]', '', bare[:mark])}.{bare[mark + 1 :]}"))
    raise ValueError(f"is not an amount; {AMOUNT_HELP}")


def exact(number: Decimal) -> Decimal:
    """
    Round off what databases and floats add to two decimal places: zeros, and errors below 1e-9.

    Raises:
        ValueError: The number has more than two decimal places.
    """
    if not number.is_finite() or number.adjusted() > 20:
        return number  # a range check elsewhere refuses it
    rounded = number.quantize(_CENT)
    if abs(number - rounded) >= _DUST:
        raise ValueError("must have no more than 2 decimal places")
    return number if number == rounded and -number.as_tuple().exponent <= 2 else rounded  # type: ignore[operator]


def day_or_time(text: str) -> date | datetime:
    """
    Parse a day, or a time, which is aware if the text names a zone. Days come before months.

    Raises:
        ValueError: The text is not a date, or has two meanings; the message says which.
    """
    is_usual = _ISO_DAY.fullmatch(text) is not None
    if not is_usual:
        text = " ".join(text.split())
        if _AMERICAN.search(text):
            raise ValueError(f"is an American time, where the month may come first; {DATE_HELP}")
    try:
        found = date.fromisoformat(text) if is_usual else _read(text)
    except (ValueError, OverflowError) as exc:
        raise ValueError("is not in the calendar") from exc
    if found is not None:
        return found
    if (match := _DAY_FIRST.fullmatch(text)) and len(match[4]) == 2:
        raise ValueError("has two meanings, as 01-12-26 may be 2026-12-01 or 2001-12-26; write the year with 4 digits")
    if _SINCE_1970.fullmatch(text):
        raise ValueError(f"is a count of seconds or milliseconds, perhaps since 1970; {DATE_HELP}")
    raise ValueError(f"is not a date; {DATE_HELP}")


def local_day(at: datetime, zone: tzinfo) -> date:
    """
    The day of a time in a zone. A time without a zone is in it already.

    Go and JavaScript print a bare date as midnight UTC, so that is its own date in every zone.

    Raises:
        ValueError: The day is out of the calendar.
    """
    if at.tzinfo is None or (at.utcoffset() == timedelta(0) and at.time() == time.min):
        return at.date()
    try:
        return at.astimezone(zone).date()
    except OverflowError as exc:
        raise ValueError("is out of the calendar") from exc


def _read(text: str) -> date | datetime | None:
    if match := _YEAR_FIRST.fullmatch(text):
        year, _, month, day, clock = match.groups()
        return _at(date(int(year), int(month), int(day)), clock)
    if match := _DAY_FIRST.fullmatch(text):
        day, mark, month, year, clock = match.groups()
        if len(year) == 4 or mark == "/":  # a short year may come first elsewhere: 26-12-01
            return _at(date(_year(year), int(month), int(day)), clock)
        return None
    if match := _IN_WORDS.fullmatch(_folded(text)):
        month_number = _month(match[2])
        return None if month_number is None else date(_year(match[3]), month_number, int(match[1]))
    if _EIGHT_DIGITS.fullmatch(text):
        return _of_eight_digits(text)
    if match := _SERIAL.fullmatch(text):
        return _of_serial(int(match[1]), match[2] or "")
    return None


def _at(day: date, clock: str | None) -> date | datetime:
    if clock is None:
        return day
    padded = f"0{clock}" if clock[1] == ":" else clock
    return datetime.fromisoformat(f"{day.isoformat()}T{padded}")


def _of_eight_digits(text: str) -> date:
    # Within 2000 to 2099 no spelling is a day both ways: 20 would have to be a month.
    year, month, day = int(text[:4]), int(text[4:6]), int(text[6:])
    if year not in _THIS_CENTURY:
        day, month, year = int(text[:2]), int(text[2:4]), int(text[4:])
    if year not in _THIS_CENTURY:
        raise ValueError
    return date(year, month, day)


def _of_serial(days: int, part: str) -> date | datetime | None:
    at = _EXCEL_EPOCH + timedelta(days=days)
    if at.year not in _THIS_CENTURY:
        return None
    return at + timedelta(days=float(f"0.{part}")) if part.strip("0") else at.date()


def _year(text: str) -> int:
    return int(text) if len(text) == 4 else 2000 + int(text)


def _month(name: str) -> int | None:
    for number, spellings in enumerate(_MONTHS, 1):
        if any(full.startswith(name) for full in spellings):
            return number
    return None


def _folded(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
