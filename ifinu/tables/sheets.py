"""Spreadsheets (.xlsx, .xls, .ods) -> rows of cells. The whole spreadsheet is read into memory."""

from __future__ import annotations

import contextlib
import csv
import html
import io
import re
import zipfile
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING

from ifinu.errors import ConfigurationError
from ifinu.tables.record import Record

if TYPE_CHECKING:
    from python_calamine import CalamineSheet

FAILED = "#N/A"
ZIP, OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
_SHEET = re.compile(r"<sheet\s[^>]*>")
_LINK = re.compile(r"<Relationship\s[^>]*>")
_CELL = re.compile(r"<c\s[^>]*\bt=\"e\"[^>]*>")
_ATTRIBUTE = re.compile(r"([\w:]+)=\"([^\"]*)\"")
_AS_CSV = "in Excel or LibreOffice, save it as CSV"


def sheets(content: bytes, name: str, only: str | None) -> Iterator[tuple[str, Iterator[Record]]]:
    """
    The visible sheets of a workbook.

    Args:
        only: Name of the only sheet to read, even if it is hidden; None for all visible ones.

    Raises:
        ConfigurationError: The file cannot be read, or has no such sheet.
    """
    try:
        import python_calamine as calamine
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"{name} is a spreadsheet, which python-calamine reads: pip install 'ifinu[xlsx]'; or {_AS_CSV}"
        ) from None
    try:
        workbook = calamine.CalamineWorkbook.from_filelike(io.BytesIO(content))
    except calamine.PasswordError:
        raise ConfigurationError(f"{name} is a spreadsheet with a password; save it without one") from None
    except calamine.CalamineError:
        raise ConfigurationError(f"{name} looks like a spreadsheet but cannot be read; {_AS_CSV}") from None
    shown = [
        one.name
        for one in workbook.sheets_metadata
        if one.typ is calamine.SheetTypeEnum.WorkSheet and one.visible is calamine.SheetVisibleEnum.Visible
    ]
    if only is not None and only not in workbook.sheet_names:
        raise ConfigurationError(f"--sheet: {name} has no sheet {only!r}; it has {', '.join(workbook.sheet_names)}")
    for wanted in shown if only is None else [only]:
        try:
            found = workbook.get_sheet_by_name(wanted)
        except calamine.CalamineError:
            raise ConfigurationError(f"{name}: the sheet {wanted!r} cannot be read; {_AS_CSV}") from None
        yield wanted, _rows(found, _failed(content, wanted))


def _rows(sheet: CalamineSheet, failed: frozenset[str]) -> Iterator[Record]:
    for number, row in enumerate(sheet.to_python(skip_empty_area=False), 1):
        cells = [_text(cell) for cell in row]
        for place in range(len(cells)) if failed else ():
            if f"{_letters(place)}{number}" in failed:
                cells[place] = FAILED
        if any(cell.strip() for cell in cells):
            yield Record(number, as_csv(cells), cells)


def _letters(place: int) -> str:
    """The name of a column by its index from 0: A, …, Z, AA, …"""
    more, last = divmod(place, 26)
    return (_letters(more - 1) if more else "") + chr(ord("A") + last)


def _failed(content: bytes, sheet: str) -> frozenset[str]:
    """Names of cells of an .xlsx whose formula failed (#N/A, #REF!), which calamine returns as empty."""
    with (
        contextlib.suppress(zipfile.BadZipFile, KeyError, StopIteration),
        zipfile.ZipFile(io.BytesIO(content)) as parts,
    ):
        named = (_attributes(tag) for tag in _SHEET.findall(parts.read("xl/workbook.xml").decode()))
        link = next(one["r:id"] for one in named if html.unescape(one["name"]) == sheet)
        links = (_attributes(tag) for tag in _LINK.findall(parts.read("xl/_rels/workbook.xml.rels").decode()))
        target = next(one["Target"] for one in links if one["Id"] == link)
        body = parts.read(target.lstrip("/") if target.startswith("/") else f"xl/{target}").decode()
        cells = (_attributes(tag) for tag in _CELL.findall(body))
        return frozenset(one.get("r", "") for one in cells)
    return frozenset()


def _attributes(tag: str) -> dict[str, str]:
    return dict(_ATTRIBUTE.findall(tag))


def as_csv(cells: list[str]) -> bytes:
    """A row as a line of CSV."""
    line = io.StringIO()
    csv.writer(line, delimiter=";", lineterminator="\n").writerow(cells)
    return line.getvalue().encode("utf-8", "replace")


def _text(cell: object) -> str:
    match cell:
        case bool():
            return "true" if cell else "false"
        case float():  # as a spreadsheet shows it: 15 digits, and a whole number without a fraction
            return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else format(cell, ".15g")
        case datetime() if cell.time() == time.min:
            return cell.date().isoformat()
        case datetime() | date() | time():
            return cell.isoformat()
        case timedelta():
            return str(cell)
    return str(cell)
