from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import bills
import pytest
import redis
from command_line import Shell
from processes import redis_server, wait_until
from sqlalchemy import Connection, Engine, insert, select, update

from ifinu.billing import calendars, customers, intent_retention, scheduler, tenants
from ifinu.billing import charges as billing_charges
from ifinu.billing.billing_schema import (
    agenda,
    bank_days,
    billing_tenants,
    cancel_flags,
    charges,
    intents,
    payment_events,
)
from ifinu.billing.charges import NewCharge
from ifinu.billing.customers import Customer
from ifinu.billing.scheduler import Figures, Scheduler
from ifinu.billing.tenants import Tenant
from ifinu.broker import NORMAL
from ifinu.broker.keys import EPOCH, EVENTS, LEDGER_GROUP, claim_key
from ifinu.embedded import Valkey

NOW = datetime(2026, 12, 15, 13, tzinfo=UTC)
WEEK_S = 604_800.0
DUE = {"not_before": NOW - timedelta(hours=1), "valid_until": NOW + timedelta(days=1)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_BACKOFF_S", (0.05,))
    monkeypatch.setattr(scheduler, "PUSH_IDLE_S", 0.05)
    monkeypatch.setattr(scheduler, "CHECK_EVERY_S", 0.05)


@pytest.fixture
def made(engine: Engine, client: redis.Redis) -> Scheduler:
    return Scheduler(engine, client, lambda: NOW, claim_ttl_s=WEEK_S, retention_days=365)


@pytest.fixture
def running(made: Scheduler) -> Iterator[Callable[[], None]]:
    """Starts the scheduler in a thread, and stops it at the end."""
    stop = threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,))
    yield thread.start
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def planned(engine: Engine, name: str = "k1", **columns: Any) -> tuple[int, str]:
    """A planned message; returns its charge and its id."""
    with engine.begin() as connection:
        if not connection.execute(select(charges.c.seq)).first():
            bills.tenant(connection)
        bills.customer(connection, name)
        seq = bills.charge(connection, name, name)
        return bills.intent(connection, seq, **DUE | columns)


def state(engine: Engine, seq: int) -> str:
    with engine.connect() as connection:
        return str(connection.scalar(select(intents.c.state).where(intents.c.charge_seq == seq)))


def test_one_pass_does_all_that_is_due(engine: Engine, client: redis.Redis, made: Scheduler):
    seq, id_ = planned(engine)
    late, _ = planned(engine, "k2", valid_until=NOW)
    with engine.begin() as connection:
        connection.execute(insert(cancel_flags).values(id="x", at=NOW))
    made.once()
    assert json.loads(client.lrange(NORMAL, 0, -1)[0])["id"] == id_
    assert (state(engine, seq), state(engine, late)) == ("queued", "expired")
    assert client.hget(claim_key("x"), "state") == b"cancelled"
    with engine.connect() as connection:
        assert {row.status for row in connection.execute(select(charges))} == {"overdue"}
        assert connection.execute(select(bank_days.c.day)).first() is not None
    done = made.figures.done
    assert (done["pushed"], done["expired"], done["cancelled"], done["overdue"]) == (1, 1, 1, 2)


def test_it_plans_and_pushes_what_is_due_today(engine: Engine, client: redis.Redis, made: Scheduler):
    with engine.begin() as connection:
        calendars.fill(connection, NOW.date())
        tenants.add(connection, Tenant(id="u1", legal_name="Academia Fit LTDA", uf="SP", spread_s=0), NOW)
        customers.add(connection, Customer(tenant="u1", id="k1", name="Maria", phone=bills.PHONE), NOW)
        for id_, days in (("soon", 3), ("later", 9)):
            charge = NewCharge("u1", id_, "k1", Decimal("99.90"), NOW.date() + timedelta(days=days))
            billing_charges.add(connection, charge, NOW - timedelta(days=1))
    made.once()
    assert [json.loads(raw)["tipo_notificacao"] for raw in client.lrange(NORMAL, 0, -1)] == ["lembrete"]
    assert (made.figures.done["planned"], made.figures.done["pushed"]) == (1, 1)
    assert made.figures.behind_days == 0


def test_a_payment_finds_its_charge_before_anything_is_planned(engine: Engine, client: redis.Redis, made: Scheduler):
    """
    The charge and the event were added at the same moment, so neither transaction saw the other's.
    """
    seq, _ = planned(engine)
    event = {"provider": "asaas", "tenant": "u1", "event": "PAID", "effect": "paid", "raw": {}, "references": ["k1"]}
    with engine.begin() as connection:
        row = {"event_id": "a", "state": "unmatched", "received_at": NOW - timedelta(minutes=1)}
        connection.execute(insert(payment_events).values(**event | row))
    made.once()
    assert client.llen(NORMAL) == 0
    assert (state(engine, seq), made.figures.done["matched"]) == ("cancelled", 1)


