"""
Charges that change while their messages are on the way, with workers that cannot ask PostgreSQL.

Only a cancellation in Redis keeps an old message back then. So one that goes and is not true any more has a flag, and
was being sent when Redis got it.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import bills
import pytest
import redis
from ledgers import database, migrated
from processes import Fleet, Queue, Simulated, postgres_server, wait_until
from sqlalchemy import Engine, func, select, update

from ifinu.billing import charges, epoch, outbox, tenants, texts, withdrawals
from ifinu.billing.billing_schema import cancel_flags, intents
from ifinu.broker.keys import claim_key
from ifinu.embedded import Postgres
from ifinu.errors import InvalidBilling
from ifinu.ledger.engine import connect
from ifinu.reference import reference_in, reference_of

TTL_S = 604_800.0
GROUP = 4  # charges of a customer
TEXT = "{% for cobranca in cobrancas %}{{ cobranca.numero }}: {{ cobranca.valor }}\n{% endfor %}"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def engine(postgres: Postgres) -> Iterator[Engine]:
    made = connect(migrated(database(postgres.url, f"changed_{random.getrandbits(40):x}")))
    yield made
    made.dispose()


class Books:
    """The charges, and what is known of each since when."""

    def __init__(self, engine: Engine, customers: int) -> None:
        self.engine = engine
        self.seqs: dict[str, int] = {}
        self.lock = threading.Lock()
        # Charge -> since when (monotonic) it may be asked for so much; None: for nothing.
        self.asks: defaultdict[str, list[tuple[float, Decimal | None]]] = defaultdict(list)
        now = datetime.now(UTC)
        valid = {"not_before": now - timedelta(minutes=1), "valid_until": now + timedelta(days=1)}
        with engine.begin() as connection:
            bills.tenant(connection)
            texts.put(connection, "u1", "lembrete", TEXT, now)
            for who in range(customers):
                bills.customer(connection, f"k{who}", phone=f"+551198{7_000_000 + who}")
                leader = None
                for n in range(GROUP):
                    id_ = f"f{who:03}x{n}"
                    due = now.date() + timedelta(days=3 + n)
                    seq = bills.charge(connection, id_, f"k{who}", due=due, amount=100 + n)
                    state = {"state": "merged", "reason": "merged"} if n else {}
                    leader = leader or seq
                    columns = {**valid, **state, "leader": leader, "planned_on": now.date()}
                    bills.intent(connection, seq, "lembrete", **columns)
                    self.seqs[id_] = seq
                    self.asks[id_].append((0.0, Decimal(100 + n)))

    def change(self, id_: str, do: Callable[[], Decimal | None]) -> None:
        try:
            asks = do()
        except InvalidBilling:  # it is paid by now
            return
        with self.lock:
            self.asks[id_].append((time.monotonic(), asks))

    def is_old(self, id_: str, asked: Decimal, at: float) -> bool:
        """Whether so much was not asked for any more at this time."""
        right = [asks for (_, asks), (until, _) in zip(self.asks[id_], [*self.asks[id_][1:], (1e18, None)], strict=True)
                 if until > at]  # fmt: skip
        return asked not in right


def schedule(engine: Engine, client: redis.Redis, stop: threading.Event, *, dies: random.Random) -> None:
    """A scheduler without its planner, which dies now and then between a push and its commit."""
    while not stop.is_set():
        now = datetime.now(UTC)
        with suppress(redis.RedisError):
            with engine.begin() as connection:
                epoch.check(connection, client, now, claim_ttl_s=TTL_S)
            with engine.begin() as connection:
                withdrawals.apply_flags(connection, client, 1000, now)
            with engine.connect() as connection:
                outbox.push(connection, client, now, claim_ttl_s=TTL_S, limit=10)
                (connection.rollback if dies.random() < 0.3 else connection.commit)()
        stop.wait(0.05)


@pytest.mark.fault
@pytest.mark.timeout(600)
def test_nothing_goes_that_asks_for_what_is_not_owed_though_workers_cannot_ask_postgresql(
    engine: Engine, fleet: Fleet, queue: Queue, simulator: Simulated, sized
):
    """
    Payments, payments of a part, other amounts, holds, moved due dates and pauses while three schedulers push, and die.
    """
    rng = random.Random(7)
    books = Books(engine, sized(40, 1_000))
    nobody = engine.url.set(port=1).render_as_string(hide_password=False)
    worker = fleet.start(
        IFINU_DATABASE_URL=nobody, IFINU_RECORDER="false", IFINU_RATE_LIMIT=sized("8/s", "100/s"), IFINU_RATE_BURST="1"
    ).ready()
    stop = threading.Event()
    running = [
        threading.Thread(target=schedule, args=(engine, queue.client, stop), kwargs={"dies": random.Random(n)})
        for n in range(3)
    ]
    for thread in running:
        thread.start()

    def pay(id_: str, amount: Decimal | None) -> Decimal | None:
        with engine.begin() as connection:
            paid = charges.pay(connection, "u1", id_, amount=amount, via="pix", now=datetime.now(UTC))
        return paid.left or None

    def edit(id_: str, amount: Decimal) -> Decimal:
        with engine.begin() as connection:
            charges.edit(connection, "u1", id_, now=datetime.now(UTC), amount=amount)
            row = charges.get(connection, "u1", id_)
        return row.amount - row.paid

    def hold(id_: str) -> None:
        with engine.begin() as connection:
            charges.hold(connection, "u1", id_, until=None, reason="acordo", now=datetime.now(UTC))

    moved = datetime.now(UTC).date() + timedelta(days=9)

    def move(id_: str) -> None:
        with engine.begin() as connection:
            charges.edit(connection, "u1", id_, now=datetime.now(UTC), due_date=moved)

    ids = list(books.seqs)
    rng.shuffle(ids)
    try:
        for place, id_ in enumerate(ids[: len(ids) // 2]):
            what = rng.choice([
                lambda id_: pay(id_, None), lambda id_: pay(id_, Decimal(30)), lambda id_: edit(id_, Decimal(77)),
                hold, move,
            ])  # fmt: skip
            books.change(id_, lambda id_=id_, what=what: what(id_))
            if place == len(ids) // 4:
                with engine.begin() as connection:
                    tenants.pause(connection, "u1", datetime.now(UTC))
                wait_until(lambda: not open_flags(engine) and queue.idle(), 60, queue.counts)
                before = simulator.total()
                assert left(engine) > 0
                time.sleep(1)
                assert simulator.total() == before
                with engine.begin() as connection:
                    tenants.resume(connection, "u1", datetime.now(UTC))
                hurry(engine)
            time.sleep(0.05)
        wait_until(lambda: not open_flags(engine), 60)
        hurry(engine)
        wait_until(
            lambda: not left(engine) and not open_flags(engine) and queue.idle(), 240,
            lambda: (left(engine), open_flags(engine), queue.counts()),
        )  # fmt: skip
    finally:
        stop.set()
        for thread in running:
            thread.join(30)
    assert '"ifinu.charges.unchecked"' in worker.text()
    with engine.connect() as connection:
        flagged = set(connection.scalars(select(cancel_flags.c.id)))
        ids_of = {reference_of(id_): id_ for id_ in flagged.union(connection.scalars(select(intents.c.id)))}
    sends = [(ids_of[reference_in(send.text)], send) for send in simulator.sends()]
    asked = [(message, *asks, send.begun_monotonic) for message, send in sends for asks in asked_for(send.text)]
    assert len(asked) > len(ids) // 3
    assert [each for each in asked if books.is_old(*each[1:]) and each[0] not in flagged] == []
    cancelled = [id_ for id_, _ in sends if queue.client.hexists(claim_key(id_), "cancelled")]
    assert cancelled == []
    assert max(Counter(id_.partition("~")[0] for id_, _ in sends).values()) == 1
    # Each charge that is still to be paid as it was is spoken of in one message.
    spoken = Counter(id_ for _, id_, _, _ in asked)
    assert {id_: spoken[id_] for id_ in ids if len(books.asks[id_]) == 1 and spoken[id_] != 1} == {}


def asked_for(text: str) -> list[tuple[str, Decimal]]:
    """The charges of a text, and what it asks for each."""
    return [(id_, Decimal(amount.replace(",", "."))) for id_, amount in re.findall(r"(f\d+x\d): R\$ ([\d,]+)", text)]


def hurry(engine: Engine) -> None:
    """Make all that is planned due; Redis has answered for what it takes the place of."""
    with engine.begin() as connection:
        connection.execute(update(intents).where(intents.c.state == "planned").values(not_before=datetime.now(UTC)))


def left(engine: Engine) -> int:
    """How many messages are planned."""
    with engine.connect() as connection:
        query = select(func.count()).select_from(intents).where(intents.c.state == "planned")
        return connection.execute(query).scalar_one()


def open_flags(engine: Engine) -> int:
    with engine.connect() as connection:
        query = select(func.count()).select_from(cancel_flags).where(cancel_flags.c.done_at.is_(None))
        return connection.execute(query).scalar_one()
