"""
The demo's third scene: a week of the régua in fast motion, on an embedded PostgreSQL and the same workers.

Forty charges of thirty customers fall due. Each day is planned and pushed as `ifinu scheduler` does, at ten in the
morning of that day, and the workers send. In the middle two charges are paid and one is disputed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from decimal import Decimal
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from ifinu.broker import backlog
from ifinu.cli.demo.stage import Stage, StageError
from ifinu.cli.demo.verdict import Check
from ifinu.embedded import Postgres
from ifinu.simulator import Send
from ifinu.window import BRASILIA

if TYPE_CHECKING:
    from sqlalchemy import Engine

CHARGES, CUSTOMERS, DAYS = 40, 30, 7
PAID, DISPUTED = ("fatura-05", "fatura-11"), "fatura-17"
MIDDLE = 3  # the day, from 0, on whose morning they are paid and disputed

_TENANT = "academia"
_HEAD = "11987674"  # of the phones; the simulator gives their endings no meaning
_CLAIM_TTL_S = 86_400.0
_LONGEST_S = 60.0
_POLL_S = 0.05
_DAY = timedelta(days=1)

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Played:
    """
    What the scene left behind.

    Attributes:
        sends: Those of the scene, in their order.
        by_day: How many there were each day.
        after: The number of sends before the payments and the dispute.
        expected: How many messages the planner let go.
        undecided: Steps whose day had come, and that have no decision.
        reasons: Number of steps by state and reason.
    """

    sends: Sequence[Send]
    by_day: Mapping[date, int]
    after: int
    expected: int
    undecided: int
    reasons: Mapping[str, int]


def play(running: Stage, tell: Tell) -> Played:
    """
    Play the scene.

    Args:
        tell: Called with a line about each day.

    Raises:
        StageError: A process ended, or messages have not ended after a minute.
    """
    from ifinu.ledger.engine import connect
    from ifinu.ledger.migrate import migrate

    with Postgres() as server:
        engine = connect(server.url)
        try:
            migrate(engine)
            return _play(running, engine, tell)
        finally:
            engine.dispose()


def _play(running: Stage, engine: Engine, tell: Tell) -> Played:
    before = running.control.total()
    first = datetime.now(ZoneInfo(BRASILIA)).date()
    _import(engine, first)
    by_day: dict[date, int] = {}
    after = so_far = 0
    for day in (first + n * _DAY for n in range(DAYS)):
        now = datetime.combine(day, clock(10), ZoneInfo(BRASILIA)).astimezone(UTC)
        what = ""
        if day == first + MIDDLE * _DAY:
            after, what = so_far, f"; {' and '.join(PAID)} are paid, {DISPUTED} is disputed"
            _pay_and_dispute(engine, now)
        _schedule(running, engine, now)
        _drain(running)
        sent = running.control.total() - before
        by_day[day], so_far = sent - so_far, sent
        tell(f"  {day:%d/%m/%Y}: {by_day[day]:>2} sent{what}")
    expected, undecided, reasons = _decisions(engine, first + (DAYS - 1) * _DAY)
    return Played(running.control.sends_since(before), by_day, after, expected, undecided, reasons)


def judge(played: Played) -> list[Check]:
    """Check every expectation of the scene."""
    quiet = {*PAID, DISPUTED}
    spoken = Counter(id_ for send in played.sends[played.after :] for id_ in quiet if id_ in send.text)
    notices = [send for send in played.sends if "Recebemos" not in send.text]
    days = [day for day, count in played.by_day.items() for _ in range(count)]
    a_day = Counter((day, send.number) for day, send in zip(days, played.sends, strict=True) if send in notices)
    receipts = Counter(id_ for id_ in PAID if spoken[id_])
    return [
        Check(
            f"{CHARGES} charges over {DAYS} days",
            "each planned message sent once",
            f"{played.expected} planned, {len(played.sends)} sent",
            len(played.sends) == played.expected > CHARGES,
        ),
        Check(
            "steps whose day had come",
            "each with its decision",
            f"{sum(played.reasons.values())} decided, {played.undecided} not",
            played.undecided == 0,
        ),
        Check(
            f"{' and '.join(PAID)}, paid in the middle",
            "one receipt each, and nothing more",
            ", ".join(f"{id_}: {spoken[id_]}" for id_ in PAID),
            receipts == Counter(PAID) and all(spoken[id_] == 1 for id_ in PAID),
        ),
        Check(f"{DISPUTED}, disputed", "silence", f"{spoken[DISPUTED] or 'silence'}", not spoken[DISPUTED]),
        Check(
            "notices to one person in a day",
            "1 at most",
            f"{max(a_day.values(), default=0)}",
            max(a_day.values(), default=0) == 1,
        ),
    ]


def _import(engine: Engine, first: date) -> None:
    from ifinu.billing import calendars, charges, customers, tenants
    from ifinu.billing.charges import NewCharge
    from ifinu.billing.customers import Customer
    from ifinu.billing.tenants import Tenant

    now = datetime.combine(first - _DAY, clock(18), ZoneInfo(BRASILIA)).astimezone(UTC)
    with engine.begin() as connection:
        calendars.fill(connection, first)
        tenants.add(
            connection,
            Tenant(
                _TENANT, legal_name="Academia Fit LTDA", document="12345678000195", address="Rua A, 1, São Paulo SP",
                uf="SP", window_spec="always", spread_s=0, receipts="always",
            ),
            now,
        )  # fmt: skip
        owing = [
            Customer(_TENANT, f"aluno-{n:02}", name=f"Aluno {n}", phone=f"{_HEAD}{n:03d}") for n in range(CUSTOMERS)
        ]
        customers.upsert(connection, _TENANT, owing, now)
        owed = [
            NewCharge(
                _TENANT, f"fatura-{n:02}", f"aluno-{n % CUSTOMERS:02}", Decimal("89.90"), first + (n % 9) * _DAY,
                description=f"Mensalidade fatura-{n:02}", method="pix",
            )
            for n in range(CHARGES)
        ]  # fmt: skip
        charges.upsert(connection, owed, now)


def _pay_and_dispute(engine: Engine, now: datetime) -> None:
    from ifinu.billing import charges

    with engine.begin() as connection:
        for id_ in PAID:
            charges.pay(connection, _TENANT, id_, via="demo", now=now)
        charges.hold(connection, _TENANT, DISPUTED, until=None, reason="contestação", now=now)


def _schedule(running: Stage, engine: Engine, now: datetime) -> None:
    """One round of `ifinu scheduler`. No recorder writes this ledger, so each message would seem to have no trace."""
    from ifinu.billing.scheduler import Scheduler

    running.check()
    scheduler = Scheduler(engine, running.client, lambda: now, claim_ttl_s=_CLAIM_TTL_S, retention_days=DAYS)
    scheduler.once(without=("trace",))


def _drain(running: Stage) -> None:
    def left() -> int:
        return sum(each.unsettled for each in backlog.survey(running.client))

    for _ in _until(running, lambda: f"{left()} messages of the régua have not ended"):
        if not left():
            return


def _until(running: Stage, what: Callable[[], str]) -> Iterator[None]:
    """
    Try again for a minute.

    Raises:
        StageError: The minute is over; `what` says what has not happened.
    """
    give_up_at = time.monotonic() + _LONGEST_S
    while time.monotonic() < give_up_at:
        running.check()
        yield
        time.sleep(_POLL_S)
    raise StageError(f"{what()}; the logs are in {running.directory}")


def _decisions(engine: Engine, today: date) -> tuple[int, int, Mapping[str, int]]:
    from sqlalchemy import func, select

    from ifinu.billing.billing_schema import agenda, intents

    with engine.connect() as connection:
        state = select(intents.c.state, intents.c.reason, func.count()).group_by(intents.c.state, intents.c.reason)
        reasons = {f"{state} {reason or ''}".strip(): count for state, reason, count in connection.execute(state)}
        behind = select(func.count()).select_from(agenda).where(agenda.c.next_on <= today)
        return reasons.get("queued", 0), connection.execute(behind).scalar_one(), reasons
