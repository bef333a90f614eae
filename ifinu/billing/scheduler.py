"""
The scheduler: what the régua does by itself, in a loop. Any number of processes run it at once, and none leads.

    every second or so  push what is due (each 5 s while there is nothing)
    each 5 s            write open cancel flags to Redis
    each 10 s           compare the epochs
    each minute         plan what is due today; end what is no longer valid; match late payments; count
    each hour           fill the calendars, mark what is overdue, make recurring charges; look for messages without a
                        trace; at night delete old rows

Every pass takes rows that no other process has locked, so two processes share the work and do none of it twice. While
Redis or the database is away the loop waits; what it did not do is due when they are back.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from typing import NamedTuple

import redis
import structlog
from sqlalchemy import Connection, Engine, text

from ifinu.billing import calendars, charges, epoch, intent_retention, messages, outbox, planner, recurrences
from ifinu.billing.epoch import Found
from ifinu.billing.payments import settlement
from ifinu.errors import IfinuError, LedgerUnavailable
from ifinu.ledger.migrate import is_current

log = structlog.get_logger(__name__)

PUSH_EVERY_S, PUSH_IDLE_S = 1.0, 5.0
CANCEL_EVERY_S = 5.0
CHECK_EVERY_S = 10.0
PLAN_EVERY_S = 60.0
HOURLY_S = 3600.0
_BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
_AFTER_A_FAULT_S = 60.0
_CHUNK = 1000
_RECORDED_WITHIN = 60  # minutes that a look for traces waits for the recorder
_PATIENCE_S = 60.0  # of a single pass with a Redis whose loss the recorder has yet to see
_FLAG_LATE = timedelta(minutes=1)
_AT_LEISURE = text("SET LOCAL statement_timeout = '60s'")

_COUNTS = text("""
SELECT (SELECT count(*) FROM cancel_flags WHERE done_at IS NULL AND at < :late) AS flags,
       (SELECT count(*) FROM payment_events WHERE state = 'unmatched') AS unmatched,
       (SELECT count(*) FROM intents WHERE state = 'planned' AND not_before <= :now) AS due,
       (SELECT greatest(0, max((CAST(:now AS timestamptz) AT TIME ZONE t.tz)::date - a.next_on))
          FROM billing_tenants t
         CROSS JOIN LATERAL (SELECT next_on FROM agenda WHERE tenant = t.id ORDER BY next_on LIMIT 1) a
         WHERE a.next_on < 'infinity' AND t.paused_at IS NULL) AS behind
