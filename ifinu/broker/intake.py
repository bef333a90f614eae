"""
Intake: bytes from a queue -> the call of the task that they ask for.

Two forms are admitted: Celery's envelope (protocol 2), as `send_notification.delay` publishes it, and a bare JSON
object, as any language can `LPUSH` it, which is wrapped as a call of `send_notification`. Anything else would make
Celery crash, loop or drop it; here it raises `Unreadable`, with a reason.

A producer can put anything into an envelope, so no envelope is handed on unchanged: the headers are always written
here, and a few checked values of the envelope are copied into them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeGuard

import pydantic_core

from ifinu import phone, wire
from ifinu.broker.headers import ACCEPTED, FIRST_TRY, LINE, QUEUE, TAG, TOKEN, TRACEPARENT, TROUBLE
from ifinu.errors import InvalidNotification
from ifinu.notification import Kind
from ifinu.tracing import traceparent

TASK = "ifinu.send_notification"
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_DEEPEST = 500
_MAX_ID = 200  # as notification.Notification.id
_MOST_RETRIES = 100  # as settings.Settings.max_retries
_MOST_OF_TROUBLE = 10
_TASK_NAME = re.compile(r"[A-Za-z0-9_.]{1,80}")
_SHOWN = frozenset(f"<{kind.value}>" for kind in Kind)


class Unreadable(ValueError):  # noqa: N818
    """
    A message that cannot become a task.

    Args:
        reason: One of the transport's dead-letter reasons, see `dead_letters.py`.
        detail: What is wrong, without quoting the content.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Admitted(NamedTuple):
    """
    A call of the task.

    Attributes:
        headers: Celery's headers and ours (`headers.py`); `eta` is the time before which it must not start, or None.
        args: Its arguments. The first one is a wire object; its JSON text if that has to be read again for its fault.
        kwargs: Its keyword arguments.
        reply_to: The queue of its result; None without one.
    """

    headers: dict[str, Any]
    args: list[Any]
    kwargs: dict[str, Any]
    reply_to: str | None = None


