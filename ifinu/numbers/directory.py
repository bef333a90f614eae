"""
A worker's view of the registry: which numbers there are, and which tenant may send from which.

It comes from Redis alone, and does not change: a worker whose directory has another generation than Redis loads a new
one. Pace, counts and holds are not in it, since only the scripts decide by them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import redis

from ifinu.broker.keys import GENERATION, NUMBERS, TENANTS, number_key, tenant_key
from ifinu.errors import BrokerUnavailable

BANNED = "banido"  # the reason of a hold by which the scripts know a banned number
DISCONNECTED = "desconectado"  # the reason of a hold that ends when the connection is open again
UNTIL_RELEASED = datetime(2999, 1, 1, tzinfo=UTC)  # the end of a hold that has no end by itself

_MOST_TRIES = 20  # each one lost to a registry that changed meanwhile
_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Entry:
    """
    A registered number.

    Attributes:
        tenant: The tenant it belongs to; empty if all tenants may send from it.
        channel: One of `registry.Channel`.
    """

    name: str
    tenant: str
    channel: str
    is_banned: bool = False


@dataclass(frozen=True, slots=True)
class Tenancy:
    """
    How a tenant uses its numbers.

    Attributes:
        numbers: Its own numbers, in the order of their names.
        policy: One of `registry.Policy`.
        weight: Its turns where it shares a number.
    """

    numbers: tuple[str, ...] = ()
    policy: str = "fixo"
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Directory:
    """
    What is registered.

    Attributes:
        generation: Of the registry's copy in Redis; empty if nothing is loaded.
    """

    generation: str = ""
    _numbers: Mapping[str, Entry] = field(default_factory=dict, repr=False)
    _tenants: Mapping[str, Tenancy] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, client: redis.Redis) -> Directory:
        """
        Read it from Redis; empty if nothing is loaded there.

        Raises:
            BrokerUnavailable: The registry changed each time it was read.
            redis.RedisError: Redis does not answer.
        """
        for _ in range(_MOST_TRIES):
            generation = _text(client.get(GENERATION))
            if not generation:
                return EMPTY
            found = cls(generation, dict(_numbers(client)), dict(_tenants(client)))
            if _text(client.get(GENERATION)) == generation:
                return found
        raise BrokerUnavailable("the registry of numbers changes faster than it can be read")

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, name: str) -> Entry | None:
        """A number, or None if it is not registered."""
        return self._numbers.get(name)

    def allowed(self, tenant: str | None, name: str) -> bool:
        """Whether a tenant may send from a number: its own, one of all tenants, or one that is not registered."""
        found = self._numbers.get(name)
        return found is None or found.tenant in ("", tenant or "")

    def numbers_of(self, tenant: str | None) -> tuple[str, ...]:
        """A tenant's own numbers without the banned ones; if all are banned, the first, at which its messages wait."""
        own = [found for name in self.tenant(tenant).numbers if (found := self._numbers.get(name)) is not None]
        return tuple(one.name for one in own if not one.is_banned) or tuple(one.name for one in own[:1])

    def tenant(self, name: str | None) -> Tenancy:
        """How a tenant uses its numbers; one that is not registered has none."""
        return self._tenants.get(name or "", _NO_NUMBERS)


EMPTY = Directory()
UNLOADED = "?"  # the generation of a worker that sends nothing before it knows the registry
_NO_NUMBERS = Tenancy()


def _numbers(client: redis.Redis) -> Iterator[tuple[str, Entry]]:
    for name, (tenant, channel, held) in _hashes(client, NUMBERS, number_key, ("inquilino", "canal", "motivo")):
        if channel:
            yield name, Entry(name, tenant, channel, held == BANNED)


def _tenants(client: redis.Redis) -> Iterator[tuple[str, Tenancy]]:
    for name, (numbers, policy, weight) in _hashes(client, TENANTS, tenant_key, ("numeros", "politica", "peso")):
        if numbers:
            yield name, Tenancy(tuple(json.loads(numbers)), policy, int(weight))


def _hashes(
    client: redis.Redis, names: str, key: Callable[[str], str], wanted: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    """The names in a set, and these fields of their hashes; an absent field is empty."""
    members = iter(sorted(_text(member) for member in client.smembers(names)))
    while batch := list(itertools.islice(members, _BATCH)):
        pipe = client.pipeline(transaction=False)
        for name in batch:
            pipe.hmget(key(name), wanted)
        for name, values in zip(batch, pipe.execute(), strict=True):
            yield name, [_text(value) for value in values]


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
