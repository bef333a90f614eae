"""
The broker's scripts against a model of their promises, in random orders of events from Hypothesis.

Two workers take messages of a few ids, stall, die, and settle them, even after losing them to another worker;
meanwhile people cancel, replay, purge and opt out. After each step Redis must hold exactly what the model holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)  # fmt: skip
from modelled import IDS, NOW, Modelled
from promises import INVALID, JUNK, Task

from ifinu.broker.dead_letters import Filter
from ifinu.broker.events import Name
from ifinu.embedded import Valkey

T = TypeVar("T")
LONG = os.environ.get("FAULT") == "long"  # `make fault`

FEW = 6  # the most messages that are ready, or held by one worker: a long backlog would test nothing more
IN_TURN = st.integers(0, 839)  # the remainder chooses; 840 is a multiple of every length in question
STEPS = ("work",) * 12 + (
    "push",
    "time_passes",
    "worker_is_away",
    "worker_is_away",
    "settled_again",
    "person",
    "person",
)
CONTENTS = ("x", "x", "x", "x", "y", "junk", INVALID)
PEOPLE = ("replay", "replay", "purge", "purge", "cancel", "opt_out_or_in")
NOT_STARTED = ("claim",) * 6 + ("give_back", "hold")
SENT = ("sent", "expired", "not_sent", "maybe_sent", "refused", "outage", "give_back", "bug")
LOOKED_UP = ("resend", "resend", "resend", "sent", "not_yet", "hold", "expired", "give_back")
AWAY = ("dies", "dies and is swept", "stalls", "stalls and is swept", "stalls and is back in time")


class Broker(RuleBasedStateMachine):
    """One rule: Hypothesis disables rules at random and weighs the others equally, but workers must act most."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.broker = Modelled(self.url)

    def teardown(self) -> None:
        self.broker.close()

    @rule(what=st.sampled_from(STEPS), name=st.sampled_from(IDS), worker=st.integers(0, 1), pick=IN_TURN, how=IN_TURN)
    def step(self, what: str, name: str, worker: int, pick: int, how: int) -> None:
        letters = list(self.broker.letters.find(Filter(), NOW))
        match what:
            case "push":
                self.push(name, _turn(CONTENTS, how))
            case "time_passes" if self.broker.delayed:
                self.broker.make_due(_turn(list(self.broker.delayed), pick))
            case "worker_is_away" if self.broker.tasks:
                self.worker_is_away(_turn(list(self.broker.tasks.values()), pick).worker, _turn(AWAY, how))
            case "settled_again" if self.broker.settled:  # an owed command, repeated though Redis had it
                self.broker.settle(*self.broker.settled[-1 - pick % len(self.broker.settled)])
            case "person":
                self.person(name, _turn(PEOPLE, how), letters and _turn(letters, pick))
            case _:
                self.work(name, worker, pick, how)

    def push(self, name: str, content: str) -> None:
        if self.broker.ready.total() < FEW:
            self.broker.push(JUNK if content == "junk" else json.dumps({"id": name, "content": content}).encode())

    def worker_is_away(self, worker: int, how: str) -> None:
        self.broker.lose(worker, dies="dies" in how)
        if "swept" in how:
            self.broker.sweep()
        if "back" in how:
            self.broker.renew(worker)

    def person(self, name: str, how: str, letter: Any) -> None:
        match how:
            case "cancel":
                self.broker.cancel(name)
            case "opt_out_or_in":
                self.broker.opt_out_or_in(name)
            case _ if letter:
                self.broker.decide(letter, replays=how == "replay")

    def work(self, name: str, worker: int, pick: int, how: int) -> None:
        """Let a worker continue one of its messages, or fetch another."""
        mine = [task for task in self.broker.tasks.values() if task.worker == worker]
        if not mine or (pick % 4 == 0 and len(mine) < FEW):
            if not self.broker.ready.total() and self.broker.delayed:
                self.broker.make_due(_turn(list(self.broker.delayed), pick))
            elif not self.broker.ready.total():
                self.push(name, _turn(CONTENTS, how))
            self.broker.fetch(worker, 1 + how % 2)
            return
        task = _turn(mine, pick)
        match task.phase:
            case "new" if task.raw == JUNK or task.content == INVALID:
                self.broker.bury(task, "dead")
            case "new":
                self.begin(task, _turn(NOT_STARTED, how))
            case "go":
                self.send(task, _turn(SENT, how))
            case "look_up":
                self.look_up(task, _turn(LOOKED_UP, how))
            case "duplicate":
                self.broker.acknowledge(task)
            case "reused":
                self.broker.bury(task, "dead")
            case "opted_out":
                self.broker.settle(task, "suppressed")
            case "cancelled":
                self.broker.settle(task, "cancelled")

    def begin(self, task: Task, how: str) -> None:
        match how:
            case "claim":
                self.broker.claim(task)
            case "hold":  # its instance is on hold
                self.broker.postpone(task, "waiting", Name.DEFERRED, token=task.token)
            case "give_back":  # its worker ends
                self.broker.give_back(task)

    def send(self, task: Task, how: str) -> None:
        match how:
            case "sent" | "expired":
                self.broker.settle(task, how)
            case "not_sent":
                self.broker.postpone(task, "waiting", Name.RETRYING, token=task.shown)
            case "maybe_sent":
                self.broker.postpone(task, "unknown", Name.UNKNOWN, token=task.shown)
            case "refused":
                self.broker.bury(task, "dead")
            case "bug":  # an unforeseen error, maybe after the send
                self.broker.bury(task, "unknown")
            case "outage":
                self.broker.release(task)
                self.broker.give_back(task)
            case "give_back":  # Redis did not take the outcome
                self.broker.give_back(task)

    def look_up(self, task: Task, how: str) -> None:
        match how:
            case "sent" | "expired":
                self.broker.settle(task, how)
            case "not_yet":
                self.broker.postpone(task, "unknown", None, token=task.shown)
            case "resend":
                self.broker.resend(task)
            case "hold":
                self.broker.bury(task, "unknown")
            case "give_back":
                self.broker.give_back(task)

    @invariant()
    def redis_holds_what_the_model_holds(self) -> None:
        self.broker.check()


def _turn(among: Sequence[T], number: int) -> T:
    choice = among[number % len(among)]
    note(f"#   {choice}")  # the meaning of the step's numbers
    return choice


@pytest.mark.fault
@pytest.mark.timeout(3_600 if LONG else 120)
def test_the_scripts_keep_their_promises_in_any_order_of_events(valkey: Valkey):
    class OfThisServer(Broker):
        url = valkey.url

    run_state_machine_as_test(
        OfThisServer,
        settings=settings(
            max_examples=1_000 if LONG else 200,
            stateful_step_count=80 if LONG else 50,
            deadline=None,
            derandomize=not LONG,
            database=None,
            # Fifty steps at a real server exceed Hypothesis' deadline for pure code.
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
