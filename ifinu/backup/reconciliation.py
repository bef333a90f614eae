"""
Reconciliation of a restored Redis with the ledger, before anything is sent.

A snapshot is older than the disaster. Messages sent since then wait in it, and opt-outs since then are missing. The
ledger recorded both. By the state of a notification in the ledger:

    sent, server_ack, … read, failed     its claim becomes `sent`, and its message is dropped as a duplicate
    expired, suppressed, cancelled       its claim gets that state, with the same effect
    dead, its dead letter deleted        its claim becomes `cancelled`, since an operator gave it up
    dead, retrying, deferred, queued,    its claim does not change: nothing was sent, and a message that waits is tried
    purged                               again, even a purged one, whose id may have been pushed again
    unknown                              its claim becomes `unknown`: it is looked up before it is sent
    opted out, or in again               the opt-out is added, or lifted

A message that was being sent when the snapshot was taken is unknown, unless the ledger has its outcome. If the gateway
has it, it was sent. If the gateway does not have it, that proves something only if the gateway's database was not lost
too; else a person decides (`resent` in `claims.py`).

Reconciliation may be repeated. It also writes claims for ids without a message, since a producer that repeats lost
messages uses the same ids.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from sqlalchemy import Engine, func, select, tuple_

from ifinu.broker.claims import ClaimState
from ifinu.broker.dead_letters import identity
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS, NORMAL, QUEUES, UNKNOWN, Keys, claim_key, optout_key, script
from ifinu.ledger.schema import events, notifications, opt_outs
from ifinu.ledger.states import State, rank

_PAGE = 1000
_CLOCKS = timedelta(minutes=5)  # Redis' clock may have been set back; writing a known state again does no harm
_CANCELLED_TTL_MS = 90 * 86_400_000  # as for a cancellation; see `claims.py`
_SENT = rank(State.SENT)
_ENDED = (State.EXPIRED, State.SUPPRESSED, State.CANCELLED)
_KNOWN = (ClaimState.SENT, *(state.value for state in _ENDED))


@dataclass
class Reconciled:
    """
    The result: what was written to Redis, and the messages that wait in it.

    Attributes:
        known_to: Time of the ledger's last event; None if it has none.
        claims: Number of claims written, by state.
        opt_outs: Number of opt-outs and opt-ins written.
        waiting: Messages that wait: ready, delayed, or in flight when the snapshot was taken.
        settled: Those of them whose id was sent or has ended: they are dropped when they are served.
        in_doubt: Those of them that may have been sent: they are looked up.
    """

    known_to: datetime | None = None
    claims: Counter[str] = field(default_factory=Counter)
    opt_outs: int = 0
    waiting: int = 0
    settled: int = 0
    in_doubt: int = 0


def reconcile(client: redis.Redis, ledger: Engine, since: datetime, *, claim_ttl_s: float, resend: bool) -> Reconciled:
    """
    Write the ledger's knowledge to Redis.

    Args:
        client: A client that returns bytes, of a Redis whose queues are paused.
        ledger: The ledger.
        since: The time of the snapshot, by Redis' clock.
        claim_ttl_s: Seconds for which an id is remembered.
        resend: Whether messages that the gateway does not have may be sent again, since its database was not lost.

    Raises:
        LedgerUnavailable: The ledger is away, or not migrated; repeat it.
        redis.RedisError: Redis is away; repeat it.
    """
    writer = _ClaimWriter(client, int(claim_ttl_s * 1000), since, resend)
    result = Reconciled()
    with ledger.connect() as connection:
        last = connection.execute(select(func.max(events.c.ms))).scalar()
        result.known_to = None if last is None else datetime.fromtimestamp(last / 1000, UTC)
    for page in _pages(ledger, since - _CLOCKS):
        result.claims.update(writer.write(_known(ledger, page, since - _CLOCKS)))
    result.opt_outs = _opt_outs(client, ledger, since - _CLOCKS)
    for ids in _waiting(client):
        result.waiting += len(ids)
        states = writer.put_in_doubt([id_ for id_ in ids if id_ is not None])
        result.settled += sum(states[state] for state in _KNOWN)
        result.in_doubt += states[ClaimState.UNKNOWN]
    return result


def _pages(ledger: Engine, since: datetime) -> Iterator[Sequence[Any]]:
    """The notifications with an event since then, page by page."""
    row = notifications.c
    query = select(row.id, row.state, row.state_rank, row.state_ms, row.key_id, row.last_at)
    query = query.order_by(row.last_at, row.id).limit(_PAGE)
    after = None
    while True:
        where = row.last_at >= since if after is None else tuple_(row.last_at, row.id) > tuple_(*after)
        with ledger.connect() as connection:
            page = connection.execute(query.where(where)).all()
        if not page:
            return
        yield page
        after = page[-1].last_at, page[-1].id


def _known(ledger: Engine, page: Sequence[Any], since: datetime) -> Iterator[tuple[str, ClaimState, str, bool]]:
    """The claims to write: id, state, the gateway's id, whether it was sent again already."""
    news = [row for row in page if row.state_ms >= since.timestamp() * 1000]
    deleted = _last(ledger, Name.PURGED, [row.id for row in news if row.state == State.DEAD])
    again = _last(ledger, Name.RESENDING, [row.id for row in news if row.state == State.UNKNOWN])
    for row in news:
        if row.state_rank >= _SENT:
            yield row.id, ClaimState.SENT, row.key_id or "", False
        elif row.state in _ENDED:
            yield row.id, ClaimState(row.state), "", False
        elif deleted.get(row.id, 0) >= row.state_ms:  # it did not die once more since
            yield row.id, ClaimState.CANCELLED, "", False
        elif row.state == State.UNKNOWN:
            yield row.id, ClaimState.UNKNOWN, "", row.id in again


