"""CPU time and memory of processes and of the machine, from /proc; see proc_pid_stat(5)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


class Usage(NamedTuple):
    """What a process and those that it started have used."""

    cpu_s: float  # of the process itself
    children_cpu_s: float  # of all that it started, those that have ended among them
    memory_mib: float  # resident; shared pages count for each process, as in `ps` and Kubernetes
    children_memory_mib: float

    @property
    def all_cpu_s(self) -> float:
        return self.cpu_s + self.children_cpu_s

    @property
    def all_memory_mib(self) -> float:
        return self.memory_mib + self.children_memory_mib


class _Process(NamedTuple):
    parent: int
    session: int
    own_s: float
    reaped_s: float
    memory_mib: float


def of(*pids: int) -> list[Usage]:
    """The usage of each of these processes; zero for one that has ended."""
    processes = _processes()
    return [_of(pid, processes) for pid in pids]


def machine_s() -> float:
    """CPU time that all programs of this machine have used."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) * _TICK_S  # without idle and iowait


def _of(pid: int, processes: dict[int, _Process]) -> Usage:
    root = processes.get(pid)
    if root is None:
        return Usage(0.0, 0.0, 0.0, 0.0)
    children = [process for child, process in processes.items() if child != pid and _belongs(child, pid, processes)]
    return Usage(
        root.own_s,
        root.reaped_s + sum(child.own_s + child.reaped_s for child in children),
        root.memory_mib,
        sum(child.memory_mib for child in children),
    )


def _belongs(child: int, pid: int, processes: dict[int, _Process]) -> bool:
    """Whether a process stems from another, or stayed in its session after its parent had ended."""
    while process := processes.get(child):
        if process.session == pid or process.parent == pid:
            return True
        child = process.parent
    return False


def _processes() -> dict[int, _Process]:
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        user, system, reaped_user, reaped_system = (int(field) * _TICK_S for field in fields[11:15])
        found[int(file.parent.name)] = _Process(
            int(fields[1]), int(fields[3]), user + system, reaped_user + reaped_system, int(fields[21]) * _PAGE_MIB
        )
    return found
