from __future__ import annotations

import pytest
import redis
from processes import Queue

from ifinu.broker import NORMAL
from ifinu.broker.claims import Claims, Verdict
from ifinu.broker.leases import Leases
from ifinu.embedded import Valkey


@pytest.fixture
def claims(client: redis.Redis) -> Claims:
    return Claims(client, ttl_s=60)


@pytest.fixture
def leases(valkey: Valkey):
    mine = Leases(lambda: redis.Redis.from_url(valkey.url), 3)
    yield mine
    mine.close()


def hold(queue: Queue, tag: str) -> None:
    """A living worker has the message `tag`."""
    queue.client.hset(queue.keys.in_flight, tag, b"{}")


def claim(claims: Claims, tag: str, *, digest: str = "d", token: str = "") -> tuple[str, str]:
    answer = claims.claim("n1", queue=NORMAL, tag=tag, digest=digest, token=token)
    return answer.verdict, answer.before


def test_the_first_message_goes_and_a_second_one_does_not(claims: Claims, queue: Queue):
    hold(queue, "a")
    assert claim(claims, "a") == (Verdict.GO, "")
    assert claim(claims, "b") == (Verdict.DUPLICATE, "sending")
    assert claim(claims, "a") == (Verdict.GO, "sending")  # the same message asks again: its answer was lost


def test_a_message_whose_holder_died_may_go_again(claims: Claims, queue: Queue):
    hold(queue, "a")
    claim(claims, "a")
    queue.client.delete(queue.keys.in_flight)
    assert claim(claims, "b") == (Verdict.GO, "sending")


@pytest.mark.parametrize(
    ("digest", "verdict"), [("d", Verdict.DUPLICATE), ("", Verdict.DUPLICATE), ("e", Verdict.REUSED)]
)
def test_other_content_is_told_from_a_duplicate(claims: Claims, queue: Queue, digest: str, verdict: Verdict):
    hold(queue, "a")
    claim(claims, "a")
    assert claim(claims, "b", digest=digest)[0] == verdict


def test_an_outcome_is_recorded_even_after_the_lease_was_lost(claims: Claims, leases: Leases, client: redis.Redis):
    """
    Else whoever has the message by then would send it again.
    """
    claim(claims, "a")
    leases.settle("a", "n1", queue=NORMAL, state="sent", key_id="3EB0", ttl_s=60)
    assert claim(claims, "b") == (Verdict.DUPLICATE, "sent")
    assert client.hget("ifinu:claim:n1", "key_id") == b"3EB0"
    assert 0 < client.ttl("ifinu:claim:n1") <= 60


def test_a_released_claim_was_never_made_and_only_its_own_message_can_release_it(claims: Claims, queue: Queue):
    hold(queue, "a")
    claim(claims, "a")
    claims.release("n1", "b")
    assert claims.state("n1") == "sending"
    claims.release("n1", "a")
    assert claims.state("n1") is None
