"""
Readers of record files: JSON, CSV and spreadsheets.

A wrong line is refused by itself. Encoding, delimiter and header are detected, and the result is reported. This package
does not depend on notifications: the caller describes the columns it needs (`Fields`).
"""

from ifinu.tables.columns import Fields
from ifinu.tables.record import Format, Record
from ifinu.tables.table import Table

__all__ = ["Fields", "Format", "Record", "Table"]
