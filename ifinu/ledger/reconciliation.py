"""
Reconciliation of a Redis that was restored, or lost its data, with the ledger, before anything is sent.

A snapshot is older than the disaster: messages sent since still wait in it, and opt-outs since are missing. The ledger
recorded both, so its last state of an id or person decides:

    sent, server_ack, … read, failed     the claim becomes `sent`: the message is dropped as a duplicate
    expired, suppressed, cancelled       the claim gets the same state: likewise
    dead, and its dead letter purged     the claim becomes `cancelled`: a person deleted it
    dead, retrying, deferred, queued,    the claim is left alone: nothing was sent, so a waiting message is tried again;
    purged                               a purge freed the id, and a producer may have used it again
    unknown                              the claim becomes `unknown`: a look-up precedes any send
    opted out, or in again               Redis gets the opt-out, or loses it

A message that was being sent at the time of the snapshot becomes unknown, unless the ledger knows better. If the
gateway has it, its look-up proves that it was sent. If not, that proves the contrary only if the gateway's database was
not lost too; otherwise a person decides (`resent` in `claims.py`).

Reconciliation is idempotent. It also writes claims for ids without a message, since a producer that repeats lost
messages repeats their ids.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from sqlalchemy import Connection, Engine, func, select, tuple_

from ifinu.broker import lanes
from ifinu.broker.claims import CANCELLED_TTL_MS, ClaimState
from ifinu.broker.dead_letters import identity
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS, NORMAL, QUEUES, UNKNOWN, Keys, claim_key, optout_key, script
from ifinu.ledger.schema import events, notifications, opt_outs
from ifinu.ledger.states import State, rank

_PAGE = 1000
_CLOCK_MARGIN = timedelta(minutes=5)  # if Redis' clock was set back; writing a claim twice does no harm
_SENT = rank(State.SENT)
_ENDED = (State.EXPIRED, State.SUPPRESSED, State.CANCELLED)
_KNOWN = (ClaimState.SENT, *(state.value for state in _ENDED))

Connect = Callable[[], AbstractContextManager[Connection]]  # opens a connection to the ledger for a few queries


@dataclass
class Reconciled:
    """
    The changes in Redis, and counts of the messages that wait.

    Attributes:
        known_to: Time of the ledger's last event; None if it has no event.
        claims: Number of changed claims, by their new state.
        opt_outs: Number of opt-outs written or removed.
        waiting: Messages that are ready, delayed or in lanes, or were in flight at the time of the snapshot.
        settled: Waiting messages whose id was sent or has ended; a worker drops them.
        in_doubt: Waiting messages that may have been sent; a worker looks them up.
    """

    known_to: datetime | None = None
    claims: Counter[str] = field(default_factory=Counter)
    opt_outs: int = 0
    waiting: int = 0
    settled: int = 0
    in_doubt: int = 0


def reconcile(client: redis.Redis, ledger: Engine, since: datetime, *, claim_ttl_s: float, resend: bool) -> Reconciled:
    """
    Write the ledger's knowledge into the claims and opt-outs of a restored Redis.

    Args:
        client: A client that returns bytes, of a Redis whose queues are paused.
        since: The time of the snapshot, by Redis' clock.
        claim_ttl_s: Lifetime of a claim, in seconds.
        resend: Allow a message in doubt to be sent again if the gateway does not have it, since the gateway's database
            was not lost.

    Raises:
        LedgerUnavailable: The ledger is away, or not migrated. Repeat the call.
        redis.RedisError: Redis is away. Repeat the call.
    """
    writer = ClaimWriter(client, claim_ttl_s, since, resend=resend)
    reconciled = Reconciled()
    with ledger.connect() as connection:
        reconciled.known_to = known_to(connection)
    reconciled.claims = recall(writer, ledger.connect, since - _CLOCK_MARGIN)
    reconciled.opt_outs = restore_opt_outs(client, ledger.connect, since - _CLOCK_MARGIN)
    for ids in _waiting(client):
        reconciled.waiting += len(ids)
        states = writer.mark_in_doubt([id_ for id_ in ids if id_ is not None])
        reconciled.settled += sum(states[state] for state in _KNOWN)
        reconciled.in_doubt += states[ClaimState.UNKNOWN]
    return reconciled


def known_to(connection: Connection) -> datetime | None:
    """Time of the ledger's last event, by Redis' clock; None if it has no event."""
    last = connection.execute(select(func.max(events.c.ms))).scalar()
    return None if last is None else datetime.fromtimestamp(last / 1000, UTC)


def recall(writer: ClaimWriter, connect: Connect, since: datetime) -> Counter[str]:
    """
    Write what the ledger has recorded since a time into the claims, and count those that changed, by state.

    Raises:
        LedgerUnavailable: The ledger is away, or not migrated. Repeat the call.
        redis.RedisError: Redis is away. Repeat the call.
    """
    changed: Counter[str] = Counter()
    for page in _pages(connect, since):
        changed.update(writer.write(_outcomes(connect, page, since)))
    return changed


def _pages(connect: Connect, since: datetime) -> Iterator[Sequence[Any]]:
    """Rows of the notifications with an event since a time, in pages."""
    row = notifications.c
    query = select(row.id, row.state, row.state_rank, row.state_ms, row.key_id, row.last_at)
    query = query.order_by(row.last_at, row.id).limit(_PAGE)
    after = None
    while True:
        where = row.last_at >= since if after is None else tuple_(row.last_at, row.id) > tuple_(*after)
        with connect() as connection:
            page = connection.execute(query.where(where)).all()
        if not page:
            return
        yield page
        after = page[-1].last_at, page[-1].id


def _outcomes(connect: Connect, page: Sequence[Any], since: datetime) -> Iterator[tuple[str, ClaimState, str, bool]]:
    """Claims to write: the id, its state, the gateway's message id, and whether it was resent already."""
    news = [row for row in page if row.state_ms >= since.timestamp() * 1000]
    purged = _last_ms(connect, Name.PURGED, [row.id for row in news if row.state == State.DEAD])
    resent = _last_ms(connect, Name.RESENDING, [row.id for row in news if row.state == State.UNKNOWN])
    for row in news:
        if row.state_rank >= _SENT:
            yield row.id, ClaimState.SENT, row.key_id or "", False
        elif row.state in _ENDED:
            yield row.id, ClaimState(row.state), "", False
        elif purged.get(row.id, 0) >= row.state_ms:  # and it was not buried again since
            yield row.id, ClaimState.CANCELLED, "", False
        elif row.state == State.UNKNOWN:
            yield row.id, ClaimState.UNKNOWN, "", row.id in resent