""")


@dataclass
class Figures:
    """
    What a scheduler has done since its start, and what it counted last; for metrics.

    Attributes:
        done: Counts by name: planned, skipped, merged, pushed, withdrawn, expired, no_trace, cancelled, overdue,
            matched.
        losses: Times that Redis had lost data, by what was found.
        faults: Failed passes, by duty.
        passed_at: When each duty last passed, in seconds since the epoch.
        flags: Cancel flags that Redis has not got for a minute.
        unmatched: Payment events without a charge.
        due: Planned messages that are due.
        behind_days: Days since the earliest day of the agenda that is not decided; 0 if today is.
        counted: Whether the four above were counted.
    """

    done: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    passed_at: dict[str, float] = field(default_factory=dict)
    flags: int = 0
    unmatched: int = 0
    due: int = 0
    behind_days: int = 0
    counted: bool = False


class _Duty(NamedTuple):
    """Something to do again and again: `do` returns after how many seconds; 0 for at once."""

    name: str
    do: Callable[[datetime], float]


class Scheduler:
    """
    One scheduler.

    Args:
        engine: The ledger's database, PostgreSQL.
        client: A Redis client that returns bytes.
        clock: Returns the time, aware: Redis' (`broker.clock.now`).
        claim_ttl_s: As `Settings.claim_ttl_s`.
        retention_days: As `Settings.retention_days`.
        compose: Makes the messages.
        figures: Updated as it works.
    """

    def __init__(
        self,
        engine: Engine,
        client: redis.Redis,
        clock: Callable[[], datetime],
        *,
        claim_ttl_s: float,
        retention_days: int,
        compose: outbox.Compose = messages.compose,
        figures: Figures | None = None,
    ) -> None:
        self.figures = figures or Figures()
        self._engine = engine
        self._client = client
        self._clock = clock
        self._claim_ttl_s = claim_ttl_s
        self._retention_days = retention_days
        self._compose = compose
        self._checked = Found.SAME
        self._failures = 0
        self._untraced = 0  # times that the recorder had not written everything when traces were looked for
        # In the order of their first pass: what is planned needs the calendar, what is pushed the epoch.
        self._duties = (
            _Duty("epoch", self._check),
            _Duty("calendars", self._fill),
            _Duty("recurrences", self._generate),
            _Duty("overdue", self._mark_overdue),
            _Duty("payments", self._match),
            _Duty("plan", self._plan),
            _Duty("expire", self._expire),
            _Duty("cancel", self._cancel),
            _Duty("push", self._push),
            _Duty("trace", self._trace),
            _Duty("retention", self._purge),
            _Duty("counts", self._count),
        )
        self._at = dict.fromkeys((duty.name for duty in self._duties), 0.0)
        self.figures.faults.update(dict.fromkeys(self._at, 0))

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; it ends within a pass. Wait while Redis or the database is away."""
        log.info("ifinu.scheduler.started")
        while not stop.is_set():
            try:
                wait_s = self._turn(stop)
                self._succeeded()
            except (LedgerUnavailable, redis.RedisError) as exc:
                wait_s = self._failed(exc)
            stop.wait(wait_s)
        log.info("ifinu.scheduler.ended", planned=self.figures.done["planned"], pushed=self.figures.done["pushed"])

    def once(self, *, without: Collection[str] = ()) -> None:
        """
        Do everything that is due now, once.

        Args:
            without: Names of duties that are left out.

        Raises:
            LedgerUnavailable: The database is away, or not migrated.
            redis.RedisError: Redis is away.
            IfinuError: What a duty raised.
        """
        self._require_tables()
        until = monotonic() + _PATIENCE_S
        for duty in (duty for duty in self._duties if duty.name not in without):
            while duty.do(self._clock()) == 0 or (duty.name == "epoch" and self._is_unknown() and monotonic() < until):
                time.sleep(PUSH_EVERY_S if self._is_unknown() else 0.0)

    # -- the loop

    def _turn(self, stop: threading.Event) -> float:
        """Do each duty that is due; return the seconds until the next one is."""
        if not self.figures.passed_at:
            self._require_tables()
        for duty in self._duties:
            if stop.is_set() or monotonic() < self._at[duty.name]:
                continue
            now = self._clock()
            try:
                wait_s = duty.do(now)
            except (LedgerUnavailable, redis.RedisError):
                raise
            except IfinuError as exc:
                log.error("ifinu.scheduler.failed", duty=duty.name, error=str(exc))
                self._fault(duty)
            except Exception:
                log.exception("ifinu.scheduler.failed", duty=duty.name)
                self._fault(duty)
            else:
                self.figures.passed_at[duty.name] = now.timestamp()
                self._at[duty.name] = monotonic() + wait_s
        return max(0.0, min(self._at.values()) - monotonic())

    def _fault(self, duty: _Duty) -> None:
        self.figures.faults[duty.name] += 1
        self._at[duty.name] = monotonic() + _AFTER_A_FAULT_S

    def _failed(self, exc: Exception) -> float:
        self._failures += 1
        if self._failures == 1:  # an outage is logged once
            log.warning("ifinu.scheduler.waiting", error=str(exc))
        return _BACKOFF_S[min(self._failures, len(_BACKOFF_S)) - 1]

    def _succeeded(self) -> None:
        if self._failures:
            log.info("ifinu.scheduler.resumed", failures=self._failures)
            self._failures = 0

    def _is_unknown(self) -> bool:
        """Whether Redis has lost the epoch, and the recorder has yet to see that."""
        return self._checked is Found.WAITING

    def _require_tables(self) -> None:
        if not is_current(self._engine):
            raise LedgerUnavailable("the database lacks tables of this version: run `ifinu migrate`")

    # -- the duties

    def _check(self, now: datetime) -> float:
        with self._engine.begin() as connection:
            checked = epoch.check(connection, self._client, now, claim_ttl_s=self._claim_ttl_s)
        before, self._checked = self._checked, checked.found
        again, doubtful, cancelled = checked.again, checked.doubtful, checked.cancelled
        match checked.found:
            case Found.RESTARTED:
                log.warning("ifinu.scheduler.redis_restarted", again=again, doubtful=doubtful, cancelled=cancelled)
            case Found.LOST:
                log.error(
                    "ifinu.scheduler.redis_lost",
                    again=again,
                    doubtful=doubtful,
                    cancelled=cancelled,
                    claims=checked.claims,
                    opt_outs=checked.opt_outs,
                )
            case Found.WAITING if before is not Found.WAITING:
                log.warning("ifinu.scheduler.redis_unknown", hint="nothing is pushed until the recorder has seen it")
        if checked.found in (Found.RESTARTED, Found.LOST):
            self.figures.losses[checked.found.value] += 1
            self._at["push"] = self._at["cancel"] = 0.0
        return PUSH_EVERY_S if checked.found in (Found.WAITING, Found.BUSY) else CHECK_EVERY_S

    def _fill(self, now: datetime) -> float:
        with self._at_leisure() as connection:
            calendars.fill(connection, now.date())
        return HOURLY_S

    def _generate(self, now: datetime) -> float:
        return self._chunk("generated", lambda connection: recurrences.generate(connection, now), HOURLY_S)

    def _mark_overdue(self, now: datetime) -> float:
        return self._chunk("overdue", lambda connection: charges.mark_overdue(connection, now), HOURLY_S)

    def _match(self, now: datetime) -> float:
        with self._at_leisure() as connection:
            self.figures.done["matched"] += len(settlement.sweep(connection, now))
        return PLAN_EVERY_S

    def _plan(self, now: datetime) -> float:
        with self._at_leisure() as connection:
            planned = planner.plan(connection, now)
        self.figures.done.update(planned=planned.planned, skipped=planned.skipped, merged=planned.merged)
        if planned.planned:
            self._at["push"] = 0.0
        return 0.0 if planned.charges else PLAN_EVERY_S

    def _expire(self, now: datetime) -> float:
        with self._at_leisure() as connection:
            expired = outbox.expire(connection, now, limit=_CHUNK)
        self.figures.done["expired"] += expired
        return 0.0 if expired == _CHUNK else PLAN_EVERY_S

    def _cancel(self, now: datetime) -> float:
        with self._engine.begin() as connection:
            applied = charges.apply_cancel_flags(connection, self._client, _CHUNK, now)
        self.figures.done.update(cancelled=applied.cancelled, cancelled_late=applied.late)
        return 0.0 if applied.cancelled + applied.late == _CHUNK else CANCEL_EVERY_S

    def _push(self, now: datetime) -> float:
        with self._engine.begin() as connection:
            pushed = outbox.push(
                connection, self._client, now, claim_ttl_s=self._claim_ttl_s, limit=_CHUNK, compose=self._compose
            )
        self.figures.done.update(pushed=pushed.count, withdrawn=pushed.withdrawn)
        if pushed.refused:
            self._at["epoch"] = 0.0
        elif pushed.more and pushed.count:
            return 0.0
        return PUSH_EVERY_S if pushed.count or pushed.refused else PUSH_IDLE_S

    def _trace(self, now: datetime) -> float:
        # After an outage of the database the recorder first writes what was sent meanwhile.
        if self._untraced < _RECORDED_WITHIN and not epoch.is_recorded(self._client):
            self._untraced += 1
            return PLAN_EVERY_S
        self._untraced = 0
        with self._at_leisure() as connection:
            lost = outbox.expire_untraced(connection, now, limit=_CHUNK)
        if lost:
            log.error("ifinu.scheduler.no_trace", messages=lost)
            self.figures.done["no_trace"] += lost
        return 0.0 if lost == _CHUNK else HOURLY_S

    def _purge(self, now: datetime) -> float:
        if not intent_retention.is_night(now):
            return HOURLY_S
        with self._at_leisure() as connection:
            purged, more = intent_retention.purge(connection, now, self._retention_days)
        self.figures.done["purged"] += purged
        return 0.0 if more else HOURLY_S

    def _count(self, now: datetime) -> float:
        figures = self.figures
        with self._at_leisure() as connection:
            row = connection.execute(_COUNTS, {"now": now, "late": now - _FLAG_LATE}).one()
        figures.flags, figures.unmatched, figures.due = row.flags, row.unmatched, row.due
        figures.behind_days, figures.counted = row.behind or 0, True
        return PLAN_EVERY_S

    @contextlib.contextmanager
    def _at_leisure(self) -> Iterator[Connection]:
        """A transaction whose statements may take longer than those that somebody waits for."""
        with self._engine.begin() as connection:
            connection.execute(_AT_LEISURE)
            yield connection

    def _chunk(self, name: str, do: Callable[[Connection], int], every_s: float) -> float:
        """Do a chunk of something that is done once it counts nothing."""
        with self._at_leisure() as connection:
            count = do(connection)
        self.figures.done[name] += count
        return 0.0 if count else every_s
