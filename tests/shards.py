"""Several gateway processes on local addresses, behind one name."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pytest
from processes import API_KEY

from ifinu.gateway import ManagedShards, Shards
from ifinu.simulator import Cluster as Pods

_Client = TypeVar("_Client", Shards, ManagedShards)

NAME = "gateway.test"
HOSTS = {"pod-0": "127.0.0.1", "pod-1": "127.0.0.2", "pod-2": "127.0.0.3"}
ELSEWHERE = "127.0.0.9"
HELD = {"pod-0": ["ifinu", "a"], "pod-1": ["b"], "pod-2": ["c", "d"]}  # instances of each process


def pods(instances: Mapping[str, Sequence[str]], hosts: Mapping[str, str] = HOSTS, **options: Any) -> Pods:
    """Gateway processes with these instances; every number succeeds. Skipped where only 127.0.0.1 exists."""
    try:
        with socket.create_server(("127.0.0.2", 0)):
            pass
    except OSError as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"this machine has no address but one: {exc}")
    return Pods(api_key=API_KEY, hosts=hosts, instances=instances, **{"script": {"endings": {}}, **options})


def resolved(monkeypatch: pytest.MonkeyPatch, running: Pods) -> list[str]:
    """Resolve the name to the running processes, in this process only; the returned list grows with each look-up."""
    real, asked = socket.getaddrinfo, []

    def look_up(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host != NAME:
            return real(host, port, *args, **more)
        asked.append(host)
        return [found for address in running.addresses.values() for found in real(address, port, *args, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@contextlib.contextmanager
def pods_of_commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pods]:
    """Three processes behind the name, which commands run in this process are set up for."""
    with pods(HELD, pairing_ms=100, reconnect_ms=50) as running:
        resolved(monkeypatch, running)
        monkeypatch.setenv("IFINU_EVOLUTION_URL", f"http://{NAME}:{running.port}")
        monkeypatch.setenv("IFINU_EVOLUTION_SHARDED", "true")
        yield running


def gateway_of(running: Pods, **options: Any) -> Shards:
    """A client for sending through all processes."""
    return _client(Shards, running, **options)


def management_of(running: Pods, **options: Any) -> ManagedShards:
    """A client for the management of all processes."""
    return _client(ManagedShards, running, **options)


def _client(kind: type[_Client], running: Pods, **options: Any) -> _Client:
    look_up = options.pop("look_up", lambda host, port: running.addresses.values())
    return kind(f"http://{NAME}:{running.port}", API_KEY, look_up=look_up, **options)
