"""Columns of a table -> fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ifinu.errors import ConfigurationError


def fold(name: str) -> str:
    """A column's name for comparison: in lower case, with single spaces."""
    return " ".join(name.split()).casefold()


@dataclass(frozen=True)
class Fields:
    """
    The fields that a table is read for.

    Attributes:
        names: Column, as `fold` returns it -> field.
        needed: Fields that the table must have; of each tuple, one is enough.
        otherwise: Field -> the option that sets it for every record.
        guards: Fields that every row must reach: without them a record could mean something else.
        likely: Returns the name that a misspelt column may stand for, or None.
        mapped: Column -> field, from `--map`; takes precedence over `names`.
    """

    names: Mapping[str, str]
    needed: Sequence[tuple[str, ...]]
    otherwise: Mapping[str, str] = field(default_factory=dict)
    guards: frozenset[str] = frozenset()
    likely: Callable[[str], str | None] = lambda name: None
    mapped: Mapping[str, str] = field(default_factory=dict)

    def of(self, name: str) -> str | None:
        """The field of a column, or None."""
        folded = fold(name)
        return {fold(column): to for column, to in self.mapped.items()}.get(folded) or self.names.get(folded)

    def spellings(self, wanted: tuple[str, ...]) -> str:
        """All column names of fields of which one is needed, for messages."""
        return " or ".join(name for name, to in self.names.items() if to in wanted)

    @classmethod
    def mapping(cls, options: Iterable[str], names: Mapping[str, str]) -> dict[str, str]:
        """
        Read `--map "Column=field"`, as often as it was given.

        Raises:
            ConfigurationError: An option has another form, names an unknown field, or names a field again.
        """
        mapped: dict[str, str] = {}
        for option in options:
            column, equals, wanted = option.rpartition("=")
            to = names.get(fold(wanted))
            if not equals or not column.strip():
                raise ConfigurationError(f'--map {option!r}: write it as "Column=field"')
            if to is None:
                raise ConfigurationError(f"--map {option!r}: unknown field; the fields are {', '.join(names)}")
            if to in mapped.values():
                raise ConfigurationError(f"--map {option!r}: another column is mapped to {to} already")
            mapped[column.strip()] = to
        return mapped


class Columns:
    """
    The columns of a table.

    Attributes:
        fields: The field of each column, or None.
        spelling: Field -> its column, as the file spells it.
    """

    def __init__(self, cells: Iterable[str], fields: Fields) -> None:
        self.names = [" ".join(cell.strip("\ufeff").split()) for cell in cells]
        while self.names and not self.names[-1]:
            self.names.pop()
        mapped = {fold(column) for column in fields.mapped}
        taken = set(fields.mapped.values())
        # A mapped column takes precedence over one that happens to have the field's name.
        found = [fields.of(name) for name in self.names]
        self.fields = [
            None if to in taken and fold(name) not in mapped else to for name, to in zip(self.names, found, strict=True)
        ]
        self.spelling: dict[str, str] = {}
        self.twice: str | None = None
        for name, to in zip(self.names, self.fields, strict=True):
            if to is not None:
                self.twice = self.twice or (name if to in self.spelling else None)
                self.spelling.setdefault(to, name)
        self.unused = [name for name, to in zip(self.names, self.fields, strict=True) if name and to is None]

    def missing(self, fields: Fields) -> list[str]:
        """Columns that are needed or were mapped, and are missing."""
        there = {fold(name) for name in self.names}
        lacking = [fields.spellings(one) for one in fields.needed if not self.spelling.keys() & set(one)]
        return [*lacking, *(repr(column) for column in fields.mapped if fold(column) not in there)]

    def guesses(self, fields: Fields) -> dict[str, str]:
        """Unused column -> the field without a column that it may stand for."""
        guessed: dict[str, str] = {}
        for name in self.unused:
            meant = fields.names.get(fold(fields.likely(name) or ""))
            if meant and meant not in self.spelling and meant not in guessed.values():
                guessed[name] = meant
        return guessed
