from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

PRELUDE = """
import logging, structlog
from ifinu import logs
from ifinu.settings import LogFormat
logs.configure({level!r}, LogFormat.{style})
ours, celery = structlog.get_logger("ifinu.a"), logging.getLogger("celery.worker")
def fail():
    raise ValueError("one\\ntwo")
"""


def lines_of(script: str, level: str = "info", style: str = "JSON") -> list[str]:
    """What a process that configures its logs so and runs `script` writes to stderr."""
    source = PRELUDE.format(level=level, style=style) + script
    answer = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert answer.stdout == ""
    return answer.stderr.splitlines()


def written(script: str, level: str = "info") -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(script, level)]


@pytest.mark.parametrize(
    ("script", "fields"),
    [
        ('ours.info("ifinu.a.b", took_s=0.5)', {"event": "ifinu.a.b", "took_s": 0.5, "level": "info"}),
        (
            'ours.warning("ifinu.a", name="João\\nSilva")',
            {"event": "ifinu.a", "name": "João\nSilva", "level": "warning"},
        ),
        ('celery.info("%s is %d\\nready", "w", 1)', {"event": "w is 1\nready", "level": "info"}),
        ('celery.error("no")', {"event": "no", "level": "error"}),
    ],
)
def test_every_event_is_one_line_of_json_celerys_included(script: str, fields: dict[str, Any]):
    (line,) = written(script)
    timestamp = line.pop("timestamp")
    assert timestamp.endswith("Z")
    assert line == fields


@pytest.mark.parametrize("logger", ["ours", "celery"])
def test_a_traceback_stays_on_the_line_of_its_event(logger: str):
    (line,) = written(f"try: fail()\nexcept ValueError: {logger}.exception('broken')")
    assert line["event"] == "broken"
    assert line["level"] == "error"
    assert line["exception"].endswith("ValueError: one\ntwo")


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("WARNING", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_holds_for_ours_and_for_celerys(level: str, seen: list[str]):
    script = "\n".join(
        f'{logger}.{word}("x")' for logger in ("ours", "celery") for word in ("debug", "info", "warning", "error")
    )
    assert [line["level"] for line in written(script, level)] == seen * 2


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("celery.worker.strategy", ["warning", "error"]),  # a line for each message received
        ("celery.app.trace", ["warning", "error"]),  # and for each that was done
        ("kombu.transport", ["warning", "error"]),
        ("urllib3.connectionpool", ["error"]),  # its warnings name the path, and so a phone
        ("celery.worker.consumer", ["info", "warning", "error"]),
    ],
)
def test_what_others_say_too_often_or_too_openly_is_kept_out(name: str, seen: list[str]):
    script = f'for w in ("info", "warning", "error"): getattr(logging.getLogger({name!r}), w)("x")'
    assert [line["level"] for line in written(script)] == seen


def test_quiet_loggers_become_no_louder_when_less_is_asked_for():
    assert written('logging.getLogger("kombu").warning("x")', "error") == []


def test_the_console_has_a_line_for_people():
    (line,) = lines_of('ours.info("ifinu.a", took_s=0.5)', style="CONSOLE")
    assert "ifinu.a" in line
    assert "took_s=0.5" in line
    assert "\x1b" not in line  # stderr is no terminal


def test_without_a_terminal_the_automatic_style_is_json():
    assert json.loads(lines_of('ours.info("x")', style="AUTO")[0])["event"] == "x"


def test_configuring_twice_writes_each_line_once():
    assert len(written('logs.configure("info", LogFormat.JSON)\nours.info("x")')) == 1
