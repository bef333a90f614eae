"""
Dead letters: their records, and what an operator does with them.

A record is a JSON object on the list `<queue>:dlq`, newest first:

    reason    a short word from a bounded set; the transport's own are not_utf8, not_json, not_an_object, too_large,
              bad_envelope, unknown_task, undeliverable, rejected, revoked, expired, poison, number_deleted; the others
              say why a send failed; `unknown` means that it may have been sent, and a person decides
    error     text of the last error, phones masked
    attempts  number of sends tried
    first_at  time of the first try, ISO 8601 UTC
    last_at   time at which it was given up, ISO 8601 UTC
    id, kind  of the notification, if they could be read
    raw       the message as it was on the queue, if it is UTF-8; else
    raw_b64   the same bytes in base64
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import redis

from ifinu import phone
from ifinu.broker import intake
from ifinu.broker.keys import EVENTS, UNKNOWN, Keys, claim_key, script

_PAGE = 500


@dataclass(frozen=True)
class DeadLetter:
    """One record; `record` holds its exact bytes on the list, which identify it."""

    queue: str
    reason: str
    error: str
    attempts: int
    first_at: datetime
    last_at: datetime
    id: str | None
    kind: str | None
    raw: bytes
    record: bytes

    def original(self) -> bytes:
        """The bytes that the producer pushed: the JSON inside the envelope of a retry, else the whole message."""
        call = _call_of(self.raw)
        if call is not None and call[0] and isinstance(call[0][0], str):
            with contextlib.suppress(UnicodeEncodeError):  # half a surrogate pair, which JSON can escape
                return call[0][0].encode()
        return self.raw

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values; bytes that are not UTF-8 appear as `raw_b64`."""
        return {
            "queue": self.queue,
            "id": self.id,
            "kind": self.kind,
            "reason": self.reason,
            "error": self.error,
            "attempts": self.attempts,
            "first_at": self.first_at.isoformat(timespec="milliseconds"),
            "last_at": self.last_at.isoformat(timespec="milliseconds"),
            **_raw_fields(self.original()),
        }


def encode(
    raw: bytes,
    *,
    reason: str,
    error: str,
    attempts: int = 0,
    first_at: datetime | None = None,
    now: datetime,
) -> str:
    """
    Encode a record.

    Args:
        raw: The message's bytes as they were on the queue.
        reason: One of the module's reasons.
        error: One line, phones masked.
        attempts: Number of sends tried.
    """
    notification_id, kind = identity(raw)
    record = json.dumps(
        {
            "reason": reason,
            "error": error,
            "attempts": attempts,
            "first_at": (first_at or now).isoformat(),
            "last_at": now.isoformat(),
            "id": notification_id,
            "kind": kind,
            **_raw_fields(raw),
        },
        ensure_ascii=False,
    )
    # An error may quote half a surrogate pair, which UTF-8 cannot encode; its JSON escape can be stored.
    return record.encode(errors="backslashreplace").decode()


