"""The webhooks of payment providers: their answers, and the charges by the time of the answer."""

import contextlib
import http.client
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal

import bills
import payments
import pytest
import structlog
from payments import SECRETS, TENANT, encoded, headers_of
from processes import redis_server, stopping, wait_until
from prometheus_client import CollectorRegistry, generate_latest
from scripted_provider import scripted_provider
from sqlalchemy import make_url, select
from tcp_proxy import Proxy

from ifinu import sockets
from ifinu.billing import charges
from ifinu.billing.billing_schema import cancel_flags, intents, payment_events
from ifinu.billing.charges import NewCharge
from ifinu.broker.keys import EVENTS
from ifinu.errors import ConfigurationError
from ifinu.ledger.engine import connect
from ifinu.receipts.http_server import server
from ifinu.receipts.payment_route import receiver_of
from ifinu.receipts.webhook_app import application

NOW = datetime(2026, 12, 10, 20, tzinfo=UTC)
FAR = datetime(2030, 1, 1, tzinfo=UTC)
GATEWAYS_SECRET = "a-secret-of-the-gateway-that-is-long-enough"


class Receiver:
    """Serves the webhook with payments on a thread; a test can post to it."""

    def __init__(self, redis_url, database_url, secrets):
        listener = sockets.listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.registry = CollectorRegistry()
        self._server = server(
            application(
                secrets=[GATEWAYS_SECRET], redis_url=redis_url, phone_key="k" * 32, registry=self.registry,
                payment_secrets=secrets, database_url=database_url,
            )
        )  # fmt: skip
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started)

    def stop(self):
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    def ask(self, method, path, body=b"", headers=None):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)) as line:
            line.request(method, path, body, headers or {})
            answer = line.getresponse()
            return answer.status, answer.read()

    def post(self, provider, body, *, tenant=TENANT, secret=payments.SECRET, **headers):
        raw = encoded(body)
        proven = headers_of(provider, raw, datetime.now(UTC), secret) | headers
        return self.ask("POST", f"/pagamentos/{provider}/{tenant}", raw, proven)[0]

    def series(self, name):
        lines = generate_latest(self.registry).decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)}


@pytest.fixture
def provider():
    with scripted_provider() as running:
        yield running


@pytest.fixture
def secrets(tmp_path, provider):
    path = tmp_path / "payments.json"
    entries = {
        name: entry | ({} if name == "generic" else {"api_url": provider.url}) for name, entry in SECRETS.items()
    }
    path.write_text(json.dumps({TENANT: entries}), "utf-8")
    path.chmod(0o600)
    return path


@pytest.fixture
def receiver(postgres_ledger, valkey, secrets):
    with stopping(Receiver(valkey.url, postgres_ledger, secrets)) as running:
        yield running


@pytest.fixture
def engine(postgres_ledger):
    made = connect(postgres_ledger)
    with made.begin() as connection:
        bills.tenant(connection, TENANT)
        bills.customer(connection, "k1", TENANT)
    yield made
    made.dispose()


def add(engine, id_="inv-42"):
    new = NewCharge(tenant=TENANT, id=id_, customer_id="k1", amount=Decimal("149.90"), due_date=date(2026, 12, 10))
    with engine.begin() as connection:
        return charges.add(connection, new, NOW)


def status(engine, id_="inv-42"):
    with engine.connect() as connection:
        return charges.get(connection, TENANT, id_).status


def events(engine):
    with engine.connect() as connection:
        return connection.execute(select(payment_events)).all()


PAID = {
    "generic": payments.signed(),
    "asaas": payments.asaas(),
    "stripe": payments.stripe(),
    "woovi": payments.woovi(),
    "mercado_pago": payments.mercado_pago(),
}
each_provider = pytest.mark.parametrize("name", PAID)


@pytest.fixture(autouse=True)
def _approved(provider):
    provider.says((200, payments.mercado_pago_payment()))


