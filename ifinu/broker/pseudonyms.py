"""Pseudonyms of phones in Redis and the ledger: a keyed hash, the same in every process."""

from __future__ import annotations

import functools
import hmac
import secrets
import threading
from collections.abc import Callable

import redis

from ifinu import phone

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
        The pseudonym of a number, 32 hex digits; see `phone.pseudonym`.

        Raises:
            redis.RedisError: The shared key has to be read, and Redis does not answer.
        """
        return phone.pseudonym(e164, self._key if isinstance(self._key, bytes) else self._load_key())

    def digest(self, content: str) -> str:
        """
        A keyed digest of a content, 32 hex digits. A plain digest would give away content that is mostly a phone.

        Raises:
            redis.RedisError: As for `of`.
        """
        key = self._key if isinstance(self._key, bytes) else self._load_key()
        return hmac.digest(key, b"content:" + content.encode(), "sha256").hex()[:32]

    def _load_key(self) -> bytes:
        with self._lock:  # threads start together, and one request is enough
            if not isinstance(self._key, bytes):
                self._key = self._key()
            return self._key


def _shared(client: redis.Redis) -> bytes:
    client.set(KEY, secrets.token_hex(32), nx=True)
    kept = client.get(KEY)
    return kept.encode() if isinstance(kept, str) else kept or b""
