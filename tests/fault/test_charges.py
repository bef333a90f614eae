"""Payments while messages about their charges are on their way."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bills import charge, customer, intent, tenant
from ledgers import database, migrated
from processes import Fleet, Queue, Simulated, Worker, postgres_server, wait_until
from sqlalchemy import Engine

from ifinu import wire
from ifinu.billing import charges
from ifinu.billing.messages import compose
from ifinu.broker.claims import Claims
from ifinu.embedded import Postgres
from ifinu.ledger.engine import connect
from ifinu.notification import Notification

CHECKING = {"application": "checking_app", "PYTHONPATH": str(Path(__file__).parent)}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server for these tests only, since they stop it."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def engine(postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = connect(migrated(database(postgres.url, request.node.name[:60])))
    yield engine
    engine.dispose()


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def phone(number: int) -> str:
    return f"+55119{87000000 + number}"


def planned(engine: Engine, count: int) -> list[Notification]:
    """So many charges of so many customers, due in three days, with their reminders."""
    now = datetime.now(UTC)
    with engine.begin() as connection:
        tenant(connection)
        keys = []
        for n in range(count):
            customer(connection, f"k{n}", phone=phone(n))
            seq = charge(connection, f"inv-{n}", f"k{n}", due=now.date() + timedelta(days=3))
            keys.append(intent(connection, seq, "lembrete", state="queued", planned_on=now.date()))
        made = compose(connection, keys, now)
    return [made[id_] for _, id_ in keys]  # type: ignore[misc] # each charge is open


def push(queue: Queue, messages: Sequence[Notification]) -> None:
    queue.push(*(json.dumps(wire.encode(message)).encode() for message in messages))


def pay(engine: Engine, number: int) -> float:
    """Pay a charge in the database alone, and return when everybody could see that."""
    with engine.begin() as connection:
        charges.pay(connection, "u1", f"inv-{number}", amount=None, at=None, via="pix", now=datetime.now(UTC))
    return time.monotonic()


def begun(simulator: Simulated) -> dict[int, float]:
    """When the request of each message arrived, by the number of its charge."""
    return {int(send.number[5:]) - 87000000: send.begun_monotonic for send in simulator.sends()}


def looked(worker: Worker) -> dict[str, float]:
    """When the worker began its last look at the charge of each message, by its id."""
    return {id_: float(at) for id_, at in re.findall(r"^looked at (\S+) (\S+)$", worker.text(), re.MULTILINE)}


@pytest.mark.fault
@pytest.mark.timeout(300)
def test_no_message_goes_once_its_charge_can_be_seen_as_paid(
    fleet: Fleet, queue: Queue, simulator: Simulated, engine: Engine, sized, capsys
):
    """
    Payments at any time between the push of a message and after its send; Redis hears of none of them. A message
    goes only if its look at the charge began before the payment could be seen.
    """
    count = sized(150, 1_000)
    messages = planned(engine, count)
    ids = {n: message.id for n, message in enumerate(messages)}
    random.shuffle(messages)
    paced = {"IFINU_RATE_LIMIT": "30/s", "IFINU_RATE_BURST": "1"}
    worker = fleet.start(IFINU_DATABASE_URL=url_of(engine), **CHECKING, **paced).ready()
    queue.client.set(queue.keys.paused, 1)
    push(queue, messages)
    # A quarter is paid before anything goes and a quarter after all of it, the others once so many messages have ended.
    first, last = count // 4, count - count // 4
    paid = {n: pay(engine, n) for n in range(first)}
    queue.client.delete(queue.keys.paused)
    at = sorted((random.uniform(0, count), n) for n in range(first, last))

    def ended() -> int:
        counts = queue.counts()
        return count - counts["ready"] - counts["in_flight"] - counts["delayed"]

    def payer(mine: list[tuple[float, int]]) -> None:
        for enough, n in mine:
            wait_until(lambda: ended() >= enough, 120, queue.counts, every_s=0.01)  # noqa: B023 - asked within the loop
            paid[n] = pay(engine, n)

    payers = [threading.Thread(target=payer, args=(at[part::3],)) for part in range(3)]
    for thread in payers:
        thread.start()
    for thread in payers:
        thread.join()
    wait_until(queue.idle, 90, queue.counts)
    paid |= {n: pay(engine, n) for n in range(last, count)}
    assert len(paid) == count
    sent = begun(simulator)
    after = {n: sent[n] - paid[n] for n in sent if sent[n] > paid[n]}
    latest_s = max(after.values(), default=0.0)
    with capsys.disabled():
        print(f"\n{count} paid: {len(sent)} sent, {len(after)} of them up to {latest_s:.3f} s after the payment")
    looks = looked(worker)
    assert [n for n in sent if looks[ids[n]] > paid[n]] == []
    assert count * 0.2 < len(sent) < count * 0.8
    stopped = worker.text().count('"reason": "paid"')
    assert stopped == count - len(sent)
    assert queue.dead() == []


@pytest.mark.fault
@pytest.mark.timeout(300)
def test_messages_go_on_while_postgresql_is_killed_and_are_checked_again_when_it_is_back(
    fleet: Fleet, queue: Queue, simulator: Simulated, postgres: Postgres, engine: Engine
):
    """
    Paid before the outage, and cancelled in Redis: none. Paid after it: none.
    """
    messages = planned(engine, 240)
    paced = {"IFINU_RATE_LIMIT": "60/s", "IFINU_RATE_BURST": "1"}
    worker = fleet.start(IFINU_DATABASE_URL=url_of(engine), **CHECKING, **paced).ready()
    push(queue, messages[:80])
    wait_until(lambda: simulator.total() > 20, 30, worker.text)
    for n in range(80, 90):
        pay(engine, n)
        Claims(queue.client, 600).cancel(messages[n].id)
    engine.dispose()
    postgres.kill()
    push(queue, messages[80:160])
    going = {*range(80), *range(90, 160)}
    wait_until(lambda: begun(simulator).keys() >= going, 30, lambda: (going - begun(simulator).keys(), queue.dead()))
    wait_until(queue.idle, 30, queue.counts)
    postgres.start()
    for n in range(160, 200):
        pay(engine, n)
    # One message after the other, until one was looked at again.
    for message in messages[160:200]:
        if '"ifinu.charges.checked"' in worker.text():
            break
        push(queue, [message])
        time.sleep(0.5)
    wait_until(lambda: '"ifinu.charges.checked"' in worker.text(), 30, lambda: worker.text()[-1000:])
    push(queue, messages[200:])
    pay(engine, 239)
    wait_until(queue.idle, 30, queue.counts)
    assert worker.text().count('"ifinu.charges.unchecked"') == 1
    assert sorted(begun(simulator).keys() & range(80, 90)) == []
    assert begun(simulator).keys() >= {*range(80), *range(90, 160), *range(200, 230)}
    assert queue.dead() == []
