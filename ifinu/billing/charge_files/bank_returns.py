"""
The return files of banks (CNAB *retorno*), 240 and 400 columns -> payments.

    240   FEBRABAN: a payment is a segment T, which has its numbers, and the segment U after it, which has its amount
    400   a line of type 1; the columns used here are the same at all banks, the codes of a settlement are not

A file has a settlement for each payment, and lines for what else happened (accepted, refused, written off), which are
skipped and counted. A discount or a rebate that the bank granted counts as paid. Files that lost their line ends, or
the blanks at the end of lines, are read too. Lines are counted from 1.

Sources: FEBRABAN, Layout Padrão de Arrecadação/Cobrança CNAB 240 v10; Itaú, Bradesco and Banco do Brasil, manuals of
Cobrança CNAB 400.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from ifinu.errors import ConfigurationError, InvalidBilling

BANK = "cnab"  # the provider of a bank's payments and of the numbers that it gives charges

_SETTLED_240 = ("06", "17")  # settled; settled after it was written off or without registration
# By the bank's number, in columns 77 to 79 of the first line. One code means different things at two banks.
_SETTLED_400 = {
    "341": ("06", "07", "08"),  # Itaú
    "237": ("06", "15", "17"),  # Bradesco
    "001": ("05", "06", "07", "08", "15"),  # Banco do Brasil
}
_SETTLED_ELSEWHERE = ("06",)
_WIDTHS = (240, 400)
_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\r|\n")
_BLANK = " \t\x1a"  # the last one marks the end of a file in DOS
_NO_LINE = "is no line of a return file: it is cut off or damaged"
_NO_CHARGE_LINE = "has an amount, and the line before it with the charge (segment T) is missing: the file is cut off"
_NO_AMOUNT_LINE = "names a payment, and the line with its amount (segment U) is missing: the file is cut off"


@dataclass(frozen=True, slots=True)
class Settlement:
    """
    One payment that a bank reports.

    Attributes:
        line: The line that it ends on.
        references: What may name the charge: the tenant's number, the document's number, the bank's number with and
            without its leading zeros.
        amount: What was paid, with the discount and the rebate that the bank granted.
        paid_on: The day.
        event_id: The same for the same payment in another file.
    """

    line: int
    references: tuple[str, ...]
    amount: Decimal
    paid_on: date
    event_id: str


def is_bank_file(beginning: bytes) -> bool:
    """Whether a file begins as CNAB does: with a line of type 0 and 240 or 400 columns, or less if they are blank."""
    first = _text(_LINE_END.split(beginning.removeprefix(_BOM), maxsplit=1)[0])
    if first[:9].upper() in ("02RETORNO", "01REMESSA"):
        return True
    return first[:3].isdigit() and first[3:8] == "00000" and len(first) > 100 and ";" not in first


def settlements(content: bytes, others: Counter[str]) -> Iterator[Settlement | tuple[int, InvalidBilling]]:
    """
    The payments of a return file, and the lines that cannot be read, each with its number and the reason.

    Args:
        others: Counts the entries that are no payments by their code, such as 03 for one that the bank refused.

    Raises:
        ConfigurationError: It is no return file.
    """
    text = _text(content.removeprefix(_BOM))
    lines = re.split(r"\r\n|\r|\n", text)
    first = lines[0]
    width = 400 if first[:2] in ("01", "02") and first[2:9].isalpha() else 240
    if first[:9].upper() == "01REMESSA" or (width == 240 and first[142:143] == "1"):
        raise ConfigurationError("this is a remessa, which goes to the bank; import the bank's return file (retorno)")
    if not first.strip(_BLANK) or (width == 240 and first[3:8] != "00000"):
        raise ConfigurationError(f"the first line has {len(first)} columns; a return file has 240 or 400")
    if len(first) > width and len(first.rstrip("\x1a")) % width == 0:  # without line ends
        lines = [text[start : start + width] for start in range(0, len(text), width)]
    numbered = enumerate((line.rstrip(_BLANK) for line in lines[1:]), 2)
    whole = _of_width(width, numbered)
    read = _of_240(first[:3], whole, others) if width == 240 else _of_400(first[76:79], whole, others)
    for line, found in read:
        if isinstance(found, InvalidBilling):
            yield line, found
        else:
            yield found


_Read = Iterator[tuple[int, Settlement | InvalidBilling]]


def _text(raw: bytes) -> str:
    """The text of a file; one in UTF-8 was converted, and has its columns by characters."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _of_width(width: int, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str | InvalidBilling]]:
    for number, line in lines:
        if len(line) > width:
            yield number, InvalidBilling("", f"has {len(line)} columns, not {width}")
        elif line:
            yield number, line.ljust(width)


