"""
The series of registered numbers that `ifinu metrics` reads from Redis: those of their queues at each scrape, the others
beside it (`polls.py`), since ten thousand numbers take a second.

A platform has thousands of numbers, and Prometheus keeps each value of a label for ever. So numbers are counted by
state, and only those with the most messages waiting appear by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import redis
from prometheus_client.core import GaugeMetricFamily, Metric

from ifinu import phone
from ifinu.broker import lanes
from ifinu.broker.backlog import Backlog
from ifinu.broker.keys import GENERATION, turns_key
from ifinu.metrics.labels import NAMED, highest
from ifinu.numbers import number_states, portfolios
from ifinu.numbers.number_states import NumberNow, NumberState
from ifinu.numbers.portfolios import Usage


class Figures(NamedTuple):
    """
    What Redis knows of the numbers.

    Attributes:
        numbers: Those that are registered.
        waiting: How many messages wait for each number, registered or not.
        portfolios: What the portfolios of the numbers have used of their tiers.
    """

    numbers: list[NumberNow]
    waiting: Counter[str]
    portfolios: list[Usage]

    @classmethod
    def read(cls, client: redis.Redis) -> Figures:
        """
        Read them, which takes Redis some commands for each number.

        Raises:
            redis.RedisError: Redis is away.
        """
        numbers = number_states.read(client)
        tiers = {one.portfolio: one.conversations for one in numbers if one.portfolio}
        return cls(numbers, lanes.waiting(client), portfolios.read(client, tiers))


def series(client: redis.Redis, queues: Sequence[Backlog]) -> Iterator[Metric]:
    """
    The series of their queues; but for the first they have no samples while nothing is registered.

    Args:
        client: A client that returns bytes.
        queues: As they were counted.

    Raises:
        redis.RedisError: Redis is away.
    """
    pipe = client.pipeline(transaction=False)
    pipe.time()
    pipe.get(GENERATION)
    for queue in queues:
        pipe.zrange(turns_key(queue.queue), 0, 0, withscores=True)
    (seconds, micros), generation, *turns = pipe.execute()
    yield GaugeMetricFamily(
        "ifinu_numbers_loaded", "Whether Redis has a copy of the registry.", float(bool(generation))
    )
    now_ms = seconds * 1000 + micros / 1000
    in_lanes = GaugeMetricFamily("ifinu_queue_in_lanes", "Messages that wait for their number.", labels=("queue",))
    overdue = GaugeMetricFamily(
        "ifinu_queue_turn_overdue_seconds", "Time since a number's turn came.", labels=("queue",)
    )
    for queue, turn in zip(queues, turns, strict=True):
        if queue.in_lanes is not None:
            label = (queue.queue.rpartition(":")[2],)
            in_lanes.add_metric(label, queue.in_lanes)
            overdue.add_metric(label, max(0.0, (now_ms - turn[0][1]) / 1000) if turn else 0.0)
    yield from (in_lanes, overdue)


def figures(found: Figures | None) -> Iterator[Metric]:
    """The series of the numbers; without samples if nothing is registered, or Redis did not answer."""
    by_state = GaugeMetricFamily("ifinu_numbers", "Registered numbers.", labels=("state",))
    waiting = GaugeMetricFamily("ifinu_numbers_waiting", "Messages in lanes.", labels=("state",))
    by_name = GaugeMetricFamily("ifinu_number_waiting", "Messages in a number's lanes.", labels=("whatsapp",))
    new_chats = GaugeMetricFamily("ifinu_numbers_new_chats", "New chats of the numbers' day.")
    answers = GaugeMetricFamily("ifinu_numbers_answers", "People who wrote to the numbers on the numbers' day.")
    most_new_chats = GaugeMetricFamily("ifinu_numbers_new_chats_max", "New chats that the numbers may open a day.")
    if found is not None and (found.numbers or found.waiting):
        counts = Counter(number.state for number in found.numbers)
        state_of = {number.name: number.state for number in found.numbers}
        waiting_by_state: Counter[NumberState] = Counter()
        for name, length in found.waiting.items():
            # A lane whose number is no longer registered waits as if its number were held.
            waiting_by_state[state_of.get(name, NumberState.HELD)] += length
        for state in NumberState:
            by_state.add_metric((state.value,), counts[state])
            waiting.add_metric((state.value,), waiting_by_state[state])
        for label, length in highest(found.waiting).items():
            by_name.add_metric((label,), length)
        limited = [number for number in found.numbers if number.most_new_chats is not None]
        new_chats.add_metric((), sum(number.new_chats for number in limited))
        most_new_chats.add_metric((), sum(number.most_new_chats or 0 for number in limited))
        if counted := [number.answers for number in found.numbers if number.answers is not None]:
            answers.add_metric((), sum(counted))
    yield from (by_state, waiting, by_name, new_chats, most_new_chats, answers)
    yield from _of_portfolios(found.portfolios if found is not None else [])


def _of_portfolios(found: Sequence[Usage]) -> Iterator[Metric]:
    """The series of the twenty portfolios that have the least room, and phones in their names masked."""
    labels = ("portfolio",)
    used = GaugeMetricFamily("ifinu_portfolio_people", "People written to within 24 hours.", labels=labels)
    most = GaugeMetricFamily("ifinu_portfolio_people_max", "People that the tier allows.", labels=labels)
    waiting = GaugeMetricFamily("ifinu_portfolio_people_waiting", "People for whom there is no room.", labels=labels)
    named: dict[str, Usage] = {}
    for one in sorted(found, key=lambda one: (-_share(one), one.name))[:NAMED]:
        named.setdefault(phone.mask_in(one.name), one)  # of two that look alike, the one with less room
    for label, one in named.items():
        used.add_metric((label,), one.used)
        waiting.add_metric((label,), one.waiting)
        if one.most is not None:
            most.add_metric((label,), one.most)
    yield from (used, most, waiting)


def _share(one: Usage) -> float:
    """The used share of a tier; of one that allows nothing, all of it."""
    return 0.0 if one.most is None else one.used / one.most if one.most else 1.0
