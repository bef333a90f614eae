"""
Files of records, as people and programs hand them over: JSON, CSV and spreadsheets.

One wrong line is one refused line. Encoding, delimiter and header are found out, and what was found is said. Knows no
notification: what a table is read for, its reader says (`Fields`).
"""

from ifinu.tables.columns import Fields
from ifinu.tables.record import Format, Record
from ifinu.tables.table import Table

__all__ = ["Fields", "Format", "Record", "Table"]