@each_provider
def test_a_payment_is_in_the_database_once_it_is_answered(receiver, engine, client, name):
    add(engine)
    path, raw = f"/pagamentos/{name}/{TENANT}", encoded(PAID[name])
    assert receiver.ask("POST", path, raw, headers_of(name, raw, datetime.now(UTC))) == (200, b"ok\n")
    assert status(engine) == "paid"
    for _ in range(2):
        assert receiver.post(name, PAID[name]) == 200
    assert [row.state for row in events(engine)] == ["applied"]
    assert client.xlen(EVENTS) == 0  # it is no webhook of the gateway
    assert receiver.series("ifinu_payment_events_total") == {
        f'ifinu_payment_events_total{{effect="paid",provider="{name}",state="applied"}}': 1,
        f'ifinu_payment_events_total{{effect="paid",provider="{name}",state="repeated"}}': 2,
    }


@each_provider
def test_a_forged_payment_is_refused_and_leaves_nothing(receiver, engine, provider, name):
    add(engine)
    assert receiver.post(name, PAID[name], secret="another") == 401
    assert receiver.ask("POST", f"/pagamentos/{name}/{TENANT}", encoded(PAID[name]))[0] == 401
    # The gateway's own secret opens nothing here.
    gateways = {"x-ifinu-secret": GATEWAYS_SECRET}
    assert receiver.ask("POST", f"/pagamentos/{name}/{TENANT}", encoded(PAID[name]), gateways)[0] == 401
    assert (status(engine), events(engine), provider.asked) == ("open", [], [])


@pytest.mark.parametrize(
    "path",
    ["/pagamentos/asaas/nobody", "/pagamentos/paypal/academia", "/pagamentos/asaas", "/pagamentos/",
     "/pagamentos/asaas/academia/more", "/pagamentos/asaas/academia/", "/pagamentos/asaas/%00"],
)  # fmt: skip
def test_an_unknown_address_does_not_say_what_is_unknown(receiver, client, path):
    body = encoded(PAID["asaas"])
    answers = {receiver.ask("POST", path, body, headers) for headers in (
        None, tuple(headers_of("asaas", body, NOW).items()), (("x-ifinu-secret", GATEWAYS_SECRET),)
    ) for headers in [dict(headers or ())]}  # fmt: skip
    assert answers == {(404, b"Not Found")}
    assert client.keys("*") == []


def test_without_secrets_no_address_is_there(valkey, client):
    with stopping(Receiver(valkey.url, "", None)) as receiver:
        assert receiver.post("asaas", PAID["asaas"]) == 404
        body = json.dumps({"event": "presence.update", "instance": "wa1", "data": {}}).encode()
        assert receiver.ask("POST", "/hooks", body, {"x-ifinu-secret": GATEWAYS_SECRET})[0] == 200


def test_payments_need_postgresql(client, secrets, tmp_path):
    with pytest.raises(ConfigurationError, match="payments need PostgreSQL: set IFINU_DATABASE_URL"):
        receiver_of(secrets, f"sqlite:///{tmp_path}/ledger.db", client, CollectorRegistry())
    assert not (tmp_path / "ledger.db").exists()


@each_provider
def test_garbage_is_not_requested_again(receiver, engine, name):
    for raw in (b"", b"{", b"[]", b"[" * 50_000, b"\xff\x00"):
        # Woovi's signature is for any account, and a body without one proves none.
        assert receiver.post(name, raw) == (401 if name == "woovi" else 400)
    proven = headers_of(name, b"[]", datetime.now(UTC))
    _, words = receiver.ask("POST", f"/pagamentos/{name}/{TENANT}", b"[]", proven)
    assert words == (b"" if name == "woovi" else b"the body is not a JSON object\n")
    assert events(engine) == []
    reason = "another_account" if name == "woovi" else "not_an_event"
    assert receiver.series(f'ifinu_payment_refusals_total{{provider="{name}",reason="{reason}"}}')


