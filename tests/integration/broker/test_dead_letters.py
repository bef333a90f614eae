from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from ifinu.broker import NORMAL, DeadLetter, DeadLetters, Filter, Keys, dead_letters
from ifinu.broker.intake import admit, successor

KEYS = Keys.of(NORMAL)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
EVERY = Filter()
TEXT = '{"id":"inv-1","tipo_notificacao":"lembrete","nome":"João"}'
CALL = admit(TEXT.encode(), queue=NORMAL, tag="a-tag", max_bytes=10_000)
WRAPPED = json.loads(successor(TEXT.encode(), CALL.headers, reply_to=None, retries=1))


@pytest.fixture
def letters(client: redis.Redis) -> DeadLetters:
    return DeadLetters(client, NORMAL)


def record(raw: bytes = TEXT.encode(), reason: str = "invalid", age_s: float = 0.0, **fields: Any) -> bytes:
    return dead_letters.encode(raw, reason=reason, error="e", now=NOW - timedelta(seconds=age_s), **fields).encode()


def message(number: int, kind: str = "lembrete") -> bytes:
    return json.dumps({"id": f"id-{number}", "tipo_notificacao": kind}).encode()


def bury(client: redis.Redis, *records: bytes) -> None:
    """Add the records as workers do, the oldest first."""
    client.lpush(KEYS.dead, *records)


def found(letters: DeadLetters, wanted: Filter = EVERY) -> list[str | None]:
    return [letter.id for letter in letters.find(wanted, NOW)]


def ready(client: redis.Redis) -> list[bytes]:
    """The messages on the list, in the order in which they will be served."""
    return list(reversed(client.lrange(KEYS.ready, 0, -1)))


def envelope(args: list[Any], **headers: Any) -> bytes:
    return json.dumps(
        {
            "body": json.dumps([args, {}, {}]), "content-type": "application/json", "content-encoding": "utf-8",
            "headers": {"task": "ifinu.send_notification", "id": "inv-1", "retries": 3, "eta": None, **headers},
            "properties": {"delivery_tag": "t", "delivery_info": {}, "body_encoding": "utf-8"},
        }
    ).encode()  # fmt: skip


# -- records


def test_a_record_has_the_reason_and_keeps_the_message_unchanged(client: redis.Redis, letters: DeadLetters):
    bury(client, record(reason="timeout", attempts=4, first_at=NOW - timedelta(hours=1), age_s=1))
    (letter,) = letters.find(EVERY, NOW)
    assert letter.as_json() == {
        "queue": NORMAL, "id": "inv-1", "kind": "lembrete", "reason": "timeout", "error": "e", "attempts": 4,
        "first_at": "2026-11-24T11:00:00.000+00:00", "last_at": "2026-11-24T11:59:59.000+00:00", "raw": TEXT,
    }  # fmt: skip
    assert letter.raw == TEXT.encode()


@pytest.mark.parametrize(
    ("raw", "identity"),
    [
        (message(1), ("id-1", "lembrete")),
        (b'{"id": 7, "tipo_notificacao": "atraso"}', ("7", "atraso")),
        (b'{"id": " a ", "kind": "atraso"}', ("a", "atraso")),
        (json.dumps(WRAPPED).encode(), ("inv-1", "lembrete")),
        (envelope([{"id": "inv-1", "tipo_notificacao": "atraso"}]), ("inv-1", "atraso")),
        (envelope([]), (None, None)),
        (envelope([7]), (None, None)),
        (b'{"id": "' + b"x" * 300 + b'"}', ("x" * 200, None)),
        (b'{"id": "\\ud800", "tipo_notificacao": ["a"]}', (None, None)),
        (b'{"id": true}', (None, None)),
        (b"[1]", (None, None)),
        (b"[" * 100_000, (None, None)),
        (b"\xff", (None, None)),
        (b"", (None, None)),
    ],
)
def test_id_and_kind_are_read_from_a_letter_if_possible(raw: bytes, identity: tuple[str | None, str | None]):
    letter = dead_letters.decode(NORMAL, record(raw))
    assert (letter.id, letter.kind) == identity
    assert letter.raw == raw


