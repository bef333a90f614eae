"""
The Portuguese edge: JSON <-> `Notification`.

Producers in other languages push a flat object. `id`, `tipo_notificacao`, `telefone` and the fields that the kind's
text needs are required. null and "" count as absent. Unknown keys are ignored, unless one resembles a missing field of
`GUARDS` (`names.py`):

    {"id": "inv-42:lembrete", "tipo_notificacao": "lembrete|vencimento|atraso|pagamento|cobranca_criada",
     "telefone": "(77) 99861-6740", "nome": …, "valor": 1234.5 | "1234.50" | "R$ 1.234,50",
     "vencimento": "2026-12-01" | "01/12/2026" | "2026-12-01T18:00:00-03:00", "descricao": …, "texto": …,
     "link_pagamento": …, "pix_copia_cola": …, "linha_digitavel": …, "anexo": …, "instancia": …, "usuario_id": …,
     "sem_referencia": true | false, "valido_ate": "2026-12-01T18:00:00-03:00" | "2026-12-01",
     "prioridade": "urgente|normal|baixa", "cobranca_ref": "42"}

or a nested object, whose outer fields override the inner ones:

    {"id": …, "tipo_notificacao": …, "usuario_id": …, "cobranca": {"valor": …, "descricao": …,
     "vencimento" | "data_vencimento": …, "link_pagamento": …, "pix_copia_cola": …, "linha_digitavel": …,
     "cliente": {"nome": …, "telefone": …}}}

`cobranca.id` is not read: a charge has several notifications, each with another id.

Times without a zone are in São Paulo time. Go and JavaScript print a bare date as midnight UTC, so
`2026-12-01T00:00:00Z` is due on that day, not on the evening before. Go's zero time counts as absent.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from ifinu import phone
from ifinu.errors import InvalidNotification
from ifinu.names import likely
from ifinu.notification import MISSING_FOR_KIND, SAMPLE_DUE_IN_DAYS, Kind, Notification, Priority
from ifinu.values import amount, day_or_time, exact, local_day

_ZONE = "America/Sao_Paulo"
_DEEPEST = 32  # levels; a notification has three
_LONGEST_ECHO = 40  # characters of a misspelt kind that an error repeats
_GO_ZERO_TIME = "0001-01-01T00:00:00Z"

# Wire name -> field, in the order in which problems are reported: the most useful first.
_TOP = {
    "id": "id",
    "tipo_notificacao": "kind",
    "telefone": "phone",
    "nome": "name",
    "valor": "amount",
    "vencimento": "due_date",
    "descricao": "description",
    "texto": "text",
    "link_pagamento": "payment_link",
    "pix_copia_cola": "pix_code",
    "linha_digitavel": "boleto_line",
    "anexo": "attachment",
    "valido_ate": "valid_until",
    "prioridade": "priority",
    "instancia": "instance",
    "usuario_id": "tenant",
    "sem_referencia": "without_reference",
    "cobranca_ref": "charge_ref",
    "janela": "sending_window",
}
_CHARGE = {
    "valor": "amount",
    "data_vencimento": "due_date",
    "vencimento": "due_date",
    "descricao": "description",
    "link_pagamento": "payment_link",
    "pix_copia_cola": "pix_code",
    "linha_digitavel": "boleto_line",
}
_CUSTOMER = {"nome": "name", "telefone": "phone"}
_WIRE = {field: wire for wire, field in _TOP.items()}
NAMES = {wire: wire for wire in _TOP} | _WIRE  # from wire and Python names
_ONLY_HERE = _TOP.keys() - _WIRE.keys()
_CONTAINERS = frozenset({"cobranca", "cliente"})
_MOST_UNREAD = 100  # keys of one message that are compared with ours
_AS_IT_IS: Mapping[str, str] = {}
_CHOICES: dict[str, type[Kind] | type[Priority]] = {"kind": Kind, "priority": Priority}

# Without its guard, a message may go to somebody who opted out, too late, or from another number.
GUARDS = frozenset({"usuario_id", "valido_ate", "instancia"})
_HALF_A_CHARACTER = "has half of a surrogate pair, which is no character"


def parse(raw: bytes | str) -> dict[str, object]:
    """
    Read one JSON object, strictly.

    Raises:
        InvalidNotification: It is not UTF-8, not JSON or not an object, has a duplicate key or an invalid number (NaN,
            Infinity, 1e999), or nests too deeply.
    """
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
        body = _read(text)
    except UnicodeDecodeError as exc:
        raise InvalidNotification("", f"is not UTF-8, at byte {exc.start}") from exc
    except json.JSONDecodeError as exc:
        raise InvalidNotification("", f"is not JSON: {exc.msg} at character {exc.pos}") from exc
    except ValueError as exc:  # from the hooks below, or from Python for an integer of thousands of digits
        raise InvalidNotification("", f"is not valid JSON: {exc}") from exc
    except RecursionError as exc:
        raise InvalidNotification("", f"nests deeper than {_DEEPEST} levels") from exc
    if not isinstance(body, dict):
        raise InvalidNotification("", f"must be a JSON object, not {_json_type(body)}")
    # Text with few brackets cannot be deep.
    if text.count("{") + text.count("[") > _DEEPEST and nests_deeper(body, _DEEPEST):
        raise InvalidNotification("", f"nests deeper than {_DEEPEST} levels")
    return body


def nests_deeper(value: object, levels: int) -> bool:
    """Whether the lists and objects of a JSON value nest deeper than `levels`."""
    level: list[Any] = [value]
    for _ in range(levels):
        inner = (part for each in level for part in (each.values() if isinstance(each, dict) else each))
        level = [part for part in inner if isinstance(part, (dict, list))]
        if not level:
            return False
    return True


def decode(
    body: Mapping[str, object],
    *,
    sandbox_number: str | None = None,
    today: date | None = None,
    spelling: Mapping[str, str] = _AS_IT_IS,
    ignored: Callable[[str], None] = lambda field: None,
) -> Notification:
    """
    Read either wire form.

    Args:
        body: A JSON object as `parse` returns it.
        sandbox_number: Replaces a missing `telefone`; sample data replace the other missing fields. None (production):
            a missing field is an error.
        today: The day in Brazil from which sample due dates count; None reads the clock.
        spelling: The source's name of each wire field, such as a column of a file; errors use these names.
        ignored: Called with the wire name of each absent field that an ignored key resembles.

    Raises:
        InvalidNotification: A field is wrong; the error names the field and never repeats its value. If several are
            wrong, `.field` is the first and `.reason` lists the others too.
    """
    if not isinstance(body, (dict, Mapping)):  # an envelope may call the task with anything
        raise InvalidNotification("", f"must be a JSON object, not {_json_type(body)}")
    taken = _Taken()
    if body.get("cobranca") is not None:
        taken.charge(body["cobranca"])
    taken.fields(body, _TOP)
    strays = taken.strays()
    values, problems = taken.values, taken.problems
    for wire in strays.keys() & GUARDS:
        problems[_short(strays[wire])] = f"unknown field; did you mean {wire}?"
    if sandbox_number is not None:
        _fill_in(values, problems, sandbox_number, today)
    try:
        notification = Notification.model_validate(values)
    except ValidationError as exc:
        for field, reason in _reasons(exc, values):
            wire = _WIRE[field]
            hint = f"; {_short(strays[wire])} looks like it" if wire in strays and field not in values else ""
            problems.setdefault(wire, reason + hint)
    if problems:
        raise _invalid(problems, _TOP, spelling)
    for wire in strays:
        ignored(wire)
    return notification


def is_wire(body: Mapping[str, object]) -> bool:
    """Whether a mapping has wire names rather than Python's, which always include `kind`."""
    return "tipo_notificacao" in body or "cobranca" in body or ("kind" not in body and not _ONLY_HERE.isdisjoint(body))


