"""Fitting tables into the terminal: less important columns are left out and rows counted; no line is ever wrapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

_GAP = 2
_TITLE = "bold"


@dataclass(frozen=True)
class Column:
    """
    A column of a table.

    Attributes:
        name: Its title.
        right: Whether it holds numbers, which are aligned to the right.
        rank: The higher, the sooner it is left out; rank 0 always stays.
        least: Width in cells to which its texts may be cut, at their start; None if they may not.
    """

    name: str
    right: bool = True
    rank: int = 0
    least: int | None = None


class Block:
    """
    A title with rows below it.

    Args:
        title: Its first line.
        rows: The other lines.
        least: Rows below which the block is left out as a whole.
    """

    def __init__(self, title: Text, rows: Sequence[Text], least: int = 1) -> None:
        self._title, self.rows = title, rows
        self.least = 1 + min(least, len(rows))
        self.most = 1 + len(rows)

    def lines(self, height: int) -> list[Text]:
        """At most `height` lines; the last one says how many rows are missing."""
        room = height - 1
        if len(self.rows) <= room:
            return [self._title, *self.rows]
        shown = list(self.rows[: max(0, room - 1)])
        more = [Text(f"and {len(self.rows) - len(shown)} more", style="dim")] if room > 0 else []
        return [self._title, *shown, *more]


class Beside(Block):
    """Blocks side by side, each with its width."""

    def __init__(self, parts: Sequence[tuple[Block, int]]) -> None:
        self._parts = parts
        self.least = max(part.least for part, _ in parts)
        self.most = max(part.most for part, _ in parts)

    def lines(self, height: int) -> list[Text]:
        """At most `height` lines, as each block fills them."""
        columns = [(part.lines(height), width) for part, width in self._parts]
        return [
            Text(" " * _GAP).join(
                cut(lines[number] if number < len(lines) else Text(), width, pad=True) for lines, width in columns
            )
            for number in range(max(len(lines) for lines, _ in columns))
        ]


def table(columns: Sequence[Column], rows: Sequence[Sequence[Text | str]], width: int) -> tuple[Text, list[Text]]:
    """
    Lay out a table without borders, its least important columns left out.

    Args:
        rows: A cell for each column; further cells are ignored.
        width: Cells of a line.
    """
    cells = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    natural = [max([len(c.name), *(row[i].cell_len for row in cells)]) for i, c in enumerate(columns)]
    least = [n if c.least is None else min(n, c.least) for n, c in zip(natural, columns, strict=True)]
    shown = list(range(len(columns)))
    for i in sorted(shown, key=lambda i: -columns[i].rank):
        if sum(least[j] + _GAP for j in shown) - _GAP <= width or columns[i].rank == 0:
            break
        shown.remove(i)
    spare = width + _GAP - sum(least[i] + _GAP for i in shown)
    widths = {}
    for i in shown:
        more = min(natural[i] - least[i], max(0, spare))
        widths[i] = least[i] + more
        spare -= more
    title = _line([(Text(columns[i].name, style=_TITLE), columns[i], widths[i]) for i in shown])
    return title, [_line([(row[i], columns[i], widths[i]) for i in shown]) for row in cells]


def block(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Text | str]],
    width: int,
    *,
    least: int,
    empty: Text | None = None,
) -> Block:
    """The table as a block; without rows, the first column's title above the text `empty`."""
    if not rows and empty is not None:
        return Block(Text(columns[0].name, style=_TITLE), [empty])
    return Block(*table(columns, rows, width), least=least)


def stack(blocks: Sequence[tuple[int, Block]], height: int) -> list[Text]:
    """
    Stack blocks in the given order.

    Args:
        blocks: With the rank of each: the higher, the sooner a block is left out, and the later it gets more lines.
        height: Lines for all of them.
    """
    given = dict.fromkeys(range(len(blocks)), 0)
    room = height
    by_rank = sorted(given, key=lambda i: blocks[i][0])
    for i in by_rank:
        if blocks[i][1].least <= room:
            given[i] = blocks[i][1].least
            room -= given[i]
    for i in by_rank:
        if given[i]:
            more = min(room, blocks[i][1].most - given[i])
            given[i] += more
            room -= more
    shown = [i for i in given if given[i]]
    gap = [Text()] if room >= len(shown) - 1 else []
    lines: list[Text] = []
    for i in shown:
        lines += [*(gap if lines else []), *blocks[i][1].lines(given[i])]
    return lines


def cut(text: Text, width: int, *, pad: bool = False) -> Text:
    """A copy of a text, cut at its end to `width` cells."""
    text = text.copy()
    text.truncate(width, overflow="ellipsis" if width > 1 else "crop", pad=pad)
    return text


def _line(cells: Sequence[tuple[Text, Column, int]]) -> Text:
    line = Text()
    for number, (cell, column, width) in enumerate(cells):
        line.append(" " * _GAP if number else "")
        shown = _tail(cell, width) if column.least is not None and cell.cell_len > width else cut(cell, width)
        padding = " " * (width - shown.cell_len)
        line.append(padding if column.right else "")
        line.append_text(shown)
        line.append("" if column.right else padding)
    line.rstrip()
    return line


def _tail(cell: Text, width: int) -> Text:
    """The end of a name: workers differ there."""
    kept = cell.copy()
    while kept.plain and kept.cell_len > width - 1:
        kept = kept[1:]
    return Text("…", style=cell.style).append_text(kept)
