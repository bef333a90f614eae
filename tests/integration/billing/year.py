"""
A year of the régua, day by day: a planner, an outbox, a worker and a recorder under a clock that is moved by hand.

The parts are ours and real, PostgreSQL too; Redis is fakeredis with our scripts, and the gateway keeps what it sends.
What happens (payments, disputes, opt-outs, imports, outages) comes from a seed. `judged` compares what was sent with
what was known at that moment.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import fakeredis
from simulation.redis import fake_server
from sqlalchemy import Engine, func, select, text

from ifinu import wire
from ifinu.billing import calendars, charges, customers, messages, tenants
from ifinu.billing.billing_schema import agenda, intents
from ifinu.billing.billing_schema import charges as rows_of
from ifinu.billing.charges import NewCharge
from ifinu.billing.customers import Customer
from ifinu.billing.scheduler import Scheduler
from ifinu.billing.tenants import Tenant
from ifinu.billing.texts import Texts
from ifinu.broker import QUEUES, Keys
from ifinu.broker.claims import Claims, MessageRef
from ifinu.broker.keys import EVENTS, UNKNOWN, claim_key, script
from ifinu.broker.leases import Settled
from ifinu.broker.optouts import OptOuts
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.business_days import is_holiday
from ifinu.delivery import Delivery
from ifinu.gateway import Sent
from ifinu.gateway.instances import Instances
from ifinu.gateway.message_records import ConnectionState
from ifinu.ledger import upserts
from ifinu.ledger.engine import writing
from ifinu.ledger.entries import Entry
from ifinu.ledger.fold import fold
from ifinu.notification import Notification, Stop
from ifinu.outcome import Wait
from ifinu.phone import state as state_of
from ifinu.render import Renderer
from ifinu.settings import OnUnknown
from ifinu.window import Windows, zone_of

FIRST = date(2026, 12, 1)
TENANT = "t1"
TTL_S = 7 * 86_400.0
HOURS = (7, 8, 9, 10, 12, 15, 19, 21)  # local, in which something happens
BRASILIA = ZoneInfo("America/Sao_Paulo")
_AREAS = (11, 21, 31, 51, 71, 81, 85, 92, 61, 41)
_METHODS = ("pix", "boleto", "card", "other")
_QUIET_DAYS = 14  # at the end, without outages
DAY = timedelta(days=1)


class Message(NamedTuple):
    """A message that went to WhatsApp."""

    id: str
    kind: str
    phone: str
    text: str
    at: datetime


@dataclass
class Known:
    """What is known about a charge at this moment, as the judge keeps it."""

    phone: str
    ended: datetime | None = None
    holds: list[tuple[date, date]] = field(default_factory=list)
    late_from: list[tuple[datetime, date]] = field(default_factory=list)  # since when it is late from that day

    def is_late(self, at: datetime, day: date) -> bool:
        return day >= [late_from for since, late_from in self.late_from if since <= at][-1]


class Redis(fakeredis.FakeRedis):
    """It also says which server it is, as fakeredis does not."""

    def info(self, *_: Any, **__: Any) -> dict[str, str]:
        return {"run_id": "a" * 40}


class Gateway:
    """Sends, and keeps what it sent."""

    def __init__(self, year: Year) -> None:
        self._year = year

    def connection_state(self, instance: str) -> ConnectionState:
        return ConnectionState.OPEN

    def send_text(self, instance: str, number: str, text: str, *, before: Callable[[], None]) -> Sent:
        before()
        self._year.sends.append(Message(self._year.sending.id, self._year.sending.kind, number, text, self._year.now))
        return Sent(f"3EB0{len(self._year.sends)}", "PENDING")

    def find_sent(self, instance: str, number: str, is_it: Callable[[str], bool], **_: Any) -> str:
        found = (i for i, sent in enumerate(self._year.sends, 1) if sent.phone == number and is_it(sent.text))
        return next((f"3EB0{i}" for i in found), "")


class Year:
    """
    Args:
        engine: A migrated PostgreSQL without rows.
        move: Moves the clock that Python and fakeredis read.
        size: Number of charges over the year.
    """

    def __init__(self, engine: Engine, move: Callable[[datetime], None], seed: int, days: int, size: int) -> None:
        self.engine = engine
        self.rng = random.Random(seed)
        self._move = move
        self._days = days
        self._size = size
        self.client = Redis(server=fake_server())
        self.sends: list[Message] = []
        self.known: dict[str, Known] = {}
        self.opted_out: dict[str, datetime] = {}
        self.sending: Notification
        self._numbers = Counter[str]()
        self._pseudonyms = Pseudonyms(b"a key of the tests")
        self._optouts = OptOuts(self.client, self._pseudonyms)
        self._renderer = Renderer(reference=True)
        self._texts = Texts(self._renderer)
        self._tags = 0
        self.database_away = self.redis_away = False
        self.at(FIRST, 0)
        self._scheduler = Scheduler(engine, self.client, lambda: self.now, claim_ttl_s=TTL_S, retention_days=365)
        self.delivery = Delivery(
            gateway=Gateway(self),
            renderer=self._renderer,
            claims=Claims(self.client, TTL_S),
            instances=Instances(30.0),
            missing_ttl_s=86_400.0,
            windows=Windows.load(None, None),
            pseudonyms=self._pseudonyms,
            instance="wa1",
            on_unknown=OnUnknown.RESEND_ONCE,
            grace_s=1.0,
            compares=True,
            charges=self._check,
        )

    def at(self, day: date, hour: int, minute: int = 0) -> None:
        self.now = datetime.combine(day, time(hour, minute), BRASILIA).astimezone(UTC)
        self._move(self.now)

    # -- the year

    def run(self) -> None:
        with self.engine.begin() as connection:
            supplier = {"legal_name": "Academia Fit LTDA", "document": "12345678000195", "address": "Rua A, 1"}
            tenants.add(connection, Tenant(TENANT, uf="SP", receipts="always", **supplier), self.now)
        resting_until = FIRST  # the scheduler is away until then
        for day in (FIRST + n * DAY for n in range(self._days)):
            last = day >= FIRST + (self._days - _QUIET_DAYS) * DAY
            if last:
                resting_until = day
            elif day >= resting_until and self.rng.random() < 0.03:
                resting_until = day + self.rng.randint(1, 5) * DAY
            for hour in HOURS:
                self.at(day, hour)
                self.redis_away = not last and self.rng.random() < 0.02
                self.database_away = not last and self.rng.random() < 0.02
                if not last and self.rng.random() < 0.002:
                    self.client.flushall()
                if not self.database_away:
                    self._something_happens(day)
                self._hour(resting=day < resting_until)
        self.redis_away = self.database_away = False

    def _hour(self, *, resting: bool) -> None:
        if not (resting or self.database_away):
            self._schedule()
        if not self.redis_away:
            self._work()
            if not self.database_away:
                self._record()

    def _schedule(self) -> None:
        self._scheduler.once(without=("epoch", "cancel", "push") if self.redis_away else ())

    def _work(self) -> None:
        """As a worker does, until the queues are empty. What waits becomes ready at the next full hour."""
        for queue in QUEUES:
            keys = Keys.of(queue)
            for raw in self.client.zrangebyscore(keys.delayed, 0, self.now.timestamp() * 1000 + 3_600_000):
                self.client.zrem(keys.delayed, raw)
                self.client.lpush(keys.ready, raw)
            while (raw := self.client.rpop(keys.ready)) is not None:
                self._deliver(keys, queue, raw)

    def _deliver(self, keys: Keys, queue: str, raw: bytes) -> None:
        self._tags += 1
        tag = f"tag-{self._tags}"
        self.sending = wire.decode(wire.parse(raw))
        self.client.hset(keys.in_flight, tag, raw)
        outcome = self.delivery.deliver(self.sending, MessageRef(queue, tag, ""), attempt=1)
        match outcome:
            case Wait():
                places = keys.in_flight, keys.deadlines, keys.delayed, claim_key(self.sending.id), UNKNOWN
                wait_ms = round(outcome.wait_s * 1000)
                script("postpone")(self.client, places, (tag, raw, wait_ms, outcome.claim, self.sending.id))
            case Settled():
                name, id_, data = outcome.event.arguments()
                places = keys.in_flight, keys.deadlines, claim_key(id_), UNKNOWN, EVENTS, keys.ready
                arguments = tag, outcome.state, outcome.key_id, round(TTL_S * 1000), id_, name, data
                script("settle")(self.client, places, arguments)
            case _:
                raise AssertionError(f"{self.sending.id}: {outcome}")

    def _check(self, notification: Notification, now: datetime) -> Notification | Stop | None:
        """As `ChargeCheck`, without its threads."""
        if self.database_away:
            return None
        with self.engine.connect() as connection:
            reference = int(notification.charge_ref or 0), notification.id
            found = messages.compose(connection, [reference], now, self._texts)[notification.id]
        if isinstance(found, Stop):
            return found
        return Stop.CANCELLED if found.phone != notification.phone else found

    def _record(self) -> None:
        """As the recorder does; its scripts need more of a stream than fakeredis has."""
        found = self.client.xrange(EVENTS)
        entries = [Entry.read(id_, fields) for id_, fields in found]
        if not entries:
            return
        with writing(self.engine) as connection:
            upserts.write(connection, fold(entries), self.now)
        self.client.xdel(EVENTS, *(id_ for id_, _ in found))

    # -- what happens

    def _something_happens(self, day: date) -> None:
        rng = self.rng
        per_hour = self._size / self._days / len(HOURS)
        for _ in range(int(per_hour) + (rng.random() < per_hour % 1)):
            self._new_charge(day)
        open_ones = [id_ for id_, known in self.known.items() if known.ended is None]
        if not open_ones:
            return
        if rng.random() < 0.7 * per_hour:
            self._pay(rng.choice(open_ones))
        if rng.random() < 0.02:
            self._dispute(rng.choice(open_ones), day)
        if rng.random() < 0.02:
            self._move_due_date(rng.choice(open_ones), day)
        if rng.random() < 0.005 and not self.redis_away:
            phone = self.known[rng.choice(open_ones)].phone
            self._optouts.add(TENANT, phone, source="person")
            self.opted_out.setdefault(phone, self.now)

    def _new_charge(self, day: date) -> None:
        rng = self.rng
        number = len(self.known) + 1
        who = f"k{rng.randrange(max(2, self._size // 2))}"
        person = int(who[1:]) // 3 * 3 if int(who[1:]) % 3 < 2 else int(who[1:])  # k0 and k1 have one phone, and so on
        phone = f"+55{_AREAS[person % len(_AREAS)]}9{87_000_000 + person:08}"
        due = day + rng.randint(-40, 25) * DAY  # some are old when they are imported
        method = rng.choice(_METHODS)
        id_ = f"fatura-{number:05}"
        with self.engine.begin() as connection:
            customers.upsert(connection, TENANT, [Customer(TENANT, who, name=f"Cliente {who}", phone=phone)], self.now)
            amount = Decimal(rng.randint(100, 90_000)).scaleb(-2)
            charge = NewCharge(TENANT, id_, who, amount, due, method=method, description=f"Pedido {id_}")
            charges.upsert(connection, [charge], self.now)
        self.known[id_] = Known(phone, late_from=[(self.now, calendars.late_from(due, method))])

    def _pay(self, id_: str) -> None:
        if self.known[id_].ended is not None:
            return
        with self.engine.begin() as connection:
            if self.rng.random() < 0.1:
                charges.cancel(connection, TENANT, id_, now=self.now)
            else:
                charges.pay(connection, TENANT, id_, via="test", now=self.now)
        self.known[id_].ended = self.now

    def _dispute(self, id_: str, day: date) -> None:
        if self.known[id_].ended is not None:
            return
        until = day + self.rng.randint(1, 20) * DAY
        with self.engine.begin() as connection:
            charges.hold(connection, TENANT, id_, until=until, reason="contestação", now=self.now)
        self.known[id_].holds.append((day, until))

    def _move_due_date(self, id_: str, day: date) -> None:
        if self.known[id_].ended is not None:
            return
        due = day + self.rng.randint(1, 20) * DAY
        with self.engine.begin() as connection:
            charges.edit(connection, TENANT, id_, now=self.now, due_date=due)
            self.known[id_].late_from.append((self.now, charges.get(connection, TENANT, id_).late_from))

    # -- the judge

    def judged(self) -> dict[str, list[Any]]:
        """What was sent and should not have been, and what was not decided; each list empty if all is well."""
        wrong: dict[str, list[Any]] = defaultdict(list)
        a_day: Counter[tuple[str, date]] = Counter()
        for sent in self.sends:
            local = sent.at.astimezone(ZoneInfo(zone_of(sent.phone)))
            spoken_of = [id_ for id_ in self.known if id_ in sent.text]
            if sent.kind == "pagamento":
                continue
            a_day[sent.phone, sent.at.astimezone(BRASILIA).date()] += 1
            if not spoken_of:
                wrong["says no charge"].append(sent)
            for id_ in spoken_of:
                known = self.known[id_]
                if known.ended is not None and known.ended < sent.at:
                    wrong["after its end"].append((id_, sent))
                if any(first <= sent.at.astimezone(BRASILIA).date() < until for first, until in known.holds):
                    wrong["held"].append((id_, sent))
            today = sent.at.astimezone(BRASILIA).date()
            # A message about several charges says of each when it is due; one of them at least is late.
            if sent.kind == "atraso" and not any(self.known[id_].is_late(sent.at, today) for id_ in spoken_of):
                wrong["too early"].append(sent)
            if is_holiday(local.date(), state_of(sent.phone)) or local.weekday() == 6 or not 8 <= local.hour < 20:
                wrong["outside its window"].append(sent)
            if sent.phone in self.opted_out and self.opted_out[sent.phone] < sent.at:
                wrong["opted out"].append(sent)
        wrong["twice"] = [id_ for id_, count in Counter(sent.id for sent in self.sends).items() if count > 1]
        wrong["two a day"] = [who for who, count in a_day.items() if count > 1]
        with self.engine.connect() as connection:
            wrong["undecided"] = list(connection.scalars(_UNDECIDED, {"today": self.now.astimezone(BRASILIA).date()}))
            late = select(func.count()).where(intents.c.state == "planned", intents.c.valid_until < self.now - DAY)
            wrong["left planned"] = [connection.execute(late).scalar()] if connection.execute(late).scalar() else []
            wrong["no trace"] = list(connection.scalars(select(intents.c.id).where(intents.c.reason == "no_trace")))
            behind = select(agenda.c.charge_seq).where(agenda.c.next_on <= self.now.astimezone(BRASILIA).date())
            wrong["agenda behind"] = list(connection.scalars(behind))
        return {what: found for what, found in wrong.items() if found}

    def states(self) -> Counter[str]:
        with self.engine.connect() as connection:
            rows = connection.execute(select(intents.c.state, intents.c.reason))
            return Counter(f"{state} {reason or ''}".strip() for state, reason in rows)

    def statuses(self) -> Counter[str]:
        with self.engine.connect() as connection:
            return Counter(connection.scalars(select(rows_of.c.status)))


# Each step of each open charge, its repeats apart, has a decision once its day has come.
_UNDECIDED = text("""
SELECT c.id || '.' || s.step FROM charges c
  JOIN billing_tenants t ON t.id = c.tenant JOIN rule_steps s ON s.rule_id = t.rule_id AND s.trigger = 'due'
 WHERE c.status IN ('open', 'overdue')
   AND (CASE WHEN s.offset_days < 0 THEN c.due_date + s.offset_days WHEN s.offset_days = 0 THEN c.payable_on
             ELSE greatest(c.payable_on + s.offset_days, c.late_from) END) <= :today
   AND NOT EXISTS (SELECT FROM intents i WHERE (i.charge_seq, i.step, i.due_date) = (c.seq, s.step, c.due_date))
""")