def phone_of(body: Mapping[str, object]) -> str | None:
    """The phone of a wire object or of Python's fields, as E.164, even if other fields are wrong; None without one."""
    charge = body.get("cobranca")
    customer = charge.get("cliente") if isinstance(charge, Mapping) else None
    parts = [part for part in (body, customer) if isinstance(part, Mapping)]
    for spelling in (part.get(name) for part in parts for name in ("telefone", "phone")):
        with contextlib.suppress(ValueError):
            return phone.normalize(str(spelling))
    return None


def from_fields(fields: Mapping[str, object]) -> Notification:
    """
    Build a notification from Python's field names, such as `kind` and `phone`.

    Raises:
        InvalidNotification: A field is wrong; the error names the field and never repeats its value.
    """
    for name in fields:
        if isinstance(name, str) and not _is_text(name):
            raise InvalidNotification(_short(name), _HALF_A_CHARACTER)
    try:
        return Notification.model_validate(dict(fields))
    except ValidationError as exc:
        raise _invalid(dict(_reasons(exc, fields)), _WIRE) from exc


def encode(notification: Notification) -> dict[str, str]:
    """
    Write the flat wire form, ready for JSON; `decode` gives the same notification back.

    Absent fields, the normal priority and false values are left out.
    """
    values, normal = vars(notification), Priority.NORMAL
    body = {}
    for wire, field in _TOP.items():
        value = values[field]
        if value is not None and value is not normal and value is not False:
            body[wire] = value if type(value) is str else _written(value)
    return body


