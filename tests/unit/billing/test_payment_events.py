"""What is read from the webhooks of payment providers, and which are refused."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import payments
import pytest
from hypothesis import given
from hypothesis import strategies as st
from payments import PERSONAL, SECRET, SECRETS, encoded, headers_of, request_of

from ifinu.billing.payments import asaas, mercado_pago, signed_events, stripe, woovi
from ifinu.billing.payments.provider_events import Effect, InvalidEvent, PaymentEvent, PaymentRequest
from ifinu.billing.payments.providers import MODELS, PROVIDERS

NOW = datetime(2026, 12, 10, 19, 45, 10, tzinfo=UTC)
NOON = datetime(2026, 12, 10, 15, tzinfo=UTC)
BODIES = {
    "generic": payments.signed(),
    "asaas": payments.asaas(),
    "stripe": payments.stripe(),
    "woovi": payments.woovi(),
    "mercado_pago": payments.mercado_pago(),
}
each_provider = pytest.mark.parametrize("provider", BODIES)


def secrets_of(provider, **changes):
    return MODELS[provider].model_validate(SECRETS[provider] | changes)


def refusal(provider, request, now=NOW, **changes):
    return PROVIDERS[provider].refusal(secrets_of(provider, **changes), request, now)


def read(provider, body):
    """The event in a webhook; of Mercado Pago, in the payment that its API returns."""
    if provider == "mercado_pago":
        return mercado_pago.event_of(json.loads(encoded(body), parse_float=Decimal))
    return PROVIDERS[provider].read(PaymentRequest({}, encoded(body)))


PAID = Decimal("149.90")


@pytest.mark.parametrize(
    ("provider", "body", "effect", "references", "payment_id", "amount"),
    [
        ("generic", payments.signed(), "paid", ("inv-42",), "evt-1", PAID),
        ("generic", payments.signed(payment_id="p-7"), "paid", ("inv-42",), "p-7", PAID),
        ("generic", payments.signed(amount=149.9), "paid", ("inv-42",), "evt-1", PAID),
        ("generic", payments.signed(amount=None), "paid", ("inv-42",), "evt-1", None),
        ("generic", payments.signed("charge.refunded"), "refunded", ("inv-42",), "evt-1", PAID),
        ("generic", payments.signed("charge.cancelled", amount=None), "cancelled", ("inv-42",), "evt-1", None),
        ("generic", payments.signed("charge.viewed"), "ignored", ("inv-42",), "evt-1", PAID),
        ("generic", payments.signed(amount=0), "ignored", ("inv-42",), "evt-1", Decimal("0.00")),
        ("asaas", payments.asaas(), "paid", ("inv-42", "pay_080225913252"), "pay_080225913252", PAID),
        ("asaas", payments.asaas("PAYMENT_CONFIRMED"), "confirmed", ("inv-42", "pay_080225913252"), None, PAID),
        ("asaas", payments.asaas(externalReference=None), "paid", ("pay_080225913252",), None, PAID),
        ("asaas", payments.asaas(externalReference="  "), "paid", ("pay_080225913252",), None, PAID),
        ("asaas", payments.asaas(externalReference=42), "paid", ("42", "pay_080225913252"), None, PAID),
        ("asaas", payments.asaas(status="RECEIVED_IN_CASH"), "paid", ("inv-42", "pay_080225913252"), None, PAID),
        ("asaas", payments.asaas("PAYMENT_DUNNING_RECEIVED"), "paid", ("inv-42", "pay_080225913252"), None, PAID),
        ("asaas", payments.asaas(value=None), "paid", ("inv-42", "pay_080225913252"), None, None),
        ("asaas", payments.asaas("PAYMENT_REFUNDED"), "refunded", ("inv-42", "pay_080225913252"), None, PAID),
        ("asaas", payments.asaas("PAYMENT_CHARGEBACK_REQUESTED"), "refunded", None, None, PAID),
        ("asaas", payments.asaas("PAYMENT_RECEIVED_IN_CASH_UNDONE"), "refunded", None, None, PAID),
        ("asaas", payments.asaas("PAYMENT_PARTIALLY_REFUNDED"), "ignored", None, None, PAID),
        ("asaas", payments.asaas("PAYMENT_DELETED"), "cancelled", None, None, None),
        ("asaas", payments.asaas("PAYMENT_RESTORED"), "restored", None, None, None),
        ("asaas", payments.asaas("PAYMENT_UPDATED"), "updated", None, None, None),
        ("asaas", payments.asaas("PAYMENT_BANK_SLIP_VIEWED"), "ignored", None, None, PAID),
        ("asaas", {"id": "e", "event": "ACCOUNT_STATUS_UPDATED", "accountStatus": {}}, "ignored", (), None, None),
        ("stripe", payments.stripe(), "paid", ("inv-42", "cs_1", "pi_1"), "pi_1", PAID),
        ("stripe", payments.stripe(payment_status="unpaid"), "ignored", ("inv-42", "cs_1", "pi_1"), "pi_1", None),
        ("stripe", payments.stripe("checkout.session.async_payment_succeeded"), "paid", None, "pi_1", PAID),
        ("stripe", payments.stripe("checkout.session.async_payment_failed"), "ignored", None, "pi_1", None),
        ("stripe", payments.stripe("payment_intent.succeeded"), "paid", ("inv-42", "pi_1"), "pi_1", PAID),
        ("stripe", payments.stripe("invoice.paid"), "paid", ("inv-42", "in_1", "pi_1"), "pi_1", PAID),
        ("stripe", payments.stripe("invoice.paid", payment_intent=None), "paid", ("inv-42", "in_1"), "in_1", PAID),
        ("stripe", payments.stripe("invoice.paid", amount_paid=0), "paid", None, "pi_1", None),
        ("stripe", payments.stripe("charge.refunded"), "refunded", ("ch_1", "pi_1"), "pi_1", PAID),
        ("stripe", payments.stripe("charge.refunded", amount_refunded=1), "ignored", None, "pi_1", Decimal("0.01")),
        ("stripe", payments.stripe("charge.dispute.created"), "refunded", ("dp_1", "pi_1"), "pi_1", PAID),
        ("stripe", payments.stripe(currency="usd"), "ignored", None, "pi_1", PAID),
        ("stripe", payments.stripe(metadata=None), "paid", ("cs_1", "pi_1"), "pi_1", PAID),
        ("stripe", payments.stripe(payment_intent={"id": "pi_1"}), "paid", ("inv-42", "cs_1", "pi_1"), "pi_1", PAID),
        ("stripe", payments.stripe("customer.created"), "ignored", None, None, None),
        ("woovi", payments.woovi(), "paid", None, "inv-42", PAID),
        ("woovi", payments.woovi("OPENPIX:CHARGE_COMPLETED_NOT_SAME_CUSTOMER_PAYER"), "paid", None, "inv-42", PAID),
        ("woovi", payments.woovi("OPENPIX:TRANSACTION_RECEIVED"), "paid", None, "inv-42", PAID),
        ("woovi", payments.woovi("OPENPIX:CHARGE_EXPIRED"), "ignored", None, "inv-42", PAID),
        ("woovi", payments.woovi("PIX_TRANSACTION_REFUND_SENT_CONFIRMED", refunded=14_990), "refunded", None, "inv-42",
         PAID),
        ("woovi", payments.woovi("PIX_TRANSACTION_REFUND_SENT_CONFIRMED", refunded=1), "ignored", None, "inv-42",
         Decimal("0.01")),
        ("woovi", payments.woovi("PIX_TRANSACTION_REFUND_RECEIVED_CONFIRMED"), "ignored", None, "inv-42", PAID),
        ("woovi", {"evento": "teste_webhook", "event": "OPENPIX:CHARGE_COMPLETED"}, "ignored", (), None, None),
        ("woovi", {"event": "OPENPIX:TRANSACTION_RECEIVED", "charge": None, "pix": {"value": 1}}, "ignored", (), None,
         Decimal("0.01")),
        ("mercado_pago", payments.mercado_pago_payment(), "paid", ("inv-42", "1234567890"), "1234567890", PAID),
        ("mercado_pago", payments.mercado_pago_payment(external_reference=None), "paid", ("1234567890",), None, PAID),
        ("mercado_pago", payments.mercado_pago_payment("pending"), "ignored", None, None, PAID),
        ("mercado_pago", payments.mercado_pago_payment("cancelled"), "ignored", None, None, PAID),
        ("mercado_pago", payments.mercado_pago_payment("refunded", transaction_amount_refunded=149.9), "refunded", None,
         None, PAID),
        ("mercado_pago", payments.mercado_pago_payment("charged_back"), "refunded", None, None, PAID),
        ("mercado_pago", payments.mercado_pago_payment(currency_id="ARS"), "ignored", None, None, PAID),
    ],
)  # fmt: skip
def test_an_event_is_read(provider, body, effect, references, payment_id, amount):
    event = read(provider, body)
    assert (event.effect, event.amount) == (effect, amount)
    assert references is None or event.references == references
    assert payment_id is None or event.payment_id == payment_id
    assert event.effect is not Effect.IGNORED or event.note


def test_a_paid_time_is_the_day_everywhere_in_brazil():
    assert read("asaas", payments.asaas()).paid_at == NOON
    assert read("asaas", payments.asaas(at="2026-12-10 09:00:00")).paid_at == datetime(2026, 12, 10, 12, tzinfo=UTC)
    later = payments.asaas(at="2026-12-14 09:00:00")  # a boleto that was cleared after the weekend
    assert read("asaas", later).paid_at == NOON
    assert read("asaas", payments.asaas(clientPaymentDate=None)).paid_at == NOON
    bare = payments.asaas(clientPaymentDate=None, paymentDate=None, confirmedDate=None)
    assert read("asaas", bare).paid_at == datetime(2026, 12, 10, 19, 45, 3, tzinfo=UTC)
    assert read("generic", payments.signed()).paid_at == datetime(2026, 12, 10, 13, 30, tzinfo=UTC)
    assert read("woovi", payments.woovi()).paid_at == datetime(2026, 12, 10, 12, 44, 9, 269_000, tzinfo=UTC)


def test_a_changed_charge_has_its_new_due_date_and_amount():
    event = read("asaas", payments.asaas("PAYMENT_UPDATED", dueDate="2026-12-20", value=200))
    assert (event.due_date, event.new_amount, event.amount) == (date(2026, 12, 20), Decimal("200.00"), None)


@pytest.mark.parametrize(
    ("provider", "body", "reason"),
    [
        *((provider, raw, "the body is not JSON") for provider in ("generic", "asaas", "stripe", "woovi")
          for raw in (b"", b"{", b"\xff", b"[" * 50_000, b'{"a": NaN}', b'{"id": ' + b"9" * 5000 + b"}")),
        *(("asaas", raw, "the body is not a JSON object") for raw in (b"[]", b"1", b"null")),
        ("generic", {}, "id or event is missing"),
        ("generic", payments.signed(charge_id=None), "charge_id is missing"),
        ("generic", payments.signed(charge_id=["inv-42"]), "charge_id is not a string"),
        ("generic", payments.signed(charge_id=True), "charge_id is not a string"),
        ("generic", payments.signed(charge_id="i" * 201), "charge_id is longer than 200 characters"),
        ("generic", payments.signed(charge_id="inv\x00"), "charge_id has control characters"),
        ("generic", payments.signed(charge_id="inv\ud800"), "charge_id has control characters"),
        ("generic", payments.signed(amount="1.234,50"), "amount is not an amount in reais"),
        ("generic", payments.signed(amount="1_49.90"), "amount is not an amount in reais"),
        ("generic", payments.signed(amount=1.005), "amount is not an amount in reais"),
        ("generic", payments.signed(amount=-1), "amount is out of range"),
        ("generic", payments.signed(amount="Infinity"), "amount is out of range"),
        ("generic", payments.signed(amount="1e30"), "amount is out of range"),
        ("generic", payments.signed(amount=True), "amount is not an amount in reais"),
        ("generic", payments.signed(amount={}), "amount is not an amount in reais"),
        ("generic", payments.signed(paid_at="2026-12-10T10:30:00"), "paid_at has no time zone"),
        ("generic", payments.signed(paid_at="yesterday"), "paid_at is not a time"),
        ("generic", payments.signed(paid_at="0001-01-01T00:00:00+14:00"), "paid_at is not a time"),
        ("asaas", {"event": "PAYMENT_RECEIVED"}, "payment.id is missing"),
        ("asaas", {"event": "PAYMENT_RECEIVED", "payment": []}, "payment is not an object"),
        ("asaas", payments.asaas(dueDate="10/12/2026", event="PAYMENT_UPDATED"), "dueDate is not a date"),
        ("asaas", {"payment": {}}, "event is missing"),
        ("stripe", {"id": "evt_1"}, "id or type is missing"),
        ("stripe", payments.stripe(amount_total="149.90"), "amount_total is not an amount in centavos"),
        ("stripe", payments.stripe(amount_total=149.5), "amount_total is not an amount in centavos"),
        ("stripe", payments.stripe(amount_total=10**30), "amount_total is out of range"),
        ("stripe", payments.stripe(created="now"), "created is not a time"),
        ("stripe", payments.stripe(created=10**40), "created is not a time"),
        ("woovi", {}, "event is missing"),
        ("woovi", {"event": "OPENPIX:CHARGE_COMPLETED", "charge": {"value": 1}}, "charge.correlationID is missing"),
        ("mercado_pago", {"id": 1}, "id or status is missing"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_event_has_a_reason_that_does_not_quote_it(provider, body, reason):
    with pytest.raises(InvalidEvent) as caught:
        read(provider, body)
    assert str(caught.value) == reason


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_is_kept_holds_nothing_personal(body):
    provider = next(name for name, one in BODIES.items() if one is body)
    event = read(provider, payments.mercado_pago_payment() if provider == "mercado_pago" else body)
    assert event.raw
    assert not any(word in json.dumps(dict(event.raw)) for word in PERSONAL)
    assert not any(word in repr(event) for word in PERSONAL)


@each_provider
def test_a_genuine_webhook_is_accepted(provider):
    assert refusal(provider, request_of(provider, BODIES[provider], NOW)) is None


@each_provider
def test_a_forged_webhook_is_refused(provider):
    assert refusal(provider, request_of(provider, BODIES[provider], NOW, "another secret")) == "wrong_secret"
    assert refusal(provider, PaymentRequest({}, encoded(BODIES[provider]))) == "nothing_shown"


@pytest.mark.parametrize("provider", ["generic", "stripe", "woovi"])
def test_a_body_that_was_changed_is_refused(provider):
    request = request_of(provider, BODIES[provider], NOW)
    assert refusal(provider, replace(request, body=request.body.replace(b"inv-42", b"inv-43"))) == "wrong_secret"


def test_the_id_of_another_payment_is_refused():
    genuine = request_of("mercado_pago", payments.mercado_pago(), NOW)
    assert refusal("mercado_pago", replace(genuine, query={"data.id": "1234567890"})) is None
    assert refusal("mercado_pago", replace(genuine, query={"data.id": "999"})) == "wrong_secret"
    other = replace(genuine, body=encoded(payments.mercado_pago("999")))
    assert refusal("mercado_pago", other) == "wrong_secret"


@pytest.mark.parametrize("shown", ["ORDTST01", "ordtst01"])
def test_an_id_may_be_signed_in_small_letters(shown):
    manifest = f"id:{shown};request-id:r;ts:1796930000;"
    v1 = hmac.new(SECRET.encode(), manifest.encode(), hashlib.sha256).hexdigest()
    headers = {"x-signature": f"ts=1796930000,v1={v1}", "x-request-id": "r"}
    request = PaymentRequest(headers, encoded(payments.mercado_pago("ORDTST01")), {"data.id": "ORDTST01"})
    assert refusal("mercado_pago", request) is None


@pytest.mark.parametrize("provider", ["generic", "stripe"])
@pytest.mark.parametrize(
    ("age_s", "expected"), [(0, None), (300, None), (301, "expired"), (-300, None), (-301, "clock_ahead")]
)
def test_a_signature_is_good_for_five_minutes(provider, age_s, expected):
    now = NOW.replace(microsecond=0)
    request = request_of(provider, BODIES[provider], now - timedelta(seconds=age_s))
    assert refusal(provider, request, now) == expected


@pytest.mark.parametrize("provider", ["generic", "asaas", "stripe", "mercado_pago"])
def test_both_secrets_are_accepted_during_a_change(provider):
    field = "tokens" if provider == "asaas" else "secrets"
    request = request_of(provider, BODIES[provider], NOW)
    assert refusal(provider, request, **{field: ["new", SECRET]}) is None
    assert refusal(provider, request, **{field: ["new", "newer"]}) == "wrong_secret"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t",
        "t=,v1=",
        "t=1,v1",
        "v1=00",
        "t=abc,v1=00",
        "t=99999999999999,v1=00",
        "t=１,v1=00",
        "\xff",
        "t=1," * 5000,
    ],
)
@pytest.mark.parametrize("provider", ["generic", "stripe"])
def test_a_signature_of_another_form_is_refused(provider, header):
    name = {"generic": "x-ifinu-signature", "stripe": "stripe-signature"}[provider]
    refused = refusal(provider, PaymentRequest({name: header}, encoded(BODIES[provider])))
    assert refused in ("nothing_shown", "not_a_signature")


def test_asaas_may_be_limited_to_its_addresses():
    request = request_of("asaas", payments.asaas(), NOW)
    addresses = {"addresses": ["52.67.12.206", "18.230.8.159"]}
    assert refusal("asaas", replace(request, address="18.230.8.159"), **addresses) is None
    assert refusal("asaas", replace(request, address="10.0.0.1"), **addresses) == "another_address"
    proxied = replace(request, headers=request.headers | {"x-forwarded-for": "52.67.12.206, 10.9.8.7"})
    assert (
        refusal("asaas", replace(proxied, address="52.67.12.206"), behind_proxy=True, **addresses) == "another_address"
    )
    genuine = replace(request, headers=request.headers | {"x-forwarded-for": "10.9.8.7, 52.67.12.206"})
    assert refusal("asaas", replace(genuine, address="10.0.0.1"), behind_proxy=True, **addresses) is None


def test_a_webhook_that_woovi_signed_for_another_account_is_refused():
    """
    Woovi's key is the same for all its customers: one of them may pay a charge of theirs under an id of ours.
    """
    strangers = payments.woovi()
    strangers["company"]["taxID"] = "99999999000199"
    request = request_of("woovi", strangers, NOW)
    assert refusal("woovi", request) == "another_account"
    del strangers["company"]
    assert refusal("woovi", request_of("woovi", strangers, NOW)) == "another_account"
    known = {"companies": [], "authorizations": ["the webhook's own"]}
    assert refusal("woovi", request, **known) == "another_account"
    theirs = replace(request, headers=request.headers | {"authorization": "the webhook's own"})
    assert refusal("woovi", theirs, **known) is None
    assert refusal("woovi", replace(theirs, body=b"{}"), **known) == "wrong_secret"


@pytest.mark.parametrize("shape", [{"taxID": "12345678000195", "type": "BR:CNPJ"}, "12.345.678/0001-95"])
def test_a_company_may_be_written_in_several_ways(shape):
    body = payments.woovi()
    body["company"] = {"taxID": shape}
    assert refusal("woovi", request_of("woovi", body, NOW)) is None
    body["company"] = {"id": "624f46f9e93f9f521c9308d7"}
    assert refusal("woovi", request_of("woovi", body, NOW), companies=["624F46F9E93F9F521C9308D7"]) is None


def test_woovis_older_signature_is_enough():
    body = encoded(payments.woovi())
    shown = base64.b64encode(hmac.new(SECRET.encode(), body, hashlib.sha1).digest()).decode()
    only = {"companies": [], "hmac_secrets": [SECRET]}
    request = PaymentRequest({"x-openpix-signature": shown}, body)
    assert refusal("woovi", request, **only) is None
    assert refusal("woovi", replace(request, body=body + b" "), **only) == "wrong_secret"
    assert refusal("woovi", replace(request, headers={}), **only) == "nothing_shown"
    assert refusal("woovi", request) == "nothing_shown"  # it is not configured


def test_woovis_test_is_accepted_and_changes_nothing():
    body = {"data_criacao": "2026-12-10T20:32:14.429Z", "evento": "teste_webhook", "event": "OPENPIX:CHARGE_COMPLETED"}
    request = request_of("woovi", body, NOW)
    assert refusal("woovi", request) is None
    assert woovi.read(request).effect is Effect.IGNORED


def test_the_key_that_is_built_in_is_one():
    assert woovi.WooviSecrets(companies=("x",)).public_keys == (woovi.PUBLIC_KEY,)


@pytest.mark.parametrize(
    ("body", "query", "named"),
    [
        (payments.mercado_pago(), {}, "1234567890"),
        (payments.mercado_pago(), {"data.id": "77"}, "77"),
        ({"topic": "payment", "resource": "https://api.mercadopago.com/v1/payments/88"}, {}, "88"),
        ({"topic": "payment", "resource": "88"}, {}, "88"),
        ({"resource": "88"}, {"topic": "payment"}, "88"),
    ],
)
def test_a_webhook_of_mercado_pago_names_a_payment(body, query, named):
    assert mercado_pago.payment_named(PaymentRequest({}, encoded(body), query)) == named


@pytest.mark.parametrize("named", ["../../users/me", "1/refunds", "1?x=1", "", "a" * 65, "１"])
def test_a_webhook_of_mercado_pago_names_nothing_else(named):
    with pytest.raises(InvalidEvent):
        mercado_pago.payment_named(PaymentRequest({}, encoded(payments.mercado_pago(named))))


def test_another_topic_of_mercado_pago_is_ignored():
    event = mercado_pago.payment_named(PaymentRequest({}, encoded({"type": "merchant_order", "id": 1})))
    assert isinstance(event, PaymentEvent)
    assert event.effect is Effect.IGNORED


@pytest.mark.parametrize("module", [asaas, signed_events, stripe, woovi])
def test_the_same_body_is_the_same_event(module):
    provider = module.NAME
    assert read(provider, BODIES[provider]) == read(provider, BODIES[provider])


def test_events_of_one_payment_have_one_payment_id():
    of_stripe = ("checkout.session.completed", "payment_intent.succeeded", "charge.refunded", "charge.dispute.created")
    assert {read("stripe", payments.stripe(name)).payment_id for name in of_stripe} == {"pi_1"}
    of_woovi = ("OPENPIX:CHARGE_COMPLETED", "OPENPIX:TRANSACTION_RECEIVED")
    assert {read("woovi", payments.woovi(name)).payment_id for name in of_woovi} == {"inv-42"}
    states = ("approved", "refunded", "charged_back")
    assert {read("mercado_pago", payments.mercado_pago_payment(name)).payment_id for name in states} == {"1234567890"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def paths(body, before=()):
    for name, value in body.items():
        yield (*before, name)
        if isinstance(value, dict):
            yield from paths(value, (*before, name))


def changed(body, path, value):
    name, *rest = path
    return body | {name: changed(body[name], rest, value) if rest else value}


@st.composite
def damaged(draw):
    """A webhook in which up to three fields have another value, or none."""
    provider = draw(st.sampled_from(sorted(BODIES)))
    body = payments.mercado_pago_payment() if provider == "mercado_pago" else BODIES[provider]
    for _ in range(draw(st.integers(1, 3))):
        body = changed(body, draw(st.sampled_from(sorted(paths(body)))), draw(JSON))
    return provider, body


@given(damaged())
def test_any_damage_is_an_event_or_has_a_reason(case):
    provider, body = case
    raw = json.dumps(body).encode()
    try:
        event = read(provider, raw)
    except InvalidEvent:
        return
    assert event.event_id
    assert event.amount is None or (event.amount.is_finite() and event.amount >= 0)
    kept = json.dumps(dict(event.raw))
    assert not any(word in kept for word in PERSONAL)
    assert "\\u0000" not in kept  # PostgreSQL's JSON has no such character


@given(st.sampled_from(sorted(BODIES)), st.binary(max_size=200))
def test_any_bytes_are_an_event_or_have_a_reason(provider, raw):
    headers = headers_of(provider, raw, NOW)
    request = PaymentRequest(headers, raw)
    PROVIDERS[provider].refusal(secrets_of(provider), request, NOW)
    reader = PROVIDERS[provider].read or mercado_pago.payment_named
    with pytest.raises(InvalidEvent):
        reader(request)


@given(
    st.sampled_from(sorted(BODIES)),
    st.dictionaries(
        st.sampled_from(
            [
                "x-ifinu-signature",
                "asaas-access-token",
                "stripe-signature",
                "x-webhook-signature",
                "x-openpix-signature",
                "x-signature",
                "x-request-id",
                "authorization",
            ]
        ),
        st.text(max_size=80),
    ),
)
def test_no_headers_that_were_not_signed_are_accepted(provider, headers):  # fmt: skip
    request = PaymentRequest(headers, encoded(BODIES[provider]))
    assert refusal(provider, request, hmac_secrets=[SECRET]) if provider == "woovi" else refusal(provider, request)