@given(st.binary() | st.text().map(lambda text: json.dumps({"id": text}).encode()), st.text(st.characters()))
@example(b'{"id":"\\ud800"}', "\ud800")
def test_any_bytes_and_any_error_make_a_record_that_gives_them_back(raw: bytes, error: str):
    written = dead_letters.encode(raw, reason="invalid", error=error, now=NOW).encode()
    letter = dead_letters.decode(NORMAL, written)
    assert (letter.raw, letter.error, letter.reason) == (raw, error, "invalid")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner), max_leaves=3
)
FIELD = dict.fromkeys(("reason", "error", "attempts", "first_at", "last_at", "id", "kind", "raw"), JSON)


@given(st.binary() | st.fixed_dictionaries(FIELD).map(lambda body: json.dumps(body).encode()))
@example(b"[" * 100_000)
@example(record().replace(b'"attempts": 0', b'"attempts": Infinity'))
@example(record().replace(b"+00:00", b""))
@example(record().replace(b'"raw": "', b'"raw": "\\ud800'))
@example(b'{"raw": 1}')
@example(b"null")
def test_a_foreign_record_is_shown_and_can_be_replayed(raw: bytes):
    letter = dead_letters.decode(NORMAL, raw)
    assert letter.record == raw
    assert letter.as_json()["queue"] == NORMAL
    assert isinstance(dead_letters._fresh(letter), bytes)
    assert EVERY.takes(letter, NOW)


# -- finding


def test_pages_are_read_to_the_end_oldest_first(client: redis.Redis, letters: DeadLetters):
    bury(client, *(record(message(number)) for number in range(1_200)))
    assert found(letters) == [f"id-{number}" for number in range(1_200)]
    assert letters.count() == 1_200


def test_letters_added_during_a_listing_change_no_page(client: redis.Redis, letters: DeadLetters):
    bury(client, *(record(message(number)) for number in range(700)))
    reader = letters.find(EVERY, NOW)
    seen = [next(reader).id for _ in range(400)]
    bury(client, *(record(message(number)) for number in range(700, 720)))
    seen += [letter.id for letter in reader]
    assert seen == [f"id-{number}" for number in range(720)]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Filter(), ["old", "mid", "new"]),
        (Filter(reason="timeout"), ["mid"]),
        (Filter(reason="timeou"), []),
        (Filter(kind="atraso"), ["old", "new"]),
        (Filter(id="new"), ["new"]),
        (Filter(older_than=timedelta(hours=1)), ["old", "mid"]),
        (Filter(newer_than=timedelta(hours=1)), ["mid", "new"]),
        (Filter(older_than=timedelta(minutes=30), newer_than=timedelta(hours=2)), ["mid"]),
        (Filter(reason="invalid", kind="atraso", newer_than=timedelta(minutes=1)), ["new"]),
    ],
)
def test_filters_narrow_and_both_ends_of_an_age_belong_to_it(
    client: redis.Redis, letters: DeadLetters, wanted: Filter, ids: list[str]
):
    bury(
        client,
        record(b'{"id":"old","tipo_notificacao":"atraso"}', "invalid", age_s=86_400),
        record(b'{"id":"mid","tipo_notificacao":"lembrete"}', "timeout", age_s=3_600),
        record(b'{"id":"new","tipo_notificacao":"atraso"}', "invalid", age_s=1),
    )
    assert found(letters, wanted) == ids


# -- replaying


@pytest.mark.parametrize(
    ("raw", "replayed"),
    [
        (TEXT.encode(), TEXT.encode()),
        (json.dumps({**WRAPPED, "headers": {**WRAPPED["headers"], "retries": 3}}).encode(), TEXT.encode()),
        (b'{ "id" : "a" ,"headers":{"x":1}}', b'{ "id" : "a" ,"headers":{"x":1}}'),
        (b'{"headers":[],"properties":{},"body":"[[],{},{}]"}', b'{"headers":[],"properties":{},"body":"[[],{},{}]"}'),
        (b"\xff\x00", b"\xff\x00"),
        (b"{not json", b"{not json"),
        (b"[" * 100_000, b"[" * 100_000),
        (b"", b""),
    ],
    ids=range(8),
)
def test_a_replay_pushes_the_producers_message(client: redis.Redis, letters: DeadLetters, raw: bytes, replayed: bytes):
    bury(client, record(raw))
    assert letters.clear(EVERY, NOW, letters.replay) == 1
    assert ready(client) == [replayed]
    assert letters.count() == 0


