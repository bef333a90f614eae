"""Making things fit: columns that are left out, rows that are counted instead of shown; nothing is ever wrapped."""

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
        right: It holds figures.
        rank: The higher, the sooner it is left out; 0 never is.
        least: Cells it may be cut to, at the start of its texts; None: it is not cut.
    """

    name: str
    right: bool = True
    rank: int = 0
    least: int | None = None


class Block:
    """
    A title and rows below it.

    Args:
        title: Its first line.
        rows: The others.
        least: Rows without which it is not worth showing.
    """

    def __init__(self, title: Text, rows: Sequence[Text], least: int = 1) -> None:
        self._title, self._rows = title, rows
        self.least = 1 + min(least, len(rows))
        self.most = 1 + len(rows)

    def lines(self, height: int) -> list[Text]:
        """It, in at most so many lines; the last one says how many more there would be."""
        room = height - 1
        if len(self._rows) <= room:
            return [self._title, *self._rows]
        shown = list(self._rows[: max(0, room - 1)])
        more = [Text(f"and {len(self._rows) - len(shown)} more", style="dim")] if room > 0 else []
        return [self._title, *shown, *more]


class Beside(Block):
    """Blocks side by side, each with its width."""

    def __init__(self, parts: Sequence[tuple[Block, int]]) -> None:
        self._parts = parts
        self.least = max(part.least for part, _ in parts)
        self.most = max(part.most for part, _ in parts)

    def lines(self, height: int) -> list[Text]:
        """As above."""
        columns = [(part.lines(height), width) for part, width in self._parts]
        return [
            Text(" " * _GAP).join(
                cut(lines[number] if number < len(lines) else Text(), width, pad=True) for lines, width in columns
            )
            for number in range(max(len(lines) for lines, _ in columns))
        ]


def table(columns: Sequence[Column], rows: Sequence[Sequence[Text | str]], width: int) -> tuple[Text, list[Text]]:
    """
    A table without lines, its least important columns left out.

    Args:
        columns: All of them.
        rows: A cell for each.
        width: Cells that there are.

    Returns:
        Its title and its rows.
    """
    cells = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    natural = [max([len(c.name), *(row[i].cell_len for row in cells)]) for i, c in enumerate(columns)]
    least = [n if c.least is None else min(n, c.least) for n, c in zip(natural, columns, strict=True)]
    chosen = [i for i, _ in enumerate(columns)]
    for i in sorted(chosen, key=lambda i: -columns[i].rank):
        if sum(least[j] + _GAP for j in chosen) - _GAP <= width or columns[i].rank == 0:
            break
        chosen.remove(i)
    spare = width + _GAP - sum(least[i] + _GAP for i in chosen)
    widths = {}
    for i in chosen:
        more = min(natural[i] - least[i], max(0, spare))
        widths[i] = least[i] + more
        spare -= more
    title = _line([(Text(columns[i].name, style=_TITLE), columns[i], widths[i]) for i in chosen])
    return title, [_line([(row[i], columns[i], widths[i]) for i in chosen]) for row in cells]


def stack(blocks: Sequence[tuple[int, Block]], height: int) -> list[Text]:
    """
    Blocks one below the other, in as many lines as there are.

    Args:
        blocks: With the rank of each: the higher, the sooner it is left out, and the later it grows.
        height: Lines.
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
    """A text in at most so many cells."""
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
    """The end of a name, by which workers differ."""
    kept = cell.copy()
    while kept.plain and kept.cell_len > width - 1:
        kept = kept[1:]
    return Text("…", style=cell.style).append_text(kept)
