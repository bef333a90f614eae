"""
Whose turn it is to record: one process of all at a time, so that the others need neither the memory nor connections.

`ifinu:recorder` in Redis names the holder, and lapses when the holder is gone. Two that believe it is theirs, for a
moment, do no harm: see `upserts.py`.
"""

from __future__ import annotations

import os
import secrets
import socket
from time import monotonic

import redis

from ifinu.broker.keys import RECORDER, script

HELD_S = 15.0  # after this a holder that is not heard of has lost it
_RENEWED_S = HELD_S / 5


class Leader:
    """
    The turn, as one process sees it.

    Args:
        client: Connection to Redis.
        who: A name that nobody else has; by default host, process, and a random part.
    """

    def __init__(self, client: redis.Redis, who: str | None = None) -> None:
        self.who = who or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.holder = ""  # who had it when it was last asked for
        self._client = client
        self._renew_at = 0.0

    def take(self) -> bool:
        """
        Ask for it, or for more of it; False while it is another's.

        Raises:
            redis.RedisError: Redis is away.
        """
        answer = script("lead")(self._client, (RECORDER,), (self.who, int(HELD_S * 1000)))
        self.holder = answer.decode(errors="replace")
        self._renew_at = monotonic() + _RENEWED_S
        return self.holder == self.who

    def keep(self) -> bool:
        """Keep it; to be asked at least every few seconds. While Redis is away nobody else can take it."""
        if monotonic() < self._renew_at:
            return True
        try:
            return self.take()
        except redis.RedisError:
            return True

    def leave(self) -> None:
        """
        Leave it to the next at once.

        Raises:
            redis.RedisError: Redis is away; it lapses by itself.
        """
        script("resign")(self._client, (RECORDER,), (self.who,))
