"""
Marks above the sections of each Portuguese page: which English each section follows.

    python docs/translations.py            name the sections whose English changed since their translation
    python docs/translations.py --renew    renew the marks once the translation is up to date (`make translated`)

A mark, `<!-- english: 1f0c2a9be6d4 -->`, holds the hash of the English section in the same place. White space does not
count.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# The pages that exist in both languages: English, Portuguese.
PAIRS = [
    (ROOT / f"{name}.md", ROOT / f"{name}.pt-BR.md")
    for name in ("README", "docs/billing", "docs/runbook", "docs/disaster-recovery")
]
_MARK = re.compile(r"^<!-- english: (\S*) -->\n", re.MULTILINE)
# A heading, or a fence: what looks like a heading in a block is a comment of shell.
_HEADING_OR_BLOCK = re.compile(r"^```.*?^```$|^#+ (?P<title>[^\n]*)$", re.DOTALL | re.MULTILINE)


class Section(NamedTuple):
    """A heading with what follows it, up to the next heading of any depth."""

    title: str
    text: str
    mark: str | None  # None: no mark stands above it


def sections(text: str) -> Iterator[Section]:
    """
    Read the sections of a page.

    Raises:
        ValueError: Text stands above the first heading, or a mark elsewhere than right above a heading.
    """
    headings = [found for found in _HEADING_OR_BLOCK.finditer(text) if found["title"] is not None]
    starts = [found.start() for found in headings]
    above = text[: starts[0]] if starts else text
    if _MARK.sub("", above).strip():
        raise ValueError("there is text above the first heading")
    for heading, end in zip(headings, [*starts[1:], len(text)], strict=True):
        marks = [*_MARK.finditer(above)]
        if len(marks) > 1 or (marks and marks[0].end() != len(above)):
            raise ValueError(f"a mark stands apart from the heading {heading['title']!r}")
        above = text[heading.start() : end]
        yield Section(heading["title"], _MARK.sub("", above), marks[0][1] if marks else None)
    if _MARK.search(above):
        raise ValueError("a mark stands below the last heading")


def digest(text: str) -> str:
    """The hash of a section, in 12 hexadecimal digits; a new line break is no change."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:12]


def stale(english: str, portuguese: str) -> list[str]:
    """
    Name the sections whose mark is not that of their English.

    Returns:
        Their titles in Portuguese and English, e.g. `Rode / Run it`.

    Raises:
        ValueError: The pages do not have the same number of sections.
    """
    ours, theirs = [*sections(portuguese)], [*sections(english)]
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} sections in Portuguese, {len(theirs)} in English")
    pairs = zip(ours, theirs, strict=True)
    return [f"{our.title} / {their.title}" for our, their in pairs if our.mark != digest(their.text)]


def renewed(english: str, portuguese: str) -> str:
    """
    The Portuguese page, each of its sections marked as following the English one.

    Raises:
        ValueError: The pages do not have the same number of sections, or text stands above the first heading.
    """
    portuguese = _MARK.sub("", portuguese)  # a merge may have moved one away from its heading
    stale(english, portuguese)
    pairs = zip(sections(portuguese), sections(english), strict=True)
    return "".join(f"<!-- english: {digest(theirs.text)} -->\n{ours.text}" for ours, theirs in pairs)


def main() -> None:
    """Name them, with exit code 1 if there are any; or renew the marks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renew", action="store_true", help="renew the marks")
    is_renewing = parser.parse_args().renew
    is_stale = False
    for english, portuguese in PAIRS:
        texts = english.read_text(encoding="utf-8"), portuguese.read_text(encoding="utf-8")
        try:
            names = stale(*texts)
        except ValueError as exc:
            names = [str(exc)]
        is_stale |= bool(names)
        for name in names:
            print(f"{portuguese.name}: {name}")  # noqa: T201 - what it is for
        if is_renewing:
            portuguese.write_text(renewed(*texts), encoding="utf-8")
    sys.exit(1 if is_stale and not is_renewing else 0)


if __name__ == "__main__":
    main()
