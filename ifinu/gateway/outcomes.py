"""
The outcome of a send: what an answer to `POST /message/sendText/{instance}` proves.

| answer | outcome |
|---|---|
| 201 with `key.id` | `Sent` |
| 201 with Meta's error in it | by its code, see `meta_refusals.py` |
| any other 2xx | MaybeSent |
| 3xx | Misconfigured: redirects are not followed |
| 400 errors of the schema, `exists: false`, `[object Object]`, any other text | Refused |
| 400 `Error: Connection Closed` | NotSent |
| 400 `Error: Timed Out`, `TypeError …`, any other `…Error` | MaybeSent |
| 400 a database's text (`Prisma…`, `DriverAdapterError…`) | `Sent`, not confirmed |
| 401, 403, 404, 405, 407 | Misconfigured |
| 408 | MaybeSent |
| 413, any other 4xx | Refused |
| 429 | Throttled |
| 400, 429, 500 `rate-overlimit` | Throttled, by WhatsApp, at the look-up of the number or at the send |
| 500 | NotSent: every step that can fail with 500 runs before the send |
| 503 | NotSent, unless it is the licence (Misconfigured) or Envoy's report of a lost connection (MaybeSent) |
| 502, 504, any other 5xx | MaybeSent |
| no connection, or the request was not written completely | NotSent |
| no answer, or an incomplete one | MaybeSent |

Source: Evolution API 2.3.6 and 2.3.7, each row observed on a running server or read in its source; the rows of proxies
follow from what the proxy must have done. The same fault is a 500 if the gateway looks the number up and a 400 if the
number is in its cache, hence two tables of texts below.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ifinu import errors
from ifinu.errors import MaybeSent, Misconfigured, NotSent, Reason, Refused, Throttled
from ifinu.gateway import http_transport, meta_refusals, responses

_Verdict = tuple[type[errors.SendError], Reason]

_DEFAULT_RETRY_AFTER_S = 60.0  # WhatsApp names no time
_RETRY_AFTER_S = (1.0, 3600.0)  # the least and the most accepted

_BY_STATUS: dict[int, _Verdict] = {
    401: (Misconfigured, Reason.UNAUTHORIZED),
    403: (Misconfigured, Reason.UNAUTHORIZED),
    405: (Misconfigured, Reason.ROUTE_NOT_FOUND),
    407: (Misconfigured, Reason.UNAUTHORIZED),
    408: (MaybeSent, Reason.TIMEOUT),
    413: (Refused, Reason.TOO_LARGE),
    429: (Throttled, Reason.TOO_MANY_REQUESTS),
}
_BY_HUNDRED: dict[int, _Verdict] = {
    3: (Misconfigured, Reason.REDIRECTED),
    4: (Refused, Reason.INVALID_REQUEST),
    5: (MaybeSent, Reason.GATEWAY_5XX),
}
# The first match at the start of a 400's text wins.
_IN_400: tuple[tuple[re.Pattern[str], _Verdict], ...] = (
    (re.compile(r"Error: Connection Closed"), (NotSent, Reason.CONNECTION_CLOSED)),
    (re.compile(r"Error: Timed Out"), (MaybeSent, Reason.SEND_TIMEOUT)),
    (re.compile(r"\w*Error\b"), (MaybeSent, Reason.SEND_FAILED)),
    (re.compile(r"\[object Object\]"), (Refused, Reason.GROUP_NOT_FOUND)),
)
# WhatsApp has the message, but the gateway could not write its row.
_SENT_THEN_FAILED = re.compile(r"Prisma|DriverAdapterError")
_RATE_OVERLIMIT = re.compile(r"\W*(?:\w+: *)*rate-overlimit\b", re.IGNORECASE)
# Texts of a 500 from the gateway's database, its driver or its pool, of any engine.
_DATABASE = re.compile(
    r"prisma|DriverAdapter|database|postgres|mysql|mariadb|SQLSTATE|\bpg_|\bP[12]\d{3}\b|connection pool"
    r"|too many (?:clients|connections)|connection slots|Connection terminated|server closed the connection"
    r"|terminating connection|acquiring a connection|trying to connect|not queryable|Transaction API"
    r"|\bE[A-Z]{4,}\b[^\n]*:(?:5432|5433|6432|3306)\b",
    re.IGNORECASE,
)
# The first words found in a 500's text win.
_IN_500: tuple[tuple[str, Reason], ...] = (
    ("reading 'textMessage'", Reason.WRONG_SHARD),
    ("reading 'onWhatsApp'", Reason.NEVER_CONNECTED),
    ("Connection Closed", Reason.CONNECTION_CLOSED),
    ("Timed Out", Reason.LOOKUP_TIMEOUT),
)
_MAY_BE_RATE_OVERLIMIT = frozenset({400, 429, 500})
_NO_SUCH_INSTANCE = re.compile(r'The ".*" instance does not exist$|Instance ".*" not found$', re.DOTALL)
# Envoy answers 503 both without a connection and after losing one; only these reasons mean the former.
_ENVOY = re.compile(
    rb"disconnect/reset before headers"
    rb"(?!.*(?:connection failure|connection timeout|overflow|refused stream))"
)

_HINTS = {
    Reason.UNAUTHORIZED: "check IFINU_EVOLUTION_API_KEY",
    Reason.INSTANCE_NOT_FOUND: "create the instance, or correct its name",
    Reason.ROUTE_NOT_FOUND: "check that IFINU_EVOLUTION_URL is an Evolution API",
    Reason.REDIRECTED: "redirects are not followed: set IFINU_EVOLUTION_URL to the final address",
    Reason.LICENSE_REQUIRED: "activate the gateway, or run 2.3.x",
    Reason.UNREACHABLE: "check IFINU_EVOLUTION_URL, and that the gateway is up",
    Reason.NUMBER_NOT_ON_WHATSAPP: "the number is not on WhatsApp",
    Reason.WRONG_SHARD: "another gateway process holds this instance",
    Reason.META_UNAUTHORIZED: "renew the instance's token at Meta, or give it the right to send",
    Reason.NUMBER_NOT_REGISTERED: "register the number in WhatsApp Manager",
    Reason.ACCOUNT_RESTRICTED: "see the account's status and its payment in WhatsApp Manager",
    Reason.CANNOT_RECEIVE: "the number has no WhatsApp, an old one, or its terms were not accepted",
    Reason.NEEDS_TEMPLATE: "more than 24 hours after the person's last message Meta takes templates only",
    Reason.GATEWAY_DATABASE: "the gateway's own database is away, or refuses it",
}


@dataclass(frozen=True, slots=True)
class Sent:
    """
    The gateway passed the message to WhatsApp, whose receipts come later by webhook, or never.

    Attributes:
        key_id: The gateway's id of the message, which receipts use; None if it was lost.
        status: The gateway's status, usually `PENDING`.
        remote_jid: The person's address at WhatsApp, for `find_messages`; its ninth digit may differ from the number's.
        confirmed: False if the message was sent but the gateway could not store it: no receipt will come, no look-up
            will find it, and another send would be a duplicate.
    """

    key_id: str | None
    status: str | None = None
    remote_jid: str | None = field(default=None, repr=False)
    confirmed: bool = True


def classify(
    status: int, body: bytes, *, instance: str, retry_after_s: float | None = None, hide: Iterable[str] = ()
) -> Sent:
    """
    Classify one answer, by its status and its body.

    Args:
        body: The raw answer.
        retry_after_s: The wait that the answer asks for, if any.
        hide: Texts that the error must not repeat even if the gateway does: the key, the message's text.

    Raises:
        SendError: Always one of NotSent, Throttled, MaybeSent, Refused, Misconfigured, with its `reason`.
    """
    try:
        answer = responses.decode(body)
    except ValueError:
        answer = responses.plain(body)
    judged = _success(answer) if 200 <= status < 300 else _failure(status, answer, body)
    if isinstance(judged, Sent):
        return judged
    said = responses.words(body, hide=hide)
    if retry_after_s is None:
        retry_after_s = meta_refusals.wait_s(answer)
    raise _error(judged, f"HTTP {status}", said, instance=instance, status=status, retry_after_s=retry_after_s)


def unanswered(
    exc: http_transport.RequestNotDelivered | http_transport.AnswerLost, *, instance: str, hide: Iterable[str] = ()
) -> errors.SendError:
    """
    Classify a request without an answer.

    Returns:
        The error to raise: NotSent if the request was not delivered, otherwise MaybeSent.
    """
    if isinstance(exc, http_transport.RequestNotDelivered):
        verdict: _Verdict = (NotSent, Reason.UNREACHABLE)
    elif isinstance(exc.__cause__, TimeoutError):
        verdict = (MaybeSent, Reason.TIMEOUT)
    else:
        verdict = (MaybeSent, Reason.CONNECTION_LOST)
    what = "not delivered" if verdict[0] is NotSent else "no answer"
    return _error(verdict, what, responses.one_line(str(exc), hide=hide), instance=instance)


def retry_after_s(header: str | None, *, now: datetime) -> float | None:
    """
    Parse a `Retry-After` header.

    Args:
        header: Seconds or an HTTP date; None without a header.
        now: Time of the answer, aware.

    Returns:
        Seconds, from 1 to 3600; None without a valid header.
    """
    if header is None:
        return None
    header = header.strip()
    if header.isascii() and header.isdigit():
        wait_s = float(header[:10])
    else:
        try:
            at = email.utils.parsedate_to_datetime(header)
        except (ValueError, OverflowError):
            return None
        wait_s = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
    least_s, most_s = _RETRY_AFTER_S
    return min(max(wait_s, least_s), most_s)


def misconfigured(status: int | None, said: str) -> Reason | None:
    """
    Find a wrong key, instance or URL in the answer of any route but sending.

    Args:
        status: HTTP status; None without an answer.
        said: The words of the answer.

    Returns:
        The reason for which every message of the instance would fail; None if the answer shows none.
    """
    if status is None:
        return None
    if status == 404:
        return Reason.INSTANCE_NOT_FOUND if _NO_SUCH_INSTANCE.match(said) else Reason.ROUTE_NOT_FOUND
    kind, reason = _BY_STATUS.get(status) or _BY_HUNDRED.get(status // 100, (NotSent, Reason.GATEWAY_ERROR))
    return reason if kind is Misconfigured else None


def hint(reason: Reason) -> str:
    """Advice on a reason; empty if the reason speaks for itself."""
    return _HINTS.get(reason, "")


def _success(answer: Any) -> Sent | _Verdict:
    if not isinstance(answer, dict):
        return MaybeSent, Reason.UNEXPECTED_ANSWER
    key = answer.get("key")
    if isinstance(key, dict) and isinstance(key.get("id"), str) and key["id"]:
        return Sent(key["id"], status=_text(answer.get("status")), remote_jid=_text(key.get("remoteJid")))
    return meta_refusals.read(answer) or (MaybeSent, Reason.UNEXPECTED_ANSWER)


def _failure(status: int, answer: Any, body: bytes) -> Sent | _Verdict:
    said = responses.message(answer)
    first = next(iter(responses.texts(said)), "")
    if status in _MAY_BE_RATE_OVERLIMIT and any(map(_RATE_OVERLIMIT.match, responses.texts(said))):
        return Throttled, Reason.RATE_OVERLIMIT
    match status:
        case 400:
            return _bad_request(said, first)
        case 404:
            found = _NO_SUCH_INSTANCE.match(first)
            return Misconfigured, Reason.INSTANCE_NOT_FOUND if found else Reason.ROUTE_NOT_FOUND
        case 500:
            if _DATABASE.search(first):
                return NotSent, Reason.GATEWAY_DATABASE
            return NotSent, next((reason for words, reason in _IN_500 if words in first), Reason.GATEWAY_ERROR)
        case 503:
            if isinstance(answer, dict) and answer.get("code") == "LICENSE_REQUIRED":
                return Misconfigured, Reason.LICENSE_REQUIRED
            return (MaybeSent, Reason.GATEWAY_5XX) if _ENVOY.search(body) else (NotSent, Reason.UNAVAILABLE)
    return _BY_STATUS.get(status) or _BY_HUNDRED.get(status // 100, (MaybeSent, Reason.UNEXPECTED_ANSWER))


def _bad_request(said: Any, first: str) -> Sent | _Verdict:
    if isinstance(said, list) and said:
        if isinstance(said[0], list):
            return Refused, Reason.INVALID_REQUEST
        if isinstance(said[0], dict) and said[0].get("exists") is False:
            return Refused, Reason.NUMBER_NOT_ON_WHATSAPP
    if _SENT_THEN_FAILED.match(first):
        return Sent(None, confirmed=False)
    return next((verdict for begins, verdict in _IN_400 if begins.match(first)), (Refused, Reason.INVALID_REQUEST))


def _error(
    verdict: _Verdict,
    what: str,
    said: str,
    *,
    instance: str,
    status: int | None = None,
    retry_after_s: float | None = None,
) -> errors.SendError:
    kind, reason = verdict
    line = ": ".join(filter(None, (responses.one_line(instance), what, said)))
    message = "; ".join(filter(None, (line, hint(reason))))
    if kind is Throttled:
        wait_s = _DEFAULT_RETRY_AFTER_S if retry_after_s is None else retry_after_s
        return Throttled(message, retry_after_s=wait_s, reason=reason, instance=instance, status=status, answer=said)
    return kind(message, reason=reason, instance=instance, status=status, answer=said)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
