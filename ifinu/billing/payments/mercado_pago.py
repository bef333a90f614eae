"""
Mercado Pago: a webhook names a payment, and its API says what became of it, in reais.

The signature covers the payment's id, the request's id and a time, not the body. That is enough: nothing else is read
from the webhook, so a repeated or an altered one only makes us ask again. For this reason no time is too old, and the
tries that follow over hours are accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
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
    digest,
    document,
    kept,
    moment,
    part,
    reais,
    references,
    text,
)
from ifinu.billing.payments.provider_secrets import ProviderSecrets, plain

NAME: Final = "mercado_pago"
HEADER: Final = "x-signature"
REQUEST_HEADER: Final = "x-request-id"
API: Final = "https://api.mercadopago.com"
_PAGE: Final = 100
_PAYMENT_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_EFFECTS: Final = {
    "approved": Effect.PAID,
    "refunded": Effect.REFUNDED,
    "charged_back": Effect.REFUNDED,
    # `cancelled` is one try to pay that ended, not the charge.
}
_KEPT: Final = (
    "id", "status", "status_detail", "external_reference", "transaction_amount", "transaction_amount_refunded",
    "currency_id", "payment_method_id", "payment_type_id", "date_created", "date_approved", "date_last_updated",
    "live_mode",
)  # fmt: skip


class MercadoPagoSecrets(ProviderSecrets):
    """
    A tenant's account at Mercado Pago.

    Attributes:
        secrets: The secret signature of the webhooks; more than one during a change.
        api_key: The access token, which every webhook needs.
    """

    secrets: list[SecretStr] = Field(min_length=1)
    api_key: SecretStr


def refusal(secrets: MercadoPagoSecrets, request: PaymentRequest, _: datetime) -> str | None:
    header = request.headers.get(HEADER)
    if not header:
        return signatures.NOTHING
    found = signatures.parts(header)
    at, shown = found.get("ts", [""])[0], found.get("v1", [])
    if not at or not shown:
        return signatures.MALFORMED
    request_id = request.headers.get(REQUEST_HEADER)
    refused: str | None = signatures.WRONG
    for data_id in _ids(request):
        signed = "".join(
            f"{name}:{value};" for name, value in (("id", data_id), ("request-id", request_id), ("ts", at)) if value
        )
        refused = signatures.hexadecimal(shown, signed.encode("utf-8", "replace"), plain(secrets.secrets))
        if refused is None:
            return None
    return refused


def payment_named(request: PaymentRequest) -> str | PaymentEvent:
    """
    Read a webhook.

    Returns:
        The id of the payment to ask for; or an event that is ignored, since it is about something else.

    Raises:
        InvalidEvent: The body is not a webhook.
    """
    body = document(request.body)
    # The older form has `topic` and `resource`.
    kind = text(body, "type") or text(body, "topic") or request.query.get("type") or request.query.get("topic")
    if kind is None:
        raise InvalidEvent("type is missing")
    if kind != "payment":
        event_id = text(body, "id") or digest(request.body)
        return PaymentEvent(NAME, event_id, kind, Effect.IGNORED, raw={"type": kind}, note="unknown_event")
    named = request.query.get("data.id") or text(part(body, "data"), "id")
    named = named or (text(body, "resource") or "").rpartition("/")[2]
    if not _PAYMENT_ID.fullmatch(named):
        raise InvalidEvent("data.id is missing or not the id of a payment")
    return named


def read(request: PaymentRequest, api: ProviderApi) -> PaymentEvent:
    """
    Read a webhook, and ask for its payment.

    Raises:
        InvalidEvent: The body is not a webhook, or the answer not a payment.
        ProviderError: Mercado Pago does not answer, or refuses.
    """
    named = payment_named(request)
    if isinstance(named, PaymentEvent):
        return named
    payment = api.find(f"/v1/payments/{named}")
    if payment is None:  # such as the sample payment of its test
        missing = {"id": named}
        return PaymentEvent(NAME, f"{named}:missing", "payment", Effect.IGNORED, raw=missing, note="no_such_payment")
    return event_of(payment)


def event_of(payment: dict[str, Any]) -> PaymentEvent:
    """
    The event that a payment stands for, which is the same each time it is asked for in one state.

    Raises:
        InvalidEvent: The object is not a payment.
    """
    payment_id, status = text(payment, "id"), text(payment, "status")
    if payment_id is None or status is None:
        raise InvalidEvent("id or status is missing")
    amount, refunded = reais(payment, "transaction_amount"), reais(payment, "transaction_amount_refunded")
    effect = _EFFECTS.get(status, Effect.IGNORED)
    note = None if effect is not Effect.IGNORED else "no_change"
    if effect is not Effect.IGNORED and (text(payment, "currency_id") or "BRL") != "BRL":
        effect, note = Effect.IGNORED, "other_currency"
    elif effect is Effect.PAID and amount == 0:
        effect, note = Effect.IGNORED, "amount_zero"
    occurred_at = moment(payment, "date_last_updated")
    approved_at = moment(payment, "date_approved")
    if effect is Effect.PAID:
        occurred_at = approved_at or occurred_at  # a later change of an approved payment is no later payment
    return PaymentEvent(
        provider=NAME,
        event_id=f"{payment_id}:{status}",
        event=f"payment.{status}",
        effect=effect,
        references=references(text(payment, "external_reference"), payment_id),
        payment_id=payment_id,
        amount=refunded if effect is Effect.REFUNDED and refunded else amount,
        paid_at=(approved_at or occurred_at) if effect in PAYMENTS else None,
        occurred_at=occurred_at,
        raw=kept(payment, _KEPT),
        note=note,
    )


def reported(api: ProviderApi, since: datetime, now: datetime) -> list[PaymentEvent]:
    """
    Ask which payments changed since a time, as events.

    Raises:
        ProviderError: Mercado Pago does not answer, or refuses.
    """
    wanted = {
        "sort": "date_last_updated", "criteria": "asc", "range": "date_last_updated",
        "begin_date": _written(since), "end_date": _written(now),
    }  # fmt: skip
    events = (event_of(one) for one in api.offsets("/v1/payments/search", wanted, _PAGE, "results", _has_more))
    return [event for event in events if event.effect is not Effect.IGNORED]


def _ids(request: PaymentRequest) -> Iterator[str]:
    """The ids that may be signed: of the URL, else of the body; as they are and in small letters, as both are seen."""
    named = request.query.get("data.id") or request.query.get("id")
    if not named:
        try:
            named = text(part(document(request.body), "data"), "id")
        except InvalidEvent:
            named = None
    yield named or ""
    if named and named.lower() != named:
        yield named.lower()


def _has_more(page: dict[str, Any]) -> bool:
    paging = part(page, "paging")
    counts = [paging.get(name) for name in ("offset", "limit", "total")]
    return all(isinstance(one, int) for one in counts) and counts[0] + counts[1] < counts[2]  # type: ignore[operator]


def _written(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