def admit(raw: bytes, *, queue: str, tag: str, max_bytes: int) -> Admitted:
    """
    Read one message.

    Args:
        raw: The bytes as they were on the list.
        queue: The list they were on.
        tag: The delivery tag that acknowledges them.
        max_bytes: Larger messages are not read.

    Raises:
        Unreadable: The message belongs in the dead letters.
    """
    if len(raw) > max_bytes:
        raise Unreadable("too_large", f"{len(raw)} bytes; the limit is {max_bytes}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Unreadable("not_utf8", f"byte {exc.start} is not UTF-8") from None
    if '"properties"' in text:  # an envelope is read once, without the strictness of the other form
        given = _json(text, "not_json")
        if isinstance(given, dict) and _is_envelope(given):
            return _envelope(given, queue, tag)
    argument: Any
    try:
        argument = body = wire.parse(text)
    except InvalidNotification:  # an envelope may be less strict, and a faulty notification is a fault of its fields
        argument, body = text, _json(text, "not_json")
    if not isinstance(body, dict):
        raise Unreadable("not_an_object", f"a JSON {type(body).__name__}, not an object")
    if _is_envelope(body):
        return _envelope(body, queue, tag)
    return _wrapped(argument, body, queue, tag)


def successor(raw: bytes, admitted: Mapping[str, Any], *, reply_to: str | None, retries: int, **ours: Any) -> str:
    """
    Write the message that takes the place of an admitted one: the same call, in an envelope.

    Args:
        raw: The bytes that were admitted.
        admitted: The headers that `admit` made of them.
        reply_to: The queue of its result, if it has one.
        retries: Number of counted tries so far.
        ours: Its headers of ours (`headers.py`).
    """
    body = json.loads(raw)
    args, kwargs = call_of(body) if _is_envelope(body) else ([raw.decode()], {})  # a producer's own bytes are kept
    kept = {name: admitted[name] for name in ("id", "expires", "ignore_result", "argsrepr") if name in admitted}
    return json.dumps(
        stamped(
            {
                "body": json.dumps([args, kwargs, EMBED]),
                "content-encoding": "utf-8",
                "content-type": "application/json",
                "headers": {"lang": "py", "task": TASK, **kept, "retries": retries, **ours},
                "properties": {"body_encoding": "utf-8", "reply_to": reply_to},
            }
        )
    )


def stamped(message: dict[str, Any]) -> dict[str, Any]:
    """
    A message for the delayed set, its time of publishing first.

    Thousands may be due at one moment, as when a window opens, and Redis orders those by their bytes.
    """
    return {"since": f"{time.time_ns():020}", **message}


def call_of(payload: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """
    The arguments with which a message calls its task: args and kwargs.

    Args:
        payload: A protocol-2 message of Kombu's virtual transports.

    Raises:
        Unreadable: Its body is not `[args, kwargs, embed]` in JSON.
    """
    args, kwargs, _ = _call_in(payload)
    return args, kwargs


def _call_in(payload: dict[str, Any]) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    body, encoding = payload.get("body"), payload["properties"].get("body_encoding")
    if not isinstance(body, str):
        raise Unreadable("bad_envelope", "the body is not a string")
    if encoding == "base64":
        try:
            body = base64.b64decode(body, validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            raise Unreadable("bad_envelope", "the body is not base64 of UTF-8") from None
    elif encoding not in (None, "utf-8"):
        raise Unreadable("bad_envelope", "the body's encoding is neither base64 nor utf-8")
    call = _json(body, "bad_envelope")
    if not (isinstance(call, list) and len(call) == 3):
        raise Unreadable("bad_envelope", "the body is not [args, kwargs, embed]")
    args, kwargs, embed = call
    if not (isinstance(args, list) and isinstance(kwargs, dict) and isinstance(embed, dict)):
        raise Unreadable("bad_envelope", "the body is not [args, kwargs, embed]")
    return args, kwargs, embed


def token_of(raw: bytes) -> str:
    """The token a retry or look-up carries; empty for a first message or an unreadable one."""
    if TOKEN.encode() not in raw:  # saves parsing what producers pushed
        return ""
    try:
        found = json.loads(raw)["headers"].get(TOKEN)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return found if is_text(found) else ""


def accepted_at(raw: bytes) -> datetime | None:
    """
    When a producer handed a message over, if the message says so.

    None for a retry too, since the message does not say when that became ready.
    """
    if TOKEN.encode() in raw or not (ACCEPTED.encode() in raw or b"criado_em" in raw):  # saves parsing it
        return None
    try:
        body = json.loads(raw)
        headers = body.get("headers")
        stamp = headers.get(ACCEPTED) if isinstance(headers, dict) else body.get("criado_em")
    except (ValueError, AttributeError, RecursionError):
        return None
    return aware(stamp)


def aware(stamp: object) -> datetime | None:
    """An ISO time with its zone; None for any other value, since a producer can push anything."""
    if stamp is None:  # the usual case, without the cost of an exception
        return None
    try:
        at = datetime.fromisoformat(stamp)  # type: ignore[arg-type]  # another type raises TypeError, caught below
    except (TypeError, ValueError):
        return None
    return None if at.tzinfo is None else at


def shown(args: object) -> str:
    """The `argsrepr` of a message, whatever its producer wrote there: its kind, as `<lembrete>`, or `<?>`."""
    return args if isinstance(args, str) and args in _SHOWN else "<?>"


def is_text(value: object) -> TypeGuard[str]:
    """Whether it is a string that UTF-8 can encode: JSON can hold half a surrogate pair, and Redis cannot."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _is_envelope(body: Mapping[str, Any]) -> bool:
    return "headers" in body and "properties" in body and "body" in body


def _json(text: str, reason: str) -> Any:
    try:
        value = _loads(text)
    except RecursionError:
        raise Unreadable(reason, "nested too deeply") from None
    except ValueError as exc:
        # A JSONDecodeError quotes no content; the limit on the digits of an integer is a plain ValueError.
        raise Unreadable(reason, str(exc)) from None
    # Python's own limit differs between its versions; ours must not. Text with few brackets cannot be deep.
    if text.count("[") + text.count("{") > _DEEPEST and wire.nests_deeper(value, _DEEPEST):
        raise Unreadable(reason, "nested too deeply")
    return value


def _loads(text: str) -> Any:
    try:
        return pydantic_core.from_json(text, cache_strings="keys")  # three times as fast, and stricter
    except ValueError:
        return json.loads(text)


def _envelope(given: dict[str, Any], queue: str, tag: str) -> Admitted:
    """
    Celery's envelope, written anew from the values below, each checked for its type and range.

    Other headers have no effect: not on the pool (`timelimit`), not on where results and retries go (`delivery_info`),
    not on what is revoked (`stamps`), not on what follows (`group`, `chord`).
    """
    headers, properties = given["headers"], given["properties"]
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        raise Unreadable("bad_envelope", "headers and properties must be objects")
    task_id = headers.get("id")
    if not is_text(task_id) or not 0 < len(task_id) <= _MAX_ID:
        raise Unreadable("bad_envelope", f"headers.id must be a string of 1 to {_MAX_ID} characters")
    if not is_text(task := headers.get("task")):
        raise Unreadable("bad_envelope", "headers.task must be a string")
    if given.get("content-type") != "application/json" or given.get("content-encoding") != "utf-8":
        raise Unreadable("bad_envelope", "the content must be application/json in utf-8")
    if headers.get("compression") is not None:
        raise Unreadable("bad_envelope", "compressed messages are not read")
    args, kwargs, embed = _call_in(given)
    if task != TASK:  # Celery's own tasks too: they would be neither paced nor counted
        named = task if _TASK_NAME.fullmatch(task) else "what its header says"
        raise Unreadable("unknown_task", f"no task is named {phone.mask_in(named)}")
    # Celery runs the tasks they name after the send; on an invalid one it fails where nothing ends the message.
    if embed.keys() - EMBED.keys() or any(place.get(name) for place in (headers, embed) for name in EMBED):
        raise Unreadable("bad_envelope", "it asks for other tasks to be run after it")
    checked = {
        "id": task_id,
        "retries": _number(headers, "retries", most=_MOST_RETRIES),
        "eta": _time(headers, "eta"),
        "expires": _time(headers, "expires"),
        "ignore_result": _flag(headers, "ignore_result"),
        "argsrepr": headers.get("argsrepr"),
        TOKEN: _word(headers, TOKEN),
        **{name: headers[name] for name, fits in _OURS.items() if fits(headers.get(name))},
    }
    present = {name: value for name, value in checked.items() if value is not None}
    return Admitted(_headers(queue, tag, present), args, kwargs, _reply_to(properties.get("reply_to")))


def _wrapped(argument: Any, body: dict[str, Any], queue: str, tag: str) -> Admitted:
    given = body.get("id")
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    # The notification's id as `Notification` will have it; a message without one is refused later.
    task_id = given.strip() if is_text(given) and given.strip() and len(given) <= _MAX_ID else uuid.uuid4().hex
    kind = body.get("tipo_notificacao")
    headers: dict[str, Any] = {
        "id": task_id,
        "retries": 0,
        "origin": "wire",
        "ignore_result": True,
        "argsrepr": f"<{kind}>" if isinstance(kind, str) else None,
    }
    if is_text(accepted := body.get("criado_em")):
        headers[ACCEPTED] = accepted
    if parent := traceparent(body.get(TRACEPARENT)):
        headers[TRACEPARENT] = parent
    return Admitted(_headers(queue, tag, headers), [argument], {})


def _headers(queue: str, tag: str, given: dict[str, Any]) -> dict[str, Any]:
    """Headers of a plain call, and those given."""
    return {
        "lang": "py", "task": TASK, "root_id": given["id"], "parent_id": None, "group": None, "shadow": None,
        "eta": None, "expires": None, "timelimit": [None, None],
        **given,
        TAG: tag, QUEUE: queue,
        # Flower and the logs show this: never the producer's own text.
        "argsrepr": shown(given.get("argsrepr")), "kwargsrepr": "{}",
    }  # fmt: skip


def _number(headers: dict[str, Any], name: str, *, most: int) -> int:
    value = headers.get(name, 0)
    if type(value) is not int or not 0 <= value <= most:  # True is an int too
        raise Unreadable("bad_envelope", f"headers.{name} must be a whole number from 0 to {most}")
    return value


def _flag(headers: dict[str, Any], name: str) -> bool | None:
    value = headers.get(name)
    if value is not None and not isinstance(value, bool):
        raise Unreadable("bad_envelope", f"headers.{name} must be true or false")
    return value


def _word(headers: dict[str, Any], name: str) -> str | None:
    value = headers.get(name, "")
    if not is_text(value) or len(value) > _MAX_ID:
        raise Unreadable("bad_envelope", f"headers.{name} must be a string of at most {_MAX_ID} characters")
    return value or None


def _time(headers: dict[str, Any], name: str) -> str | None:
    """An ISO time, in UTC where it names no zone, as Celery reads it."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    except (TypeError, ValueError, OverflowError):  # OverflowError: in UTC it is outside the calendar
        raise Unreadable("bad_envelope", f"headers.{name} must be an ISO 8601 time") from None


def _reply_to(value: object) -> str | None:
    """The queue of a result: a UUID, as Celery's producers make one; None for any other name."""
    try:
        return str(uuid.UUID(value)) if isinstance(value, str) else None
    except ValueError:
        return None


def _line(value: object) -> bool:
    """Whether it may be a `lanes.line`."""
    return is_text(value) and len(value) <= 2 * _MAX_ID + 10 and value.count("\t") == 2


def _trouble(value: object) -> bool:
    """Whether it may be a `gateway.instances.Trouble`, whose reader checks the rest."""
    return isinstance(value, list) and len(value) <= _MOST_OF_TROUBLE


# Our own informative headers, each with its check; a header that fails it is left out.
_OURS: dict[str, Callable[[object], object]] = {
    ACCEPTED: lambda value: aware(value) is not None,
    FIRST_TRY: lambda value: aware(value) is not None,
    TRACEPARENT: traceparent,
    TROUBLE: _trouble,
    LINE: _line,
}