def test_an_exhausted_envelope_starts_afresh_with_its_arguments(client: redis.Redis, letters: DeadLetters):
    bury(client, record(envelope([{"id": "inv-1"}], eta="2026-11-24T12:00:00+00:00")))
    letters.clear(EVERY, NOW, letters.replay)
    (raw,) = ready(client)
    call = admit(raw, queue=NORMAL, tag="t", max_bytes=10_000)
    assert (call.headers["retries"], call.headers["eta"]) == (0, None)
    assert (call.args, call.kwargs) == ([{"id": "inv-1"}], {})


def test_non_text_bytes_are_replayed_unchanged(client: redis.Redis, letters: DeadLetters):
    raw = bytes(range(256))
    bury(client, record(raw))
    (letter,) = letters.find(EVERY, NOW)
    assert base64.b64decode(letter.as_json()["raw_b64"]) == raw
    letters.replay(letter)
    assert ready(client) == [raw]


def test_a_letter_is_replayed_once_and_queued_behind_the_backlog(client: redis.Redis, letters: DeadLetters):
    client.lpush(KEYS.ready, b"waiting")
    bury(client, record())
    (letter,) = letters.find(EVERY, NOW)
    assert [letters.replay(letter) for _ in range(2)] == [True, False]
    assert ready(client) == [b"waiting", TEXT.encode()]


def test_two_letters_with_the_same_bytes_are_two_letters(client: redis.Redis, letters: DeadLetters):
    bury(client, record(), record())
    assert letters.clear(EVERY, NOW, letters.replay) == 2
    assert ready(client) == [TEXT.encode()] * 2


def test_two_people_who_replay_at_the_same_time_replay_each_letter_once(client: redis.Redis, letters: DeadLetters):
    bury(client, *(record(message(number)) for number in range(1_200)))
    done: list[int] = []
    both_at_it = threading.Barrier(2, timeout=20)

    def replay() -> None:
        mine = DeadLetters(client, NORMAL)
        both_at_it.wait()
        done.append(mine.clear(EVERY, NOW, mine.replay))

    threads = [threading.Thread(target=replay) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done) == 1_200
    assert sorted(ready(client)) == sorted(message(number) for number in range(1_200))
    assert letters.count() == 0


def test_a_replay_ends_although_every_letter_fails_again_at_once(client: redis.Redis, letters: DeadLetters):
    """
    A worker dead-letters each one again while the replay runs.
    """
    bury(client, *(record(message(number)) for number in range(600)))

    def replay_and_fail(letter: DeadLetter) -> bool:
        replayed = letters.replay(letter)
        bury(client, record(letter.raw))
        assert client.llen(KEYS.dead) <= 600
        return replayed

    assert letters.clear(EVERY, NOW, replay_and_fail) == 600
    assert letters.count() == 600


@pytest.mark.parametrize(
    ("state", "stays"), [("dead", False), ("unknown", False), ("sent", True), ("sending", True), ("waiting", True)]
)
def test_a_replay_lifts_the_claim_that_ended_with_the_letter_and_no_other(
    client: redis.Redis, letters: DeadLetters, state: str, stays: bool
):
    digest = hashlib.sha1(record(), usedforsecurity=False).hexdigest()
    client.hset("ifinu:claim:inv-1", mapping={"state": state, "letter": digest})
    bury(client, record())
    letters.clear(EVERY, NOW, letters.replay)
    assert bool(client.exists("ifinu:claim:inv-1")) is stays


def test_a_queue_of_the_wrong_type_costs_no_letter(client: redis.Redis, letters: DeadLetters):
    bury(client, record())
    client.set(KEYS.ready, "not ours")
    (letter,) = letters.find(EVERY, NOW)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        letters.replay(letter)
    assert letters.count() == 1


# -- clearing


