"""A worker's look at a charge before it sends, with PostgreSQL there, slow and away."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from bills import PHONE, charge, customer, intent, tenant
from pix import pix
from processes import wait_until
from sqlalchemy import Engine, create_engine, make_url, text, update
from structlog.testing import capture_logs
from tcp_proxy import Proxy

from ifinu.billing import charge_check, texts
from ifinu.billing.billing_schema import billing_tenants, charges, customers, intents
from ifinu.billing.charge_check import _PATIENCE_S, ChargeCheck
from ifinu.gateway.breaker import Breaker
from ifinu.ledger.engine import connect
from ifinu.loop import Loop, sleep
from ifinu.notification import Kind, Notification, Priority, Stop
from ifinu.render import Renderer

NOW = datetime(2026, 12, 15, 12, 0, tzinfo=UTC)
BOLETO = "00190500954014481606906809350314337370000000100"


@pytest.fixture
def engine(postgres_ledger: str) -> Iterator[Engine]:
    engine = connect(postgres_ledger)
    with engine.begin() as connection:
        tenant(connection)
        customer(connection)
    yield engine
    engine.dispose()


@pytest.fixture
def proxy(postgres_ledger: str) -> Iterator[Proxy]:
    made = Proxy(make_url(postgres_ledger).port or 5432)
    yield made
    made.stop()


def planned(engine: Engine, kind: str = "atraso", **columns: Any) -> Notification:
    """A charge with an intent, and its message as it was queued."""
    with engine.begin() as connection:
        seq, id_ = intent(connection, charge(connection, **columns), kind, state="queued")
    return Notification(
        id=id_, kind=Kind(kind), phone=PHONE, name="Maria", amount="100.00", due_date="2026-12-10", text="Como antes.",
        tenant="u1", instance="loja-1", priority=Priority.LOW, valid_until=NOW, charge_ref=str(seq),
    )  # fmt: skip


PATIENT_S = 30.0


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the database time to answer on a busy machine."""
    for name in ("_FIRST_PATIENCE_S", "_PATIENCE_S", "_STATEMENT_S"):
        monkeypatch.setattr(charge_check, name, PATIENT_S)


