import pytest
from rich.console import Console

from ifinu.cli import terminal


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("[bold]no markup[/bold]", "[bold]no markup[/bold]"),
        ("inv-42[/]", "inv-42[/]"),
        ("a\x1b[31mb\x07", "a\ufffd[31mb\ufffd"),
        ("two\nlines", "two\nlines"),
        ("João ✓", "João ✓"),
    ],
)
def test_a_text_from_elsewhere_neither_is_markup_nor_steers_the_terminal(given, shown):
    console = Console(width=80)
    with console.capture() as captured:
        console.print(terminal.plain(given))
    assert captured.get() == f"{shown}\n"
