"""
Events of payment providers, in one form.

A provider's field may be absent or `null`, which means the same. A field of another type than documented makes the
event invalid, and the reason names the field and never its value. An event that is not known is `ignored`, since
providers add some.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

from ifinu import values
from ifinu.escapes import visible

MAX_AMOUNT: Final = Decimal("999999999999.99")
_BRAZIL: Final = ZoneInfo("America/Sao_Paulo")
_LONGEST_ID, _LONGEST_TEXT = 200, 200
_EARLIEST_S, _LATEST_S = 946_684_800, 4_102_444_800  # 2000-01-01, 2100-01-01
_MILLISECONDS_FROM = 100_000_000_000  # as seconds this would be in the year 5138


class InvalidEvent(ValueError):  # noqa: N818 - named after the input
    """The body is not an event of the provider, and never will be; the message says why, without quoting it."""


class Effect(enum.StrEnum):
    """What an event does to its charge."""

    PAID = "paid"
    CONFIRMED = "confirmed"  # paid; the provider has the money, the tenant gets it later
    REFUNDED = "refunded"  # or charged back, or undone
    CANCELLED = "cancelled"
    RESTORED = "restored"  # no longer cancelled
    UPDATED = "updated"  # another due date or amount
    IGNORED = "ignored"


PAYMENTS: Final = frozenset({Effect.PAID, Effect.CONFIRMED})
CHANGES: Final = frozenset({Effect.CANCELLED, Effect.RESTORED, Effect.UPDATED})


@dataclass(frozen=True, slots=True)
class PaymentRequest:
    """
    A webhook as it arrived.

    Attributes:
        headers: Names in lower case.
        query: Parameters of the URL.
        address: IP address of the client, or of the last proxy.
    """

    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str] = field(default_factory=dict)
    address: str = ""


@dataclass(frozen=True, slots=True)
class PaymentEvent:
    """
    An event.

    Attributes:
        provider: The provider's name, as in the webhook's path.
        event_id: Identifies the event at the provider; the same event has the same id each time it comes.
        event: The provider's name of it.
        references: Ids that may name the charge, the best first.
        payment_id: Identifies the payment at the provider; several events speak of one payment.
        amount: The amount paid; None if the provider does not say, and the charge is paid as a whole.
        paid_at: When it was paid.
        occurred_at: When the event happened at the provider, by which events are put in order.
        due_date: The new due date, of an `updated` event.
        new_amount: The new amount, of an `updated` event.
        raw: The fields that are kept; nothing in them is personal.
        note: Why it is ignored, in one word.
    """

    provider: str
    event_id: str
    event: str
    effect: Effect
    references: tuple[str, ...] = ()
    payment_id: str | None = None
    amount: Decimal | None = None
    paid_at: datetime | None = None
    occurred_at: datetime | None = None
    due_date: date | None = None
    new_amount: Decimal | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    note: str | None = None


def document(body: bytes) -> dict[str, Any]:
    """
    Parse a body, numbers exactly as written.

    Raises:
        InvalidEvent: The body is not a JSON object.
    """
    try:
        parsed = json.loads(body, parse_float=Decimal, parse_constant=_refuse)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise InvalidEvent("the body is not JSON") from None
    if not isinstance(parsed, dict):
        raise InvalidEvent("the body is not a JSON object")
    return parsed


def digest(body: bytes) -> str:
    """An id for an event that has none: the same body is the same event."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def part(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """
    An object within an object, empty if it is absent.

    Raises:
        InvalidEvent: It is something else.
    """
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidEvent(f"{name} is not an object")
    return value


def text(fields: Mapping[str, Any], name: str) -> str | None:
    """
    A word or an id, without the blanks around it; None if there is nothing left.

    Raises:
        InvalidEvent: It is neither a string nor an integer, is too long, or has characters that no id has.
    """
    value = fields.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidEvent(f"{name} is not a string")
    value = value.strip()
    if len(value) > _LONGEST_ID:
        raise InvalidEvent(f"{name} is longer than {_LONGEST_ID} characters")
    if visible(value) != value:
        raise InvalidEvent(f"{name} has control characters")
    return value or None


def reais(fields: Mapping[str, Any], name: str) -> Decimal | None:
    """
    An amount in reais, as a number or a string such as `149.90`.

    Raises:
        InvalidEvent: It is not an amount of money.
    """
    value = fields.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
            raise ValueError("is not a number")
        if isinstance(value, str) and ("_" in value or not value.isascii()):  # Decimal reads 1_49.90, too
            raise ValueError("is not a number")
        number = values.exact(Decimal(value.strip() if isinstance(value, str) else value))
    except (ArithmeticError, ValueError):
        raise InvalidEvent(f"{name} is not an amount in reais") from None
    return _in_range(number, name)


def centavos(fields: Mapping[str, Any], name: str) -> Decimal | None:
    """
    An amount in centavos, in reais.

    Raises:
        InvalidEvent: It is not a whole number.
    """
    value = fields.get(name)
    if value is None:
        return None
    if (
        isinstance(value, Decimal)
        and value.is_finite()
        and value.adjusted() < 20
        and value == value.to_integral_value()
    ):
        value = int(value)  # 14990.0
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidEvent(f"{name} is not an amount in centavos")
    if abs(value) > 100 * MAX_AMOUNT:
        raise InvalidEvent(f"{name} is out of range")
    return _in_range(Decimal(value).scaleb(-2), name)


def day(fields: Mapping[str, Any], name: str) -> date | None:
    """
    A day, `2026-12-01`.

    Raises:
        InvalidEvent: It is something else.
    """
    value = text(fields, name)
    try:
        return None if value is None else date.fromisoformat(value[:10])
    except ValueError:
        raise InvalidEvent(f"{name} is not a date") from None


def moment(fields: Mapping[str, Any], name: str, *, local: bool = False) -> datetime | None:
    """
    A time.

    Args:
        local: Whether a time without a zone is the clock's of Brasília.

    Raises:
        InvalidEvent: It is not a time, or has no zone.
    """
    value = text(fields, name)
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
        if at.tzinfo is None:
            if not local:
                raise InvalidEvent(f"{name} has no time zone")
            at = at.replace(tzinfo=_BRAZIL)
        return at.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise (exc if isinstance(exc, InvalidEvent) else InvalidEvent(f"{name} is not a time")) from None


def since_1970(fields: Mapping[str, Any], name: str) -> datetime | None:
    """
    A time as seconds or milliseconds since 1970.

    Raises:
        InvalidEvent: It is something else.
    """
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidEvent(f"{name} is not a time")
    at = instant(value)
    if at is None:
        raise InvalidEvent(f"{name} is not a time")
    return at


def instant(count: int) -> datetime | None:
    """Seconds or milliseconds since 1970 as a time; None outside this century."""
    seconds = count / 1000 if count >= _MILLISECONDS_FROM else count
    return datetime.fromtimestamp(seconds, UTC) if _EARLIEST_S <= seconds <= _LATEST_S else None


def noon(on: date | None, not_after: datetime | None = None) -> datetime | None:
    """
    The noon of a day in Brasília, which is the same day in every zone of Brazil.

    Args:
        not_after: The time by which it had happened.
    """
    if on is None:
        return None
    at = datetime.combine(on, time(12), _BRAZIL).astimezone(UTC)
    is_later = not_after is not None and not_after < at and not_after.astimezone(_BRAZIL).date() == on
    return not_after if is_later else at


def references(*candidates: str | None) -> tuple[str, ...]:
    """Those that are there, each once, in order."""
    return tuple(dict.fromkeys(one for one in candidates if one))


def kept(body: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """
    The listed fields of a body, by path: `payment.id`. Objects and arrays are left out.

    Names, documents, phones and e-mail addresses stand beside what is needed, so nothing else is kept.
    """
    found: dict[str, Any] = {}
    for path in paths:
        value: Any = body
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str):
            found[path] = visible(value)[:_LONGEST_TEXT]
        elif isinstance(value, Decimal):
            found[path] = str(value)[:_LONGEST_TEXT]
        elif isinstance(value, bool) or (isinstance(value, int) and abs(value) <= 10**20):
            found[path] = value
    return found


def _in_range(number: Decimal, name: str) -> Decimal:
    if not number.is_finite() or number < 0 or number > MAX_AMOUNT:
        raise InvalidEvent(f"{name} is out of range")
    return number.quantize(Decimal("0.01"))


def _refuse(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")
