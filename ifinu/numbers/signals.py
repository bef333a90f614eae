"""
The signs that a number is about to be banned, is restricted, or annoys people; docs/guard.md explains them.

    signal            slow                          pause
    errors_new        2 errors within 2 min of      3: no new chats for 24 h
                      sends to new chats
    errors_known      2, and 10 % of known chats    5, and 25 %: 24 h
    too_fast          1 throttled send              3: 1 h
    silent            20 points below its own rate  40 points: 1 h, then a probe each 15 min
    undelivered       < 60 % within 10 min          < 30 %: 1 h
    opt_outs          2, and 3 % of the messages    2, and 8 %: 24 h
    not_on_whatsapp   2, and 5 % of the phones      2, and 15 %: no new chats for 24 h
    unlinked          –                             closed with 401: until it is paired again; with 403: banned
    one_way           < 2 answers in 100, warming   –

Shares are of 20 messages at least, so that two bad ones among three are not 67 %. A number is judged by its messages of
the last hour, or by its last fifty where those are more, but by none that the guard has answered
(`guard.Memory.judged_from`). `levels` is pure; `Reader` computes the figures in the ledger.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    Connection,
    DateTime,
    Engine,
    Select,
    Subquery,
    Text,
    and_,
    case,
    column,
    distinct,
    extract,
    func,
    literal,
    or_,
    select,
    true,
    values,
)

from ifinu.broker.events import Name
from ifinu.broker.replies import WHATSAPP
from ifinu.errors import Reason
from ifinu.ledger.schema import UtcDateTime, events, instances, notifications, opt_outs
from ifinu.ledger.states import State

WINDOW = timedelta(hours=1)
WINDOW_SENDS = 50
FEWEST = 20  # a share is one of this many messages at least
LOGGED_OUT, FORBIDDEN = 401, 403  # WhatsApp's reasons for a closed connection: logged out on the phone; forbidden

_OLDEST = timedelta(days=7)  # of the last fifty messages; and what "usual" means
_ACK_WITHIN = timedelta(minutes=2)
_ERROR_WITHIN_S = 120.0
_DELIVERED_WITHIN_S = 600.0
_DELIVERED_WITHIN = timedelta(seconds=_DELIVERED_WITHIN_S)
_FEWEST_SILENT = 10  # messages without a server ack that one may judge by
_WARM_UP_SENDS = 50
THROTTLED = ("throttled", Reason.RATE_OVERLIMIT.value, Reason.TOO_MANY_REQUESTS.value)
TROUBLES = tuple(literal(name.value, literal_execute=True) for name in (Name.DEFERRED, Name.RETRYING))  # an index's
_AT_A_TIME = 500  # numbers in a statement that reads all their messages; SQLite's parameters allow few more
_RARELY = 20_000  # numbers in a statement that reads what is rare, in PostgreSQL


class Signal(enum.StrEnum):
    """The table above."""

    ERRORS_NEW = "errors_new"
    ERRORS_KNOWN = "errors_known"
    TOO_FAST = "too_fast"
    SILENT = "silent"
    UNDELIVERED = "undelivered"
    OPT_OUTS = "opt_outs"
    NOT_ON_WHATSAPP = "not_on_whatsapp"
    UNLINKED = "unlinked"
    ONE_WAY = "one_way"


class Level(enum.IntEnum):
    """How bad a signal is."""

    CALM = 0
    SLOW = 1
    PAUSE = 2


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What the ledger knows of one number's last messages.

    Attributes:
        sent: Messages sent.
        new: Those of them that opened a chat; counted only if one of all has failed.
        new_errors: Of `new`, those with an ERROR receipt within two minutes.
        known_errors: Of the others, those with an ERROR receipt.
        throttled: Refusals of the last hour because the number sends too fast.
        settled: Messages that are old enough for WhatsApp's acknowledgement.
        confirmed: Those of them with one, or with a later receipt.
        usual: The share of confirmed messages in the last seven days; None if there were too few to say.
        reachable: Confirmed messages that are old enough to be delivered.
        delivered: Those of them that were, within ten minutes.
        opt_outs: People who replied SAIR to one of these messages.
        not_on_whatsapp: Phones that are not on WhatsApp.
        answers: People who wrote to it, of a number that warms up; None where they are not counted.
        warming: Whether it is warming up.
        state: Last state of its connection, or None.
        code: WhatsApp's reason, if the connection was closed.
    """

    sent: int = 0
    new: int = 0
    new_errors: int = 0
    known_errors: int = 0
    throttled: int = 0
    settled: int = 0
    confirmed: int = 0
    usual: Fraction | None = None
    reachable: int = 0
    delivered: int = 0
    opt_outs: int = 0
    not_on_whatsapp: int = 0
    answers: int | None = None
    warming: bool = False
    state: str | None = None
    code: int | None = None

    def as_data(self) -> dict[str, Any]:
        """The figures that are not 0, and the count of answers where there is one, as JSON values."""
        data = {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name)}
        if self.answers is not None:
            data["answers"] = self.answers
        return data if self.usual is None else data | {"usual": round(float(self.usual), 3)}


