"""
Settlement: an event of a provider is stored together with what it does to its charge, in one transaction.

    apply ─▶ stored before? ─▶ repeated
                │ no
                ▼
             a charge? ─▶ unmatched ─ the charge is added, or a person names it ─▶ match, match_one
                │ yes                                                               │
                ▼                                                                   │
             its effect ◀───────────────────────────────────────────────────────────╯
                ╰─▶ applied, or ignored with a note

Events repeat and come in any order. The key of the table stops a repeated one. Several events of one payment count
once: `CONFIRMED` and `RECEIVED`, a session and its payment intent, a webhook and a reconciliation. A payment that was
refunded stays refunded if its own event comes late, and a newer change of a charge is not undone by an older one; the
provider's clock decides what is older. A refund holds the charge without an end, so nothing is sent by itself.

    note                 why an event changed nothing, or not what it seems to
    same_payment         another event reported this payment before
    recorded_before      the charge was recorded as paid by hand or by a file: this is that payment
    already_paid         a provider reported another payment of it before: perhaps somebody paid twice
    refunded_before      a later event said that this payment went back
    refund_of_duplicate  a payment went back that had not counted
    partial_refund       a part went back: the charge stays paid
    partial, overpaid    the payment counts, and is less or more than the charge; fine and interest make it more
    outdated             a later change is known
    no_change            the charge is so already
    not_open             a change of a charge that is paid or cancelled
    invalid              the charge cannot be changed so
    dismissed            a person said that it is about nothing that is billed here
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from ifinu.billing import charges
from ifinu.billing.billing_schema import charges as rows_of
from ifinu.billing.billing_schema import payment_events as events
from ifinu.billing.payments.provider_events import CHANGES, PAYMENTS, Effect, PaymentEvent
from ifinu.errors import InvalidBilling, NotFound

APPLIED, IGNORED, UNMATCHED = "applied", "ignored", "unmatched"
STATES: Final = (APPLIED, IGNORED, UNMATCHED)
_AT_A_TIME: Final = 1000
_RECENTLY: Final = timedelta(hours=1)
_REASON: Final = "payment_undone"

# The charge of each unmatched event: by the provider's id of it, then by ours, then by an event of the same payment.
# An id of ours may be shared: a provider copies the reference of a subscription to each of its payments.
_CHARGES_OF = """
    WITH e AS (
        SELECT provider, event_id, "references", payment_id, coalesce(occurred_at, received_at) AS at
          FROM payment_events
         WHERE tenant = :tenant AND state = 'unmatched' AND {which}),
    r AS (SELECT e.*, n.name, n.place FROM e, unnest(e."references") WITH ORDINALITY AS n (name, place)),
    hits AS (
        SELECT r.provider, r.event_id, r.at, c.seq, 0 AS way, r.place
          FROM r JOIN charges c ON c.tenant = :tenant AND c.provider = r.provider AND c.provider_id = r.name
        UNION ALL
        SELECT r.provider, r.event_id, r.at, c.seq, 1, r.place
          FROM r JOIN charges c ON c.tenant = :tenant AND c.id = r.name
        UNION ALL
        SELECT e.provider, e.event_id, e.at, o.charge_seq, 2, 1
          FROM e JOIN payment_events o ON o.tenant = :tenant AND o.provider = e.provider
               AND o."references" @> ARRAY[e.payment_id] AND o.charge_seq IS NOT NULL),
    best AS (
        SELECT DISTINCT ON (provider, event_id) provider, event_id, at, seq
          FROM hits ORDER BY provider, event_id, way, place)
    SELECT b.provider, b.event_id, c.id FROM best b JOIN charges c ON c.seq = b.seq
     ORDER BY b.at, b.event_id LIMIT :limit"""
_THIS = text(_CHARGES_OF.format(which="provider = :provider AND event_id = :event_id"))
_NAMING = text(_CHARGES_OF.format(which='"references" && CAST(:names AS text[])'))
_SINCE = text(_CHARGES_OF.format(which="received_at >= :since"))


class Settled(NamedTuple):
    """
    What became of an event.

    Attributes:
        state: applied, ignored or unmatched; `repeated` if it was stored before.
        charge: The tenant's id of its charge, or None.
        cancelled: Ids of the messages that were withdrawn.
    """

    state: str
    note: str | None = None
    charge: str | None = None
    cancelled: tuple[str, ...] = ()


class _Found(NamedTuple):
    """An unmatched event, and the tenant's id of its charge."""

    provider: str
    event_id: str
    id: str


