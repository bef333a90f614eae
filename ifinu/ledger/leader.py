"""
Leader election among the processes that could record: one of them at a time writes the ledger, so that the others need
neither the memory nor the connections.

`ifinu:recorder` in Redis names the leader, and expires when the leader is gone. Two processes that lead at once, for a
moment, do no harm: see `upserts.py`.
"""

from __future__ import annotations

import os
import secrets
import socket
from time import monotonic

import redis

from ifinu.broker.keys import RECORDER, script

LEASE_S = 15.0  # a leader that does not renew in time has lost the leadership
_RENEWED_S = LEASE_S / 5


class Leadership:
    """
    The leadership, as one process sees it.

    Args:
        name: A unique name; by default host, process id and a random part.

    Attributes:
        holder: Name of the leader when `acquire` last asked; empty before.
    """

    def __init__(self, client: redis.Redis, name: str | None = None) -> None:
        self.name = name or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.holder = ""
        self._client = client
        self._renew_at = 0.0

    def acquire(self) -> bool:
        """Become the leader, or renew the lease; False while another process leads. Redis may be away (RedisError)."""
        answer = script("lead")(self._client, (RECORDER,), (self.name, int(LEASE_S * 1000)))
        self.holder = answer.decode(errors="replace")
        self._renew_at = monotonic() + _RENEWED_S
        return self.holder == self.name

    def keep(self) -> bool:
        """
        Renew the lease when it is due; False once another process leads. Call it at least every few seconds.

        While Redis is away no other process can become the leader, so the answer is True.
        """
        if monotonic() < self._renew_at:
            return True
        try:
            return self.acquire()
        except redis.RedisError:
            return True

    def resign(self) -> None:
        """Let another process lead at once. If Redis is away (RedisError), the lease expires."""
        script("resign")(self._client, (RECORDER,), (self.name,))
