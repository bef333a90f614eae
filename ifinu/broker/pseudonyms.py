"""What stands for a phone in Redis and in the ledger: a keyed hash, the same in every process."""

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
        key: Secret bytes, or what tells them, asked once they are needed.
    """

    def __init__(self, key: bytes | Callable[[], bytes]) -> None:
        self._key = key
        self._asking = threading.Lock()

    @classmethod
    def load(cls, client: redis.Redis, key: str | None) -> Pseudonyms:
        """
        With the key that was set, or else one that all processes of this Redis share, made by the first that needs it.

        Args:
            client: A connection that returns bytes.
            key: `IFINU_PHONE_KEY`, or None.
        """
        return cls(functools.partial(_shared, client) if key is None else key.encode())

    def of(self, e164: str) -> str:
        """
        The pseudonym of a number, 32 hex digits; see `phone.pseudonym`.

        Raises:
            redis.RedisError: The shared key has to be asked for, and Redis does not answer.
        """
        return phone.pseudonym(e164, self._key if isinstance(self._key, bytes) else self._asked())

    def digest(self, content: str) -> str:
        """
        A keyed digest of a content, 32 hex digits. A plain one would give away a content that is little but a phone.

        Raises:
            redis.RedisError: As for `of`.
        """
        key = self._key if isinstance(self._key, bytes) else self._asked()
        return hmac.digest(key, b"content:" + content.encode(), "sha256").hex()[:32]

    def _asked(self) -> bytes:
        with self._asking:  # threads begin together, and one that asks is enough
            if not isinstance(self._key, bytes):
                self._key = self._key()
            return self._key


def _shared(client: redis.Redis) -> bytes:
    client.set(KEY, secrets.token_hex(32), nx=True)
    kept = client.get(KEY)
    return kept.encode() if isinstance(kept, str) else kept or b""
