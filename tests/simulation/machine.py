"""Replaces the clocks, the sleeps and the random numbers of the code under test by those of the world."""

from __future__ import annotations

import contextlib
import random
import sys
import time
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import time_machine

from simulation import world

# Code that reads a clock or sleeps in a run.
_OURS = ("ifinu", "kombu", "celery", "redis", "fakeredis", "amqp", "vine", "billiard")
_monotonic, _sleep = time.monotonic, time.sleep


class _WallClock(time_machine.Traveller):
    """The clock of `time.time`, `datetime.now` and their like, which are replaced wherever they were bound."""

    def time_ns(self) -> int:
        return round(world.here().wall() * 1e9)


def monotonic() -> float:
    return world.here().now - world.EPOCH_S + 1000.0 if world.is_running() else _monotonic()


def sleep(seconds: float) -> None:
    world.here().sleep(seconds)


@contextlib.contextmanager
def simulated(seed: int) -> Iterator[None]:
    """The machine of a run: virtual clocks, and random numbers that follow from the seed."""
    numbers = random.Random(f"machine {seed}")
    before = random.getstate()
    random.seed(f"code {seed}")  # what the code under test draws: jitter
    travel = time_machine.travel(world.EPOCH_S, tick=False)
    travel.start()
    time_machine.traveller_stack[-1] = _WallClock(0, None, False)
    uuid4, uuid.uuid4 = uuid.uuid4, lambda: uuid.UUID(int=numbers.getrandbits(128), version=4)
    try:
        yield
    finally:
        uuid.uuid4 = uuid4
        travel.stop()
        random.setstate(before)


def bind() -> None:
    """
    Bind `monotonic` and `sleep` of all modules loaded so far, and of their defaults, to the virtual ones.

    Once in a process: nothing else may run in it.
    """
    virtual: dict[Any, Callable[..., Any]] = {_monotonic: monotonic, _sleep: sleep}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in _OURS and isinstance(module, types.ModuleType):
            for attribute, value in list(vars(module).items()):
                if isinstance(value, types.BuiltinFunctionType) and value in virtual:
                    setattr(module, attribute, virtual[value])
                elif isinstance(value, types.FunctionType):
                    _bind_defaults(value, virtual)
                elif isinstance(value, type):
                    for method in vars(value).values():
                        if isinstance(method, types.FunctionType):
                            _bind_defaults(method, virtual)
    time.monotonic, time.sleep = monotonic, sleep  # for `time.monotonic()`


def _bind_defaults(function: types.FunctionType, virtual: dict[Any, Callable[..., Any]]) -> None:
    if function.__defaults__ and any(_is_in(value, virtual) for value in function.__defaults__):
        function.__defaults__ = tuple(
            virtual[value] if _is_in(value, virtual) else value for value in function.__defaults__
        )
    for name, value in (function.__kwdefaults__ or {}).items():
        if _is_in(value, virtual):
            function.__kwdefaults__[name] = virtual[value]


def _is_in(value: object, virtual: dict[Any, Callable[..., Any]]) -> bool:
    return isinstance(value, types.BuiltinFunctionType) and value in virtual
