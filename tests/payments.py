"""Webhooks of payment providers, shaped as theirs, with names and documents beside what is needed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ifinu.billing.payments.provider_events import PaymentRequest

TENANT = "academia"
SECRET = "a secret of a provider in the tests"
PERSONAL = ("Maria da Silva", "maria@example.com", "12345678909", "+5511987654321")
WOOVI_KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
WOOVI_PEM = (
    WOOVI_KEY.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
SECRETS: dict[str, dict[str, Any]] = {
    "generic": {"secrets": [SECRET]},
    "asaas": {"tokens": [SECRET], "api_key": "asaas-key"},
    "stripe": {"secrets": [SECRET], "api_key": "stripe-key"},
    "woovi": {"companies": ["12.345.678/0001-95"], "public_keys": [WOOVI_PEM], "api_key": "woovi-key"},
    "mercado_pago": {"secrets": [SECRET], "api_key": "mercado-pago-key"},
}


def asaas(event: str = "PAYMENT_RECEIVED", at: str = "2026-12-10 16:45:03", **changes: Any) -> dict[str, Any]:
    payment = {
        "object": "payment", "id": "pay_080225913252", "dateCreated": "2026-12-01", "customer": "cus_G7Dvo4iphUNk",
        "subscription": None, "installment": None, "paymentLink": None, "dueDate": "2026-12-10",
        "originalDueDate": "2026-12-10", "value": 149.90, "netValue": 148.91, "originalValue": None,
        "interestValue": None, "nossoNumero": None, "description": "Mensalidade de Maria da Silva",
        "externalReference": "inv-42", "billingType": "PIX", "status": "RECEIVED", "pixTransaction": None,
        "confirmedDate": "2026-12-10", "paymentDate": "2026-12-10", "clientPaymentDate": "2026-12-10",
        "invoiceUrl": "https://www.asaas.com/i/080225913252", "deleted": False, "chargeback": None, "refunds": None,
        "creditCard": {"creditCardNumber": "8829", "creditCardBrand": "MASTERCARD", "creditCardToken": "a75a1d98"},
        "customerName": PERSONAL[0], "customerEmail": PERSONAL[1], "cpfCnpj": PERSONAL[2], "mobilePhone": PERSONAL[3],
    }  # fmt: skip
    id_ = hashlib.md5(f"{event}{at}{changes}".encode()).hexdigest()
    return {"id": f"evt_{id_}&368604920", "event": event, "dateCreated": at, "payment": payment | changes}


def stripe(event: str = "checkout.session.completed", id_: str = "evt_1", created: int = 1_796_930_000,
           **changes: Any) -> dict[str, Any]:  # fmt: skip
    details = {"name": PERSONAL[0], "email": PERSONAL[1], "phone": PERSONAL[3]}
    subjects: dict[str, dict[str, Any]] = {
        "checkout.session": {
            "id": "cs_1", "object": "checkout.session", "amount_total": 14_990, "currency": "brl",
            "payment_intent": "pi_1", "payment_status": "paid", "status": "complete", "client_reference_id": None,
            "invoice": None, "metadata": {"cobranca_id": "inv-42"}, "customer_details": details,
        },
        "invoice": {
            "id": "in_1", "object": "invoice", "amount_paid": 14_990, "currency": "brl", "payment_intent": "pi_1",
            "metadata": {"cobranca_id": "inv-42"}, "customer_name": PERSONAL[0], "customer_email": PERSONAL[1],
        },
        "payment_intent": {
            "id": "pi_1", "object": "payment_intent", "amount": 14_990, "amount_received": 14_990, "currency": "brl",
            "metadata": {"cobranca_id": "inv-42"}, "receipt_email": PERSONAL[1], "status": "succeeded",
        },
        "charge": {
            "id": "ch_1", "object": "charge", "amount": 14_990, "amount_refunded": 14_990, "currency": "brl",
            "payment_intent": "pi_1", "refunded": True, "metadata": {}, "billing_details": details,
        },
        "charge.dispute": {
            "id": "dp_1", "object": "dispute", "amount": 14_990, "currency": "brl", "charge": "ch_1",
            "payment_intent": "pi_1", "metadata": {}, "evidence": {"customer_name": PERSONAL[0]},
        },
    }  # fmt: skip
    name = max((one for one in subjects if event.startswith(f"{one}.")), key=len, default="charge")
    return {
        "id": id_, "object": "event", "type": event, "created": created, "livemode": True,
        "api_version": "2025-03-31.basil", "data": {"object": subjects[name] | changes},
    }  # fmt: skip


def woovi(event: str = "OPENPIX:CHARGE_COMPLETED", value: int = 14_990, refunded: int | None = None,
          **changes: Any) -> dict[str, Any]:  # fmt: skip
    person = {
        "name": PERSONAL[0], "email": PERSONAL[1], "phone": PERSONAL[3],
        "taxID": {"taxID": PERSONAL[2], "type": "BR:CPF"}, "correlationID": "9134e286-6f71-427a-bf00-241681624586",
    }  # fmt: skip
    charge = {
        "customer": person, "value": value, "comment": "Mensalidade", "identifier": "ea83401ed4834b3ea6f1f283b389af29",
        "correlationID": "inv-42", "paymentLinkID": "34697ed2-3790-4b60-8512-e7465b142d84",
        "transactionID": "ea83401ed4834b3ea6f1f283b389af29", "status": "COMPLETED", "additionalInfo": [],
        "discount": 0, "valueWithDiscount": value, "type": "DYNAMIC", "createdAt": "2026-12-10T12:43:54.528Z",
        "updatedAt": "2026-12-10T12:44:09.360Z", "paidAt": "2026-12-10T12:44:09.269Z", "payer": person,
    }  # fmt: skip
    pix = {
        "customer": person, "payer": person, "charge": charge | changes, "value": value,
        "time": "2026-12-10T12:44:09.269Z", "endToEndId": "E60701190202612101243DY5TTKHDQKT",
        "transactionID": "ea83401ed4834b3ea6f1f283b389af29", "infoPagador": PERSONAL[0], "type": "PAYMENT",
    }  # fmt: skip
    body = {
        "event": event, "charge": charge | changes, "pix": pix, "pixQrCode": None, "account": {"environment": "x"},
        "company": {"id": "624f46f9e93f9f521c9308d7", "name": "Academia", "taxID": "12345678000195"},
    }  # fmt: skip
    if refunded is not None:
        body["refund"] = {"value": refunded, "status": "CONFIRMED", "time": "2026-12-12T09:00:00.000Z",
                          "endToEndId": "E60701190202612101243DY5TTKHDQKT"}  # fmt: skip
        del body["pix"]
    return body


def mercado_pago(payment_id: str = "1234567890") -> dict[str, Any]:
    return {
        "id": 112_233_445_566, "live_mode": True, "type": "payment", "date_created": "2026-12-10T13:01:08.000-03:00",
        "application_id": 1_234_567_890, "user_id": 987_654_321, "version": 1, "api_version": "v1",
        "action": "payment.updated", "data": {"id": payment_id},
    }  # fmt: skip


def mercado_pago_payment(status: str = "approved", **changes: Any) -> dict[str, Any]:
    return {
        "id": 1_234_567_890, "status": status, "status_detail": "accredited", "external_reference": "inv-42",
        "transaction_amount": 149.9, "transaction_amount_refunded": 0, "currency_id": "BRL",
        "payment_method_id": "pix", "payment_type_id": "bank_transfer", "live_mode": True,
        "date_created": "2026-12-10T13:00:00.000-03:00", "date_approved": "2026-12-10T13:01:00.000-03:00",
        "date_last_updated": "2026-12-10T13:01:00.000-03:00", "description": "Mensalidade",
        "payer": {"email": PERSONAL[1], "first_name": PERSONAL[0], "identification": {"number": PERSONAL[2]}},
    } | changes  # fmt: skip


def signed(event: str = "charge.paid", id_: str = "evt-1", **changes: Any) -> dict[str, Any]:
    return {
        "id": id_, "event": event, "charge_id": "inv-42", "amount": "149.90",
        "paid_at": "2026-12-10T10:30:00-03:00", "payer": PERSONAL[0],
    } | changes  # fmt: skip


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def headers_of(provider: str, body: bytes, now: datetime, secret: str = SECRET) -> dict[str, str]:
    """The headers that prove a body, as the provider makes them."""
    at = str(int(now.timestamp()))
    timed = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    match provider:
        case "generic":
            return {"x-ifinu-signature": f"t={at},v1={timed}"}
        case "stripe":
            return {"stripe-signature": f"t={at},v1={'0' * 64},v1={timed},v0=old"}
        case "asaas":
            return {"asaas-access-token": secret}
        case "woovi":
            key = WOOVI_KEY if secret == SECRET else rsa.generate_private_key(public_exponent=65_537, key_size=2048)
            signature = key.sign(body, padding.PKCS1v15(), hashes.SHA256())
            return {"x-webhook-signature": base64.b64encode(signature).decode()}
        case "mercado_pago":
            try:
                named = json.loads(body)["data"]["id"]
            except (ValueError, KeyError, TypeError, RecursionError):
                named = ""
            at = f"{at}000"
            manifest = f"id:{named};request-id:7f0e;ts:{at};" if named else f"request-id:7f0e;ts:{at};"
            shown = hmac.new(secret.encode(), manifest.encode(), hashlib.sha256).hexdigest()
            return {"x-signature": f"ts={at},v1={shown}", "x-request-id": "7f0e"}
    raise AssertionError(provider)


def request_of(provider: str, body: Any, now: datetime, secret: str = SECRET, **headers: str) -> PaymentRequest:
    raw = encoded(body)
    return PaymentRequest(headers_of(provider, raw, now, secret) | headers, raw)
