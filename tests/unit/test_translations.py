"""`docs/translations.py`: each Portuguese section carries the mark of the English that it follows."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from pages import script, text_of

ROOT = Path(__file__).parents[2]
ENGLISH = "# Title\n\nWords.\n\n## One\n\n```sh\n# no heading\n```\n\n## Two\n\nMore.\n"
PORTUGUESE = "# Título\n\nPalavras.\n\n## Um\n\n```sh\n# não é título\n```\n\n## Dois\n\nMais.\n"


@pytest.fixture(scope="module")
def translations() -> ModuleType:
    return script(ROOT / "docs/translations.py")


@pytest.mark.parametrize("name", ["README", "docs/billing", "docs/runbook", "docs/disaster-recovery"])
def test_every_translation_follows_its_english(translations: ModuleType, name: str):
    english, portuguese = ROOT / f"{name}.md", ROOT / f"{name}.pt-BR.md"
    assert (english, portuguese) in translations.PAIRS
    stale = translations.stale(text_of(english), text_of(portuguese))
    assert stale == [], "the English of these sections changed: translate them, then make translated"


def test_every_portuguese_page_is_watched(translations: ModuleType):
    pages = {*ROOT.glob("*.pt-BR.md"), *ROOT.glob("docs/**/*.pt-BR.md")}
    assert {portuguese for _, portuguese in translations.PAIRS} == pages


def test_a_section_whose_english_changed_is_named_alone(translations: ModuleType):
    marked = translations.renewed(ENGLISH, PORTUGUESE)
    assert translations.stale(ENGLISH, marked) == []
    assert translations.stale(ENGLISH.replace("no heading", "still none"), marked) == ["Um / One"]
    assert translations.stale(ENGLISH.replace("More", "Less"), marked) == ["Dois / Two"]


def test_a_new_line_break_is_no_change(translations: ModuleType):
    marked = translations.renewed(ENGLISH.replace("Words.", "Two words."), PORTUGUESE)
    assert translations.stale(ENGLISH.replace("Words.", "Two\nwords."), marked) == []


def test_a_section_without_a_mark_is_named(translations: ModuleType):
    assert translations.stale(ENGLISH, PORTUGUESE) == ["Título / Title", "Um / One", "Dois / Two"]


def test_renewing_marks_changes_nothing_else(translations: ModuleType):
    marked = translations.renewed(ENGLISH, PORTUGUESE)
    assert "".join(line for line in marked.splitlines(True) if not line.startswith("<!-- english: ")) == PORTUGUESE
    assert translations.renewed(ENGLISH, marked) == marked


def test_a_mark_that_a_merge_moved_is_put_back(translations: ModuleType):
    moved = PORTUGUESE.replace("Palavras.\n", "<!-- english: 000000000000 -->\nPalavras.\n")
    assert translations.renewed(ENGLISH, moved) == translations.renewed(ENGLISH, PORTUGUESE)


@pytest.mark.parametrize(
    "portuguese",
    [
        PORTUGUESE.replace("## Dois\n", ""),
        f"Antes.\n\n{PORTUGUESE}",
        PORTUGUESE.replace("Palavras.\n", "<!-- english: 000000000000 -->\nPalavras.\n"),
        f"{PORTUGUESE}<!-- english: 000000000000 -->\n",
    ],
    ids=["a section is missing", "text above the title", "a mark within a section", "a mark at the end"],
)
def test_a_page_whose_marks_cannot_be_matched_is_refused(translations: ModuleType, portuguese: str):
    with pytest.raises(ValueError, match=r"section|heading"):
        translations.stale(ENGLISH, portuguese)
