"""Columns of a table -> fields."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
        names: Column, as `alike` returns it -> field.
        needed: Fields that the table must have; of each tuple, one is enough.
        otherwise: Field -> the option that sets it for every record.
        guards: Fields that every row must reach: without them a record could mean something else.
        likely: Returns the name that a misspelt column may stand for, or None.
        mapped: Column -> field, from `--map`; takes precedence over `names`.
        alike: Names that it returns the same for are one name.
        shown: Field -> what messages call it; by default all its names.
        first_wins: Of several columns for one field, the one that `names` has first is read, and the others are not
            used. By default two are an error.
    """

    names: Mapping[str, str]
    needed: Sequence[tuple[str, ...]]
    otherwise: Mapping[str, str] = field(default_factory=dict)
    guards: frozenset[str] = frozenset()
    likely: Callable[[str], str | None] = lambda name: None
    mapped: Mapping[str, str] = field(default_factory=dict)
    alike: Callable[[str], str] = fold
    shown: Mapping[str, str] = field(default_factory=dict)
    first_wins: bool = False

    def of(self, name: str) -> str | None:
        """The field of a column, or None."""
        folded = self.alike(name)
        return {self.alike(column): to for column, to in self.mapped.items()}.get(folded) or self.names.get(folded)

    def spellings(self, wanted: tuple[str, ...]) -> str:
        """The column names of fields of which one is needed, for messages."""
        if self.shown:
            return " or ".join(self.shown[to] for to in wanted)
        return " or ".join(name for name, to in self.names.items() if to in wanted)

    def place(self, name: str) -> int:
        """The place of a column among all names; the first one of a field is the best."""
        return list(self.names).index(self.alike(name))

    @classmethod
    def mapping(
        cls,
        options: Iterable[str],
        names: Mapping[str, str],
        alike: Callable[[str], str] = fold,
        shown: Iterable[str] | None = None,
    ) -> dict[str, str]:
        """
        Read `--map "Column=field"`, as often as it was given.

        Args:
            shown: The names that an error lists; all by default.

        Raises:
            ConfigurationError: An option has another form, names an unknown field, or names a field again.
        """
        mapped: dict[str, str] = {}
        for option in options:
            column, equals, wanted = option.rpartition("=")
            to = names.get(alike(wanted))
            if not equals or not column.strip():
                raise ConfigurationError(f'--map {option!r}: write it as "Column=field"')
            if to is None:
                known = ", ".join(dict.fromkeys(names if shown is None else shown))
                raise ConfigurationError(f"--map {option!r}: unknown field; the fields are {known}")
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
        mapped = {fields.alike(column) for column in fields.mapped}
        taken = set(fields.mapped.values())
        # A mapped column takes precedence over one that happens to have the field's name.
        found = [fields.of(name) for name in self.names]
        self.fields = [
            None if to in taken and fields.alike(name) not in mapped else to
            for name, to in zip(self.names, found, strict=True)
        ]
        if fields.first_wins:
            self._keep_the_best(fields, taken)
        self.spelling: dict[str, str] = {}
        self.twice: str | None = None
        for name, to in zip(self.names, self.fields, strict=True):
            if to is not None:
                self.twice = self.twice or (name if to in self.spelling else None)
                self.spelling.setdefault(to, name)
        self.unused = [name for name, to in zip(self.names, self.fields, strict=True) if name and to is None]

    def _keep_the_best(self, fields: Fields, taken: Collection[str]) -> None:
        best: dict[str, str] = {}
        for name, to in zip(self.names, self.fields, strict=True):
            if to is not None and to not in taken:
                best[to] = min(name, best.get(to, name), key=fields.place)
        self.fields = [
            to if to is None or to in taken or fields.alike(name) == fields.alike(best[to]) else None
            for name, to in zip(self.names, self.fields, strict=True)
        ]

    def missing(self, fields: Fields) -> list[str]:
        """Columns that are needed or were mapped, and are missing."""
        there = {fields.alike(name) for name in self.names}
        lacking = [fields.spellings(one) for one in fields.needed if not self.spelling.keys() & set(one)]
        return [*lacking, *(repr(column) for column in fields.mapped if fields.alike(column) not in there)]

    def guesses(self, fields: Fields) -> dict[str, str]:
        """Unused column -> the field without a column that it may stand for."""
        guessed: dict[str, str] = {}
        for name in self.unused:
            meant = fields.names.get(fields.alike(fields.likely(name) or ""))
            if meant and meant not in self.spelling and meant not in guessed.values():
                guessed[name] = meant
        return guessed