def test_it_counts_what_is_behind(engine: Engine, made: Scheduler):
    seq, _ = planned(engine, not_before=NOW + timedelta(hours=1))
    event = {"provider": "asaas", "tenant": "u1", "event": "PAID", "effect": "paid", "raw": {}}
    with engine.begin() as connection:
        connection.execute(insert(agenda).values(charge_seq=seq, tenant="u1", next_on=date(2026, 12, 12)))
        connection.execute(insert(payment_events).values(event_id="a", state="unmatched", **event))
        connection.execute(insert(payment_events).values(event_id="b", state="applied", **event))
    with engine.begin() as elsewhere:  # so that this pass does not decide it
        elsewhere.execute(select(agenda).with_for_update())
        made.once()
    figures = made.figures
    assert (figures.behind_days, figures.unmatched, figures.flags, figures.due) == (3, 1, 0, 0)
    assert figures.counted
    with engine.begin() as connection:
        connection.execute(update(agenda).values(next_on=date(2026, 12, 12)))
        connection.execute(update(billing_tenants).values(paused_at=NOW))
    made.once()
    assert figures.behind_days == 0


def test_it_waits_for_redis_and_goes_on_when_it_is_back(
    engine: Engine, running_on_its_own: tuple[Valkey, Scheduler, Callable[[], None]], log: list[dict[str, Any]]
):
    valkey, made, start = running_on_its_own
    start()
    wait_until(lambda: "push" in made.figures.passed_at)
    valkey.kill()
    wait_until(lambda: [line["event"] for line in log].count("ifinu.scheduler.waiting"))
    seq, _ = planned(engine)
    valkey.start()
    wait_until(lambda: state(engine, seq) == "queued", seen=lambda: log)
    # It has resumed once a whole round has passed.
    wait_until(lambda: "ifinu.scheduler.resumed" in [line["event"] for line in log], seen=lambda: log)
    events = [line["event"] for line in log]
    assert events.count("ifinu.scheduler.waiting") == events.count("ifinu.scheduler.resumed") == 1
    assert events.count("ifinu.scheduler.redis_restarted") == 1
    assert made.figures.losses == {"restarted": 1}