def decode(queue: str, record: bytes) -> DeadLetter:
    """Read a record. An element that is not a record of ours gets the reason `foreign`."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        body = json.loads(record)
        raw = body["raw"].encode() if "raw" in body else base64.b64decode(body["raw_b64"])
        return DeadLetter(
            queue=queue,
            reason=str(body["reason"]),
            error=str(body["error"]),
            attempts=int(body["attempts"]),
            first_at=_instant(body["first_at"]),
            last_at=_instant(body["last_at"]),
            id=_word(body["id"]),
            kind=_word(body["kind"]),
            raw=raw,
            record=record,
        )
    epoch = datetime.fromtimestamp(0, UTC)
    return DeadLetter(queue, "foreign", "not a record of ours", 0, epoch, epoch, None, None, record, record)


@dataclass(frozen=True)
class Filter:
    """Selects dead letters; a field that is None does not restrict."""

    reason: str | None = None
    kind: str | None = None
    id: str | None = None
    older_than: timedelta | None = None
    newer_than: timedelta | None = None

    def takes(self, letter: DeadLetter, now: datetime) -> bool:
        """Whether this letter is selected; its age counts from `last_at`."""
        age = now - letter.last_at
        return (
            (self.reason is None or letter.reason == self.reason)
            and (self.kind is None or letter.kind == self.kind)
            and (self.id is None or letter.id == self.id)
            and (self.older_than is None or age >= self.older_than)
            and (self.newer_than is None or age <= self.newer_than)
        )


class Taking(Protocol):
    """Selects dead letters, as `Filter` does."""

    def takes(self, letter: DeadLetter, now: datetime) -> bool:
        """Whether this letter is selected."""


class DeadLetters:
    """The dead letters of one queue."""

    def __init__(self, client: redis.Redis, queue: str) -> None:
        self._client = client
        self._keys = Keys.of(queue)

    def count(self) -> int:
        return int(self._client.llen(self._keys.dead))

    def find(self, wanted: Filter, now: datetime) -> Iterator[DeadLetter]:
        """The letters that `wanted` takes, oldest first, read page by page."""
        start = 0
        while page := self._page(start):
            start += len(page)
            yield from (letter for letter in page if wanted.takes(letter, now))

    def newest(self, wanted: Filter, now: datetime) -> DeadLetter | None:
        """The newest letter that `wanted` takes, or None; read page by page until it is found."""
        start = 0
        while page := self._client.lrange(self._keys.dead, start, start + _PAGE - 1):
            start += len(page)
            for record in page:
                letter = decode(self._keys.ready, bytes(record))  # type: ignore[arg-type]  # this client returns bytes
                if wanted.takes(letter, now):
                    return letter
        return None

    def clear(
        self,
        wanted: Taking,
        now: datetime,
        act: Callable[[DeadLetter], bool],
        pause: Callable[[], None] = lambda: None,
        limit: int | None = None,
    ) -> int:
        """
        Apply `replay` or `purge` to the letters that `wanted` takes, oldest first. Letters that arrive meanwhile are
        left alone: replaying messages that fail at once would never end.

        The list rotates: the letters that stay move from its old end to its new one, one `LMOVE` each, so that the next
        is always at the old end, where taking it costs the same however many stay. The order is the old one again after
        a whole rotation; one that stops early is moved back. A crash in between costs the order and no letter.

        Args:
            now: The time to which their age counts.
            act: `self.replay` or `self.purge`.
            pause: Called before each, to pace them.
            limit: The most letters to act on.

        Returns:
            How many letters were acted on; one that another process took meanwhile is not counted.
        """
        done = passed = 0
        left = self.count()
        whole = False
        try:
            while left > 0 and done != limit and (page := self._page(0)[:left]):
                stay = 0  # letters of this page, before the current one, that stay
                for letter in page:
                    left -= 1
                    if not wanted.takes(letter, now):
                        stay += 1
                        continue
                    self._rotate(stay)
                    passed, stay = passed + stay, 0
                    pause()
                    acted = act(letter)
                    done += acted
                    if not acted or done == limit:  # another process takes letters too: read the page again
                        break
                self._rotate(stay)
                passed += stay
            whole = left == 0
        finally:
            if not whole:
                with contextlib.suppress(redis.RedisError):  # an outage may be what ends this
                    self._rotate(passed, back=True)
        return done

    def _rotate(self, count: int, *, back: bool = False) -> None:
        """Move letters from the old end of the list to its new one, or back."""
        source, to = ("LEFT", "RIGHT") if back else ("RIGHT", "LEFT")
        while count > 0:
            pipe = self._client.pipeline(transaction=False)
            for _ in range(min(count, _PAGE)):
                pipe.lmove(self._keys.dead, self._keys.dead, source, to)
            pipe.execute()
            count -= _PAGE

    def _page(self, start: int) -> list[DeadLetter]:
        """A page of letters, oldest first, from number `start` of the old end; new letters arrive at the other end."""
        records = self._client.lrange(self._keys.dead, -start - _PAGE, -start - 1)
        return [decode(self._keys.ready, bytes(record)) for record in reversed(records)]  # type: ignore[arg-type]  # bytes

    def replay(self, letter: DeadLetter) -> bool:
        """
        Put the producer's message back on the queue, with all its tries; False when the letter was gone already.

        Two operators who replay one letter replay it once.
        """
        keys = (self._keys.dead, self._keys.ready, EVENTS, UNKNOWN, *_claim(letter))
        args = (letter.record, _fresh(letter), letter.id or "", _event_data(letter))
        return bool(script("replay")(self._client, keys, args))

    def purge(self, letter: DeadLetter) -> bool:
        """Delete a letter for good; False when it was gone already."""
        keys = (self._keys.dead, EVENTS, UNKNOWN, *_claim(letter))
        return bool(
            script("purge_dead_letter")(self._client, keys, (letter.record, letter.id or "", _event_data(letter)))
        )


class Reasons:
    """
    Counts the newest dead letters of a queue by reason, and reads them again only when the list has changed.

    Args:
        most: Number of letters to read.
    """

    def __init__(self, client: redis.Redis, queue: str, most: int) -> None:
        self._client = client
        self._keys = Keys.of(queue)
        self._most = most
        self._known: tuple[object, Counter[str]] = None, Counter()

    def count(self) -> Counter[str]:
        """
        The counts by reason.

        Raises:
            redis.RedisError: Redis is away.
        """
        dead = self._keys.dead
        pipe = self._client.pipeline(transaction=False)
        pipe.llen(dead)
        pipe.lindex(dead, 0)
        pipe.lindex(dead, -1)
        state = pipe.execute()
        if self._known[0] != state:
            self._known = state, self._read()
        return self._known[1]

    def _read(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for start in range(0, self._most, _PAGE):
            page = self._client.lrange(self._keys.dead, start, min(start + _PAGE, self._most) - 1)
            found.update(decode(self._keys.ready, bytes(record)).reason for record in page)  # type: ignore[arg-type]  # bytes
            if len(page) < _PAGE:
                break
        return found


def _claim(letter: DeadLetter) -> tuple[str, ...]:
    return (claim_key(letter.id),) if letter.id else ()


def _event_data(letter: DeadLetter) -> str:
    return json.dumps({"reason": letter.reason})


def _fresh(letter: DeadLetter) -> bytes:
    original = letter.original()
    if original is not letter.raw:
        return original
    payload = {} if _call_of(letter.raw) is None else json.loads(letter.raw)
    headers = payload.get("headers")
    if not isinstance(headers, dict):
        return letter.raw  # not an envelope: it goes back unchanged
    headers.update(retries=0, eta=None)
    return json.dumps(payload).encode()


def _instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without a zone")
    return at


def _raw_fields(raw: bytes) -> dict[str, str]:
    try:
        return {"raw": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"raw_b64": base64.b64encode(raw).decode("ascii")}


def _call_of(raw: bytes) -> tuple[list[Any], dict[str, Any]] | None:
    try:
        payload = json.loads(raw)
        return intake.call_of(payload) if "headers" in payload else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def identity(raw: bytes) -> tuple[str | None, str | None]:
    """The notification's id and kind; None for what cannot be read."""
    body = body_of(raw)
    kind = _word(body.get("tipo_notificacao", body.get("kind")))
    return _word(body.get("id")), kind and phone.mask_in(kind)  # an unknown kind may be any text


def body_of(raw: bytes) -> dict[str, Any]:
    """The fields of the notification as its producer wrote them; empty if the message cannot be read."""
    try:
        body = json.loads(raw)
        call = _call_of(raw)
        if call is not None:
            first = call[0][0] if call[0] else call[1]
            body = json.loads(first) if isinstance(first, str) else first
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _word(value: object) -> str | None:
    """An id or a kind as `Notification` has it; None for a value that cannot be one."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return text.strip()[:200] if isinstance(text, str) and intake.is_text(text) else None
