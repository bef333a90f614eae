"""
The return files of banks (CNAB *retorno*), 240 and 400 columns -> payments.

    240   FEBRABAN: a payment is a segment T, which has its numbers, and the segment U after it, which has its amount
    400   a line of type 1; the columns used here are the same at all banks, the codes of a settlement are not

A file has a settlement for each payment, and lines for what else happened (accepted, refused, written off), which are
skipped. Sources: FEBRABAN, Layout Padrão de Arrecadação/Cobrança CNAB 240 v10; Itaú, Bradesco and Banco do Brasil,
manuals of Cobrança CNAB 400. Lines are counted from 1.
"""

from __future__ import annotations

import hashlib
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


@dataclass(frozen=True, slots=True)
class Settlement:
    """
    One payment that a bank reports.

    Attributes:
        line: The line that it ends on.
        references: What may name the charge: the tenant's number, the document's number, the bank's number.
        amount: What was paid.
        paid_on: The day.
        event_id: The same for the same payment in another file.
    """

    line: int
    references: tuple[str, ...]
    amount: Decimal
    paid_on: date
    event_id: str


def is_return_file(beginning: bytes) -> bool:
    """Whether a file begins as a return file does: with a first line of type 0 and 240 or 400 columns."""
    first = beginning.split(b"\n", 1)[0].rstrip(b"\r")
    if len(first) == 240:
        return first[7:8] == b"0" and first[:3].isdigit()
    return len(first) == 400 and first[:9].upper() == b"02RETORNO"


def settlements(lines: Iterable[bytes]) -> Iterator[Settlement | tuple[int, InvalidBilling]]:
    """
    The payments of a return file, and the lines that cannot be read, each with its number and the reason.

    Raises:
        ConfigurationError: It is no return file.
    """
    numbered = ((number, line.decode("latin-1").rstrip("\r\n")) for number, line in enumerate(lines, 1))
    _, first = next(numbered, (1, ""))
    if len(first) not in _WIDTHS:
        raise ConfigurationError(f"the first line has {len(first)} columns; a return file has 240 or 400")
    read = _of_240(first[:3], numbered) if len(first) == 240 else _of_400(first[76:79], numbered)
    for line, found in read:
        if isinstance(found, InvalidBilling):
            yield line, found
        else:
            yield found


_Read = Iterator[tuple[int, Settlement | InvalidBilling]]


def _of_240(bank: str, lines: Iterable[tuple[int, str]]) -> _Read:
    numbers: tuple[str, ...] = ()
    code = ""
    for number, line in lines:
        if len(line) != 240:
            if line.strip("\x1a \t"):
                yield number, InvalidBilling("", f"has {len(line)} columns, not 240")
            continue
        segment = line[13:14] if line[7:8] == "3" else ""
        if segment == "T":
            code, numbers = line[15:17], (line[105:130], line[58:73], line[37:57])
        elif segment == "U" and code in _SETTLED_240:
            yield number, _settlement(number, bank, numbers, code, amount=line[77:92], day=line[137:145])
            code = ""


def _of_400(bank: str, lines: Iterable[tuple[int, str]]) -> _Read:
    codes = _SETTLED_400.get(bank, _SETTLED_ELSEWHERE)
    for number, line in lines:
        if len(line) != 400:
            if line.strip("\x1a \t"):
                yield number, InvalidBilling("", f"has {len(line)} columns, not 400")
            continue
        if line[0] in "17" and line[108:110] in codes:
            day = f"{line[110:114]}20{line[114:116]}"
            numbers = line[37:62], line[116:126], line[62:70], line[70:82]
            yield number, _settlement(number, bank, numbers, line[108:110], amount=line[253:266], day=day)


def _settlement(
    line: int, bank: str, numbers: Iterable[str], code: str, *, amount: str, day: str
) -> Settlement | InvalidBilling:
    references = tuple(dict.fromkeys(each.strip() for each in numbers if each.strip(" 0")))
    if not references:
        return InvalidBilling("", "names no charge: neither your number nor the bank's")
    if not amount.isdigit() or int(amount) == 0:
        return InvalidBilling("", "has no amount that was paid")
    try:
        paid_on = date(int(day[4:]), int(day[2:4]), int(day[:2]))
    except ValueError:
        return InvalidBilling("", "has no date of payment")
    text = "\0".join((bank, *references, code, amount, day))
    event_id = f"{bank}:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    return Settlement(line, references, Decimal(amount).scaleb(-2), paid_on, event_id)