def apply(connection: Connection, tenant: str, event: PaymentEvent, now: datetime) -> Settled:
    """
    Store an event with its effect. The same event again changes nothing.

    Two deliveries at the same time wait for each other at the table's key.
    """
    stored = connection.execute(
        insert(events)
        .values(
            provider=event.provider,
            tenant=tenant,
            event_id=event.event_id,
            event=event.event,
            effect=event.effect.value,
            references=list(event.references),
            payment_id=event.payment_id,
            amount=event.amount,
            paid_at=event.paid_at,
            occurred_at=event.occurred_at,
            due_date=event.due_date,
            new_amount=event.new_amount,
            raw=dict(event.raw),
            state=IGNORED if event.effect is Effect.IGNORED else UNMATCHED,
            note=event.note,
            received_at=now,
        )
        .on_conflict_do_nothing()
        .returning(events.c.event_id)
    ).first()
    if stored is None:
        return Settled("repeated")
    if event.effect is Effect.IGNORED:
        return Settled(IGNORED, event.note)
    this = {"tenant": tenant, "provider": event.provider, "event_id": event.event_id, "limit": 1}
    found = connection.execute(_THIS, this).all()
    if not found:
        return Settled(UNMATCHED)
    return _match(connection, tenant, found, now)[0]


def match(connection: Connection, tenant: str, names: Sequence[str], now: datetime) -> list[Settled]:
    """
    Give the unmatched events that name one of some charges their effect, the oldest first.

    An event that another transaction is settling is left to it.

    Args:
        names: Ids of charges, ours or a provider's.
    """
    if not _is_one_waiting(connection, tenant):
        return []
    which = {"tenant": tenant, "names": list(names), "limit": _AT_A_TIME}
    return _match(connection, tenant, connection.execute(_NAMING, which).all(), now)


def dismiss(connection: Connection, tenant: str, event_id: str, *, provider: str | None = None) -> None:
    """
    Let an unmatched event wait no longer: it is about nothing that is billed here.

    Raises:
        NotFound: There is no such unmatched event.
        InvalidBilling: Several providers have an event with that id.
    """
    key = (events.c.tenant == tenant) & (events.c.event_id == event_id)
    key &= events.c.provider == _provider_of(connection, tenant, event_id, provider)
    connection.execute(update(events).where(key, events.c.state == UNMATCHED).values(state=IGNORED, note="dismissed"))


def sweep(connection: Connection, now: datetime) -> list[Settled]:
    """
    Match the unmatched events of the last hour.

    A charge and an event that were added at the same moment, in two transactions, did not see each other.
    """
    recently = {"since": now - _RECENTLY, "limit": _AT_A_TIME}
    tenants = select(events.c.tenant).where(events.c.state == UNMATCHED, events.c.received_at >= recently["since"])
    settled: list[Settled] = []
    for tenant in connection.scalars(tenants.distinct()).all():
        settled += _match(connection, tenant, connection.execute(_SINCE, recently | {"tenant": tenant}).all(), now)
    return settled


def match_one(
    connection: Connection, tenant: str, event_id: str, charge: str, now: datetime, *, provider: str | None = None
) -> list[Settled]:
    """
    Give an unmatched event the charge that a person names, and then those that speak of the same payment.

    Returns:
        What became of the event, then of the others.

    Raises:
        NotFound: There is no such unmatched event, or no such charge.
        InvalidBilling: Several providers have an event with that id.
    """
    owner = _provider_of(connection, tenant, event_id, provider)
    charges.get(connection, tenant, charge)
    this = _Found(owner, event_id, charge)
    return _match(connection, tenant, [this], now)


def recent(
    connection: Connection,
    tenant: str,
    *,
    states: Sequence[str] = (),
    provider: str | None = None,
    charge: str | None = None,
    limit: int = 50,
) -> Sequence[Row[Any]]:
    """The newest events of a tenant, each with the id of its charge as `charge`."""
    query = (
        select(events, rows_of.c.id.label("charge"))
        .join(rows_of, rows_of.c.seq == events.c.charge_seq, isouter=True)
        .where(events.c.tenant == tenant)
        .order_by(events.c.received_at.desc(), events.c.event_id)
        .limit(limit)
    )
    if states:
        query = query.where(events.c.state.in_(states))
    if provider is not None:
        query = query.where(events.c.provider == provider)
    if charge is not None:
        query = query.where(rows_of.c.id == charge)
    return connection.execute(query).all()