def test_an_oversized_body_is_refused_before_it_is_read(receiver, engine):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=20)) as line:
        line.putrequest("POST", f"/pagamentos/asaas/{TENANT}")
        line.putheader("Content-Length", "2000000")
        line.endheaders()
        assert line.getresponse().status == 400
    assert events(engine) == []


@each_provider
def test_a_webhook_before_the_charge_is_matched_when_the_charge_is_added(receiver, engine, name):
    assert receiver.post(name, PAID[name]) == 200
    assert [row.state for row in events(engine)] == ["unmatched"]
    add(engine)
    assert (status(engine), [row.state for row in events(engine)]) == ("paid", ["applied"])


def test_nulls_are_no_obstacle(receiver, engine):
    add(engine)
    keep = {"id", "value", "status", "externalReference"}
    bare = payments.asaas()
    bare["payment"] = {name: value if name in keep else None for name, value in bare["payment"].items()}
    assert receiver.post("asaas", bare) == 200
    assert status(engine) == "paid"


def test_confirmed_and_received_in_any_order_and_a_refund(receiver, engine):
    add(engine)
    confirmed, received = payments.asaas("PAYMENT_CONFIRMED"), payments.asaas(at="2026-12-14 09:00:00")
    refunded = payments.asaas("PAYMENT_REFUNDED", at="2026-12-15 09:00:00")
    for body in (received, confirmed, received, refunded, confirmed, received):
        assert receiver.post("asaas", body) == 200
    with engine.connect() as connection:
        charge = charges.get(connection, TENANT, "inv-42")
    assert (charge.status == "paid", charge.hold_until, charge.paid) == (False, date.max, 0)


def test_events_that_come_twenty_times_at_once_to_two_servers_count_once(postgres_ledger, valkey, secrets, engine):
    """Two payments of a part, and both payment and refund of another charge, in any order."""
    seq = add(engine)
    add(engine, "inv-43")
    with engine.begin() as connection:
        _, id_ = bills.intent(connection, seq, "lembrete", state="queued", queued_at=NOW, valid_until=FAR)
    bodies = [
        payments.signed(id_="p-1", charge_id="inv-42", payment_id="a", amount="100.00"),
        payments.signed(id_="p-2", charge_id="inv-42", payment_id="b", amount="30.00"),
        payments.signed(id_="p-3", charge_id="inv-43", payment_id="c", amount="149.90"),
        payments.signed("charge.refunded", id_="p-4", charge_id="inv-43", payment_id="c", amount="149.90"),
    ]
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(20) as pool:
        servers = [stack.enter_context(stopping(Receiver(valkey.url, postgres_ledger, secrets))) for _ in range(2)]
        posts = [(server, body) for server in servers for body in bodies for _ in range(10)]
        random.shuffle(posts)
        answers = list(pool.map(lambda post: post[0].post("generic", post[1]), posts))
    # A server that is too busy says so, and the provider tries again.
    assert set(answers) <= {200, 503}
    assert answers.count(200) >= len(bodies)
    with engine.connect() as connection:
        one, other = (charges.get(connection, TENANT, each) for each in ("inv-42", "inv-43"))
        states = dict(connection.execute(select(intents.c.id, intents.c.state)).all())
    assert (one.paid, one.status) == (Decimal("130.00"), "open")
    assert (other.paid, other.is_open, other.hold_until) == (0, True, date.max)
    assert len(events(engine)) == 4
    # Each payment of a part replaces the queued message at most once.
    assert states.keys() - {id_} <= {f"{id_}~1", f"{id_}~2"}


def test_a_payment_withdraws_queued_messages_in_redis_at_once(receiver, engine, client):
    seq = add(engine)
    with engine.begin() as connection:
        _, id_ = bills.intent(connection, seq, "lembrete", state="queued", queued_at=NOW)
    assert receiver.post("asaas", PAID["asaas"]) == 200
    assert client.exists(f"ifinu:claim:{id_}")
    with engine.connect() as connection:
        (flag,) = connection.execute(select(cancel_flags)).all()
    assert (flag.id, flag.done_at is not None) == (id_, True)