def _written(value: object) -> str:
    match value:
        case Decimal():
            return f"{value:.2f}"
        case date():  # also a datetime
            return value.isoformat()
        case True:
            return "true"
        case _:
            return str(value)


class _Taken:
    """The fields taken from a body: values by field, problems by wire name, and the unread keys."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.problems: dict[str, str] = {}
        self._unread: dict[str, str] = {}  # wire name -> the key that resembles it, with its path
        self._looked_at = 0

    def charge(self, charge: object) -> None:
        if not isinstance(charge, Mapping):
            self.problems["cobranca"] = f"must be an object, not {_json_type(charge)}"
            return
        self.fields(charge, _CHARGE, "cobranca.")
        customer = charge.get("cliente")
        if isinstance(customer, Mapping):
            self.fields(customer, _CUSTOMER, "cobranca.cliente.")
        elif customer is not None:
            self.problems["cliente"] = f"must be an object, not {_json_type(customer)}"

    def fields(self, body: Mapping[str, object], names: Mapping[str, str], path: str = "") -> None:
        for wire, raw in body.items():
            if raw is None or raw == _GO_ZERO_TIME:
                continue
            if isinstance(raw, str):
                raw = raw.strip()
                if not raw:
                    continue
            field = names.get(wire)
            if field is None:
                self._leave(wire, raw, path)
                continue
            try:
                self.values[field] = _READERS.get(field, _string)(raw)
                if self.problems:
                    self.problems.pop(_WIRE[field], None)  # a nested one that this overrides
            except ValueError as exc:
                self.problems[_WIRE[field]] = str(exc)

    def strays(self) -> dict[str, str]:
        """The wire name of each absent field that an unread key resembles, and that key."""
        return {
            wire: key
            for wire, key in self._unread.items()
            if _TOP.get(wire) not in self.values and wire not in self.problems
        }

    def _leave(self, key: object, raw: object, path: str) -> None:
        # A flag is neither an id nor a time. An object with hundreds of keys is not a notification.
        if not isinstance(key, str) or isinstance(raw, bool) or key in _CONTAINERS or self._looked_at >= _MOST_UNREAD:
            return
        self._looked_at += 1
        wire = likely(key)
        if wire is not None and not (path and wire == "id"):  # a charge and a customer have other ids
            self._unread.setdefault(wire, path + key)


def _string(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"must be a string, not {_json_type(raw)}")
    return raw


def _identifier(raw: object) -> str:
    # A database's integer key is as good as a string.
    return str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else _string(raw)


def _amount(raw: object) -> Decimal:
    if isinstance(raw, float | int) and not isinstance(raw, bool):
        return exact(Decimal(repr(raw)))
    if isinstance(raw, Decimal):
        return raw
    if not isinstance(raw, str):
        raise ValueError(f"must be a number or a string, not {_json_type(raw)}")
    return amount(raw)


def _due_date(raw: object) -> date:
    at = _date_or_time(raw)
    return local_day(at, ZoneInfo(_ZONE)) if isinstance(at, datetime) else at


def _yes_or_no(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    match _string(raw).lower():
        case "true" | "sim":
            return True
        case "false" | "não" | "nao":
            return False
    raise ValueError("must be true or false")


def _valid_until(raw: object) -> datetime:
    at = _date_or_time(raw)
    if not isinstance(at, datetime):  # the whole day
        return datetime.combine(at, time.max, ZoneInfo(_ZONE))
    return at if at.tzinfo else at.replace(tzinfo=ZoneInfo(_ZONE))


def _date_or_time(raw: object) -> date | datetime:
    if isinstance(raw, date):
        return raw
    return day_or_time(_string(raw))


_READERS: dict[str, Callable[[object], object]] = {
    "id": _identifier,
    "tenant": _identifier,
    "charge_ref": _identifier,
    "amount": _amount,
    "due_date": _due_date,
    "valid_until": _valid_until,
    "without_reference": _yes_or_no,
}


def _fill_in(values: dict[str, object], problems: Mapping[str, str], sandbox_number: str, today: date | None) -> None:
    due_in = SAMPLE_DUE_IN_DAYS.get(str(values.get("kind")), 0)  # an unknown kind is refused later
    today = today or datetime.now(ZoneInfo(_ZONE)).date()
    sample = {
        "phone": sandbox_number,
        "name": "Cliente de Teste",
        "amount": Decimal("100.00"),
        "due_date": today + timedelta(days=due_in),
        "description": "Cobrança de teste",
    }
    for field, value in sample.items():
        if _WIRE[field] not in problems:
            values.setdefault(field, value)


def _reasons(error: ValidationError, values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Pydantic's findings, field by field, in words that repeat no value except a misspelt kind."""
    for detail in error.errors(include_url=False, include_input=False):
        if detail["type"] == MISSING_FOR_KIND:
            for lacking in detail["ctx"]["fields"]:
                yield lacking, f"is required for {detail['ctx']['kind']}"
        else:
            field = str(detail["loc"][0])
            yield _short(field), _reason(detail["type"], detail["msg"], field, values.get(field))


