"""The READMEs: short, alike in both languages, and true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import CODE, COMMENT, FENCE, blocks, prose, tables, text_of

ROOT = Path(__file__).parents[2]
ENGLISH, PORTUGUESE = ROOT / "README.md", ROOT / "README.pt-BR.md"
MOST_LINES = 220

NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?")

readme = pytest.mark.parametrize("page", [ENGLISH, PORTUGUESE], ids=lambda page: page.name)


@readme
def test_a_readme_is_short(page: Path):
    assert len(text_of(page).splitlines()) <= MOST_LINES


@readme
def test_the_call_stands_on_the_first_screen(page: Path):
    assert any("send_notification.delay(" in line for line in text_of(page).splitlines()[:40])


@readme
def test_the_operator_has_ten_commands(page: Path):
    (block,) = [block for block in blocks(page, "sh") if "ifinu top" in block]
    assert [line.split()[0] for line in block.splitlines()] == ["ifinu"] * 10


@readme
def test_the_shown_output_of_ifinu_show_has_its_columns(page: Path):
    (shown,) = [block for block in blocks(page, "text") if "delivered" in block]
    columns = re.split(r" {2,}", shown.splitlines()[2].strip())
    named = ", ".join(f'"{name}"' for name in columns)
    assert f"columns({named}" in text_of(ROOT / "ifinu/cli/show.py")


def test_both_readmes_say_the_same():
    """
    The same sections, commands and code, and in every table the same rows.
    """
    headings, shown, cells = (
        [len(re.findall(r"^## ", prose(page), re.MULTILINE)) for page in (ENGLISH, PORTUGUESE)],
        [
            [(kind, COMMENT.sub("", body)) for kind, body in FENCE.findall(text_of(page))]
            for page in (ENGLISH, PORTUGUESE)
        ],
        [
            [[sorted(CODE.findall("|".join(row))) for row in table] for table in tables(page)]
            for page in (ENGLISH, PORTUGUESE)
        ],
    )
    for english, portuguese in (headings, shown, cells):
        assert english == portuguese
    assert headings[0] == 10  # eleven sections and the text below the name


def figures(page: Path) -> list[list[list[float]]]:
    """The numbers in each cell of the table of what was measured, by English marks."""
    (found,) = [table for table in tables(page) if len(table[0]) == 4]
    marks = str.maketrans(",.", ".,") if page == PORTUGUESE else {}
    return [
        [[float(number.replace(",", "")) for number in NUMBER.findall(cell.translate(marks))] for cell in row]
        for row in found
    ]


def test_the_figures_of_both_readmes_are_the_same():
    assert figures(ENGLISH) == figures(PORTUGUESE)


def test_every_figure_of_the_readme_was_measured():
    """
    Each figure stands in docs/measured.md or is the quotient of two that do.
    """
    measured = {float(each.replace(",", "")) for each in NUMBER.findall(text_of(ROOT / "docs/measured.md"))}
    rows = figures(ENGLISH)
    assert len(rows) == 6
    for what, ours, others, ratios in rows:
        assert {*ours, *others, *what} <= measured | {0}
        for ratio, other in zip(ratios, others, strict=False):
            places = len(f"{ratio:g}".partition(".")[2])
            assert ratio == pytest.approx(ours[0] / other, abs=0.51 * 10**-places)