def _provider_of(connection: Connection, tenant: str, event_id: str, provider: str | None) -> str:
    """
    The provider of an unmatched event.

    Raises:
        NotFound, InvalidBilling: There is none, or there are several.
    """
    query = select(events.c.provider).where(
        events.c.tenant == tenant, events.c.event_id == event_id, events.c.state == UNMATCHED
    )
    if provider is not None:
        query = query.where(events.c.provider == provider)
    providers = connection.scalars(query).all()
    if not providers:
        raise NotFound("unmatched event", event_id)
    if len(providers) > 1:
        raise InvalidBilling("provider", f"{', '.join(sorted(providers))} have an event with that id; name one")
    return str(providers[0])


def _is_one_waiting(connection: Connection, tenant: str) -> bool:
    waiting = select(events.c.event_id).where(events.c.tenant == tenant, events.c.state == UNMATCHED)
    return connection.execute(waiting.limit(1)).first() is not None


def _match(connection: Connection, tenant: str, found: Sequence[_Found | Row[Any]], now: datetime) -> list[Settled]:
    """Settle events, and then those that only name the same payments: a refund may not name its charge."""
    settled: list[Settled] = []
    tried: set[tuple[str, str]] = set()
    while found:
        tried |= {(one.provider, one.event_id) for one in found}
        settled += [_settle(connection, tenant, one.provider, one.event_id, one.id, now) for one in found]
        if not _is_one_waiting(connection, tenant):
            break
        ids = [one.event_id for one in found]
        names = connection.scalars(
            select(func.unnest(events.c.references)).where(events.c.tenant == tenant, events.c.event_id.in_(ids))
        ).all()
        which = {"tenant": tenant, "names": list(names), "limit": _AT_A_TIME}
        found = [one for one in connection.execute(_NAMING, which) if (one.provider, one.event_id) not in tried]
    return [one for one in settled if one.state != "repeated"]


def _settle(
    connection: Connection, tenant: str, provider: str, event_id: str, charge_id: str, now: datetime
) -> Settled:
    """Give one unmatched event its effect on a charge; `repeated` if another transaction does so."""
    key = (events.c.provider == provider) & (events.c.tenant == tenant) & (events.c.event_id == event_id)
    event = connection.execute(
        select(events).where(key, events.c.state == UNMATCHED).with_for_update(skip_locked=True)
    ).first()
    if event is None:
        return Settled("repeated")
    # The lock on the charge comes first, so that two events of one payment see each other.
    seq = connection.scalars(
        select(rows_of.c.seq)
        .where(rows_of.c.tenant == tenant, rows_of.c.id == charge_id)
        .with_for_update(key_share=True)
    ).one()
    try:
        with connection.begin_nested():
            settled = _effect(connection, event, seq, charge_id, now)
    except InvalidBilling:
        settled = Settled(IGNORED, "invalid", charge_id)
    connection.execute(update(events).where(key).values(state=settled.state, note=settled.note, charge_seq=seq))
    return settled


def _effect(connection: Connection, event: Row[Any], seq: int, charge_id: str, now: datetime) -> Settled:
    history = connection.execute(
        select(events)
        .where(events.c.charge_seq == seq, events.c.tenant == event.tenant)
        .order_by(func.coalesce(events.c.occurred_at, events.c.received_at), events.c.received_at)
    ).all()
    effect = Effect(event.effect)
    if effect in PAYMENTS:
        return _paid(connection, event, history, charge_id, now)
    if effect is Effect.REFUNDED:
        return _refunded(connection, event, [one for one in history if _is_same_payment(one, event)], charge_id, now)
    changes = [
        one for one in history if one.effect in CHANGES and one.state == APPLIED and one.provider == event.provider
    ]
    if any(_is_later(one, event) for one in changes):
        return Settled(IGNORED, "outdated", charge_id)
    return _changed(connection, event, effect, charge_id, now)


