from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def measured(bench: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """What a short run writes; its exit code says whether a mark was met, which a busy machine decides."""
    file = folder / f"{bench}.json"
    ended = subprocess.run(
        [sys.executable, str(ROOT / "bench" / f"{bench}.py"), *arguments, "--json", str(file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert file.exists(), ended.stderr
    document: dict[str, Any] = json.loads(file.read_text())
    assert document["bench"] == bench
    return document


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the sources are not in a repository")
def test_the_fleet_of_an_older_commit_takes_turns_with_this_one(tmp_path: Path):
    """
    HEAD stands for the older commit: the same workers, from its package.
    """
    document = measured(
        "fleet",
        tmp_path,
        "--workers",
        "1",
        "--seconds",
        "1",
        "--warm-up",
        "0.5",
        "--against",
        "HEAD",
        "--ledger",
        "none",
    )
    ours, theirs = document["runs"]
    assert (ours["name"], theirs["name"]) == ("this tree", "HEAD")
    for run in (ours, theirs):
        assert run["per_s"] == sum(run["paces"].values()) > 10
        assert run["cpu_us"]["workers"] > 0
        assert run["sent_twice"] == 0
    assert document["ratio"]["workers"] == ours["cpu_us"]["workers"] / theirs["cpu_us"]["workers"]


def test_each_idle_message_and_each_start_is_timed_to_its_post(tmp_path: Path):
    document = measured("latency", tmp_path, "--messages", "5", "--gap-ms", "20", "--starts", "1")
    idle, delay, start = document["each_s"].values()
    assert [len(idle), len(delay), len(start)] == [5, 5, 1]
    assert min(*idle, *delay) > 0
    assert start[0] > 0.1


def test_the_memory_of_a_worker_is_read_after_each_number_of_messages_in_both_ways_to_start_it(tmp_path: Path):
    document = measured("growth", tmp_path, "--only", "memory", "--sent", "20,40")
    assert set(document["memory_mib"]) == {"celery -A ifinu worker", "ifinu worker"}
    for first, second in document["memory_mib"].values():
        assert 20 < first <= second < 200


def test_each_command_for_dead_letters_is_measured(tmp_path: Path):
    measured_for = measured("growth", tmp_path, "--only", "dead-letters", "--dead", "2")["dead_letters"]["2"]
    assert measured_for["bytes_each"] > 100
    assert len(measured_for["commands"]) == 4
    assert all(command["cpu_s"] > 0.01 < command["memory_mib"] for command in measured_for["commands"].values())


def test_the_cost_of_numbers_and_the_wait_behind_a_flood_are_measured(tmp_path: Path):
    document = measured("lanes", tmp_path, "--messages", "100", "--rounds", "1", "--flood", "500")
    assert list(document["medians"]) == ["nothing registered", "1 number", "100 numbers"]
    assert all(cost["cpu_us"] > 0 < cost["per_s"] for cost in document["medians"].values())
    assert set(document["ratios"]) == {"many_of_one_worker", "many_of_one_redis"}
    assert len(document["waits_s"]) == 10
    assert 0 < document["waits_s"][0] <= document["waits_s"][-1] < 60


def test_a_usual_day_and_the_worst_are_planned_by_one_planner_and_by_two(tmp_path: Path):
    runs = measured("regua", tmp_path, "--charges", "600")["runs"]
    assert [(run["day"], run["planners"], run["charges"]) for run in runs] == [
        ("usual", 1, 18), ("usual", 2, 18), ("worst", 1, 600), ("worst", 2, 600),
    ]  # fmt: skip
    assert [run["planned"] for run in runs] == [12, 12, 300, 300]
    assert all(run["per_s"] > 0 < run["memory_mib"] for run in runs)


def test_what_a_recorder_does_for_many_numbers_is_measured(tmp_path: Path):
    document = measured("duties", tmp_path, "--numbers", "10", "--messages", "200", "--rounds", "1")
    rows = {row["duty"]: row for row in document["table"]}
    assert len(rows) == 6
    assert all(float(row["seconds"]) > 0 for row in rows.values())
