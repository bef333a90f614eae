"""Ids and short texts of the billing tables: what they may hold, and which existing id an unknown one resembles."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, select

from ifinu.errors import InvalidBilling, NotFound
from ifinu.escapes import CONTROLS, SURROGATES

_LONGEST_ID = 120
_LONGEST_TEXT = 500
_CONTROL = re.compile(f"[{CONTROLS}{SURROGATES}]")
_WILD = re.compile(r"[%_\\]")
_NEIGHBOURS = 50  # ids on either side of an unknown one, in the index's order
_ALIKE = 0.6


def checked_id(field: str, id_: object) -> str:
    """
    An id without surrounding space.

    Raises:
        InvalidBilling: It is empty, too long, or has control characters.
    """
    if not isinstance(id_, str) or not (bare := id_.strip()):
        raise InvalidBilling(field, "is empty")
    if len(bare) > _LONGEST_ID or _CONTROL.search(bare):
        raise InvalidBilling(field, f"must have at most {_LONGEST_ID} characters, and no control characters")
    return bare


def checked_line(
    field: str, text: object, longest: int = _LONGEST_TEXT, *, refuse: Callable[[str], None] | None = None
) -> str | None:
    """
    A text on one line; None if it is blank.

    Args:
        refuse: The check of `ifinu.damage` for what a message prints.

    Raises:
        InvalidBilling: It is not a text, too long, damaged, or has control characters.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidBilling(field, "must be a text")
    line = " ".join(text.split())
    if len(line) > longest or _CONTROL.search(line):
        raise InvalidBilling(field, f"must have at most {longest} characters, and no control characters")
    if line and refuse is not None:
        try:
            refuse(line)
        except ValueError as exc:
            raise InvalidBilling(field, str(exc)) from None
    return line or None


def like(search: str) -> str:
    """The pattern of `LIKE` for a lower-case text with a part, in which `%`, `_` and a backslash mean themselves."""
    return "%" + _WILD.sub(r"\\\g<0>", search.strip().lower()) + "%"


def not_found(
    connection: Connection, what: str, id_: str, column: Column[Any], *where: ColumnElement[bool]
) -> NotFound:
    """
    The error for an id that does not exist, with the one that was probably meant.

    Args:
        what: What the id stands for, such as `charge`.
        column: Column of the ids.
        where: Which rows count, such as those of a tenant.
    """
    ids = select(column).where(*where).limit(_NEIGHBOURS)
    near = [
        *connection.execute(ids.where(column >= id_).order_by(column)).scalars(),
        *connection.execute(ids.where(column < id_).order_by(column.desc())).scalars(),
    ]
    folded = {each.casefold(): each for each in near}
    close = difflib.get_close_matches(id_.casefold(), folded, n=1, cutoff=_ALIKE)
    return NotFound(what, id_, folded[close[0]] if close else None)
