"""Workers without Celery, and the messages that they hold, for the tests of the broker."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import kombu
import redis
from processes import Queue, wait_until

from ifinu.broker import NORMAL, Keys
from ifinu.broker.claims import ClaimState
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import script
from ifinu.broker.leases import Leases

KEYS = Keys.of(NORMAL)
LONG_S = 60.0  # a lease that does not expire during a test
SHORT_S = 0.5


def named(count: int, start: int = 0) -> list[bytes]:
    return [b"m%d" % number for number in range(start, start + count)]


class Account:
    """The messages pushed to one queue less those acknowledged; the others must be in it."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.pushed = self.acked = 0

    def push(self, *messages: bytes) -> None:
        self.queue.push(*messages)
        self.pushed += len(messages)

    def ready(self) -> list[bytes]:
        """The messages on the list, in the order in which they will be served."""
        return list(reversed(self.queue.client.lrange(self.queue.keys.ready, 0, -1)))

    def balance(self, **expected: int) -> None:
        """Check that each message is in exactly one place; `expected` counts them by place, by default 0."""
        counts = self.queue.counts()
        assert counts.pop("deadlines") == counts["in_flight"]
        assert sum(counts.values()) == self.pushed - self.acked
        assert {place: count for place, count in counts.items() if count} == expected


class Holder:
    """The leases of one worker, and fetches to fill them; `timeout_s` is the socket timeout for Redis."""

    def __init__(self, url: str, lease_s: float, timeout_s: float = 5) -> None:
        self.client = redis.Redis.from_url(url, socket_timeout=timeout_s)
        self.leases = Leases(lambda: redis.Redis.from_url(url, socket_timeout=timeout_s), lease_s)

    def fetch(self, want: int, *queues: Keys) -> list[tuple[str, bytes]]:
        """Fetch up to `want` messages as the channel does. Returns (tag, bytes), in the order of their service."""
        places = queues or (KEYS,)
        answer = self.answer(want, *places)
        taken = list(zip(answer[2::4], answer[3::4], answer[4::4], strict=True))
        for index, tag, raw in taken:
            self.leases.hold(tag.decode(), places[index], raw)
        return [(tag.decode(), raw) for _, tag, raw in taken]

    def answer(self, want: int, *queues: Keys) -> list[Any]:
        """The reply of the fetch script."""
        keys = [key for place in queues or (KEYS,) for key in place]
        return script("fetch")(self.client, keys, (want, self.leases.lease_ms, self.leases.next_prefix()))

    def sweep(self) -> None:
        """Sweep once, as its thread does."""
        script("sweep")(self.client, (*KEYS[:4], KEYS.suspects), (500,))

    def bury(self, tag: str, record: str = "record") -> None:
        """Dead-letter a message without a claim, as the channel does with an unreadable one."""
        self.leases.bury(tag, record, Event(Name.DEAD), state=ClaimState.DEAD)

    def die(self) -> None:
        """Stop without releasing anything in Redis."""
        self.leases._held.clear()
        self.leases.close()
        self.client.close()


def now_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def wire(number: int) -> bytes:
    return json.dumps({"id": f"id-{number}", "tipo_notificacao": "lembrete"}).encode()


def wires(count: int, start: int = 0) -> list[bytes]:
    return [wire(number) for number in range(start, start + count)]


class Consumer:
    """Consumes messages and keeps them."""

    def __init__(self, connection: kombu.Connection, *names: str, prefetch: int = 0) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        self.channel = connection.channel()
        self.channel.basic_qos(0, prefetch, False)
        queues = [kombu.Queue(name, kombu.Exchange(""), routing_key=name) for name in names or (NORMAL,)]
        self.consumer = kombu.Consumer(self.channel, queues, on_message=self.messages.append, accept=["json"])
        self.consumer.consume()

    def drain(self, until: Callable[[], object]) -> None:
        """Serve the connection until `until` is true."""

        def step() -> object:
            with contextlib.suppress(TimeoutError):
                self.connection.drain_events(timeout=0.05)
            return until()

        wait_until(step, seen=lambda: len(self.messages))

    def ids(self) -> list[str]:
        return [message.headers["id"] for message in self.messages]