def levels(figures: Figures) -> dict[Signal, Level]:
    """The level of each signal that is not calm, the worst first."""
    found = {signal: level for signal, level in _levels(figures) if level is not Level.CALM}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _levels(n: Figures) -> Iterator[tuple[Signal, Level]]:
    known = n.sent - n.new
    yield Signal.UNLINKED, _level(pause=n.state == "close" and n.code in (LOGGED_OUT, FORBIDDEN))
    yield Signal.ERRORS_NEW, _level(slow=n.new_errors >= 2, pause=n.new_errors >= 3)
    yield (
        Signal.ERRORS_KNOWN,
        _level(
            slow=n.known_errors >= 2 and _is_share(n.known_errors, known, 10),
            pause=n.known_errors >= 5 and _is_share(n.known_errors, known, 25),
        ),
    )
    yield Signal.TOO_FAST, _level(slow=n.throttled >= 1, pause=n.throttled >= 3)
    yield Signal.SILENT, _level(slow=_silence(n) >= 20, pause=_silence(n) >= 40)
    judged = n.reachable >= FEWEST
    yield (
        Signal.UNDELIVERED,
        _level(
            slow=judged and 100 * n.delivered < 60 * n.reachable, pause=judged and 100 * n.delivered < 30 * n.reachable
        ),
    )
    yield (
        Signal.OPT_OUTS,
        _level(
            slow=n.opt_outs >= 2 and _is_share(n.opt_outs, n.sent, 3),
            pause=n.opt_outs >= 2 and _is_share(n.opt_outs, n.sent, 8),
        ),
    )
    phones = n.sent + n.not_on_whatsapp
    yield (
        Signal.NOT_ON_WHATSAPP,
        _level(
            slow=n.not_on_whatsapp >= 2 and _is_share(n.not_on_whatsapp, phones, 5),
            pause=n.not_on_whatsapp >= 2 and _is_share(n.not_on_whatsapp, phones, 15),
        ),
    )
    # Without a receipt the webhook does not work, whatever it was set to report.
    heard = n.warming and n.sent >= _WARM_UP_SENDS and n.confirmed > 0
    yield Signal.ONE_WAY, _level(slow=heard and n.answers is not None and 100 * n.answers < 2 * n.sent)


def _level(*, slow: bool = False, pause: bool = False) -> Level:
    return Level.PAUSE if pause else Level.SLOW if slow else Level.CALM


def _is_share(part: int, whole: int, percent: int) -> bool:
    return 100 * part >= percent * max(whole, FEWEST)


def _silence(n: Figures) -> Fraction:
    """Points by which the share of confirmed messages is below the usual one."""
    if n.usual is None or n.settled < _FEWEST_SILENT:
        return Fraction(0)
    return 100 * (n.usual - Fraction(n.confirmed, n.settled))


