"""
Rules: the steps of a régua, written in YAML.

    name: padrao
    steps:
      - {step: l3, kind: lembrete, days: -3, valid_days: 3, condition: {automatic: false}}
      - {step: v, kind: vencimento, days: 0, valid_days: 1}
      - {step: a15, kind: atraso, days: 15, valid_days: 7, every_days: 7, every_max: 4}
      - {step: pago, kind: pagamento, trigger: payment, valid_days: 3}

    step         part of the message's id; letters, digits, - and _
    kind         lembrete (before the due date), vencimento (on it), atraso (after it), pagamento, cobranca_criada
    trigger      what its days count from: due, payment (for pagamento) or creation (for cobranca_criada)
    days         from the due date on; negative before it. After it they count from the last day to pay in time
    at           not before this time of day; 09:00
    valid_days   days from the step's own day on after which its message is not sent any more
    every_days   an atraso repeats so often,
    every_max    and so many times after the first
    text         name of the tenant's text; that of its kind
    effective_on the step decides nothing that came before this day; `apply` chooses it
    condition    all must hold: min_amount and max_amount (of what is left to pay), method (one or a list), automatic
                 (whether it is debited without the person: a recurring charge by card)

A rule never changes. A changed one is its next version, and a tenant has the id of one version. What the old version
has decided stays decided; of the new one, a step that is new or falls on other days decides nothing before tomorrow.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import yaml
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from ifinu.billing import planner
from ifinu.billing.billing_schema import agenda, billing_tenants, rule_steps, rules
from ifinu.errors import InvalidBilling, NotFound

DEFAULT_NAME = "padrao"
ALWAYS = date(2000, 1, 1)  # `effective_on` of a step that may decide about any charge

_TRIGGERS = {
    "lembrete": "due", "vencimento": "due", "atraso": "due", "pagamento": "payment", "cobranca_criada": "creation",
}  # fmt: skip
_METHODS = ("pix", "boleto", "card", "other")
_STEP = re.compile(r"[a-z0-9][a-z0-9_-]{0,19}")
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")
_MOST_STEPS, _MOST_DAYS, _MOST_REPEATS = 50, 3650, 60
_LONGEST_NAME = 100

# A step on which they agree keeps the day from which it decides.
_OF_ITS_DAYS = ("kind", "trigger", "days", "every_days", "every_max", "condition")
_DECIDED = text("""
    SELECT c.id AS charge, c.customer_id AS customer, i.step, i.kind, i.state
      FROM intents i JOIN charges c ON c.seq = i.charge_seq
     WHERE i.tenant = :tenant AND i.decided_at = :at AND i.state IN ('planned', 'merged')""")
_AS_SENT = text("""
    UPDATE intents SET state = 'queued', queued_at = not_before
     WHERE tenant = :tenant AND state = 'planned' AND not_before < :at""")


@dataclass(frozen=True, slots=True)
class Step:
    """One step; each field is the column of that name in `rule_steps`, with `days` for `offset_days`."""

    step: str
    kind: str
    days: int = 0
    valid_days: int = 1
    trigger: str = "due"
    at: time = time(9)
    channel: str = "whatsapp"
    text: str | None = None
    every_days: int | None = None
    every_max: int = 0
    effective_on: date | None = None
    condition: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, wrong, reason in self._faults():
            if wrong:
                raise InvalidBilling(f"step {self.step}: {name}", reason)

    def _faults(self) -> list[tuple[str, bool, str]]:
        of_day, repeats = self.trigger == "due", self.every_days is not None
        return [
            ("step", not _STEP.fullmatch(self.step), "must be 1 to 20 lower-case letters, digits, - and _"),
            ("kind", self.kind not in _TRIGGERS, f"{self.kind!r} is none of {', '.join(_TRIGGERS)}"),
            ("trigger", self.trigger != _TRIGGERS.get(self.kind), f"of {self.kind} is {_TRIGGERS.get(self.kind)}"),
            ("channel", self.channel != "whatsapp", f"{self.channel!r} is not there yet; write whatsapp, or nothing"),
            ("days", abs(self.days) > _MOST_DAYS, f"is further away than {_MOST_DAYS} days"),
            (
                "days",
                self.kind == "lembrete" and self.days >= 0,
                "of a lembrete is below 0: it goes before the due date",
            ),
            ("days", self.kind == "vencimento" and self.days != 0, "of a vencimento is 0: it goes on the due date"),
            ("days", self.kind == "atraso" and self.days <= 0, "of an atraso is above 0: it goes after the due date"),
            ("days", not of_day and self.days != 0, f"has no meaning: {self.kind} goes at once"),
            ("valid_days", not 1 <= self.valid_days <= _MOST_DAYS, f"must be from 1 to {_MOST_DAYS}"),
            (
                "valid_days",
                self.kind == "lembrete" and self.valid_days > -self.days,
                f"must be at most {-self.days}: on the due date a lembrete is too late",
            ),
            (
                "valid_days",
                self.kind == "vencimento" and self.valid_days != 1,
                "of a vencimento is 1: it is for its day",
            ),
            ("every_days", repeats and self.kind != "atraso", f"is for an atraso; a {self.kind} goes once"),
            ("every_days", repeats and not 1 <= (self.every_days or 0) <= 365, "must be from 1 to 365"),
            ("every_max", repeats and not 1 <= self.every_max <= _MOST_REPEATS, f"must be from 1 to {_MOST_REPEATS}"),
            ("every_max", not repeats and self.every_max != 0, "needs every_days"),
        ]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: its steps in order. Of two steps on one day the later one goes."""

    name: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name) > _LONGEST_NAME:
            raise InvalidBilling("name", f"must have 1 to {_LONGEST_NAME} characters")
        if not 1 <= len(self.steps) <= _MOST_STEPS:
            raise InvalidBilling("steps", f"must be 1 to {_MOST_STEPS}")
        seen: set[str] = set()
        for step in self.steps:
            if step.step in seen:
                raise InvalidBilling(f"step {step.step}", "is there twice")
            seen.add(step.step)