@pytest.fixture
def running_on_its_own(engine: Engine) -> Iterator[tuple[Valkey, Scheduler, Callable[[], None]]]:
    """A Redis that may be killed, and a scheduler on it that is started on demand."""
    stop = threading.Event()
    with redis_server() as valkey, redis.Redis.from_url(valkey.url, socket_timeout=5) as client:
        made = Scheduler(engine, client, lambda: NOW, claim_ttl_s=WEEK_S, retention_days=365)
        thread = threading.Thread(target=made.run, args=(stop,))
        yield valkey, made, thread.start
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The log lines."""
    lines: list[dict[str, Any]] = []

    class Log:
        def __getattr__(self, level: str) -> Callable[..., None]:
            return lambda event, **fields: lines.append({"event": event, "level": level, **fields})

    monkeypatch.setattr(scheduler, "log", Log())
    return lines


def test_a_redis_that_lost_the_epoch_gets_its_messages_again(
    engine: Engine, client: redis.Redis, running: Callable[[], None], made: Scheduler, log: list[dict[str, Any]]
):
    seq, id_ = planned(engine)
    running()
    wait_until(lambda: state(engine, seq) == "queued", seen=lambda: log)
    client.flushall()
    client.xgroup_create("ifinu:eventos", "ledger", id="0", mkstream=True)
    wait_until(lambda: client.llen(NORMAL) == 1, seen=lambda: log)
    assert client.exists(EPOCH)
    assert client.hget(claim_key(id_), "state") == b"unknown"  # it may have been sent
    (lost,) = [line for line in log if line["event"] == "ifinu.scheduler.redis_lost"]
    assert (lost["again"], lost["doubtful"]) == (1, 1)


def test_a_fault_of_one_duty_stops_no_other(
    engine: Engine,
    running: Callable[[], None],
    made: Scheduler,
    log: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
):
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(scheduler.calendars, "fill", fail)
    seq, _ = planned(engine)
    running()
    wait_until(lambda: state(engine, seq) == "queued", seen=lambda: log)
    assert +made.figures.faults == {"calendars": 1}
    assert [(line["event"], line["duty"]) for line in log if line["level"] == "exception"] == [
        ("ifinu.scheduler.failed", "calendars")
    ]


def test_a_message_without_a_trace_is_counted_and_logged(
    engine: Engine, client: redis.Redis, made: Scheduler, log: list[dict[str, Any]]
):
    client.xgroup_create(EVENTS, LEDGER_GROUP, mkstream=True)
    planned(engine, state="queued", queued_at=NOW - timedelta(days=3), valid_until=NOW - timedelta(days=1))
    made.once()
    assert made.figures.done["no_trace"] == 1
    assert {"event": "ifinu.scheduler.no_trace", "level": "error", "messages": 1} in log


def test_traces_are_looked_for_once_the_recorder_has_written_what_it_missed(
    engine: Engine, client: redis.Redis, made: Scheduler
):
    """Otherwise what was sent while PostgreSQL was away would be taken for lost. A recorder that never runs is one."""
    client.xgroup_create(EVENTS, LEDGER_GROUP, mkstream=True)
    client.xadd(EVENTS, {"event": "sent"})
    planned(engine, state="queued", queued_at=NOW - timedelta(days=3), valid_until=NOW - timedelta(days=1))
    made.once()
    assert made.figures.done["no_trace"] == 0
    for _ in range(60):
        made.once(without=[name for name in made.figures.faults if name != "trace"])
    assert made.figures.done["no_trace"] == 1


def test_old_steps_of_closed_charges_are_deleted_at_night(engine: Engine):
    night = datetime(2026, 12, 15, 6, 30, tzinfo=UTC)
    assert (intent_retention.is_night(night), intent_retention.is_night(NOW)) == (True, False)
    paid, _ = planned(engine, "k1", planned_on=date(2025, 12, 14), state="queued")
    open_, _ = planned(engine, "k2", planned_on=date(2025, 12, 14), state="queued")
    young, _ = planned(engine, "k3", planned_on=date(2025, 12, 15), state="queued")
    with engine.begin() as connection:
        closed = update(charges).where(charges.c.seq.in_((paid, young)))
        connection.execute(closed.values(status="paid"))
        for id_, days in (("old", 91), ("new", 89)):
            connection.execute(insert(cancel_flags).values(id=id_, at=NOW, done_at=NOW - timedelta(days=days)))
        event = {"provider": "asaas", "tenant": "u1", "event": "PAID", "effect": "paid", "raw": {}, "state": "applied"}
        for id_, days in (("old", 366), ("new", 364)):
            received = {"event_id": id_, "received_at": night - timedelta(days=days)}
            connection.execute(insert(payment_events).values(**event | received))
        assert intent_retention.purge(connection, night, 365, limit=1) == (1, True)
        assert intent_retention.purge(connection, night, 365) == (0, False)
        assert ids(connection, intents.c.charge_seq) == {open_, young}
        assert ids(connection, cancel_flags.c.id) == {"new"}
        assert ids(connection, payment_events.c.event_id) == {"new"}


def ids(connection: Connection, column: Any) -> set[Any]:
    return set(connection.scalars(select(column)))


@pytest.fixture
def ifinu(capsys, monkeypatch, valkey: Valkey, postgres_ledger: str) -> Shell:
    monkeypatch.setattr("ifinu.logs.configure", lambda *_: None)  # it is for a process of its own
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_DATABASE_URL", postgres_ledger)
    return Shell(capsys, monkeypatch)


def test_the_command_runs_one_pass_and_says_what_it_did(engine: Engine, client: redis.Redis, ifinu: Shell):
    now = datetime.now(UTC)
    planned(engine, not_before=now - timedelta(hours=1), valid_until=now + timedelta(days=1))
    done = ifinu("scheduler", "--once", "--json").json
    assert (done["pushed"], done["expired"]) == (1, 0)
    assert client.llen(NORMAL) == 1
    assert "0 pushed" in ifinu("scheduler", "--once").out


def test_the_command_writes_by_the_templates_of_the_settings(
    engine: Engine, client: redis.Redis, ifinu: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path
):
    (tmp_path / "atraso.txt.j2").write_text("Da pasta: {{ valor }}")
    monkeypatch.setenv("IFINU_TEMPLATES", str(tmp_path))
    now = datetime.now(UTC)
    planned(engine, not_before=now - timedelta(hours=1), valid_until=now + timedelta(days=1))
    assert ifinu("scheduler", "--once").code == 0
    (message,) = client.lrange(NORMAL, 0, -1)
    assert json.loads(message)["texto"].startswith("Da pasta: R$ ")


def test_the_command_needs_postgresql(ifinu: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("IFINU_DATABASE_URL", f"sqlite:///{tmp_path}/ledger.db")
    for arguments in (("--once",), ()):
        ended = ifinu("scheduler", *arguments)
        assert ended.code == 2
        assert "charges need PostgreSQL" in ended.err


def test_figures_are_exported():
    from prometheus_client import CollectorRegistry, generate_latest

    from ifinu.metrics.scheduler_series import SchedulerSeries

    registry, figures = CollectorRegistry(), Figures()
    SchedulerSeries(registry, figures)
    figures.done.update(planned=3, pushed=2)
    figures.losses["lost"] = 1
    figures.faults["push"] = 4
    figures.passed_at["push"] = 1_800_000_000.0
    text = generate_latest(registry).decode()
    assert "ifinu_scheduler_planned_total 3.0" in text
    assert "ifinu_scheduler_pushed_total 2.0" in text
    assert 'ifinu_scheduler_redis_losses_total{found="lost"} 1.0' in text
    assert 'ifinu_scheduler_faults_total{duty="push"} 4.0' in text
    assert 'ifinu_scheduler_passed_timestamp_seconds{duty="push"} 1.8e+09' in text
    assert "behind_days" not in text  # before it was counted
    figures.counted, figures.behind_days = True, 2
    assert "ifinu_scheduler_behind_days 2.0" in generate_latest(registry).decode()
