"""The records of a file."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Format(enum.StrEnum):
    """The format of a file."""

    JSONL = "jsonl"  # JSON objects, one per line or in an array
    CSV = "csv"  # a header and rows; comma, semicolon, tab or bar
    XLSX = "xlsx"  # a spreadsheet: .xlsx, .xls, .ods


@dataclass(frozen=True, slots=True)
class Record:
    """
    One record of a file.

    Attributes:
        line: Number of its first line, from 1; in a spreadsheet, its row.
        raw: Its bytes; of a spreadsheet, the row as CSV.
        cells: Its cells; None for JSON.
        fault: The reason why it cannot be read; empty if it can.
    """

    line: int
    raw: bytes
    cells: Sequence[str] | None = None
    fault: str = ""