@pytest.mark.parametrize("act", ["replay", "purge"])
def test_only_matching_letters_are_cleared_and_the_others_keep_their_order(
    client: redis.Redis, letters: DeadLetters, act: str
):
    reasons = ["timeout", "invalid", "invalid"]
    bury(client, *(record(message(number), reasons[number % 3]) for number in range(1_500)))
    paused: list[int] = []
    done = letters.clear(Filter(reason="timeout"), NOW, getattr(letters, act), lambda: paused.append(1))
    assert (done, len(paused)) == (500, 500)
    assert found(letters) == [f"id-{number}" for number in range(1_500) if number % 3]
    assert ready(client) == ([message(number) for number in range(0, 1_500, 3)] if act == "replay" else [])


@pytest.mark.parametrize("ends", ["limit", "error"])
def test_a_replay_that_stops_early_leaves_the_others_in_their_order(
    client: redis.Redis, letters: DeadLetters, ends: str
):
    reasons = ["invalid", "timeout", "invalid"]
    bury(client, *(record(message(number), reasons[number % 3]) for number in range(1_500)))

    def replay(letter: DeadLetter) -> bool:
        if ends == "error" and letter.id == "id-901":
            raise KeyboardInterrupt
        return letters.replay(letter)

    with pytest.raises(KeyboardInterrupt) if ends == "error" else contextlib.nullcontext():
        letters.clear(Filter(reason="timeout"), NOW, replay, limit=300 if ends == "limit" else None)
    assert found(letters) == [f"id-{number}" for number in range(1_500) if number % 3 != 1 or number > 900]
    assert ready(client) == [message(number) for number in range(1, 900, 3)]


def test_a_crash_in_the_middle_of_a_replay_loses_and_doubles_no_letter(
    client: redis.Redis, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
):
    bury(client, *(record(message(number), ["invalid", "timeout"][number % 2]) for number in range(1_000)))

    turns = itertools.count()

    def pause() -> None:
        if next(turns) == 300:
            monkeypatch.setattr(letters, "_rotate", lambda *_, **__: None)  # a dead process does not restore the order
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        letters.clear(Filter(reason="timeout"), NOW, letters.replay, pause)
    monkeypatch.undo()
    assert len(ready(client)) + letters.count() == 1_000
    assert letters.clear(Filter(reason="timeout"), NOW, letters.replay) == 500 - 300
    assert sorted(ready(client)) == sorted(message(number) for number in range(1, 1_000, 2))
    assert sorted(found(letters)) == sorted(f"id-{number}" for number in range(0, 1_000, 2))


@pytest.mark.parametrize("act", ["replay", "purge"])
def test_each_letter_is_removed_at_the_end_of_a_list_of_any_length(client: redis.Redis, letters: DeadLetters, act: str):
    """
    `LREM` would read all the letters that stay, for each one removed.
    """
    bury(client, *(record(message(number), ["invalid", "timeout"][number % 2]) for number in range(1_000)))
    client.config_resetstat()
    letters.clear(Filter(reason="timeout"), NOW, getattr(letters, act))
    assert "cmdstat_lrem" not in client.info("commandstats")


def test_the_newest_letter_with_an_id_is_found_without_reading_the_others(client: redis.Redis, letters: DeadLetters):
    bury(client, *(record(message(number % 5_000), attempts=number) for number in range(6_000)))
    client.config_resetstat()
    newest = letters.newest(Filter(id="id-600"), NOW)
    assert newest is not None
    assert newest.attempts == 5_600
    assert client.info("commandstats")["cmdstat_lrange"]["calls"] == 1
    assert letters.newest(Filter(id="none"), NOW) is None


def test_a_purged_letter_is_gone_and_a_second_purge_does_nothing(client: redis.Redis, letters: DeadLetters):
    bury(client, record(), record(message(2)))
    first, _ = letters.find(EVERY, NOW)
    assert [letters.purge(first) for _ in range(2)] == [True, False]
    assert found(letters) == ["id-2"]
    assert ready(client) == []


def test_records_of_others_can_be_found_replayed_and_purged(client: redis.Redis, letters: DeadLetters):
    foreign = [b"{not json", b'{"erro":"timeout","mensagem":{}}', b"\xff"]
    bury(client, *foreign, record())
    seen = list(letters.find(Filter(reason="foreign"), NOW))
    assert [letter.original() for letter in seen] == foreign
    assert letters.replay(seen[1])
    assert letters.clear(Filter(reason="foreign"), NOW, letters.purge) == 2
    assert ready(client) == [foreign[1]]
    assert found(letters) == ["inv-1"]
