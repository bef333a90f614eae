"""Asking payment providers what was paid: paging, deadlines, retries, and `ifinu pay`."""

import json
import socket
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import bills
import payments
import pytest
from payments import SECRETS, TENANT
from scripted_provider import scripted_provider

from ifinu import cli
from ifinu.billing import charges
from ifinu.billing.charges import NewCharge
from ifinu.billing.payments import providers, settlement
from ifinu.billing.payments.provider_api import ProviderApi
from ifinu.errors import ConfigurationError, ProviderError
from ifinu.ledger.engine import connect

NOW = datetime(2026, 12, 12, 12, tzinfo=UTC)
SINCE = NOW - timedelta(days=3)
KEYS = {
    "asaas": ("access_token", "asaas-key"),
    "stripe": ("Authorization", "Bearer stripe-key"),
    "woovi": ("Authorization", "woovi-key"),
    "mercado_pago": ("Authorization", "Bearer mercado-pago-key"),
}


@pytest.fixture
def provider():
    with scripted_provider() as running:
        yield running


def secrets_of(name, url):
    return providers.MODELS[name].model_validate(SECRETS[name] | {"api_url": url})


def asaas_pages(number):
    def answer(_, parameters):
        if "status" in parameters:
            card = payments.asaas(id="pay_card", status="CONFIRMED", paymentDate=None, clientPaymentDate=None)
            old = payments.asaas(id="pay_old", status="CONFIRMED", paymentDate=None, clientPaymentDate=None,
                                 confirmedDate="2026-11-01")  # fmt: skip
            return 200, {"hasMore": False, "data": [card["payment"], old["payment"]]}
        first = int(parameters["offset"][0])
        data = [payments.asaas(id=f"pay_{first + n}")["payment"] for n in range(min(100, number - first))]
        return 200, {"object": "list", "hasMore": first + len(data) < number, "totalCount": number, "data": data}

    return answer


def stripe_pages(number):
    def answer(_, parameters):
        after = parameters.get("starting_after", [f"evt_{number}"])[0]
        last = int(after.removeprefix("evt_"))
        first = max(0, last - 100)
        data = [payments.stripe(id_=f"evt_{n}", payment_intent=f"pi_{n}") for n in range(last - 1, first - 1, -1)]
        return 200, {"object": "list", "has_more": first > 0, "data": data}

    return answer


def woovi_pages(number):
    def answer(_, parameters):
        first = int(parameters["skip"][0])
        data = [payments.woovi(correlationID=f"inv-{first + n}")["pix"] for n in range(min(100, number - first))]
        bare = {"type": "WITHDRAW", "value": 1, "charge": None}
        info = {"skip": first, "limit": 100, "totalCount": number, "hasNextPage": first + len(data) < number}
        return 200, {"pageInfo": info, "transactions": [*data, *([] if info["hasNextPage"] else [bare])]}

    return answer


def mercado_pago_pages(number):
    def answer(_, parameters):
        first = int(parameters["offset"][0])
        data = [payments.mercado_pago_payment() | {"id": first + n} for n in range(min(100, number - first))]
        return 200, {"paging": {"total": number, "limit": 100, "offset": first}, "results": data}

    return answer


PAGES = {"asaas": asaas_pages, "stripe": stripe_pages, "woovi": woovi_pages, "mercado_pago": mercado_pago_pages}


@pytest.mark.parametrize("number", [0, 1, 100, 101, 250])
@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_read(provider, name, number):
    provider.answer = PAGES[name](number)
    found = providers.reported(name, secrets_of(name, provider.url), SINCE, NOW)
    extra = 1 if name == "asaas" else 0  # the payment by card
    assert len({event.event_id for event in found}) == len(found) == number + extra
    assert {event.effect for event in found} <= {"paid", "confirmed"}
    header, value = KEYS[name]
    assert {headers[header] for *_, headers in provider.asked} == {value}


def test_each_provider_is_asked_for_the_time_since(provider):
    def asked(name):
        provider.asked.clear()
        provider.answer = PAGES[name](0)
        providers.reported(name, secrets_of(name, provider.url), SINCE, NOW)
        path, parameters, _ = provider.asked[0]
        return path, parameters

    path, parameters = asked("asaas")
    assert (path, parameters["paymentDate[ge]"]) == ("/payments", ["2026-12-09"])
    path, parameters = asked("stripe")
    assert (path, parameters["created[gte]"]) == ("/v1/events", [str(int(SINCE.timestamp()))])
    assert "invoice.paid" in parameters["types[]"]
    path, parameters = asked("woovi")
    assert (path, parameters["start"]) == ("/api/v1/transaction", ["2026-12-09T12:00:00Z"])
    path, parameters = asked("mercado_pago")
    assert (path, parameters["begin_date"]) == ("/v1/payments/search", ["2026-12-09T12:00:00.000Z"])