def _paid(
    connection: Connection, event: Row[Any], history: Sequence[Row[Any]], charge_id: str, now: datetime
) -> Settled:
    counted = [one for one in history if one.state == APPLIED and _is_same_payment(one, event)]
    refunds = [one for one in counted if one.effect == Effect.REFUNDED]
    if refunds and not _is_later(event, refunds[-1]):
        return Settled(IGNORED, "refunded_before", charge_id)
    since = [one for one in counted if one.effect in PAYMENTS and not (refunds and _is_later(refunds[-1], one))]
    if since:
        return Settled(IGNORED, "same_payment", charge_id)
    done = charges.pay(
        connection, event.tenant, charge_id, amount=event.amount, at=event.paid_at, via=event.provider, now=now
    )
    if done.was == "paid":
        if any(one.state == APPLIED and one.effect in PAYMENTS for one in history):
            return Settled(IGNORED, "already_paid", charge_id)
        return Settled(APPLIED, "recorded_before", charge_id)
    note = "partial" if done.left else "overpaid" if done.over else None
    return Settled(APPLIED, note, charge_id, tuple(done.cancelled))


def _refunded(
    connection: Connection, event: Row[Any], history: Sequence[Row[Any]], charge_id: str, now: datetime
) -> Settled:
    payments = [one for one in history if one.effect in PAYMENTS]
    counted = [one for one in payments if one.state == APPLIED]
    refunds = [one for one in history if one.effect == Effect.REFUNDED and one.state == APPLIED]
    if refunds and not (counted and _is_later(counted[-1], refunds[-1])):
        return Settled(IGNORED, "same_payment", charge_id)
    if any(_is_later(one, event) for one in payments if one.state == APPLIED or one.note == "same_payment"):
        return Settled(IGNORED, "outdated", charge_id)  # it was paid again since
    if payments and not counted and payments[-1].note == "already_paid":
        return Settled(IGNORED, "refund_of_duplicate", charge_id)
    amount: Decimal | None = counted[-1].amount if counted else event.amount
    paid = amount if counted and amount else charges.get(connection, event.tenant, charge_id).paid
    if event.amount is not None and event.amount < paid:
        return Settled(IGNORED, "partial_refund", charge_id)
    charges.undo_payment(connection, event.tenant, charge_id, amount=amount or None, reason=_REASON, now=now)
    return Settled(APPLIED, None, charge_id)


def _changed(connection: Connection, event: Row[Any], effect: Effect, charge_id: str, now: datetime) -> Settled:
    charge = charges.get(connection, event.tenant, charge_id)
    match effect:
        case Effect.CANCELLED:
            if charge.status == "paid":
                return Settled(IGNORED, "already_paid", charge_id)
            if charge.status == "cancelled":
                return Settled(APPLIED, "no_change", charge_id)
            withdrawn = charges.cancel(connection, event.tenant, charge_id, now=now)
            return Settled(APPLIED, None, charge_id, tuple(withdrawn))
        case Effect.RESTORED:
            if charge.status != "cancelled":
                return Settled(APPLIED, "no_change", charge_id)
            charges.restore(connection, event.tenant, charge_id, now=now)
            return Settled(APPLIED, None, charge_id)
    if not charge.is_open:
        return Settled(IGNORED, "not_open", charge_id)
    wanted: dict[str, date | Decimal | None] = {"due_date": event.due_date, "amount": event.new_amount}
    new = {name: value for name, value in wanted.items() if value and value != getattr(charge, name)}
    if not new:
        return Settled(APPLIED, "no_change", charge_id)
    withdrawn = charges.edit(connection, event.tenant, charge_id, now=now, **new)
    return Settled(APPLIED, None, charge_id, tuple(withdrawn))


def _is_same_payment(one: Row[Any], other: Row[Any]) -> bool:
    """Whether two events are about one payment; without an id of the payment, about the one payment of the charge."""
    if one.provider != other.provider:
        return False
    if one.payment_id is None or other.payment_id is None:
        return one.payment_id is other.payment_id
    return (
        one.payment_id == other.payment_id or one.payment_id in other.references or other.payment_id in one.references
    )


def _is_later(one: Row[Any], other: Row[Any]) -> bool:
    """Whether one event certainly happened after the other; without the provider's time it did not."""
    return one.occurred_at is not None and other.occurred_at is not None and one.occurred_at > other.occurred_at
