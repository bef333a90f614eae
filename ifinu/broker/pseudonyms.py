"""Pseudonyms of phones in Redis and the ledger: a keyed hash, the same in every process."""

from __future__ import annotations

import functools
import hmac
import secrets
import threading
from collections.abc import Callable

import redis

KEY = "ifinu:chave:telefone"


class Pseudonyms:
    """
    Hashes phones with one key.

    Args:
        key: Secret bytes, or a function that returns them, called when they are first needed.
    """

    def __init__(self, key: bytes | Callable[[], bytes]) -> None:
        self._key = key
        self._lock = threading.Lock()
        self._keyed: hmac.HMAC | None = None  # of an empty content; a copy costs less than another one

    @classmethod
    def load(cls, client: redis.Redis, key: str | None) -> Pseudonyms:
        """
        Use the key that was set, or else a random one in Redis that all processes share.

        Args:
            key: `IFINU_PHONE_KEY`, or None.
        """
        return cls(functools.partial(_shared, client) if key is None else key.encode())

    def of(self, e164: str) -> str:
        """
        The pseudonym of a number, 32 hex digits: always the same for one number and key.

        A plain hash could be reversed in an hour, since Brazil has few numbers; a keyed one cannot without the key.

        Args:
            e164: A number as `phone.normalize` returns it, so with its ninth digit.

        Raises:
            redis.RedisError: The shared key has to be read, and Redis does not answer.
        """
        return self._digest(e164.encode())

    def digest(self, content: str) -> str:
        """
        A keyed digest of a content, 32 hex digits. A plain digest would give away content that is mostly a phone.

        Raises:
            redis.RedisError: As for `of`.
        """
        return self._digest(b"content:" + content.encode())

    def _digest(self, content: bytes) -> str:
        with self._lock:  # threads start together, and one request for the key is enough
            if self._keyed is None:
                key = self._key if isinstance(self._key, bytes) else self._key()
                self._keyed = hmac.new(key, digestmod="sha256")
            keyed = self._keyed.copy()
        keyed.update(content)
        return keyed.hexdigest()[:32]


def _shared(client: redis.Redis) -> bytes:
    client.set(KEY, secrets.token_hex(32), nx=True)
    kept = client.get(KEY)
    return kept.encode() if isinstance(kept, str) else kept or b""
