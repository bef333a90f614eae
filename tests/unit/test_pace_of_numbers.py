"""The scripts' pace of numbers against a model, in random orders of events and on a clock that the test drives."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import fakeredis
import pytest
import time_machine
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from paced import HOUR, TENANTS, Paced
from simulation.redis import fake_server

from ifinu.broker.keys import QUEUES

T = TypeVar("T")
LONG = os.environ.get("FAULT") == "long"  # `make fault`
START = 1_796_049_000.0  # 11:30 in Brasília
IN_TURN = st.integers(0, 839)  # the remainder chooses; 840 is a multiple of every length in question
NAMED = ("", "", "shared", "own", "slow", "unregistered")
STEPS = (
    ("push",) * 3 + ("fetch",) * 7 + ("end",) * 6 + ("time passes",) * 4
    + ("worker dies", "reroute", "hold", "release", "cap", "restart", "pause")
)  # fmt: skip
ENDS = ("sent",) * 4 + (
    "found", "in doubt", "retry", "number at fault", "refused", "maybe sent", "duplicate", "given back", "not yet due",
)  # fmt: skip
PASSES_MS = (1, 900, 2_500, 5_000, 5_000, 10_000, 10_000, 26_000, 26_000, HOUR, HOUR, 13 * HOUR)
PHONES = ("77998616740", "11912345678", "41987650001")


class Numbers(RuleBasedStateMachine):
    """One rule: Hypothesis disables rules at random and weighs the others equally, but workers must act most."""

    def __init__(self) -> None:
        super().__init__()
        self.travel = time_machine.travel(START, tick=False)
        self.clock = self.travel.start()
        client = fakeredis.FakeRedis(server=fake_server())
        self.paced = Paced(client, lambda: float(int(time.time() * 1000)), exact=True)

    def teardown(self) -> None:
        self.travel.stop()

    @rule(what=st.sampled_from(STEPS), pick=IN_TURN, how=IN_TURN, u=st.sampled_from((0.0, 0.25, 0.5, 0.999)))
    def step(self, what: str, pick: int, how: int, u: float) -> None:
        paced, tags = self.paced, list(self.paced.tags())
        name = _turn(("solo", "shared", "own", "slow"), pick)
        match what:
            case "push":
                for number in range(1 + how % 4):
                    tenant = _turn(tuple(TENANTS), pick // 3 + number)
                    queue, phone = _turn(QUEUES, pick), _turn(PHONES, how // 4)
                    paced.push(queue, tenant, _turn(NAMED, how // 7 + number % 2), phone, envelope=how % 2 == 0)
            case "end" | "worker dies" | "reroute" if not tags:
                pass
            case "end":
                paced.end(_turn(tags, pick), _turn(ENDS, how), u)
            case "worker dies":
                paced.lose(u)
            case "reroute":
                paced.reroute(_turn(tags, pick), name)
            case "time passes":
                self.clock.shift(timedelta(milliseconds=_turn(PASSES_MS, how)))
                return
            case "hold":
                paced.hold(name, 30_000)
            case "release":
                paced.release(name)
            case "cap" if (number := paced.numbers[name]).per_day is not None:
                paced.cap(name, 0 if number.per_day else 3)
            case "restart":
                paced.restart(26_000)
            case "pause":
                paced.pause(_turn(QUEUES, pick))
            case "fetch":
                paced.fetch(1 + how % 6, u, _turn((QUEUES, QUEUES, QUEUES[1:2]), pick))
        paced.check()


def _turn(among: Sequence[T], number: int) -> T:
    choice = among[number % len(among)]
    note(f"#   {choice}")  # the meaning of the step's numbers
    return choice


@pytest.mark.timeout(3_600 if LONG else 120)
def test_the_scripts_keep_every_numbers_pace_in_any_order_of_events():
    run_state_machine_as_test(
        Numbers,
        settings=settings(
            max_examples=2_000 if LONG else 40,
            stateful_step_count=80 if LONG else 50,
            deadline=None,
            derandomize=not LONG,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
            # Steps that fail are printed as they were; making them fewer takes minutes.
            phases=[Phase.generate],
        ),
    )
