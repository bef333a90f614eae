"""
Woovi, formerly OpenPix: events about Pix charges, in centavos.

Woovi signs each webhook with one key for all its customers, so the signature proves that Woovi sent it, but not for
which account: a stranger could register this address, and pay a charge of theirs under an id of ours. So the account is
proven too, by the webhook's `Authorization` or by the company in the body. The older HMAC-SHA1 has a secret for each
webhook, and needs nothing else.

Woovi tries again for about 42 minutes only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Self

from pydantic import SecretStr, field_validator, model_validator

from ifinu.billing.payments import signatures
from ifinu.billing.payments.provider_api import ProviderApi
from ifinu.billing.payments.provider_events import (
    PAYMENTS,
    Effect,
    InvalidEvent,
    PaymentEvent,
    PaymentRequest,
    centavos,
    digest,
    document,
    kept,
    moment,
    part,
    references,
    text,
)
from ifinu.billing.payments.provider_secrets import ProviderSecrets, plain

NAME: Final = "woovi"
HEADER: Final = "x-webhook-signature"
OLD_HEADER: Final = "x-openpix-signature"
API: Final = "https://api.woovi.com"
# As https://api.woovi.com/api/v1/webhook/public-keys gives it.
PUBLIC_KEY: Final = """-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC/+NtIkjzevvqD+I3MMv3bLXDt
pvxBjY4BsRrSdca3rtAwMcRYYvxSnd7jagVLpctMiOxQO8ieUCKLSWHpsMAjO/zZ
WMKbqoG8MNpi/u3fp6zz0mcHCOSqYsPUUG19buW8bis5ZZ2IZgBObWSpTvJ0cnj6
HKBAA82Jln+lGwS1MwIDAQAB
-----END PUBLIC KEY-----
"""
_PAGE: Final = 100
_TEST: Final = "teste_webhook"
_EFFECTS: Final = {
    "CHARGE_COMPLETED": Effect.PAID,
    "CHARGE_COMPLETED_NOT_SAME_CUSTOMER_PAYER": Effect.PAID,
    "TRANSACTION_RECEIVED": Effect.PAID,
    "TRANSACTION_REFUND_RECEIVED": Effect.REFUNDED,
    "PIX_TRANSACTION_REFUND_SENT_CONFIRMED": Effect.REFUNDED,
}
_WITHOUT_EFFECT: Final = frozenset({"CHARGE_CREATED", "CHARGE_EXPIRED"})
_CHARGES: Final = ("charge", "pix.charge", "refund.charge", "transaction.charge", "pixTransactionRefund.charge")
_PIXES: Final = ("pix", "refund", "transaction", "pixTransactionRefund")
_CHARGE_FIELDS: Final = ("correlationID", "transactionID", "identifier", "status", "value", "paidAt", "updatedAt")
_PIX_FIELDS: Final = ("endToEndId", "returnIdentification", "transactionID", "status", "value", "time")
_KEPT: Final = (
    "event", "evento", "company.id",
    *(f"{place}.{name}" for place in _CHARGES for name in _CHARGE_FIELDS),
    *(f"{place}.{name}" for place in _PIXES for name in _PIX_FIELDS),
)  # fmt: skip


class WooviSecrets(ProviderSecrets):
    """
    A tenant's account at Woovi.

    Attributes:
        companies: Ids or CNPJs of the account's company, as `company` in a webhook's body.
        authorizations: The webhook's `Authorization`; more than one during a change.
        hmac_secrets: The webhook's secrets for the older signature.
        public_keys: Woovi's keys in PEM, if they are no longer the known one.
    """

    companies: tuple[str, ...] = ()
    authorizations: tuple[SecretStr, ...] = ()
    hmac_secrets: tuple[SecretStr, ...] = ()
    public_keys: tuple[str, ...] = (PUBLIC_KEY,)

    @field_validator("public_keys")
    @classmethod
    def _are_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pem in value:
            signatures.public_key(pem)
        return value

    @model_validator(mode="after")
    def _proves_the_account(self) -> Self:
        if not (self.companies or self.authorizations or self.hmac_secrets):
            raise ValueError("needs companies, authorizations or hmac_secrets: Woovi's key is the same for all")
        return self


def refusal(secrets: WooviSecrets, request: PaymentRequest, _: datetime) -> str | None:
    shown, old = request.headers.get(HEADER), request.headers.get(OLD_HEADER)
    if secrets.hmac_secrets and signatures.sha1(old, request.body, plain(secrets.hmac_secrets)) is None:
        return None
    if not secrets.companies and not secrets.authorizations:
        return signatures.NOTHING if old is None else signatures.WRONG
    if (refused := signatures.by_public_key(shown, request.body, secrets.public_keys)) is not None:
        return refused
    by_token = signatures.token(request.headers.get("authorization"), plain(secrets.authorizations))
    return None if by_token is None or _is_of(secrets.companies, request.body) else "another_account"


def read(request: PaymentRequest) -> PaymentEvent:
    """
    Read an event.

    Raises:
        InvalidEvent: The body is not one.
    """
    body = document(request.body)
    name = text(body, "event") or text(body, "evento")
    if name is None:
        raise InvalidEvent("event is missing")
    if _is_test(body):
        return PaymentEvent(NAME, digest(request.body), name, Effect.IGNORED, raw=kept(body, _KEPT), note="test")
    return _event(name, body, digest(request.body))


def reported(api: ProviderApi, since: datetime, now: datetime) -> list[PaymentEvent]:
    """
    Ask which Pix were received since a time, as events.

    Raises:
        ProviderError: Woovi does not answer, or refuses.
    """
    wanted = {"start": _rfc3339(since), "end": _rfc3339(now)}
    pages = api.offsets("/api/v1/transaction", wanted, _PAGE, "transactions", _has_next, offset="skip")
    events = []
    for pix in pages:
        if text(pix, "type") in (None, "PAYMENT") and part(pix, "charge"):
            events.append(_event("TRANSACTION_RECEIVED", {"pix": pix}, ""))
    return events


def _event(name: str, body: dict[str, Any], otherwise: str) -> PaymentEvent:
    kind = name.rpartition(":")[2].upper()
    effect = _EFFECTS.get(kind, Effect.IGNORED)
    charge, pix = _first(body, _CHARGES), _first(body, _PIXES)
    correlation, transaction, end_to_end = (
        text(charge, "correlationID"), text(charge, "transactionID"), text(pix, "endToEndId")
    )  # fmt: skip
    note = None if effect is not Effect.IGNORED else "no_change" if kind in _WITHOUT_EFFECT else "unknown_event"
    amount = centavos(pix, "value") or centavos(charge, "value")
    if effect is Effect.PAID and not charge:
        effect, note = Effect.IGNORED, "without_charge"
    elif effect is Effect.REFUNDED and _is_partial(pix, charge):
        effect, note = Effect.IGNORED, "partial_refund"
    if effect is not Effect.IGNORED and not (correlation or transaction or end_to_end):
        raise InvalidEvent("charge.correlationID is missing")
    at = moment(pix, "time") or moment(charge, "paidAt") or moment(charge, "updatedAt")
    # A charge is paid once, and refunded as a whole once.
    payment = correlation or transaction or end_to_end
    return PaymentEvent(
        provider=NAME,
        event_id=f"{kind}:{payment}" if payment and effect is not Effect.IGNORED else otherwise or f"{kind}:{payment}",
        event=name,
        effect=effect,
        references=references(correlation, transaction, text(charge, "identifier"), end_to_end),
        payment_id=payment,
        amount=amount,
        paid_at=at if effect in PAYMENTS else None,
        occurred_at=at,
        raw=kept(body, _KEPT),
        note=note,
    )


def _is_partial(pix: dict[str, Any], charge: dict[str, Any]) -> bool:
    refunded, paid = centavos(pix, "value"), centavos(charge, "value")
    return refunded is not None and paid is not None and refunded < paid


def _first(body: dict[str, Any], paths: tuple[str, ...]) -> dict[str, Any]:
    for path in paths:
        found = body
        for name in path.split("."):
            found = part(found, name)
        if found:
            return found
    return {}


def _is_test(body: dict[str, Any]) -> bool:
    return body.get("evento") == _TEST


def _is_of(companies: Sequence[str], raw: bytes) -> bool:
    try:
        body = document(raw)
        company = part(body, "company")
        tax = company.get("taxID")
        shown = (text(company, "id"), text(tax, "taxID") if isinstance(tax, dict) else text(company, "taxID"))
    except InvalidEvent:
        return False
    # A test has no company, and changes nothing.
    return _is_test(body) or any(_bare(one) == _bare(each) for one in shown if one for each in companies)


def _bare(name: str) -> str:
    return re.sub(r"[./-]", "", name).lower()


def _has_next(page: dict[str, Any]) -> bool:
    return part(page, "pageInfo").get("hasNextPage") is True


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
