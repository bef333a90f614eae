from datetime import timedelta

import pytest
import typer

from ifinu.cli import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("2h", 7200), ("3d", 259_200), ("1h30m", 5400), (" 2H ", 7200), ("0s", 0)],
)
def test_a_length_is_read(text, seconds):
    assert durations.parse(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "10", "m", "1.5h", "-2h", "2w", "1m1h", "99999d", "9" * 40 + "d"])
def test_anything_else_is_refused(text):
    with pytest.raises(typer.BadParameter):
        durations.parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (9.9, "9.9 s"),
        (12.3, "12 s"),
        (90, "1 min 30 s"),
        (7260, "2 h 1 min"),
        (180_000, "2 d 2 h"),
        (timedelta(minutes=1), "1 min 0 s"),
    ],
)
def test_a_length_is_written_in_two_units(seconds, text):
    assert durations.span(seconds) == text
