"""
Hints, shared by the workers, on which gateway process holds a WhatsApp instance: field `shard` of
`ifinu:instancia:<name>`, an IP address.

A wrong hint does no harm: the gateway's answer shows it. While Redis does not answer there are no hints.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import redis

from ifinu.broker.connections import connect_optional
from ifinu.broker.keys import creation_key, instance_key
from ifinu.errors import GatewayError

SHARD = "shard"
_CREATING_S = 120  # longer than the timeout of the gateway's answer


class Locations:
    """
    The addresses of the gateway processes, by instance. No method raises when Redis is away.

    Args:
        url: As `IFINU_REDIS_URL`.
    """

    def __init__(self, url: str) -> None:
        self._client = connect_optional(url)

    def close(self) -> None:
        self._client.close()

    def recall(self, instance: str) -> str | None:
        """The address recorded last, or None."""
        with contextlib.suppress(redis.RedisError):
            found = self._client.hget(instance_key(instance), SHARD)
            if isinstance(found, bytes):
                return found.decode("ascii", "replace")
        return None

    def remember(self, instance: str, address: str) -> None:
        """Record that the process at `address` holds the instance."""
        with contextlib.suppress(redis.RedisError):
            self._client.hset(instance_key(instance), SHARD, address)

    def forget(self, instance: str, address: str) -> None:
        """Delete the hint if it is still `address`. A race with `remember` costs at most one more search."""
        if self.recall(instance) == address:
            with contextlib.suppress(redis.RedisError):
                self._client.hdel(instance_key(instance), SHARD)


@contextlib.contextmanager
def creating(client: redis.Redis, instance: str) -> Iterator[None]:
    """
    Hold the lock on creating an instance. When two processes create one name, the gateway's clean-up after the second
    deletes the instance of the first.

    Raises:
        GatewayError: Another process holds the lock.
        redis.RedisError: Redis does not answer.
    """
    key = creation_key(instance)
    if not client.set(key, "1", nx=True, ex=_CREATING_S):
        said = f"{instance}: somebody is creating it; see `ifinu instance list` in two minutes"
        raise GatewayError(said, instance=instance, status=409)
    try:
        yield
    finally:
        with contextlib.suppress(redis.RedisError):  # then the lock expires
            client.delete(key)
