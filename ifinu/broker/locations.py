"""
Which gateway process holds a WhatsApp instance, as workers tell each other: field `shard` of `ifinu:instancia:<name>`,
an IP address.

A hint and no more: who follows it finds out if it is wrong, and where Redis does not answer there is none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import redis

from ifinu.broker.connections import connect_optional
from ifinu.broker.keys import creation_key, instance_key
from ifinu.errors import GatewayError

SHARD = "shard"
_CREATING_S = 120  # longer than the gateway may take


class Locations:
    """
    The hints.

    Args:
        url: As `IFINU_REDIS_URL`.
    """

    def __init__(self, url: str) -> None:
        self._client = connect_optional(url)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def recall(self, instance: str) -> str | None:
        """The address that was told last; None when there is none."""
        with contextlib.suppress(redis.RedisError):
            found = self._client.hget(instance_key(instance), SHARD)
            if isinstance(found, bytes):
                return found.decode("ascii", "replace")
        return None

    def remember(self, instance: str, address: str) -> None:
        """It was seen there."""
        with contextlib.suppress(redis.RedisError):
            self._client.hset(instance_key(instance), SHARD, address)

    def forget(self, instance: str, address: str) -> None:
        """It is there no more. An address that was told meanwhile stays, or has to be found once more."""
        if self.recall(instance) == address:
            with contextlib.suppress(redis.RedisError):
                self._client.hdel(instance_key(instance), SHARD)


@contextlib.contextmanager
def creating(client: redis.Redis, instance: str) -> Iterator[None]:
    """
    Create an instance while nobody else does: of two that create one name, the gateway's clean-up for the loser deletes
    the winner's.

    Raises:
        GatewayError: Somebody creates it now.
        redis.RedisError: Redis does not say whether somebody does.
    """
    key = creation_key(instance)
    if not client.set(key, "1", nx=True, ex=_CREATING_S):
        said = f"{instance}: somebody is creating it; see `ifinu instance list` in two minutes"
        raise GatewayError(said, instance=instance, status=409)
    try:
        yield
    finally:
        with contextlib.suppress(redis.RedisError):  # then it ends by itself
            client.delete(key)