DEFAULT = Rule(
    DEFAULT_NAME,
    (
        Step("l3", "lembrete", -3, valid_days=3, condition={"automatic": False}),
        Step("v", "vencimento", 0, valid_days=1),
        Step("a1", "atraso", 1, valid_days=5),
        Step("a7", "atraso", 7, valid_days=7),
        Step("a15", "atraso", 15, valid_days=7, every_days=7, every_max=4),
        Step("pago", "pagamento", trigger="payment", valid_days=3),
    ),
)


def default(connection: Connection) -> int:
    """The id of the rule that a tenant has unless it chooses another one; stored when it is first asked for."""
    return save(connection, "", DEFAULT, ALWAYS)


def save(connection: Connection, tenant: str, rule: Rule, effective_on: date) -> int:
    """
    Store a rule as the next version of its name, unless its last version is the same.

    Args:
        tenant: Its owner; empty for a rule that every tenant may use.
        effective_on: For the steps that name no day of their own.

    Returns:
        The id of the version.
    """
    rule = replace(
        rule, steps=tuple(replace(each, effective_on=each.effective_on or effective_on) for each in rule.steps)
    )
    while True:
        of_name = (rules.c.tenant == tenant, rules.c.name == rule.name)
        last = connection.execute(
            select(rules.c.id, rules.c.version).where(*of_name).order_by(rules.c.version.desc()).limit(1)
        ).one_or_none()
        if last is not None and get(connection, last.id) == rule:
            return int(last.id)
        version = 1 if last is None else last.version + 1
        values = {"tenant": tenant, "name": rule.name, "version": version}
        adding = upsert(rules).values(values).on_conflict_do_nothing().returning(rules.c.id)
        made = connection.execute(adding).scalar()
        if made is not None:  # otherwise another process stored this version meanwhile
            connection.execute(insert(rule_steps), [_row(made, ord_, step) for ord_, step in enumerate(rule.steps, 1)])
            return int(made)


def get(connection: Connection, rule_id: int) -> Rule:
    """A stored version of a rule, with the days from which its steps decide."""
    name = connection.execute(select(rules.c.name).where(rules.c.id == rule_id)).scalar_one()
    found = connection.execute(select(rule_steps).where(rule_steps.c.rule_id == rule_id).order_by(rule_steps.c.ord))
    return Rule(name, tuple(_stored(row._asdict()) for row in found))


def version(connection: Connection, rule_id: int) -> int:
    return int(connection.execute(select(rules.c.version).where(rules.c.id == rule_id)).scalar_one())


def of_tenant(connection: Connection, tenant: str) -> Rule:
    """
    A tenant's rule.

    Raises:
        NotFound: There is no such tenant.
    """
    return get(connection, _tenant(connection, tenant)[0])


def apply(connection: Connection, tenant: str, rule: Rule, now: datetime) -> int:
    """
    Give a tenant a rule. What has come due is decided by the old one before.

    Returns:
        The version of the rule.

    Raises:
        NotFound: There is no such tenant.
    """
    planner.plan_all(connection, now, tenants=[tenant], paused=True)
    old_id, zone = _tenant(connection, tenant)
    today = now.astimezone(zone).date()
    tomorrow, old = today + timedelta(days=1), {step.step: step for step in get(connection, old_id).steps}
    steps = tuple(replace(step, effective_on=_effective_on(step, old.get(step.step), tomorrow)) for step in rule.steps)
    id_ = save(connection, tenant, replace(rule, steps=steps), tomorrow)
    if id_ != old_id:
        table = billing_tenants
        connection.execute(update(table).where(table.c.id == tenant).values(rule_id=id_, version=table.c.version + 1))
        # The next pass finds the next day of each charge.
        connection.execute(
            update(agenda).where(agenda.c.tenant == tenant, agenda.c.next_on > today).values(next_on=today)
        )
    return version(connection, id_)


