from __future__ import annotations

from collections.abc import Callable, Iterator

import kombu
import pytest
from holders import LONG_S, Account, Holder
from processes import Queue

from ifinu.broker import NORMAL, leases
from ifinu.embedded import Valkey


@pytest.fixture
def account(queue: Queue) -> Account:
    return Account(queue)


@pytest.fixture
def holder_of(valkey: Valkey) -> Iterator[Callable[..., Holder]]:
    made: list[Holder] = []

    def make(lease_s: float = LONG_S, url: str = valkey.url) -> Holder:
        made.append(Holder(url, lease_s))
        return made[-1]

    yield make
    for holder in made:
        holder.die()


@pytest.fixture
def holder(holder_of: Callable[..., Holder]) -> Holder:
    return holder_of()


@pytest.fixture
def connection(valkey: Valkey) -> Iterator[kombu.Connection]:
    """A connection with the application's transport options."""
    options = {
        "lease_s": LONG_S, "wait_on": NORMAL, "priority_steps": [0], "queue_order_strategy": "priority",
        "body_encoding": "utf-8",
    }  # fmt: skip
    with kombu.Connection(
        valkey.url, transport="ifinu.broker.transport:Transport", transport_options=options
    ) as connection:
        held = connection.default_channel.leases
        yield connection
    held.close()
    leases.release(held)