class Reader:
    """
    Computes figures in the ledger.

    Args:
        engine: The ledger.
        now: The time, aware.
    """

    def __init__(self, engine: Engine, now: datetime) -> None:
        self._engine = engine
        self._now = now
        self._is_sqlite = engine.dialect.name == "sqlite"

    def figures(
        self,
        judged_from: Mapping[str, datetime | None],
        warming: Collection[str] = frozenset(),
        answers: Callable[[Mapping[str, datetime]], Mapping[str, int]] | None = None,
    ) -> dict[str, Figures]:
        """
        The figures of numbers.

        Args:
            judged_from: By the names of numbers: the time before which messages do not count, or None.
            warming: Names of the numbers that are warming up.
            answers: Counts the people who wrote to numbers, as `answers.people`; asked about those that warm up.

        Raises:
            errors.LedgerUnavailable: The ledger did not answer.
        """
        figures: dict[str, dict[str, Any]] = {name: {"warming": name in warming} for name in judged_from}
        begins: dict[str, datetime] = {}
        with self._engine.connect() as connection:
            for some in _parts(judged_from, _AT_A_TIME):
                begins |= self._begins(connection, some)
            for some in _parts(begins, _AT_A_TIME):
                self._collect(connection, self._sends(self._asked(some)), figures)
                if failed := {name: begin for name, begin in some.items() if figures[name].get("known_errors")}:
                    self._collect(connection, self._opened(self._asked(failed)), figures)
            for some in _parts(begins, _AT_A_TIME if self._is_sqlite else _RARELY):
                hour = {name: max(begin, self._now - WINDOW) for name, begin in some.items()}
                self._collect(connection, self._throttled(self._asked(hour)), figures)
                self._collect(connection, self._opt_outs(self._asked(some)), figures)
                self._collect(connection, self._not_on_whatsapp(self._asked(some)), figures)
            connections = select(instances.c.name, instances.c.state, instances.c.code)
            for name, state, code in connection.execute(connections):
                if name in figures:
                    figures[name] |= {"state": state, "code": code}
            for some in _parts(figures, _AT_A_TIME):
                for name, usual in self._usual(connection, some).items():
                    figures[name]["usual"] = usual
        if answers is not None and (of := {name: begin for name, begin in begins.items() if name in warming}):
            for name, count in answers(of).items():
                figures[name]["answers"] = count
        return {name: Figures(**of_one) for name, of_one in figures.items()}

    def _collect(self, connection: Connection, query: Select[Any], figures: dict[str, dict[str, Any]]) -> None:
        for row in connection.execute(query).mappings():
            figures[row["name"]] |= {column: int(value or 0) for column, value in row.items() if column != "name"}

    def _begins(self, connection: Connection, judged_from: Mapping[str, datetime | None]) -> dict[str, datetime]:
        """When the window of each number begins."""
        oldest, hour = self._now - _OLDEST, self._now - WINDOW
        asked = self._asked({name: at or oldest for name, at in judged_from.items()})
        earlier = (
            select(notifications.c.sent_at)
            .where(notifications.c.instance == asked.c.name, notifications.c.sent_at <= self._now)
            .order_by(notifications.c.sent_at.desc())
            .offset(WINDOW_SENDS - 1)
            .limit(1)
            .scalar_subquery()
        )
        return {
            name: max(oldest, judged_from[name] or oldest, min(hour, fiftieth or oldest))
            for name, fiftieth in connection.execute(select(asked.c.name, earlier))
        }

    def _sends(self, asked: CTE) -> Select[Any]:
        sends = self._notifications(asked, self._now)
        sent, ack, delivered, read = sends.c.sent_at, sends.c.server_ack_at, sends.c.delivered_at, sends.c.read_at
        is_confirmed = or_(ack.is_not(None), delivered.is_not(None), read.is_not(None))
        settled = and_(sent <= self._now - _ACK_WITHIN, sends.c.key_id.is_not(None))  # no id, no receipt
        reachable = and_(is_confirmed, sent <= self._now - _DELIVERED_WITHIN)
        arrived = func.coalesce(delivered, read)
        return select(
            sends.c.name,
            func.count().label("sent"),
            _count(sends.c.failed_at.is_not(None)).label("known_errors"),  # for now; see `_opened`
            _count(settled).label("settled"),
            _count(and_(settled, is_confirmed)).label("confirmed"),
            _count(reachable).label("reachable"),
            _count(and_(reachable, self._seconds(sent, arrived) <= _DELIVERED_WITHIN_S)).label("delivered"),
        ).group_by(sends.c.name)

    def _opened(self, asked: CTE) -> Select[Any]:
        """Of numbers whose messages have failed: which of their messages opened a chat."""
        opens = (
            select(literal(1))
            .where(
                events.c.notification_id == notifications.c.id,
                events.c.name == Name.SENT,
                events.c.data["new"].as_boolean(),
            )
            .exists()
        )
        sends = self._notifications(asked, self._now, opens.label("opens")).c
        failed, opened = sends.failed_at.is_not(None), sends.opens
        return select(
            sends.name,
            _count(opened).label("new"),
            _count(and_(opened, failed, self._seconds(sends.sent_at, sends.failed_at) <= _ERROR_WITHIN_S)).label(
                "new_errors"
            ),
            _count(and_(~opened, failed)).label("known_errors"),
        ).group_by(sends.name)

    def _notifications(self, asked: CTE, until: datetime, *more: ColumnElement[Any]) -> Subquery:
        """
        What the numbers have sent since their windows began, with the number's `name`; and more columns, which are
        computed once.

        PostgreSQL would rather read all notifications than the few of each number, if it were not for `LATERAL`.
        """
        row = notifications.c
        columns = (row.sent_at, row.server_ack_at, row.delivered_at, row.read_at, row.failed_at, row.key_id, *more)
        sends = (
            select(*columns)
            .where(row.instance == asked.c.name, row.sent_at >= asked.c.begin, row.sent_at <= until)
            .offset(0)  # so that it is not merged into the query around it
        )
        if self._is_sqlite:  # it has no LATERAL, and reads by the index
            return sends.add_columns(asked.c.name).subquery("sends")
        of_one = sends.correlate(asked).lateral("of_one")
        return select(asked.c.name, *of_one.c).join_from(asked, of_one, true()).subquery("sends")

    def _throttled(self, asked: CTE) -> Select[Any]:
        return (
            select(asked.c.name, func.count().label("throttled"))
            .join_from(asked, events, events.c.data["instance"].as_string() == asked.c.name)
            .where(
                events.c.ms >= _ms(self._now - WINDOW),
                events.c.at >= asked.c.begin,
                events.c.name.in_(TROUBLES),
                events.c.data["reason"].as_string().in_(THROTTLED),
            )
            .group_by(asked.c.name)
        )

    def _opt_outs(self, asked: CTE) -> Select[Any]:
        person = notifications.c.phone_hash
        return (
            select(asked.c.name, func.count(distinct(person)).label("opt_outs"))
            .join_from(asked, opt_outs, opt_outs.c.at >= asked.c.begin)
            .join(
                notifications,
                and_(
                    person == opt_outs.c.phone_hash,
                    notifications.c.instance == asked.c.name,
                    notifications.c.sent_at >= asked.c.begin,
                    notifications.c.sent_at <= opt_outs.c.at,
                ),
            )
            .where(opt_outs.c.source == WHATSAPP)
            .group_by(asked.c.name)
        )

    def _not_on_whatsapp(self, asked: CTE) -> Select[Any]:
        return (
            select(asked.c.name, func.count().label("not_on_whatsapp"))
            .join_from(asked, notifications, notifications.c.instance == asked.c.name)
            .where(
                notifications.c.state == State.DEAD,
                notifications.c.reason == Reason.NUMBER_NOT_ON_WHATSAPP,
                notifications.c.last_at >= asked.c.begin,
            )
            .group_by(asked.c.name)
        )

    def _usual(self, connection: Connection, figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Fraction]:
        """The usual share of confirmed messages, of the numbers that it can matter for: a week is much to read."""
        silent = {
            name: self._now - _OLDEST
            for name, now in figures.items()
            if now.get("settled", 0) >= _FEWEST_SILENT and 100 * now["confirmed"] <= 80 * now["settled"]
        }
        if not silent:
            return {}
        sends = self._notifications(self._asked(silent), self._now - _ACK_WITHIN).c
        got = or_(sends.server_ack_at.is_not(None), sends.delivered_at.is_not(None), sends.read_at.is_not(None))
        query = select(sends.name, func.count(), _count(got)).where(sends.key_id.is_not(None)).group_by(sends.name)
        usual = {}
        for name, total, confirmed in connection.execute(query):
            # Without the messages that are judged, which would pull the share down.
            before, of_them = total - figures[name]["settled"], int(confirmed) - figures[name]["confirmed"]
            if before >= FEWEST:
                usual[name] = Fraction(of_them, before)
        return usual

    def _asked(self, begins: Mapping[str, datetime]) -> CTE:
        """The names of numbers, and when the window of each begins."""
        columns = column("name", Text), column("begin", UtcDateTime)
        if self._is_sqlite:
            return values(*columns, name="asked_rows").data([*begins.items()]).cte("asked")
        # Two arrays are two parameters: a thousand would have each statement compiled anew, for longer than it takes.
        names, times = literal([*begins], ARRAY(Text)), literal([*begins.values()], ARRAY(DateTime(timezone=True)))
        rows = func.unnest(names, times).table_valued(*columns, name="asked_rows").render_derived()
        return select(rows.c.name, rows.c.begin).cte("asked")

    def _seconds(self, since: ColumnElement[Any], until: ColumnElement[Any]) -> ColumnElement[Any]:
        if self._is_sqlite:
            return (func.julianday(until) - func.julianday(since)) * 86_400
        return extract("epoch", until - since)


def _parts(of: Mapping[str, Any], most: int) -> Iterator[dict[str, Any]]:
    """Parts of a mapping, by name."""
    names = sorted(of)
    for at in range(0, len(names), most):
        yield {name: of[name] for name in names[at : at + most]}


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