def api(provider, **options):
    waited = []
    made = ProviderApi("asaas", provider.url, {"access_token": "hush"}, sleep=waited.append, **options)
    return made, waited


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_failure_that_passes_is_tried_again(provider, status):
    provider.says((status, {}), (status, {}), (200, {"id": 1}))
    made, waited = api(provider)
    assert made.get("/payments") == {"id": 1}
    assert waited == ([2.0, 3.0] if status == 429 else [1.0, 3.0])  # 429 says how long


@pytest.mark.parametrize(
    ("answer", "words", "tries"),
    [
        ((401, {}), "refuses the key (401); correct api_key in the secrets file", 1),
        ((403, {}), "refuses the key (403); correct api_key in the secrets file", 1),
        ((400, {}), "answers 400", 1),
        ((404, {}), "answers 404: is the address right?", 1),
        ((302, {}), "answers 302", 1),
        ((500, {}), "answers 500", 4),
        ((429, {}), "asks for fewer requests (429); try again later", 4),
        ((200, b"<html>"), "answers something that is not JSON", 1),
        ((200, []), "answers something that is not an object", 1),
    ],
)
def test_a_failure_that_stays_is_reported_without_the_key(provider, answer, words, tries):
    provider.says(answer)
    made, _ = api(provider)
    with pytest.raises(ProviderError) as caught:
        made.get("/payments")
    assert str(caught.value) == f"asaas: {provider.url} {words}"
    assert len(provider.asked) == tries
    assert "hush" not in str(caught.value)


def test_a_silent_provider_is_given_up(provider):
    provider.says((200, 3.0))
    made, waited = api(provider, answer_s=0.2, pauses_s=(1.0,))
    with pytest.raises(ProviderError, match="does not answer") as caught:
        made.get("/payments")
    assert caught.value.status is None
    assert waited == [1.0]


def test_a_provider_that_is_not_there_is_given_up():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        made = ProviderApi("asaas", f"http://127.0.0.1:{unused.getsockname()[1]}", {}, pauses_s=())
        with pytest.raises(ProviderError, match="does not answer"):
            made.get("/payments")


def test_a_provider_without_end_is_given_up(provider, monkeypatch):
    monkeypatch.setattr("ifinu.billing.payments.provider_api._MOST_PAGES", 3)
    provider.says((200, {"hasMore": True, "data": [{"id": "pay_1"}]}))
    made, _ = api(provider)
    with pytest.raises(ProviderError, match="more than 3 pages"):
        list(made.offsets("/payments", {}, 1, "data", lambda page: page["hasMore"]))


def test_a_tenant_without_a_key_cannot_ask():
    with pytest.raises(ConfigurationError, match="has no api_key"):
        providers.reported("asaas", providers.MODELS["asaas"].model_validate({"tokens": ["x"]}), SINCE, NOW)
    with pytest.raises(ConfigurationError, match="has no API to ask"):
        providers.reported("generic", providers.MODELS["generic"].model_validate({"secrets": ["x"]}), SINCE, NOW)


@pytest.fixture
def pay(postgres_ledger, valkey, provider, tmp_path, monkeypatch, capsys):
    """`ifinu pay …`, and the exit code and the output of a call."""
    path = tmp_path / "payments.json"
    path.write_text(json.dumps({TENANT: {name: SECRETS[name] | {"api_url": provider.url} for name in PAGES}}), "utf-8")
    path.chmod(0o600)
    monkeypatch.setenv("IFINU_DATABASE_URL", postgres_ledger)
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_PAYMENT_SECRETS_FILE", str(path))

    def run(*arguments):
        code = cli.main(["pay", *arguments])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture
def engine(postgres_ledger):
    made = connect(postgres_ledger)
    with made.begin() as connection:
        bills.tenant(connection, TENANT)
        bills.customer(connection, "k1", TENANT)
    yield made
    made.dispose()


def add(engine, id_="inv-42", **columns):
    with engine.begin() as connection:
        given = {"amount": Decimal("149.90"), "due_date": date(2026, 12, 10)} | columns
        charges.add(connection, NewCharge(tenant=TENANT, id=id_, customer_id="k1", **given), NOW)


def status(engine, id_="inv-42"):
    with engine.connect() as connection:
        return charges.get(connection, TENANT, id_).status