def _of_240(bank: str, lines: Iterable[tuple[int, str | InvalidBilling]], others: Counter[str]) -> _Read:
    opened, line_of_t, is_after_t = "", 0, False  # a segment T with a payment whose segment U has not come
    for number, line in lines:
        if isinstance(line, InvalidBilling) or not line[7].isdigit():
            yield number, line if isinstance(line, InvalidBilling) else InvalidBilling("", _NO_LINE)
            continue
        segment = line[13:14] if line[7:8] == "3" else ""
        if segment == "U" and opened:
            code, numbers = opened[15:17], (opened[105:130], opened[58:73], opened[37:57])
            yield number, _settlement(
                number, bank, numbers, code, amount=line[77:92], days=(line[137:145], line[145:153]),
                granted=(line[32:47], line[47:62]),
            )  # fmt: skip
            opened = ""
        elif segment == "U" and not is_after_t:
            yield number, InvalidBilling("", _NO_CHARGE_LINE)
        elif opened and segment == "T":
            yield line_of_t, InvalidBilling("", _NO_AMOUNT_LINE)
            opened = ""
        is_after_t = segment == "T" or (is_after_t and segment != "U")
        if segment == "T" and line[15:17] in _SETTLED_240:
            opened, line_of_t = line, number
        elif segment == "T":
            others[line[15:17]] += 1
    if opened:
        yield line_of_t, InvalidBilling("", _NO_AMOUNT_LINE)


def _of_400(bank: str, lines: Iterable[tuple[int, str | InvalidBilling]], others: Counter[str]) -> _Read:
    codes = _SETTLED_400.get(bank, _SETTLED_ELSEWHERE)
    for number, line in lines:
        if isinstance(line, InvalidBilling) or not line[0].isdigit():
            yield number, line if isinstance(line, InvalidBilling) else InvalidBilling("", _NO_LINE)
        elif line[0] in "17" and line[108:110] in codes:
            days = [f"{line[start : start + 4]}20{line[start + 4 : start + 6]}" for start in (110, 295)]
            numbers = line[37:62], line[116:126], line[62:70], line[70:82]
            granted = line[227:240], line[240:253]
            yield (
                number,
                _settlement(number, bank, numbers, line[108:110], amount=line[253:266], days=days, granted=granted),
            )
        elif line[0] in "17":
            others[line[108:110]] += 1


def _settlement(
    line: int, bank: str, numbers: Iterable[str], code: str, *, amount: str, days: Iterable[str], granted: Iterable[str]
) -> Settlement | InvalidBilling:
    """
    Args:
        days: The day of the payment, and that of the credit, which counts if there is no other.
        granted: The discount and the rebate.
    """
    references = tuple(dict.fromkeys(each.strip() for each in numbers if each.strip(" 0")))
    if not references:
        return InvalidBilling("", "names no charge: neither your number nor the bank's")
    if not amount.isdigit() or int(amount) == 0:
        return InvalidBilling("", "has no amount that was paid")
    paid_on = next((day for each in days if (day := _day(each)) is not None), None)
    if paid_on is None:
        return InvalidBilling("", "has no date of payment")
    text = "\0".join((bank, *references, code, amount, f"{paid_on:%d%m%Y}"))
    event_id = f"{bank}:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    cents = int(amount) + sum(int(each) for each in granted if each.isdigit())
    known = tuple(dict.fromkeys((*references, *(each.lstrip("0") for each in references))))
    return Settlement(line, known, Decimal(cents).scaleb(-2), paid_on, event_id)


def _day(text: str) -> date | None:
    try:
        return date(int(text[4:]), int(text[2:4]), int(text[:2]))
    except ValueError:
        return None