def _effective_on(step: Step, old: Step | None, tomorrow: date) -> date:
    if step.effective_on is not None:
        return step.effective_on
    is_same = old is not None and all(getattr(step, name) == getattr(old, name) for name in _OF_ITS_DAYS)
    return old.effective_on or tomorrow if old is not None and is_same else tomorrow


class Difference(NamedTuple):
    """
    A charge about which a customer gets another message tomorrow, or one more, or one less.

    Attributes:
        before: The step and the kind of the message by the rule as it is; None for no message.
        after: Likewise by the changed one.
    """

    charge: str
    customer: str
    before: tuple[str, str] | None
    after: tuple[str, str] | None


def diff(connection: Connection, tenant: str, rule: Rule, now: datetime) -> list[Difference]:
    """
    Find whom a changed rule would write to tomorrow: both are planned, and undone.

    Raises:
        NotFound: There is no such tenant.
    """
    before, after = (_tomorrow(connection, tenant, each, now) for each in (None, rule))
    return [
        Difference(*key, before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _tomorrow(
    connection: Connection, tenant: str, rule: Rule | None, now: datetime
) -> dict[tuple[str, str], tuple[str, str]]:
    """The step and the kind by charge and customer."""
    with connection.begin_nested() as undone:
        _, zone = _tenant(connection, tenant)
        planner.plan_all(connection, now, tenants=[tenant], paused=True)
        if rule is not None:
            apply(connection, tenant, rule, now)
            planner.plan_all(connection, now, tenants=[tenant], paused=True)
        at = datetime.combine(now.astimezone(zone).date() + timedelta(days=1), time(), zone)
        connection.execute(_AS_SENT, {"tenant": tenant, "at": at})
        planner.plan_all(connection, at, tenants=[tenant], paused=True)
        rows = connection.execute(_DECIDED, {"tenant": tenant, "at": at}).all()
        undone.rollback()
    return {(row.charge, row.customer): (row.step, row.kind) for row in rows}


def _tenant(connection: Connection, tenant: str) -> tuple[int, ZoneInfo]:
    query = select(billing_tenants.c.rule_id, billing_tenants.c.tz).where(billing_tenants.c.id == tenant)
    row = connection.execute(query.with_for_update(key_share=True)).one_or_none()
    if row is None:
        raise NotFound("tenant", tenant)
    return row.rule_id, ZoneInfo(row.tz)


def _row(rule_id: int, ord_: int, step: Step) -> dict[str, Any]:
    values = {each.name: getattr(step, each.name) for each in fields(Step)}
    return {**values, "rule_id": rule_id, "ord": ord_, "offset_days": values.pop("days")}


def _stored(row: Mapping[str, Any]) -> Step:
    return Step(**{each.name: row["offset_days" if each.name == "days" else each.name] for each in fields(Step)})


def load(text: str) -> Rule:
    """
    Read a rule from YAML.

    Raises:
        InvalidBilling: It is wrong; the error names the line, the step and the field.
    """
    try:
        # Scalars stay texts: YAML would read 10:30 as 630, and `on` as true.
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as exc:
        mark = getattr(exc, "problem_mark", None)
        where = "" if mark is None else f"line {mark.line + 1}"
        raise InvalidBilling(where, f"is not YAML: {getattr(exc, 'problem', None) or exc}") from None
    entries = _mapping(node, "", ("name", "steps"))
    for needed in ("name", "steps"):
        if needed not in entries:
            raise InvalidBilling(needed, "is missing")
    steps = entries["steps"]
    if not isinstance(steps, yaml.SequenceNode):
        raise InvalidBilling(_where(steps, "steps"), "must be a list of steps")
    return Rule(_text(entries["name"], "name"), tuple(_step(node) for node in steps.value))


def dump(rule: Rule) -> str:
    """Write a rule as YAML that `load` reads."""
    return str(yaml.dump(as_data(rule), sort_keys=False, allow_unicode=True))


def as_data(rule: Rule) -> dict[str, Any]:
    """A rule as lists, dicts and scalars, for YAML and JSON."""
    return {"name": rule.name, "steps": [_step_as_data(step) for step in rule.steps]}


def _step_as_data(step: Step) -> dict[str, Any]:
    data: dict[str, Any] = {"step": step.step, "kind": step.kind}
    if step.trigger == "due":
        data.update(days=step.days, at=f"{step.at:%H:%M}")
    else:
        data["trigger"] = step.trigger
    data["valid_days"] = step.valid_days
    if step.every_days is not None:
        data.update(every_days=step.every_days, every_max=step.every_max)
    if step.text is not None:
        data["text"] = step.text
    if step.effective_on not in (None, ALWAYS):
        data["effective_on"] = str(step.effective_on)
    if step.condition:
        data["condition"] = dict(step.condition)
    return data


def _step(node: yaml.Node) -> Step:
    entries = _mapping(node, "step", tuple(_READERS))
    if "step" not in entries:
        raise InvalidBilling(_where(node, "step"), "has no name: write `step: a1`, and so on")
    name = _text(entries["step"], "step")
    for needed in ("kind", "valid_days"):
        if needed not in entries:
            raise InvalidBilling(_where(node, f"step {name}: {needed}"), "is missing")
    values = {key: _READERS[key](value, f"step {name}: {key}") for key, value in entries.items()}
    values.setdefault("trigger", _TRIGGERS.get(values["kind"], "due"))
    if values["trigger"] == "due" and "days" not in values:
        raise InvalidBilling(_where(node, f"step {name}: days"), "is missing")
    try:
        return Step(**values)
    except InvalidBilling as exc:
        at = entries.get(exc.field.rpartition(" ")[2], node)
        raise InvalidBilling(_where(at, exc.field), exc.reason) from None


def _where(node: yaml.Node, field_: str) -> str:
    return f"line {node.start_mark.line + 1}: {field_}"


def _mapping(node: yaml.Node | None, where: str, known: Sequence[str]) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        raise InvalidBilling(where if node is None else _where(node, where), f"must have the keys {', '.join(known)}")
    entries: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = str(key.value)
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise InvalidBilling(_where(key, f"{where}: {name}" if where else name), f"no such key; {hint}")
        if name in entries:
            raise InvalidBilling(_where(key, name), "is there twice")
        entries[name] = value
    return entries


def _text(node: yaml.Node, where: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
        raise InvalidBilling(_where(node, where), "must be a text")
    return str(node.value).strip()


def _whole(node: yaml.Node, where: str) -> int:
    text = _text(node, where)
    if not re.fullmatch(r"[+-]?\d{1,6}", text, re.ASCII):
        raise InvalidBilling(_where(node, where), f"{text!r} is no whole number")
    return int(text)


def _clock(node: yaml.Node, where: str) -> time:
    text = _text(node, where)
    if not _CLOCK.fullmatch(text):
        raise InvalidBilling(_where(node, where), f"{text!r} is no time of day; write 09:00")
    return time.fromisoformat(text)


def _day(node: yaml.Node, where: str) -> date:
    text = _text(node, where)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidBilling(_where(node, where), f"{text!r} is no day; write 2026-12-01") from None


def _condition(node: yaml.Node, where: str) -> dict[str, Any]:
    entries = _mapping(node, where, tuple(_CONDITIONS))
    return {key: _CONDITIONS[key](value, f"{where}: {key}") for key, value in entries.items()}


def _amount(node: yaml.Node, where: str) -> str:
    """A decimal as a text, since JSON's numbers are floats."""
    text = _text(node, where)
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or not 0 <= amount < 10**12 or amount != amount.quantize(Decimal("0.01")):
        raise InvalidBilling(_where(node, where), f"{text!r} is no amount; write 50 or 49.90")
    return text


def _methods(node: yaml.Node, where: str) -> list[str]:
    named = [_text(each, where) for each in (node.value if isinstance(node, yaml.SequenceNode) else [node])]
    for method in named:
        if method not in _METHODS:
            raise InvalidBilling(_where(node, where), f"{method!r} is none of {', '.join(_METHODS)}")
    if not named:
        raise InvalidBilling(_where(node, where), "names no method, so the step would never go")
    return named


def _truth(node: yaml.Node, where: str) -> bool:
    text = _text(node, where)
    if text not in ("true", "false"):
        raise InvalidBilling(_where(node, where), f"{text!r} is neither true nor false")
    return text == "true"


_Reader = Callable[[yaml.Node, str], Any]
_CONDITIONS: dict[str, _Reader] = {
    "min_amount": _amount, "max_amount": _amount, "method": _methods, "automatic": _truth,
}  # fmt: skip
_READERS: dict[str, _Reader] = {
    "step": _text, "kind": _text, "trigger": _text, "days": _whole, "at": _clock, "valid_days": _whole,
    "every_days": _whole, "every_max": _whole, "channel": _text, "text": _text, "effective_on": _day,
    "condition": _condition,
}  # fmt: skip