@pytest.mark.parametrize("name", PAGES)
def test_reconcile_records_what_no_webhook_brought_and_twice_is_once(pay, provider, engine, name):
    add(engine)
    provider.answer = {
        "asaas": lambda _, p: (200, {"hasMore": False, "data": [] if "status" in p else [payments.asaas()["payment"]]}),
        "stripe": lambda *_: (200, {"has_more": False, "data": [payments.stripe()]}),
        "woovi": lambda *_: (200, {"pageInfo": {"hasNextPage": False}, "transactions": [payments.woovi()["pix"]]}),
        "mercado_pago": lambda *_: (200, {"paging": {}, "results": [payments.mercado_pago_payment()]}),
    }[name]
    code, out, _ = pay("reconcile", "--provider", name, "--since", "3650d", "--dry-run", "--json")
    assert (code, json.loads(out)["tenants"][0]["applied"], status(engine)) == (0, 1, "overdue")
    code, out, _ = pay("reconcile", "--provider", name, "--since", "3650d")
    assert (code, status(engine)) == (0, "paid")
    assert f"{TENANT}: 1 reported; 1 recorded" in out
    code, out, _ = pay("reconcile", "--provider", name, "--since", "3650d", "--json")
    (document,) = json.loads(out)["tenants"]
    assert (document["applied"], document["repeated"], document["changes"]) == (0, 1, [])


def test_reconcile_reports_a_provider_that_refuses(pay, provider, engine):
    provider.says((401, {}))
    code, out, err = pay("reconcile", "--provider", "stripe")
    assert code == 1
    assert "refuses the key" in out
    assert "refuses the key" in err
    assert "stripe-key" not in out + err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--provider", "paypal"], "'paypal' has no API to ask; known: asaas, stripe, woovi, mercado_pago"),
        (["--provider", "generic"], "'generic' has no API to ask"),
        (["--provider", "asaas", "--tenant", "nobody"], "nobody has no secrets of asaas"),
    ],
)
def test_reconcile_names_a_wrong_argument(pay, engine, arguments, reason):
    code, _, err = pay("reconcile", *arguments)
    assert (code, reason in err) == (2, True)


def stored(engine, body):
    from ifinu.billing.payments import asaas
    from ifinu.billing.payments.provider_events import PaymentRequest

    with engine.begin() as connection:
        settlement.apply(connection, TENANT, asaas.read(PaymentRequest({}, payments.encoded(body))), NOW)


def test_an_unmatched_event_is_listed_and_given_to_its_charge(pay, engine):
    add(engine)
    body = payments.asaas(externalReference="+5511987654321")
    stored(engine, body)
    code, out, _ = pay("unmatched", "--json")
    (event,) = json.loads(out)["events"]
    assert (code, event["id"], event["amount"], event["charge"]) == (0, body["id"], "149.90", None)
    assert "987654321" not in out  # a reference may be a phone
    assert pay("unmatched")[0] == 0
    code, _, err = pay("unmatched", "--match", body["id"], "inv-43")
    assert code == 1
    assert "inv-43" in err
    code, out, _ = pay("unmatched", "--match", body["id"], "inv-42")
    assert (code, status(engine)) == (0, "paid")
    assert "recorded for charge inv-42" in out
    assert "Every event has its charge." in pay("unmatched")[1]


def test_events_are_listed(pay, engine):
    add(engine)
    for body in (payments.asaas("PAYMENT_CONFIRMED"), payments.asaas(at="2026-12-14 09:00:00")):
        stored(engine, body)
    code, out, _ = pay("events", "--charge", "inv-42", "--json")
    assert code == 0
    assert sorted((one["state"], one["note"]) for one in json.loads(out)["events"]) == [
        ("applied", None), ("ignored", "same_payment"),
    ]  # fmt: skip
    assert json.loads(pay("events", "--state", "applied", "--provider", "asaas", "--json")[1])["total"] == 1
    assert pay("events", "--state", "paid")[0] == 2
    assert "same_payment" in pay("events")[1]
    assert "No event." in pay("events", "--provider", "stripe")[1]


def test_several_tenants_need_a_name(pay, engine):
    with engine.begin() as connection:
        bills.tenant(connection, "u2")
    code, _, err = pay("events")
    assert (code, "say which tenant: --tenant academia or u2" in err) == (2, True)
    assert pay("events", "--tenant", "u2")[0] == 0


def test_an_event_about_something_else_is_dismissed(pay, engine):
    body = payments.asaas(externalReference="a washing machine")
    stored(engine, body)
    assert pay("unmatched", "--dismiss", body["id"], "--match", body["id"], "inv-42")[0] == 2
    code, out, _ = pay("unmatched", "--dismiss", body["id"])
    assert (code, "dismissed" in out) == (0, True)
    assert "Every event has its charge." in pay("unmatched")[1]
    assert pay("unmatched", "--dismiss", body["id"])[0] == 1
    assert json.loads(pay("events", "--json")[1])["events"][0]["note"] == "dismissed"