def _reason(kind: str, message: str, field: str, value: object) -> str:
    match kind:
        case "missing":
            return "is required"
        case "extra_forbidden":
            close = difflib.get_close_matches(field, Notification.model_fields, n=1)
            meant = close[0] if close else _TOP.get(likely(field) or "")
            return "unknown field" + (f"; did you mean {meant}?" if meant else "")
        case "enum":
            allowed = ", ".join(_CHOICES[field])
            said = f"{_echo(value, _CHOICES[field])} is not one of {allowed}"
            return said.strip()
        case "string_pattern_mismatch" if field in ("payment_link", "attachment"):
            return "is not an http or https address"
        case "string_pattern_mismatch" if field == "charge_ref":
            return "is not a whole number"
        case "string_pattern_mismatch":
            return "has control characters"
        case "string_unicode":
            return _HALF_A_CHARACTER
        case "string_too_short":
            return "is empty"
        case "value_error":
            return message.removeprefix("Value error, ")
    return re.sub(r"^\w+(?: input)? should ", "must ", message)


def _echo(value: object, allowed: Iterable[str]) -> str:
    """The value if it is nearly right; any other value may be personal data."""
    if not isinstance(value, str):
        return _json_type(value)
    return repr(_short(value)) if difflib.get_close_matches(value.lower(), allowed, 1) else ""


def _short(text: str) -> str:
    shown = "".join(c if c.isprintable() else "\ufffd" for c in text[: 2 * _LONGEST_ECHO])
    return phone.mask_in(shown)[:_LONGEST_ECHO]


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _invalid(
    problems: Mapping[str, str], order: Iterable[str], spelling: Mapping[str, str] = _AS_IT_IS
) -> InvalidNotification:
    # Names outside the order come first: an unknown or malformed key explains why others are missing.
    rank = {name: place for place, name in enumerate(order)}
    ranked = sorted(problems.items(), key=lambda item: rank.get(item[0], -1))
    (field, reason), *others = [(spelling.get(name, name), text) for name, text in ranked]
    return InvalidNotification(field, "; ".join([reason, *(f"{name}: {text}" for name, text in others)]))


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    body = dict(pairs)
    if len(body) != len(pairs):
        raise ValueError("a duplicate key")
    return body


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number


def _json_type(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
    return "something else"


_read = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite_float).decode
