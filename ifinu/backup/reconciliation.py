"""
What the ledger knows and a restored Redis does not, told to Redis before anything is sent.

A snapshot is older than the disaster. What was sent since waits in it as if it had not been; who opted out since has
not. The ledger was told both, so:

    sent, server_ack, … read, failed     its claim is `sent`: its message is dropped as a duplicate
    expired, suppressed, cancelled       its claim says so: likewise
    dead, its letter deleted             it is `cancelled`: a person did not want it
    dead, retrying, deferred, queued,    nothing was sent: what waits is tried again; so is what was purged
    purged                               from its queue: its id was free, and may have been wanted again
    unknown                              its claim is `unknown`: it is looked up, and not sent before
    opted out, or in again               so it is

A message that was being sent when the snapshot was taken is unknown, unless the ledger knows better. Its look-up
proves that it was sent where the gateway has it. That the gateway does not have it proves something only where the
gateway's own database was not lost too; else a person decides (`resent`, as `claims.py` has it).

It is idempotent, and tells ids whose messages are not there, too: a producer that gives again what was lost gives the
same ids.
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
_CLOCKS = timedelta(minutes=5)  # Redis' clock may have been set back; to tell what is known again does no harm
_CANCELLED_TTL_MS = 90 * 86_400_000  # as a notification that is called off is remembered
_SENT = rank(State.SENT)
_ENDED = (State.EXPIRED, State.SUPPRESSED, State.CANCELLED)
_KNOWN = (ClaimState.SENT, *(state.value for state in _ENDED))


@dataclass
class Reconciled:
    """
    What Redis was told, and what waits in it.

    Attributes:
        known_to: When the last thing happened that the ledger knows of; None where it knows nothing.
        told: Ids whose claim was told something, by state.
        opt_outs: People who opted out, or in again, since.
        waiting: Messages that wait: ready, delayed, in flight when the snapshot was taken.
        settled: Those of them whose id is known to be sent or ended: they are dropped when their turn comes.
        in_doubt: Those that may have been sent: they are looked up.
    """

    known_to: datetime | None = None
    told: Counter[str] = field(default_factory=Counter)
    opt_outs: int = 0
    waiting: int = 0
    settled: int = 0
    in_doubt: int = 0


def recall(client: redis.Redis, ledger: Engine, since: datetime, *, claim_ttl_s: float, resend: bool) -> Reconciled:
    """
    Tell Redis.

    Args:
        client: A connection that returns bytes, to a Redis whose queues are paused.
        ledger: The ledger.
        since: The time of the snapshot, by Redis' clock.
        claim_ttl_s: How long an id is remembered, in seconds.
        resend: Whether what the gateway does not have may be sent again, since its database is not older than that.

    Raises:
        LedgerUnavailable: The ledger is away, or not migrated; to be repeated.
        redis.RedisError: Redis is away; likewise.
    """
    teller = _Teller(client, int(claim_ttl_s * 1000), since, resend)
    recalled = Reconciled()
    with ledger.connect() as connection:
        last = connection.execute(select(func.max(events.c.ms))).scalar()
        recalled.known_to = None if last is None else datetime.fromtimestamp(last / 1000, UTC)
    for page in _pages(ledger, since - _CLOCKS):
        recalled.told.update(teller.tell(_known(ledger, page, since - _CLOCKS)))
    recalled.opt_outs = _opt_outs(client, ledger, since - _CLOCKS)
    for ids in _waiting(client):
        recalled.waiting += len(ids)
        states = teller.doubt([id_ for id_ in ids if id_ is not None])
        recalled.settled += sum(states[state] for state in _KNOWN)
        recalled.in_doubt += states[ClaimState.UNKNOWN]
    return recalled


def _pages(ledger: Engine, since: datetime) -> Iterator[Sequence[Any]]:
    """The notifications that something happened to since then."""
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
    """Of each that there is something to tell of: id, state, the gateway's id, whether it was sent again before."""
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
    """When an event was last told of each of the ids that it was told of, in ms."""
    if not ids:
        return {}
    event = events.c
    query = select(event.notification_id, func.max(event.ms)).group_by(event.notification_id)
    with ledger.connect() as connection:
        found = connection.execute(query.where(event.notification_id.in_(ids), event.name == name.value))
        return {row[0]: row[1] for row in found}


class _Teller:
    """Tells claims."""

    def __init__(self, client: redis.Redis, ttl_ms: int, since: datetime, resend: bool) -> None:
        self._client = client
        script("recall").load(client)
        self._ttl_ms = ttl_ms
        self._since_ms = round(since.timestamp() * 1000)
        self._resend = resend

    def tell(self, known: Iterable[tuple[str, ClaimState, str, bool]]) -> Counter[str]:
        """Those that did not know it, by state."""
        known = list(known)
        pipe = self._client.pipeline(transaction=False)
        for id_, state, key_id, again in known:
            self._put(pipe, id_, state, key_id, again=again)
        changed = pipe.execute()
        return Counter(state for (_, state, _, _), was in zip(known, changed, strict=True) if was)

    def doubt(self, ids: list[str]) -> Counter[str]:
        """The states of claims; those that were being sent are unknown from here on."""
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
        told = {"reason": "restored", "error": "it was being sent when the backup was taken"}
        _, _, data = Event(Name.UNKNOWN, id_, told).arguments()
        keys = (claim_key(id_), UNKNOWN, Keys.of(NORMAL).in_flight, EVENTS)
        held = "1" if again or not self._resend else ""
        args = (state, id_, ttl_ms, key_id, self._since_ms, secrets.token_hex(16), held, data)
        pipe.evalsha(script("recall").sha, len(keys), *keys, *args)


def _opt_outs(client: redis.Redis, ledger: Engine, since: datetime) -> int:
    """Who opted out since then, or in again; how many of them Redis did not know."""
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
    """The ids of all that waits, page by page; None for a message that cannot be read that far."""
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