def _last(ledger: Engine, name: Name, ids: list[str]) -> dict[str, int]:
    """Time in ms of the last event of this name, by id; ids without one are left out."""
    if not ids:
        return {}
    event = events.c
    query = select(event.notification_id, func.max(event.ms)).group_by(event.notification_id)
    with ledger.connect() as connection:
        found = connection.execute(query.where(event.notification_id.in_(ids), event.name == name.value))
        return {row[0]: row[1] for row in found}


class _ClaimWriter:
    def __init__(self, client: redis.Redis, ttl_ms: int, since: datetime, resend: bool) -> None:
        self._client = client
        script("reconcile").load(client)
        self._ttl_ms = ttl_ms
        self._since_ms = round(since.timestamp() * 1000)
        self._resend = resend

    def write(self, known: Iterable[tuple[str, ClaimState, str, bool]]) -> Counter[str]:
        """Write claims, and return the number of those that changed, by state."""
        known = list(known)
        pipe = self._client.pipeline(transaction=False)
        for id_, state, key_id, again in known:
            self._put(pipe, id_, state, key_id, again=again)
        changed = pipe.execute()
        return Counter(state for (_, state, _, _), was in zip(known, changed, strict=True) if was)

    def put_in_doubt(self, ids: list[str]) -> Counter[str]:
        """Put the ids that were being sent in doubt, and return the number of ids in each state."""
        pipe = self._client.pipeline(transaction=False)
        for id_ in ids:
            pipe.hget(claim_key(id_), "state")
        states = [(state or b"").decode() for state in pipe.execute()]
        for id_, state in zip(ids, states, strict=True):
            if state in (ClaimState.SENDING, ClaimState.UNKNOWN):
                self._put(pipe, id_, ClaimState.UNKNOWN, "", again=False)
        pipe.execute()
        return Counter(ClaimState.UNKNOWN if state == ClaimState.SENDING else state for state in states)

    def _put(self, pipe: Any, id_: str, state: ClaimState, key_id: str, *, again: bool) -> None:
        ttl_ms = max(self._ttl_ms, _CANCELLED_TTL_MS) if state is ClaimState.CANCELLED else self._ttl_ms
        fields = {"reason": "restored", "error": "it was being sent when the backup was taken"}
        _, _, data = Event(Name.UNKNOWN, id_, fields).arguments()
        keys = (claim_key(id_), UNKNOWN, Keys.of(NORMAL).in_flight, EVENTS)
        held = "1" if again or not self._resend else ""
        args = (state, id_, ttl_ms, key_id, self._since_ms, secrets.token_hex(16), held, data)
        pipe.evalsha(script("reconcile").sha, len(keys), *keys, *args)


def _opt_outs(client: redis.Redis, ledger: Engine, since: datetime) -> int:
    """Write the opt-outs and opt-ins since then; return how many changed Redis."""
    query = select(opt_outs).where(opt_outs.c.ms >= since.timestamp() * 1000)
    with ledger.connect() as connection:
        rows = connection.execute(query).all()
    changed = 0
    for start in range(0, len(rows), _PAGE):
        pipe = client.pipeline(transaction=False)
        for row in rows[start : start + _PAGE]:
            key = optout_key(row.tenant or None)
            if row.removed_at is not None:
                pipe.hdel(key, row.phone_hash)
                continue
            at = row.at or datetime.fromtimestamp(row.ms / 1000, UTC)
            entry = {"at": round(at.timestamp() * 1000), "phone": row.phone, "source": row.source, "confirmation": ""}
            pipe.hsetnx(key, row.phone_hash, json.dumps(entry))
        changed += sum(pipe.execute())
    return changed


def _waiting(client: redis.Redis) -> Iterator[list[str | None]]:
    """The ids of all messages, page by page; None for a message whose id cannot be read."""
    for keys in map(Keys.of, QUEUES):
        for start in range(0, client.llen(keys.ready), _PAGE):
            yield _ids(client.lrange(keys.ready, start, start + _PAGE - 1))
        for start in range(0, client.zcard(keys.delayed), _PAGE):
            yield _ids(client.zrange(keys.delayed, start, start + _PAGE - 1))
        yield from _pages_of(raw for _, raw in client.hscan_iter(keys.in_flight, count=_PAGE))


def _pages_of(messages: Iterable[bytes]) -> Iterator[list[str | None]]:
    page: list[str | None] = []
    for raw in messages:
        page.append(identity(raw)[0])
        if len(page) == _PAGE:
            yield page
            page = []
    yield page


def _ids(page: Any) -> list[str | None]:
    return [identity(raw)[0] for raw in page]
