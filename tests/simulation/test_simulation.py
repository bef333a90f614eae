from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ifinu.broker.keys import script
from simulation.mutants import IN_LUA

LONG = os.environ.get("FAULT") == "long"  # `make fault`
SEEDS = 20_000 if LONG else 300
PARTS = 6  # which run side by side in `make test`
# Guards, and seeds of which several notice that the guard is broken; `--mutants` counts them.
GUARDS = {
    "claim: sends to a person who opted out": "0:20",
    "claim: sends what a dead worker was sending": "0:60",
    "settle: an event each time that it is repeated": "0:60",
    "settle: a number sends again without its gap": "0:30",
    "fetch: a held number sends": "0:40",
    "fetch: a message waits in another tenant's lane": "0:25",
    "restarted: no number pauses": "60:75",
    "settle: frees no number": "0:25",
    "sweep: frees no number": "45:65",
    "claim: two messages to a person at once": "0:25",
    "give_back: to the end of its lane": "10:36",
    "sweep: to the end of its lane": "60:65",
    "postpone: to the end of its lane": "0:66",
    "hold_number: takes over a hold for another reason": "70:76",
    "fetch: tenants take no turns": "28:42",
    "fetch: the lowest queue first": "40:48",
    "claim: any number of people in a portfolio": "86:104",
}


def simulated(*arguments: str, hashes: str = "random") -> subprocess.CompletedProcess[str]:
    """Run the simulation in a process of its own: it replaces clocks and random numbers everywhere."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IFINU_")}
    return subprocess.run(
        [sys.executable, str(Path(__file__).parent), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "PYTHONHASHSEED": hashes},
    )


@pytest.mark.fault
@pytest.mark.timeout(7200 if LONG else 300)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_breaks_a_promise(part: int):
    first, last = part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS
    ended = simulated(f"{first}:{last}")
    print(ended.stdout)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    ids, sent = map(int, re.findall(r"(\d+) ids, (\d+) messages sent", ended.stdout)[0])
    assert sent > ids / 3  # else the runs would show little


def test_a_seed_replays_exactly():
    first, second = (simulated("11", "-v", hashes=hashes).stdout.splitlines()[:-1] for hashes in ("1", "2"))
    assert len(first) > 20
    assert first == second


def test_every_guard_in_lua_is_where_its_mutant_looks():
    assert [(name, guard) for name, guard in IN_LUA if script(name).source.count(guard) != 1] == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("guard", GUARDS)
def test_a_broken_guard_is_found(guard: str):
    ended = simulated(GUARDS[guard], "--mutant", guard)
    assert "replay it: " in ended.stdout, ended.stdout + ended.stderr