@pytest.fixture
def impatient(_patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave it as little time as a worker does, after the first look."""
    monkeypatch.setattr(charge_check, "_PATIENCE_S", _PATIENCE_S)


class Clock:
    """The breaker's clock: it stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def check_at(url: str, clock: Callable[[], float] = time.monotonic) -> ChargeCheck:
    return ChargeCheck(url, Renderer(), Breaker(clock, failures_to_open=1))


def set_(engine: Engine, table: Any, **columns: Any) -> None:
    with engine.begin() as connection:
        connection.execute(update(table).values(**columns))


def test_an_open_charge_is_written_anew_and_the_message_keeps_how_it_goes(engine, postgres_ledger):
    message = planned(engine)
    fresh = check_at(postgres_ledger)(message, NOW)
    assert "*Total em 15/12/2026: R$ 102,17*" in fresh.text
    kept = ("id", "phone", "tenant", "instance", "priority", "valid_until", "charge_ref")
    assert {name: getattr(fresh, name) for name in kept} == {name: getattr(message, name) for name in kept}


@pytest.mark.parametrize(
    ("table", "columns", "says"),
    [
        (charges, {"pix_code": pix("depois")}, pix("depois")),
        (charges, {"payment_link": "https://pay.example/2"}, "https://pay.example/2"),
        (charges, {"boleto_line": BOLETO}, "00190.50095 40144.816069 06809.350314 3 37370000000100"),
        (charges, {"due_date": date(2026, 12, 9), "payable_on": date(2026, 12, 9)}, "09/12/2026"),
        (charges, {"description": "Outra coisa"}, "Outra coisa"),
        (charges, {"paid": 40}, "R$ 40,00"),
        (customers, {"name": "Joana"}, "Joana"),
        (billing_tenants, {"legal_name": "Outra LTDA"}, "Outra LTDA"),
    ],
)
def test_all_that_a_text_says_is_what_the_database_has(engine, postgres_ledger, table, columns, says):
    message = planned(engine, pix_code=pix("antes"))
    check = check_at(postgres_ledger)
    assert says not in check(message, NOW).text
    set_(engine, table, **columns)
    assert says in check(message, NOW).text


def test_its_results_are_counted(engine, postgres_ledger):
    message = planned(engine)
    check = check_at(postgres_ledger)
    assert set(check.results.values()) == {0}
    check(message, NOW)
    check(message.model_copy(update={"charge_ref": "999999"}), NOW)
    set_(engine, charges, status="paid", paid=100)
    check(message, NOW)
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE charges IN ACCESS EXCLUSIVE MODE"))
        for _ in range(3):
            check(message, NOW)
    assert +check.results == {"fresh": 1, "unknown": 1, "paid": 1, "unchecked": 3}


def test_a_text_that_was_changed_meanwhile_is_the_one_that_goes(engine, postgres_ledger):
    message = planned(engine, "lembrete")
    check = check_at(postgres_ledger)
    before = check(message, NOW).text
    set_(engine, billing_tenants, text_set="ifinu")
    by_the_set = check(message, NOW).text
    with engine.begin() as connection:
        texts.put(connection, "u1", "lembrete", "Oi, {{ nome }}: {{ valor }}", NOW)
    assert len({before, by_the_set, check(message, NOW).text}) == 3
    assert check(message, NOW).text == "Oi, Maria Silva: R$ 102,17"


@pytest.mark.parametrize(
    ("table", "columns", "found"),
    [
        (charges, {"status": "paid", "paid": 100}, Stop.PAID),
        (charges, {"status": "cancelled"}, Stop.CHARGE_CANCELLED),
        (charges, {"hold_until": date.max}, Stop.ON_HOLD),
        (customers, {"phone": "+5511987654322"}, Stop.CANCELLED),
        (customers, {"phone": None, "name": None}, Stop.NO_PHONE),
        (customers, {"name": "undefined"}, None),  # what was queued is still right
        (intents, {"state": "cancelled"}, Stop.CANCELLED),
    ],
)
def test_what_the_database_says(engine, postgres_ledger, table, columns, found):
    message = planned(engine)
    set_(engine, table, **columns)
    assert check_at(postgres_ledger)(message, NOW) is found


def test_a_charge_or_step_that_the_database_does_not_know_goes_as_it_is(engine, postgres_ledger):
    message = planned(engine)
    check = check_at(postgres_ledger)
    for changed in ({"charge_ref": "999999"}, {"charge_ref": "9" * 18}, {"id": "c1.outro.261210"}):
        assert check(message.model_copy(update=changed), NOW) is None
    assert isinstance(check(message, NOW), Notification)


def test_a_payment_code_goes_while_its_charge_is_to_be_paid_and_it_has_not_expired(engine, postgres_ledger):
    message = planned(engine, pix_code=pix(), boleto_line=BOLETO)
    code, line = message.model_copy(update={"pix_code": pix(), "boleto_line": BOLETO}).code_messages("loja-1")
    check = check_at(postgres_ledger)
    assert (check(code, NOW), check(line, NOW)) == (code, line)
    set_(engine, charges, pix_code=pix("depois"), boleto_line=None)
    assert check(code, NOW) == code.model_copy(update={"text": pix("depois")})
    assert check(line, NOW) is Stop.CANCELLED
    set_(engine, charges, pix_expires_at=NOW)
    assert check(code, NOW) is Stop.CANCELLED
    set_(engine, charges, pix_expires_at=None, status="paid")
    assert check(code, NOW) is Stop.PAID


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each look at the database may take, in seconds; a message that does not look has none."""
    asked: list[float] = []
    result_of = charge_check.loop.result_of

    def written(looking: Any, patience_s: float) -> Any:
        asked.append(patience_s)
        return result_of(looking, patience_s)

    monkeypatch.setattr(charge_check.loop, "result_of", written)
    return asked


def test_a_database_that_is_slow_costs_a_second_once(engine, postgres_ledger, impatient, waits):
    message, clock = planned(engine), Clock()
    check = check_at(postgres_ledger, clock)
    assert isinstance(check(message, NOW), Notification)
    with engine.begin() as connection, capture_logs() as logged:
        connection.execute(text("LOCK TABLE charges IN ACCESS EXCLUSIVE MODE"))
        assert [check(message, NOW) for _ in range(1000)] == [None] * 1000
        assert waits == [PATIENT_S, 1.0]
        clock.now += 0.6  # one message asks again
        assert [check(message, NOW) for _ in range(1000)] == [None] * 1000
        assert waits == [PATIENT_S, 1.0, 0.2]
    assert [line["event"] for line in logged] == ["ifinu.charges.unchecked"]
    assert back(check, message, clock)


def back(check: ChargeCheck, message: Notification, clock: Clock) -> Notification | Stop:
    """What the check finds once it looks again with success."""

    def looks() -> Notification | Stop | None:
        clock.now += 10
        return check(message, NOW)

    return wait_until(looks)


def test_a_database_that_is_away_costs_nothing_and_is_asked_again(engine, proxy, postgres_ledger, impatient, waits):
    url = make_url(postgres_ledger).set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    message, clock = planned(engine), Clock()
    check = check_at(url, clock)
    assert isinstance(check(message, NOW), Notification)
    proxy.cut()
    check._patience_s = PATIENT_S
    assert isinstance(check(message, NOW), Notification)  # a lost connection is replaced
    proxy.silence(True)
    assert [check(message, NOW) for _ in range(1000)] == [None] * 1000
    assert waits == [PATIENT_S, PATIENT_S, 1.0]
    set_(engine, charges, status="paid", paid=100)
    proxy.silence(False)
    proxy.cut()
    with capture_logs() as logged:
        assert back(check, message, clock) is Stop.PAID
    assert [line["event"] for line in logged] == ["ifinu.charges.checked"]


@pytest.mark.parametrize("lacks", ["server", "tables"])
def test_without_a_server_or_tables_messages_go_as_they_are(postgres, lacks):
    url = make_url(postgres)
    given = url.set(port=1) if lacks == "server" else url
    check = check_at(given.render_as_string(hide_password=False))
    message = Notification(id="c1.atraso.261210", kind=Kind.OVERDUE, phone=PHONE, text="Olá", charge_ref="1")
    with capture_logs() as logged:
        assert [check(message, NOW) for _ in range(5)] == [None] * 5
    assert [line["event"] for line in logged] == ["ifinu.charges.unchecked"]


def test_a_task_that_checks_does_not_keep_others_waiting(engine, postgres_ledger, impatient):
    message = planned(engine)
    check = check_at(postgres_ledger)
    assert isinstance(check(message, NOW), Notification)
    found: list[Any] = []
    turns: list[bool] = []
    loop = Loop()
    with contextlib.closing(loop), engine.begin() as connection:
        connection.execute(text("LOCK TABLE charges IN ACCESS EXCLUSIVE MODE"))

        def ticks() -> None:
            while not found:
                turns.append(True)
                sleep(0.01)

        loop.spawn(lambda: found.append(check(message, NOW)))
        loop.spawn(ticks)
        loop.run_until(lambda: not loop.tasks)
    assert found == [None]
    assert turns


def test_a_check_is_one_statement_and_two_connections_at_most(engine, postgres_ledger):
    message = planned(engine)
    check = check_at(postgres_ledger)
    check(message, NOW)
    own = create_engine(postgres_ledger, isolation_level="AUTOCOMMIT")
    count = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%unnest%'")
    loop = Loop()
    with contextlib.closing(loop):
        for _ in range(20):
            loop.spawn(lambda: check(message, NOW))
        loop.run_until(lambda: not loop.tasks)
    with own.connect() as connection:
        assert connection.scalar(count) <= 3  # this question has the word, too
    own.dispose()
