"""
Stripe: events about checkout sessions, invoices, payment intents, charges and disputes, in centavos of BRL.

A session that is complete is not paid yet if it is paid by boleto: only `payment_status=paid` counts. A charge of ours
is named by `metadata.cobranca_id`. An event about a refund or a dispute may have no metadata; it is about the payment
intent of an event that came before.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from pydantic import Field, SecretStr

from ifinu.billing.payments import signatures
from ifinu.billing.payments.provider_api import ProviderApi
from ifinu.billing.payments.provider_events import (
    PAYMENTS,
    Effect,
    InvalidEvent,
    PaymentEvent,
    PaymentRequest,
    centavos,
    document,
    kept,
    part,
    references,
    since_1970,
    text,
)
from ifinu.billing.payments.provider_secrets import ProviderSecrets, plain

NAME: Final = "stripe"
HEADER: Final = "stripe-signature"
API: Final = "https://api.stripe.com"
_PAGE: Final = 100
_REFERENCE: Final = "cobranca_id"
_KEPT: Final = (
    "id", "type", "created", "livemode", "data.object.object", "data.object.id", "data.object.status",
    "data.object.payment_status", "data.object.payment_intent", "data.object.invoice", "data.object.charge",
    "data.object.client_reference_id", "data.object.currency", "data.object.amount", "data.object.amount_total",
    "data.object.amount_paid", "data.object.amount_received", "data.object.amount_refunded",
    f"data.object.metadata.{_REFERENCE}",
)  # fmt: skip


class StripeSecrets(ProviderSecrets):
    """
    A tenant's account at Stripe.

    Attributes:
        secrets: The signing secrets of the endpoint, `whsec_…`; more than one during a change.
    """

    secrets: list[SecretStr] = Field(min_length=1)


def refusal(secrets: StripeSecrets, request: PaymentRequest, now: datetime) -> str | None:
    return signatures.timed(request.headers.get(HEADER), request.body, plain(secrets.secrets), now)


def read(request: PaymentRequest) -> PaymentEvent:
    """
    Read an event.

    Raises:
        InvalidEvent: The body is not one.
    """
    return _event(document(request.body))


def reported(api: ProviderApi, since: datetime, _: datetime) -> list[PaymentEvent]:
    """
    Ask for the events since a time; Stripe keeps them for 30 days, under the ids that its webhooks have.

    Raises:
        ProviderError: Stripe does not answer, or refuses.
    """
    wanted: list[tuple[str, str]] = [("created[gte]", str(int(since.timestamp()))), ("limit", str(_PAGE))]
    wanted += [("types[]", name) for name in _READERS]
    found: list[PaymentEvent] = []
    after: str | None = None
    while True:
        page = api.get("/v1/events", [*wanted, *([("starting_after", after)] if after else [])])
        bodies = api.listed(page, "data")
        found += [_event(body) for body in bodies]
        if page.get("has_more") is not True or not bodies:
            return found[::-1]  # the newest came first
        after = text(bodies[-1], "id")


def _event(body: dict[str, Any]) -> PaymentEvent:
    event_id, name = text(body, "id"), text(body, "type")
    if event_id is None or name is None:
        raise InvalidEvent("id or type is missing")
    subject = part(part(body, "data"), "object")
    occurred_at = since_1970(body, "created")
    reader = _READERS.get(name)
    effect, amount_field, note = reader(subject) if reader is not None else (Effect.IGNORED, None, "unknown_event")
    amount = None if amount_field is None else centavos(subject, amount_field)
    currency = (text(subject, "currency") or "brl").lower()
    if effect is not Effect.IGNORED and currency != "brl":
        effect, note = Effect.IGNORED, "other_currency"
    if effect in PAYMENTS and amount == 0:
        # An invoice that was paid elsewhere, or by the customer's balance, is paid as a whole.
        effect, amount, note = (effect, None, None) if name == "invoice.paid" else (Effect.IGNORED, None, "amount_zero")
    own_id, intent = text(subject, "id"), _id(subject, "payment_intent")
    payment_id = own_id if name.startswith("payment_intent.") else intent or _id(subject, "charge") or own_id
    if effect is not Effect.IGNORED and payment_id is None:
        raise InvalidEvent("data.object.id is missing")
    return PaymentEvent(
        provider=NAME,
        event_id=event_id,
        event=name,
        effect=effect,
        references=references(
            text(part(subject, "metadata"), _REFERENCE), text(subject, "client_reference_id"), own_id, intent
        ),
        payment_id=payment_id,
        amount=amount,
        paid_at=occurred_at if effect in PAYMENTS else None,
        occurred_at=occurred_at,
        raw=kept(body, _KEPT),
        note=note,
    )


_Reading = tuple[Effect, str | None, str | None]  # effect, the field of the amount, note


def _session(subject: dict[str, Any]) -> _Reading:
    if text(subject, "payment_status") != "paid":
        return Effect.IGNORED, None, "not_paid_yet"
    return Effect.PAID, "amount_total", None


def _refund(subject: dict[str, Any]) -> _Reading:
    amount, refunded = centavos(subject, "amount"), centavos(subject, "amount_refunded")
    if amount is not None and refunded is not None and refunded < amount:
        return Effect.IGNORED, "amount_refunded", "partial_refund"
    return Effect.REFUNDED, "amount_refunded", None


_READERS: Final[dict[str, Callable[[dict[str, Any]], _Reading]]] = {
    "checkout.session.completed": _session,
    "checkout.session.async_payment_succeeded": lambda _: (Effect.PAID, "amount_total", None),
    "invoice.paid": lambda _: (Effect.PAID, "amount_paid", None),
    "payment_intent.succeeded": lambda _: (Effect.PAID, "amount_received", None),
    "charge.refunded": _refund,
    "charge.dispute.created": lambda _: (Effect.REFUNDED, "amount", None),
}


def _id(subject: dict[str, Any], name: str) -> str | None:
    """The id of another object, which stands alone or, if it was asked for, as the object."""
    value = subject.get(name)
    return text(value, "id") if isinstance(value, dict) else text(subject, name)