def _last_ms(connect: Connect, name: Name, ids: list[str]) -> dict[str, int]:
    """Time of the last event of a name, in ms, for each id that has one."""
    if not ids:
        return {}
    event = events.c
    query = select(event.notification_id, func.max(event.ms)).group_by(event.notification_id)
    with connect() as connection:
        found = connection.execute(query.where(event.notification_id.in_(ids), event.name == name.value))
        return {row[0]: row[1] for row in found}


class ClaimWriter:
    """
    Writes claims of ids that a Redis server has lost or never knew.

    Args:
        client: A client that returns bytes.
        claim_ttl_s: Lifetime of a claim, in seconds.
        since: When a send in doubt began at the earliest.
        started: When the last one of them began, at the latest; by default at that time too.
        resend: Allow a message in doubt to be sent again if the gateway does not have it.
    """

    def __init__(
        self,
        client: redis.Redis,
        claim_ttl_s: float,
        since: datetime,
        *,
        started: datetime | None = None,
        resend: bool,
    ) -> None:
        self._client = client
        script("reconcile").load(client)
        self._ttl_ms = int(claim_ttl_s * 1000)
        self._since_ms = _ms(since)
        self._started_ms = _ms(started or since)
        self._resend = resend

    def write(self, outcomes: Iterable[tuple[str, ClaimState, str, bool]]) -> Counter[str]:
        """Write claims, and count those that changed, by state."""
        outcomes = list(outcomes)
        pipe = self._client.pipeline(transaction=False)
        for id_, state, key_id, resent in outcomes:
            self._put(pipe, id_, state, key_id, resent=resent)
        changed = pipe.execute()
        return Counter(state for (_, state, _, _), was in zip(outcomes, changed, strict=True) if was)

    def mark_in_doubt(self, ids: list[str]) -> Counter[str]:
        """Turn claims in `sending` into `unknown`, and count all claims by state."""
        pipe = self._client.pipeline(transaction=False)
        for id_ in ids:
            pipe.hget(claim_key(id_), "state")
        states = [(state or b"").decode() for state in pipe.execute()]
        for id_, state in zip(ids, states, strict=True):
            if state in (ClaimState.SENDING, ClaimState.UNKNOWN):
                self._put(pipe, id_, ClaimState.UNKNOWN, "", resent=False)
        pipe.execute()
        return Counter(ClaimState.UNKNOWN if state == ClaimState.SENDING else state for state in states)

    def doubt(self, ids: Iterable[str]) -> int:
        """
        Let the next message with each id be looked up before it is sent, unless the id has a claim. Returns how many
        have none.
        """
        pipe = self._client.pipeline(transaction=False)
        for id_ in ids:
            self._put(pipe, id_, ClaimState.UNKNOWN, "", resent=False, unclaimed=True)
        return sum(pipe.execute())

    def _put(
        self, pipe: Any, id_: str, state: ClaimState, key_id: str, *, resent: bool, unclaimed: bool = False
    ) -> None:
        ttl_ms = max(self._ttl_ms, CANCELLED_TTL_MS) if state is ClaimState.CANCELLED else self._ttl_ms
        fields = {"reason": "restored", "error": "it was being sent when the backup was taken"}
        _, _, data = Event(Name.UNKNOWN, id_, fields).arguments()
        keys = (claim_key(id_), UNKNOWN, Keys.of(NORMAL).in_flight, EVENTS)
        held = "1" if resent or not self._resend else ""
        last = self._started_ms, "1" if unclaimed else ""
        args = (state, id_, ttl_ms, key_id, self._since_ms, secrets.token_hex(16), held, data, *last)
        pipe.evalsha(script("reconcile").sha, len(keys), *keys, *args)


def restore_opt_outs(client: redis.Redis, connect: Connect, since: datetime | None) -> int:
    """
    Write opt-outs and opt-ins to Redis, and count those that it lacked.

    Args:
        since: Those since a time; None for all.

    Raises:
        LedgerUnavailable, redis.RedisError: As for `recall`.
    """
    query = select(opt_outs).where(opt_outs.c.ms >= (0 if since is None else _ms(since)))
    with connect() as connection:
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
            entry = {"at": _ms(at), "phone": row.phone, "source": row.source, "confirmation": ""}
            pipe.hsetnx(key, row.phone_hash, json.dumps(entry))
        changed += sum(pipe.execute())
    return changed


def _waiting(client: redis.Redis) -> Iterator[list[str | None]]:
    """Ids of all waiting messages, in pages; None for a message without a readable id."""
    for keys in map(Keys.of, QUEUES):
        for start in range(0, client.llen(keys.ready), _PAGE):
            yield _ids(client.lrange(keys.ready, start, start + _PAGE - 1))
        for start in range(0, client.zcard(keys.delayed), _PAGE):
            yield _ids(client.zrange(keys.delayed, start, start + _PAGE - 1))
        yield from _pages_of(lanes.scan(client, keys.ready))
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


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