def test_a_payment_counts_while_redis_is_away(postgres_ledger, secrets, engine):
    seq = add(engine)
    with engine.begin() as connection:
        bills.intent(connection, seq, "lembrete", state="queued", queued_at=NOW)
    with redis_server() as doomed:
        receiver = Receiver(doomed.url, postgres_ledger, secrets)
        doomed.kill()
        with stopping(receiver), structlog.testing.capture_logs() as lines:
            assert receiver.post("asaas", PAID["asaas"]) == 200
    assert status(engine) == "paid"
    assert [line["event"] for line in lines if "flags" in line["event"]] == ["ifinu.payment.flags_wait"]
    with engine.connect() as connection:
        assert connection.scalars(select(cancel_flags.c.done_at)).all() == [None]  # a scheduler does it


def test_while_the_database_is_away_the_provider_tries_again(postgres_ledger, valkey, secrets, engine):
    add(engine)
    place = make_url(postgres_ledger)
    proxy = Proxy(place.port)
    port = proxy.port
    through = place.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    with stopping(Receiver(valkey.url, through, secrets)) as receiver:
        proxy.stop()
        assert receiver.post("asaas", PAID["asaas"]) == 503
        assert receiver.ask("GET", "/readyz")[0] == 200  # the gateway's webhooks need no database
        assert status(engine) == "open"
        with stopping(Proxy(place.port, port=port)):
            assert receiver.post("asaas", PAID["asaas"]) == 200
    assert status(engine) == "paid"


@pytest.mark.parametrize(
    ("answer", "expected", "state"),
    [
        ((200, payments.mercado_pago_payment()), 200, "applied"),
        ((200, payments.mercado_pago_payment("pending")), 200, "ignored"),
        ((404, {"message": "Payment not found"}), 200, "ignored"),
        ((500, {}), 503, None),
        ((401, {}), 503, None),
        ((200, b"<html>"), 503, None),
        ((200, {}), 400, None),
    ],
)
def test_mercado_pago_is_asked_for_the_payment(receiver, engine, provider, answer, expected, state):
    add(engine)
    provider.says(answer)
    assert receiver.post("mercado_pago", PAID["mercado_pago"]) == expected
    assert [row.state for row in events(engine)] == ([] if state is None else [state])
    ((path, _, headers),) = provider.asked
    assert (path, headers["Authorization"]) == ("/v1/payments/1234567890", "Bearer mercado-pago-key")


def test_a_new_tenant_needs_no_restart(receiver, engine, secrets):
    assert receiver.post("asaas", PAID["asaas"], tenant="new") == 404
    secrets.write_text(json.dumps({"new": SECRETS, TENANT: SECRETS}), "utf-8")
    assert receiver.post("asaas", PAID["asaas"], tenant="new") == 200


def test_logs_and_rows_hold_nothing_personal(receiver, engine):
    add(engine)
    with structlog.testing.capture_logs() as lines:
        for name, body in PAID.items():
            assert receiver.post(name, body) == 200
            assert receiver.post(name, body, secret="another") == 401
    written = repr(lines) + repr([tuple(row) for row in events(engine)])
    assert not any(word in written for word in payments.PERSONAL)
    assert payments.SECRET not in written


def test_slow_payments_delay_no_webhook_of_the_gateway(receiver, engine, provider):
    provider.may_answer.clear()
    threads = [
        threading.Thread(target=receiver.post, args=("mercado_pago", payments.mercado_pago(str(n)))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(provider.asked) >= 4)
    body = json.dumps({"event": "presence.update", "instance": "wa1", "data": {}}).encode()
    assert receiver.ask("POST", "/hooks", body, {"x-ifinu-secret": GATEWAYS_SECRET})[0] == 200
    assert all(thread.is_alive() for thread in threads)
    provider.may_answer.set()
    for thread in threads:
        thread.join(30)
