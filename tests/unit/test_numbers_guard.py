"""
What the guard makes of a number's figures, and how it brakes and recovers.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifinu.numbers.directory import BANNED, DISCONNECTED, UNTIL_RELEASED
from ifinu.numbers.guard import SLOWEST, Memory, Move, decide
from ifinu.numbers.signals import Figures, Level, Signal, levels

NOW = datetime(2026, 11, 24, 15, 30, tzinfo=UTC)
CALM, SLOW, PAUSE = Level.CALM, Level.SLOW, Level.PAUSE
HOUR, DAY = timedelta(hours=1), timedelta(hours=24)
FINE = Figures(sent=50, settled=50, confirmed=50, reachable=50, delivered=50, state="open")
ALL = Fraction(1)


@pytest.mark.parametrize(
    ("signal", "figures", "level"),
    [
        (Signal.ERRORS_NEW, {"new": 20, "new_errors": 1}, CALM),
        (Signal.ERRORS_NEW, {"new": 20, "new_errors": 2}, SLOW),
        (Signal.ERRORS_NEW, {"new": 20, "new_errors": 3}, PAUSE),
        (Signal.ERRORS_KNOWN, {"known_errors": 4}, CALM),  # of 50
        (Signal.ERRORS_KNOWN, {"known_errors": 5}, SLOW),
        (Signal.ERRORS_KNOWN, {"known_errors": 12}, SLOW),
        (Signal.ERRORS_KNOWN, {"known_errors": 13}, PAUSE),
        (Signal.ERRORS_KNOWN, {"sent": 3, "known_errors": 1}, CALM),  # of few, the count decides
        (Signal.ERRORS_KNOWN, {"sent": 3, "known_errors": 2}, SLOW),
        (Signal.ERRORS_KNOWN, {"sent": 20, "known_errors": 4}, SLOW),
        (Signal.ERRORS_KNOWN, {"sent": 20, "known_errors": 5}, PAUSE),
        (Signal.ERRORS_KNOWN, {"sent": 40, "new": 20, "known_errors": 5}, PAUSE),  # of the known ones
        (Signal.TOO_FAST, {"throttled": 0}, CALM),
        (Signal.TOO_FAST, {"throttled": 1}, SLOW),
        (Signal.TOO_FAST, {"throttled": 2}, SLOW),
        (Signal.TOO_FAST, {"throttled": 3}, PAUSE),
        (Signal.SILENT, {"confirmed": 41, "usual": ALL}, CALM),
        (Signal.SILENT, {"confirmed": 40, "usual": ALL}, SLOW),
        (Signal.SILENT, {"confirmed": 31, "usual": ALL}, SLOW),
        (Signal.SILENT, {"confirmed": 30, "usual": ALL}, PAUSE),
        (Signal.SILENT, {"confirmed": 0, "usual": None}, CALM),  # no history: perhaps no webhook either
        (Signal.SILENT, {"confirmed": 30, "usual": Fraction(7, 10)}, CALM),  # as many as ever
        (Signal.SILENT, {"settled": 9, "confirmed": 0, "usual": ALL}, CALM),  # too few to judge
        (Signal.SILENT, {"settled": 10, "confirmed": 0, "usual": ALL}, PAUSE),
        (Signal.UNDELIVERED, {"delivered": 30}, CALM),
        (Signal.UNDELIVERED, {"delivered": 29}, SLOW),
        (Signal.UNDELIVERED, {"delivered": 15}, SLOW),
        (Signal.UNDELIVERED, {"delivered": 14}, PAUSE),
        (Signal.UNDELIVERED, {"reachable": 19, "delivered": 0}, CALM),
        (Signal.UNDELIVERED, {"reachable": 20, "delivered": 0}, PAUSE),
        (Signal.OPT_OUTS, {"opt_outs": 1}, CALM),
        (Signal.OPT_OUTS, {"opt_outs": 2}, SLOW),
        (Signal.OPT_OUTS, {"opt_outs": 3}, SLOW),
        (Signal.OPT_OUTS, {"opt_outs": 4}, PAUSE),
        (Signal.OPT_OUTS, {"sent": 5, "opt_outs": 1}, CALM),
        (Signal.OPT_OUTS, {"sent": 100, "opt_outs": 2}, CALM),
        (Signal.NOT_ON_WHATSAPP, {"not_on_whatsapp": 2}, CALM),  # of 52
        (Signal.NOT_ON_WHATSAPP, {"sent": 38, "not_on_whatsapp": 2}, SLOW),
        (Signal.NOT_ON_WHATSAPP, {"sent": 46, "not_on_whatsapp": 8}, SLOW),
        (Signal.NOT_ON_WHATSAPP, {"sent": 45, "not_on_whatsapp": 8}, PAUSE),
        (Signal.NOT_ON_WHATSAPP, {"sent": 0, "not_on_whatsapp": 2}, SLOW),
        (Signal.NOT_ON_WHATSAPP, {"sent": 0, "not_on_whatsapp": 3}, PAUSE),
        (Signal.UNLINKED, {"state": "close", "code": 428}, CALM),
        (Signal.UNLINKED, {"state": "close", "code": 401}, PAUSE),
        (Signal.UNLINKED, {"state": "close", "code": 403}, PAUSE),
        (Signal.UNLINKED, {"state": "open", "code": 401}, CALM),
        (Signal.ONE_WAY, {"warming": True, "answers": 0}, SLOW),
        (Signal.ONE_WAY, {"warming": True, "answers": 1}, CALM),
        (Signal.ONE_WAY, {"warming": True, "answers": None}, CALM),
        (Signal.ONE_WAY, {"warming": False, "answers": 0}, CALM),
        (Signal.ONE_WAY, {"warming": True, "answers": 0, "sent": 49}, CALM),
        (Signal.ONE_WAY, {"warming": True, "answers": 1, "sent": 51}, SLOW),
        (Signal.ONE_WAY, {"warming": True, "answers": 0, "confirmed": 0}, CALM),  # no receipt: the webhook is dead
    ],
)
def test_the_thresholds(signal, figures, level):
    assert levels(replace(FINE, **figures)) == ({} if level is CALM else {signal: level})


def moves(steps):
    return [(step.move, step.signal) for step in steps]


@pytest.mark.parametrize(
    ("figures", "steps", "held_for", "no_new_chats_for"),
    [
        ({}, [], None, None),
        ({"throttled": 1}, [Move.SLOWED], None, None),
        ({"throttled": 3}, [Move.SLOWED, Move.PAUSED], HOUR, None),
        ({"known_errors": 13}, [Move.SLOWED, Move.PAUSED], DAY, None),
        ({"opt_outs": 4}, [Move.SLOWED, Move.PAUSED], DAY, None),
        ({"delivered": 14}, [Move.SLOWED, Move.PAUSED], HOUR, None),
        ({"confirmed": 0, "usual": ALL}, [Move.SLOWED, Move.PAUSED], HOUR, None),
        ({"new": 20, "new_errors": 3}, [Move.SLOWED, Move.NO_NEW_CHATS], None, DAY),
        ({"sent": 0, "not_on_whatsapp": 3}, [Move.SLOWED, Move.NO_NEW_CHATS], None, DAY),
    ],
)
def test_what_a_signal_leads_to(figures, steps, held_for, no_new_chats_for):
    memory, done = decide(replace(FINE, **figures), Memory(), NOW)
    assert [step.move for step in done] == steps
    assert memory.brake == (0.5 if steps else 1.0)
    assert memory.held_until == (held_for and NOW + held_for)
    assert memory.no_new_chats_until == (no_new_chats_for and NOW + no_new_chats_for)


def test_several_signals_of_one_pass_halve_the_pace_once():
    memory, done = decide(replace(FINE, throttled=1, opt_outs=2), Memory(), NOW)
    assert memory.brake == 0.5
    assert moves(done) == [(Move.SLOWED, Signal.TOO_FAST)]
    assert memory.answered == {Signal.TOO_FAST: SLOW, Signal.OPT_OUTS: SLOW}


def test_a_signal_that_was_answered_is_answered_again_only_if_it_gets_worse():
    memory, _ = decide(replace(FINE, throttled=1), Memory(), NOW)
    same, done = decide(replace(FINE, throttled=2), memory, NOW + timedelta(minutes=1))
    assert (same, done) == (memory, ())
    worse, done = decide(replace(FINE, throttled=3), memory, NOW + timedelta(minutes=2))
    assert moves(done) == [(Move.PAUSED, Signal.TOO_FAST)]
    assert worse.brake == 0.5
    other, done = decide(replace(FINE, throttled=1, opt_outs=2), memory, NOW + timedelta(minutes=2))
    assert moves(done) == [(Move.SLOWED, Signal.OPT_OUTS)]
    assert other.brake == 0.25


def test_after_an_hour_only_what_happened_since_counts():
    memory, _ = decide(replace(FINE, throttled=1), Memory(), NOW)
    assert memory.judged_from(NOW + HOUR - timedelta(seconds=1)) is None
    assert memory.judged_from(NOW + HOUR) == NOW
    memory, done = decide(replace(FINE, throttled=1), memory, NOW + HOUR)
    assert moves(done) == [(Move.SLOWED, Signal.TOO_FAST)]
    assert memory.brake == 0.25


def test_a_pause_ends_by_itself_and_the_pace_comes_back_hour_by_hour():
    memory, _ = decide(replace(FINE, throttled=3), Memory(), NOW)
    waiting, done = decide(FINE, memory, NOW + HOUR - timedelta(seconds=1))
    assert (waiting, done) == (memory, ())
    at = NOW + HOUR
    memory, done = decide(FINE, memory, at)
    assert moves(done) == [(Move.RELEASED, Signal.TOO_FAST)]
    assert memory.held_until is None
    seen = []
    for _ in range(6):
        early, done = decide(FINE, memory, at + HOUR - timedelta(seconds=1))
        assert (early, done) == (memory, ())
        at += HOUR
        memory, done = decide(FINE, memory, at)
        seen.append((memory.brake, moves(done)))
    recovered = [(Move.RECOVERED, None)]
    assert seen == [(0.6, recovered), (0.7, recovered), (0.8, recovered), (0.9, recovered), (1.0, recovered), (1.0, [])]
    assert memory.risk == 0


def test_a_pause_does_not_shorten_a_longer_hold_and_a_persons_hold_is_not_ended():
    person = Memory(held_until=NOW + 2 * HOUR, held_reason="ask the customer first")
    memory, done = decide(replace(FINE, throttled=3), person, NOW)
    assert moves(done) == [(Move.SLOWED, Signal.TOO_FAST)]
    assert (memory.held_until, memory.held_reason) == (person.held_until, person.held_reason)
    over, done = decide(FINE, person, NOW + 3 * HOUR)
    assert (over, done) == (person, ())


def test_a_silent_number_sends_one_probe_each_15_minutes_until_one_is_acknowledged():
    silent = replace(FINE, confirmed=0, reachable=0, delivered=0, usual=ALL)
    memory, _ = decide(silent, Memory(brake=0.9), NOW)
    assert (memory.probing, memory.pace, memory.brake) == (True, SLOWEST, 0.45)
    at = NOW + HOUR
    memory, done = decide(Figures(state="open"), memory, at)
    assert moves(done) == [(Move.RELEASED, Signal.SILENT)]
    assert memory.judged_from(at) == NOW  # the silence before the pause does not count again
    sent, done = decide(Figures(sent=1, state="open"), memory, at + timedelta(minutes=1))  # may still be acknowledged
    assert (sent, done) == (memory, ())
    memory, done = decide(Figures(sent=1, settled=1, state="open"), memory, at + timedelta(minutes=3))
    assert moves(done) == [(Move.PAUSED, Signal.SILENT)]
    assert memory.held_until == at + timedelta(minutes=18)
    memory, _ = decide(Figures(state="open"), memory, at + timedelta(minutes=18))
    alive = Figures(sent=1, settled=1, confirmed=1, state="open")
    memory, done = decide(alive, memory, at + timedelta(minutes=20))
    assert moves(done) == [(Move.RECOVERED, Signal.SILENT)]
    assert (memory.probing, memory.pace, memory.held_until) == (False, 0.45, None)


@pytest.mark.parametrize(
    ("code", "move", "reason", "banned", "after"),
    [
        (401, Move.UNLINKED, DISCONNECTED, False, [(Move.RELEASED, Signal.UNLINKED)]),
        (403, Move.BANNED, BANNED, True, []),  # what WhatsApp has banned, a person releases
    ],
)
def test_an_unlinked_number_is_held_until_it_is_paired_and_a_banned_one_until_a_person_releases_it(
    code, move, reason, banned, after
):
    closed = Figures(state="close", code=code)
    memory, done = decide(closed, Memory(), NOW)
    assert moves(done) == [(move, Signal.UNLINKED)]
    assert (memory.held_until, memory.held_reason, memory.banned) == (UNTIL_RELEASED, reason, banned)
    assert memory.risk == (100 if banned else 0)
    again, done = decide(closed, memory, NOW + 40 * DAY)
    assert (again, done) == (memory, ())
    memory, done = decide(FINE, memory, NOW + 41 * DAY)
    assert moves(done) == after
    assert (memory.held_until is None) == (not banned)


def test_a_number_that_was_unlinked_first_may_be_banned_later():
    memory, _ = decide(Figures(state="close", code=401), Memory(), NOW)
    memory, done = decide(Figures(state="close", code=403), memory, NOW + HOUR)
    assert moves(done) == [(Move.BANNED, Signal.UNLINKED)]
    assert memory.held_reason == BANNED


FIGURES = st.builds(
    Figures,
    sent=st.integers(0, 60),
    new_errors=st.integers(0, 4),
    known_errors=st.integers(0, 20),
    throttled=st.integers(0, 4),
    settled=st.integers(0, 60),
    confirmed=st.just(0),
    usual=st.sampled_from([None, ALL]),
    reachable=st.integers(0, 60),
    delivered=st.just(10),
    opt_outs=st.integers(0, 5),
    not_on_whatsapp=st.integers(0, 8),
    state=st.sampled_from(["open", "close", None]),
    code=st.sampled_from([None, 401, 403, 428]),
)


@given(st.lists(st.tuples(st.one_of(st.just(FINE), FIGURES), st.integers(1, 200)), max_size=40))
def test_the_brake_stays_between_a_tenth_and_one_and_is_released_only_after_an_hour_of_calm(passes):
    memory, at = Memory(), NOW
    braked_at = None
    for figures, minutes in passes:
        at += timedelta(minutes=minutes)
        before = memory
        memory, steps = decide(figures, before, at)
        assert SLOWEST <= memory.brake <= 1
        assert SLOWEST <= memory.pace <= 1
        assert 0 <= memory.risk <= 100
        assert memory.brake >= before.brake / 2 - 0.001  # one step a pass
        assert memory.brake <= before.brake + 0.1 + 1e-9
        if memory.brake > before.brake:
            assert not levels(figures)
            assert braked_at is None or at - braked_at >= HOUR
            assert [step.move for step in steps] == [Move.RECOVERED]
        if memory.brake < before.brake:
            assert levels(figures)
            braked_at = at
        if memory != before:
            assert steps or memory.answered != before.answered, "a change without a step"


class Stored:
    """A row of the registry."""

    def __init__(self, **columns):
        self.__dict__ = {
            "brake": 1.0, "held_until": None, "held_reason": None, "banned_at": None, "no_new_chats_until": None,
            "guard": {}, "risk": 0,
        } | columns  # fmt: skip


@given(st.lists(FIGURES, max_size=5))
def test_what_is_remembered_survives_the_registry(passes):
    memory, row = Memory(), Stored()
    for minutes, figures in enumerate(passes):
        before, at = memory, NOW + timedelta(minutes=30 * minutes)
        memory, _ = decide(figures, before, at)
        row.__dict__ |= memory.columns(before, at)
        assert Memory.of(row) == memory
