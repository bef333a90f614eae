from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from ifinu.settings import load
from ifinu.worker.bootsteps import Heartbeat
from ifinu.worker.heartbeat import WorkState, stuck_by

WELL = WorkState(
    waiting=0, sending_s=(), slots=2, paused_s=0.0, pace_s=0.02, away=False, refused=False, silent_s=0.5,
)  # fmt: skip


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({}, ""),
        ({"paused_s": 9_999.0}, ""),  # nothing to send
        ({"waiting": 5, "sending_s": (1.0, 2.0), "silent_s": None}, ""),
        ({"waiting": 5, "sending_s": (500.0, 2.0)}, ""),  # the other slot works
        ({"waiting": 5, "sending_s": (500.0, 400.0)}, "sends_hang"),
        ({"waiting": 5, "paused_s": 61.0}, "nothing_starts"),
        ({"waiting": 5, "paused_s": 61.0, "away": True}, ""),
        ({"waiting": 5, "paused_s": 3_600.0, "pace_s": 3_600.0}, ""),
        ({"refused": True}, "claims_refused"),
        ({"silent_s": 31.0}, "nothing_fetched"),
        ({"silent_s": None}, ""),  # it holds as many messages as it may
    ],
)
def test_a_worker_is_healthy_while_it_sends_or_waits_for_a_known_reason(how: dict[str, Any], reason: str):
    assert stuck_by(WELL._replace(**how), patience_s=240.0) == reason


def test_a_heartbeat_file_that_cannot_be_written_is_logged_once_and_raises_nothing(tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    consumer = SimpleNamespace(app=SimpleNamespace(settings=load(heartbeat_file=folder / "beat")))
    heart = Heartbeat(consumer)
    with structlog.testing.capture_logs() as lines:
        heart._write(heart._file.touch)
        assert (folder / "beat").exists()
        heart._remove()
        folder.rmdir()
        for _ in range(3):
            heart._write(heart._file.touch)
        heart.stop(consumer)
        folder.mkdir()
        heart._write(heart._file.touch)
        assert (folder / "beat").exists()
    assert [(line["event"], line["error"]) for line in lines] == [
        ("ifinu.heartbeat.unwritable", "No such file or directory")
    ]


@pytest.mark.parametrize("place", ["no/such/beat", "a-file/beat"])
def test_a_worker_starts_where_its_file_cannot_be(tmp_path: Path, place: str):
    (tmp_path / "a-file").touch()
    Heartbeat(SimpleNamespace(app=SimpleNamespace(settings=load(heartbeat_file=tmp_path / place))))
