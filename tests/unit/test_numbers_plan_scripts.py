"""
`ifinu plan` against the scripts that keep the pace, under a virtual clock.
"""

from __future__ import annotations

import heapq
import json
import random
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import fakeredis
import pytest
import time_machine
from simulation.redis import _with_lua

from ifinu.broker.keys import EVENTS, NORMAL, UNKNOWN, Keys, claim_key, script
from ifinu.numbers import presets
from ifinu.numbers.plan import Task, plan
from ifinu.numbers.presets import Preset

BEGINS = datetime(2026, 12, 1, 10, 0, tzinfo=UTC)  # 7:00 in São Paulo, where the numbers are
LEASE_MS = 60_000
SEND_S = 1.0
KEYS = Keys.of(NORMAL)


class Fleet:
    """Workers and numbers, as the scripts know them. Sends take a second; gaps are drawn from a seed."""

    def __init__(self, client, clock, names, pace):
        self.client, self.clock = client, clock
        self.random = random.Random(1)
        self.batches = 0
        self.sending = []  # end, tag, number, id
        self.ended = []
        client.set("ifinu:numeros:geracao", "g")
        client.sadd("ifinu:numeros", *names)
        for name in names:
            limits = {} if pace.per_day is None else {"teto": pace.per_day}
            pace_of = {"par": pace.parallel, "min": pace.gap_min_ms, "max": pace.gap_max_ms, "fuso": -10_800_000}
            client.hset(f"ifinu:numero:{name}", mapping=pace_of | limits)

    def push(self, id_, number):
        self.client.lpush(NORMAL, json.dumps({"id": id_, "instancia": number}))

    def run(self):
        """Send everything, and return when the last send ended."""
        now = BEGINS.timestamp()
        while True:
            soonest_ms = self.fetch(now)
            if not self.sending and soonest_ms < 0:
                return self.ended[-1]
            ends = self.sending[0][0] if self.sending else float("inf")
            due = now + soonest_ms / 1000 if soonest_ms >= 0 else float("inf")
            now = min(ends, max(due, now + 0.001))
            self.clock.move_to(now)
            while self.sending and self.sending[0][0] <= now:
                self.end(heapq.heappop(self.sending))

    def fetch(self, now):
        self.batches += 1
        arguments = (50, LEASE_MS, f"w.{self.batches:08x}.", "g", self.random.random(), 300, "")
        soonest_ms, _, *taken = script("fetch")(self.client, KEYS, arguments)
        for _, tag, raw, mark in zip(*(taken[n::4] for n in range(4)), strict=True):
            heapq.heappush(self.sending, (now + SEND_S, tag, mark.partition(b" ")[2], json.loads(raw)["id"]))
        return -1 if not taken and soonest_ms < 0 else (0 if taken else soonest_ms)

    def end(self, send):
        at, tag, number, id_ = send
        keys = (KEYS.in_flight, KEYS.deadlines, claim_key(id_), UNKNOWN, EVENTS, KEYS.ready)
        self.client.hset(claim_key(id_), mapping={"state": "sending", "tag": tag})
        ended = (tag, "sent", "K", 60_000, id_, "sent", "{}", "", "", "", number, self.random.random())
        assert script("settle")(self.client, keys, ended) in (1, b"freed")
        self.ended.append(datetime.fromtimestamp(at, UTC))


@pytest.mark.parametrize(
    ("preset", "numbers", "messages"),
    [
        (Preset.CONSERVATIVE, 2, 300),
        (Preset.CONSERVATIVE, 1, 850),  # three days
        (Preset.MODERATE, 3, 900),
        (Preset.CLOUD, 2, 300),
        (Preset.DIRECT, 2, 200),
    ],
)
def test_the_scripts_take_as_long_as_planned(preset, numbers, messages):
    """
    Within three per cent, or a mean gap.
    """
    number = SimpleNamespace(preset=preset, overrides={}, warm_up_from=None)
    pace = presets.pace(number, BEGINS.date())
    planned = plan(Task(messages, numbers, lambda _: pace, BEGINS, send_s=SEND_S)).ends
    server = fakeredis.FakeServer(version=(8,))
    for name, value in vars(_with_lua()).items():
        if name.startswith("_lua"):
            setattr(server, name, value)
    with time_machine.travel(BEGINS, tick=False) as clock:
        names = [f"n{number}" for number in range(numbers)]
        fleet = Fleet(fakeredis.FakeRedis(server=server), clock, names, pace)
        for number in range(messages):
            fleet.push(f"m{number}", names[number % numbers])
        ended = fleet.run()
    assert len(fleet.ended) == messages
    gap = timedelta(milliseconds=(pace.gap_min_ms + pace.gap_max_ms) / 2, seconds=SEND_S)
    assert abs(ended - planned) <= max(0.03 * (planned - BEGINS), gap), (ended - BEGINS, planned - BEGINS)
