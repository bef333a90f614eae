"""
Asaas: events of its `payment` objects, in reais.

Asaas sends the configured token as a header, from four addresses. It takes no answer but 200, and stops after 15
failures in a row until somebody resumes its queue. `PAYMENT_CONFIRMED` and `PAYMENT_RECEIVED` are one payment.
"""

from __future__ import annotations

import hmac
from dataclasses import replace
from datetime import date, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr

from ifinu.billing.payments import signatures
from ifinu.billing.payments.provider_api import ProviderApi
from ifinu.billing.payments.provider_events import (
    CHANGES,
    PAYMENTS,
    Effect,
    InvalidEvent,
    PaymentEvent,
    PaymentRequest,
    day,
    digest,
    document,
    kept,
    moment,
    noon,
    part,
    reais,
    references,
    text,
)
from ifinu.billing.payments.provider_secrets import ProviderSecrets, plain

NAME: Final = "asaas"
HEADER: Final = "asaas-access-token"
API: Final = "https://api.asaas.com/v3"
_PAGE: Final = 100
_BRAZIL: Final = ZoneInfo("America/Sao_Paulo")
_EFFECTS: Final = {
    "PAYMENT_CONFIRMED": Effect.CONFIRMED,
    "PAYMENT_RECEIVED": Effect.PAID,
    "PAYMENT_DUNNING_RECEIVED": Effect.PAID,
    "PAYMENT_REFUNDED": Effect.REFUNDED,
    "PAYMENT_CHARGEBACK_REQUESTED": Effect.REFUNDED,
    "PAYMENT_RECEIVED_IN_CASH_UNDONE": Effect.REFUNDED,
    "PAYMENT_DELETED": Effect.CANCELLED,
    "PAYMENT_RESTORED": Effect.RESTORED,
    "PAYMENT_UPDATED": Effect.UPDATED,
}
# The events that a payment's status stands for, when Asaas is asked.
_STATUSES: Final = {
    "CONFIRMED": "PAYMENT_CONFIRMED",
    "RECEIVED": "PAYMENT_RECEIVED",
    "RECEIVED_IN_CASH": "PAYMENT_RECEIVED",
    "DUNNING_RECEIVED": "PAYMENT_DUNNING_RECEIVED",
    "REFUNDED": "PAYMENT_REFUNDED",
    "CHARGEBACK_REQUESTED": "PAYMENT_CHARGEBACK_REQUESTED",
}
_FIELDS: Final = (
    "id", "externalReference", "status", "billingType", "value", "netValue", "originalValue", "dueDate", "paymentDate",
    "clientPaymentDate", "confirmedDate", "subscription", "installment", "deleted",
)  # fmt: skip
_KEPT: Final = ("id", "event", "dateCreated", *(f"payment.{name}" for name in _FIELDS))


class AsaasSecrets(ProviderSecrets):
    """
    A tenant's account at Asaas.

    Attributes:
        tokens: The webhook's authentication token; more than one during a change.
        addresses: The addresses that may send; any if it is empty.
        behind_proxy: Whether a proxy of yours writes the client's address at the end of `X-Forwarded-For`.
    """

    tokens: list[SecretStr] = Field(min_length=1)
    addresses: tuple[str, ...] = ()
    behind_proxy: bool = False


def refusal(secrets: AsaasSecrets, request: PaymentRequest, _: datetime) -> str | None:
    if (refused := signatures.token(request.headers.get(HEADER), plain(secrets.tokens))) is not None:
        return refused
    address = request.address
    if secrets.behind_proxy:
        address = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    if secrets.addresses and not any(hmac.compare_digest(address.encode(), one.encode()) for one in secrets.addresses):
        return "another_address"
    return None


def read(request: PaymentRequest) -> PaymentEvent:
    """
    Read an event.

    Raises:
        InvalidEvent: The body is not one.
    """
    body = document(request.body)
    return _event(body, text(body, "id") or digest(request.body))


def reported(api: ProviderApi, since: datetime, now: datetime) -> list[PaymentEvent]:
    """
    Ask which payments were made since a time, as events.

    Raises:
        ProviderError: Asaas does not answer, or refuses.
    """
    first = since.astimezone(_BRAZIL).date()
    found: dict[str, PaymentEvent] = {}
    # A confirmed payment by card has no date of payment until the money is there.
    for wanted in ({"paymentDate[ge]": first.isoformat()}, {"status": "CONFIRMED"}):
        for payment in api.offsets("/payments", wanted, _PAGE, "data", lambda page: page.get("hasMore") is True):
            event = _reported(payment, first, now)
            if event is not None:
                found[event.event_id] = event
    return list(found.values())


def _reported(payment: dict[str, Any], first: date, now: datetime) -> PaymentEvent | None:
    name = _STATUSES.get(text(payment, "status") or "")
    paid_on = _paid_on(payment)
    if name is None or (paid_on is not None and paid_on < first):
        return None
    # The payment is so now, whatever came before.
    return replace(
        _event({"event": name, "payment": payment}, f"reconciled:{text(payment, 'id')}:{name}"), occurred_at=now
    )


def _event(body: dict[str, Any], event_id: str) -> PaymentEvent:
    name, payment = text(body, "event"), part(body, "payment")
    if name is None:
        raise InvalidEvent("event is missing")
    effect = _EFFECTS.get(name, Effect.IGNORED)
    note = None if name in _EFFECTS else "partial_refund" if name == "PAYMENT_PARTIALLY_REFUNDED" else "unknown_event"
    payment_id = text(payment, "id")
    if payment_id is None and effect is not Effect.IGNORED:
        raise InvalidEvent("payment.id is missing")
    occurred_at = moment(body, "dateCreated", local=True)
    value = reais(payment, "value")
    if effect in PAYMENTS and value == 0:
        effect, note = Effect.IGNORED, "amount_zero"
    is_change = effect in CHANGES
    return PaymentEvent(
        provider=NAME,
        event_id=event_id,
        event=name,
        effect=effect,
        references=references(text(payment, "externalReference"), payment_id),
        payment_id=payment_id,
        amount=None if is_change else value,
        paid_at=noon(_paid_on(payment), occurred_at) or occurred_at if effect in PAYMENTS else None,
        occurred_at=occurred_at,
        due_date=day(payment, "dueDate") if is_change else None,
        new_amount=value if is_change else None,
        raw=kept(body, _KEPT),
        note=note,
    )


def _paid_on(payment: dict[str, Any]) -> date | None:
    return day(payment, "clientPaymentDate") or day(payment, "paymentDate") or day(payment, "confirmedDate")
