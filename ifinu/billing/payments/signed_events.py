"""
Events in ifinu's own form, from a provider or an ERP that has no module here.

    X-Ifinu-Signature: t=<seconds since 1970>,v1=<hex of HMAC-SHA256(secret, "<t>.<body>")>

    {"id": "evt-1", "event": "charge.paid", "charge_id": "inv-42", "amount": "149.90",
     "paid_at": "2026-12-10T10:30:00-03:00", "payment_id": "p-7", "occurred_at": "2026-12-10T10:30:02-03:00"}

`id`, `event` and `charge_id` are required. Without `amount` the charge is paid as a whole. Events with one `payment_id`
speak of one payment; without it each event is about another payment.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pydantic import Field, SecretStr

from ifinu.billing.payments import signatures
from ifinu.billing.payments.provider_events import (
    Effect,
    InvalidEvent,
    PaymentEvent,
    PaymentRequest,
    document,
    kept,
    moment,
    reais,
    references,
    text,
)
from ifinu.billing.payments.provider_secrets import ProviderSecrets, plain

NAME: Final = "generic"
HEADER: Final = "x-ifinu-signature"
_EFFECTS: Final = {
    "charge.paid": Effect.PAID,
    "charge.refunded": Effect.REFUNDED,
    "charge.cancelled": Effect.CANCELLED,
}
_KEPT: Final = ("id", "event", "charge_id", "amount", "paid_at", "payment_id", "occurred_at")


class SignedSecrets(ProviderSecrets):
    """
    The secrets of a sender.

    Attributes:
        secrets: Each is accepted: the present one, and during a change the one before.
    """

    secrets: list[SecretStr] = Field(min_length=1)


def refusal(secrets: SignedSecrets, request: PaymentRequest, now: datetime) -> str | None:
    return signatures.timed(request.headers.get(HEADER), request.body, plain(secrets.secrets), now)


def read(request: PaymentRequest) -> PaymentEvent:
    """
    Read an event.

    Raises:
        InvalidEvent: The body is not one.
    """
    body = document(request.body)
    event_id, event, charge_id = text(body, "id"), text(body, "event"), text(body, "charge_id")
    if event_id is None or event is None:
        raise InvalidEvent("id or event is missing")
    effect = _EFFECTS.get(event, Effect.IGNORED)
    if charge_id is None and effect is not Effect.IGNORED:
        raise InvalidEvent("charge_id is missing")
    amount = reais(body, "amount")
    note = None if effect is not Effect.IGNORED else "unknown_event"
    if effect is Effect.PAID and amount == 0:
        effect, note = Effect.IGNORED, "amount_zero"
    return PaymentEvent(
        provider=NAME,
        event_id=event_id,
        event=event,
        effect=effect,
        references=references(charge_id),
        payment_id=text(body, "payment_id") or event_id,
        amount=amount,
        paid_at=moment(body, "paid_at"),
        occurred_at=moment(body, "occurred_at"),
        raw=kept(body, _KEPT),
        note=note,
    )
