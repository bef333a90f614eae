from __future__ import annotations

import hashlib
import hmac
from concurrent.futures import ThreadPoolExecutor
from time import sleep

from ifinu.broker.pseudonyms import Pseudonyms

KEY = b"a key of the tests"
PHONE = "+5577998616740"


def test_a_pseudonym_stays_the_same_in_every_version():
    """Redis and the ledger hold pseudonyms and digests that an earlier version wrote."""
    pseudonyms = Pseudonyms(KEY)
    for _ in range(2):
        assert pseudonyms.of(PHONE) == hmac.digest(KEY, PHONE.encode(), hashlib.sha256).hex()[:32]
        assert pseudonyms.digest("olá") == hmac.digest(KEY, "content:olá".encode(), hashlib.sha256).hex()[:32]


def test_threads_that_start_together_load_the_key_once():
    loaded = []

    def load() -> bytes:
        loaded.append(KEY)
        sleep(0.02)
        return KEY

    pseudonyms = Pseudonyms(load)
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: pseudonyms.of(PHONE), range(16)))
    assert found == {Pseudonyms(KEY).of(PHONE)}
    assert loaded == [KEY]
