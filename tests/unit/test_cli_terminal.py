import json

import pytest

from ifinu.cli import terminal


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("[bold]no markup[/bold]", "[bold]no markup[/bold]"),
        ("inv-42[/]", "inv-42[/]"),
        ("a\x1b[31mb\x07", "a\\x1b[31mb\\x07"),
        ("c1 \x9b31m", "c1 \\x9b31m"),
        ("fdp.\u202eexe", "fdp.\\u202eexe"),
        ("half \ud800", "half \\ud800"),
        ("two\nlines", "two\\nlines"),
        ("fatura:100:lembrete", "fatura:100:lembrete"),
        ("João ✓ 😀", "João ✓ 😀"),
    ],
)
def test_text_from_outside_is_not_markup_and_cannot_control_the_terminal(given, shown):
    for console in (terminal.results(), terminal.notes()):
        with console.capture() as captured:
            console.print(terminal.plain(given))
        assert captured.get() == f"{shown}\n"


def test_a_text_of_several_lines_keeps_them():
    assert terminal.plain("two\nlines\x1b", lines=True) == "two\nlines\\x1b"


@pytest.mark.parametrize("text", ["\x9b31m", "\u202e", "\ud800", "\x1b]0;x\x07", "João", "\u2066", "\x7f"])
def test_json_has_the_same_text_and_cannot_control_the_terminal(capsys, text):
    terminal.print_json({"id": text})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"id": text}
    assert all(each.isprintable() for each in printed.rstrip("\n"))
