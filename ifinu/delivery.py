"""
One message: claim its id, check that it may go now, render it, send it, and say what became of it.

Knows nothing of Celery: it is given a message and returns how it ended (`Settled`), that it has to wait (`Wait`), or
raises why it cannot be sent.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from time import monotonic
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import structlog

from ifinu import phone, wire
from ifinu.broker.claims import Asker, Claim, Claims, Resend, Verdict
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import seen_key, senders_key
from ifinu.broker.leases import Settled
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.errors import (
    GatewayError,
    IdReused,
    MaybeSent,
    Misconfigured,
    NotSent,
    Reason,
    SendError,
    Throttled,
)
from ifinu.gateway import Gateway, Sent
from ifinu.gateway.breaker import is_outage
from ifinu.gateway.instances import Instances
from ifinu.notification import Notification
from ifinu.reference import reference_in, reference_of
from ifinu.render import Renderer
from ifinu.settings import OnUnknown
from ifinu.tracing import INSTANCE, KEY_ID, OFF, VERDICT, Tracer, Work
from ifinu.window import BRASILIA, Windows, expires_at, true_from

log = structlog.get_logger(__name__)

_BRAZIL = ZoneInfo(BRASILIA)
_CLOCKS_DIFFER = timedelta(minutes=5)  # ours and the gateway's
_FIRST_LOOK_S = 5.0
_LOOK_AGAIN_S = 10.0  # after the gateway could not be asked
_MOST_PAGES = 20
_BROKEN = (Reason.CONNECTION_LOST, Reason.GATEWAY_5XX)
_ENDED = {
    Name.EXPIRED: "ifinu.message.expired",
    Name.SUPPRESSED: "ifinu.message.suppressed",
    Name.CANCELLED: "ifinu.message.cancelled",
}
_masked = functools.lru_cache(maxsize=1024)(phone.mask_in)  # an instance may be named after its phone


class Wait(NamedTuple):
    """
    The message has to wait, in the delayed set.

    Attributes:
        until: When it comes back, aware.
        claim: What its id's claim waits in: `waiting` or `unknown`.
        token: What it has to carry.
        event: Says so; None when it was said before.
        instance: From which it is to be sent.
        why: In one word: `look_up`, `unknown`, or a reason of the event `deferred`.
        free: Whether nothing went to the gateway, so that the pace need not count it.
        lost: Whether the gateway took the request and its connection, or the proxy's, broke.
        error: What the gateway answered; None when it was not asked to send.
    """

    until: datetime
    claim: str
    token: str
    event: Event | None
    instance: str
    why: str
    free: bool = False
    lost: bool = False
    error: SendError | None = None


class Failed(NamedTuple):
    """
    Nothing was sent, and it may be tried again: this try counts.

    Attributes:
        error: Why.
        token: What the next try has to carry.
        event: Says so.
    """

    error: NotSent
    token: str
    event: Event


class _Message(NamedTuple):
    """What is being delivered, and on whose behalf."""

    notification: Notification
    instance: str
    asker: Asker
    about: dict[str, Any]
    pseudonym: str

    def event(self, name: Name, **data: Any) -> Event:
        """An event of this notification."""
        return Event(name, self.notification.id, {**self.about, **data})

    def told(self) -> dict[str, Any]:
        """The fields of a log line about it; `attempt` is this try, from 1."""
        return {
            "id": self.notification.id,
            "kind": self.about["kind"],
            "instance": _masked(self.instance),
            "attempt": self.about["attempts"],
        }

    def untried(self, name: Name, **data: Any) -> Event:
        """The same, where this try was none: nothing went to the gateway."""
        return self.event(name, attempts=self.about["attempts"] - 1, **data)


@dataclass(frozen=True)
class Delivery:
    """
    What it takes to send a notification.

    Attributes:
        gateway: Where it is sent through.
        renderer: What makes its text.
        claims: Who may send which id.
        instances: Which of them are held back.
        windows: When messages may go.
        pseudonyms: What stands for phones.
        instance: WhatsApp instance for notifications that name none.
        on_unknown: What follows when a message may have been sent and the gateway does not have it.
        grace_s: How long the gateway is asked for one, in seconds.
        compares: Whether an id that comes with other content is refused.
        clock: The time, aware.
        tracer: What traces the steps.
    """

    gateway: Gateway
    renderer: Renderer
    claims: Claims
    instances: Instances
    windows: Windows
    pseudonyms: Pseudonyms
    instance: str
    on_unknown: OnUnknown
    grace_s: float
    compares: bool
    clock: Callable[[], datetime]
    tracer: Tracer = OFF

    def deliver(self, notification: Notification, asker: Asker, *, attempt: int) -> Settled | Wait | Failed:
        """
        Send one notification, if it may be sent.

        Args:
            notification: What to say, and to whom.
            asker: The message that brought it.
            attempt: Which try this is, from 1.

        Raises:
            InvalidNotification: It can never be sent as it is.
            NotSent: The gateway is away (`breaker.is_outage`), which says nothing about this message.
            Refused: No, and no again next time.
            MaybeSent: It is still unknown whether it was sent, and a person has to decide.
            redis.RedisError: Its claim could not be asked for; nothing was sent.
        """
        message = self._message(notification, asker, attempt)
        if (hold_s := self.instances.hold_s(message.instance)) > 0:
            deferred = None if asker.waited else message.untried(Name.DEFERRED, reason="instance")
            return self._wait(message, hold_s, "waiting", asker.token, deferred, "instance", free=True)
        with self.tracer.step(Work.CLAIM) as span:
            claim = self.claims.claim(
                asker,
                message.event(Name.UNKNOWN, reason="worker_died", error="its worker died while it sent it"),
                digest=_digest(notification) if self.compares else "",
                tenant=notification.tenant,
                pseudonym=message.pseudonym,
                seen=seen_key(reference_of(notification.id), message.instance, message.pseudonym),
            )
            if span.sampled:
                span.tell({VERDICT: claim.verdict.value})
        match claim.verdict:
            case Verdict.GO:
                return self._check(message, claim) or self._send(message, claim)
            case Verdict.LOOK_UP:
                return self._look_up(message, claim)
            case Verdict.DUPLICATE:
                if claim.before:
                    log.info("ifinu.message.duplicate", id=notification.id, first=claim.before)
                else:  # no other message was first: this one is not in flight where the claims are
                    log.warning("ifinu.message.not_held", id=notification.id, queue=asker.queue)
                return Settled("duplicate", message.untried(Name.DUPLICATE, first=claim.before))
            case Verdict.CANCELLED:
                return _ended(message, "cancelled", Name.CANCELLED)
            case Verdict.OPTED_OUT:
                return _ended(message, "suppressed", Name.SUPPRESSED, reason="opt_out")
            case Verdict.REUSED:
                raise IdReused("id", "was used before, for a notification that says something else")

    def text(self, notification: Notification) -> str:
        """
        What a person reads.

        Raises:
            InvalidNotification: It cannot be made.
        """
        return self.renderer.render(notification, today=self.clock().astimezone(_BRAZIL).date())

    def about(self, notification: Notification) -> dict[str, Any]:
        """What events tell of a notification; nothing of it is personal data."""
        return {
            "kind": notification.kind.value,
            "tenant": notification.tenant,
            "instance": notification.instance or self.instance,
            "phone": phone.mask(notification.phone),
            "hash": self.pseudonyms.of(notification.phone),
        }

    def _message(self, notification: Notification, asker: Asker, attempt: int) -> _Message:
        about = self.about(notification)
        told = {**about, "queue": asker.queue, "attempts": attempt}
        return _Message(notification, about["instance"], asker, told, about["hash"])

    def _check(self, message: _Message, claim: Claim) -> Settled | Wait | None:
        """
        Whether it may go at this time: it is expired, has to wait, or (None) may.

        Raises:
            InvalidNotification: It says what cannot be so.
        """
        now = self.clock()
        expires = expires_at(message.notification)
        if expires is not None and now >= expires:
            return _ended(message, "expired", Name.EXPIRED, reason=f"it was valid until {expires.isoformat()}")
        late = true_from(message.notification, now)
        opens = self.windows.opens_at(late or now, phone=message.notification.phone, tenant=message.notification.tenant)
        goes = opens or late
        if goes is None:
            return None
        why = "window" if late is None else "not_late"
        if expires is not None and goes >= expires:
            then = "its charge is late" if late is not None and late >= expires else "its sending window opens"
            return _ended(message, "expired", Name.EXPIRED, reason=f"{then} after it has expired")
        state = "unknown" if claim.verdict is Verdict.LOOK_UP else "waiting"
        deferred = message.untried(Name.DEFERRED, reason=why)
        log.info("ifinu.message.deferred", **message.told(), reason=why, wait_s=round((goes - now).total_seconds(), 1))
        return Wait(goes, state, claim.token, deferred, message.instance, why, free=True)

    def _send(self, message: _Message, claim: Claim) -> Settled | Wait | Failed:
        with self.tracer.step(Work.RENDER):
            text = self.text(message.notification)
        started = monotonic()
        try:
            sent = self._post(message, text)
        except SendError as exc:
            exc.took_s = monotonic() - started
            return self._not_sent(message, claim, exc)
        took_s = monotonic() - started
        if self.instances.sent(message.instance):
            log.info("ifinu.instance.back", instance=_masked(message.instance))
        return self._sent(message, sent, "gateway", took_s)

    def _post(self, message: _Message, text: str) -> Sent:
        with self.tracer.step(Work.SEND) as span:
            if span.sampled:
                span.tell({INSTANCE: phone.mask_in(message.instance)})  # it may be named after its phone
            sent = self.gateway.send_text(message.instance, message.notification.phone, text)
            if span.sampled and sent.key_id:
                span.tell({KEY_ID: sent.key_id})
            return sent

    def _not_sent(self, message: _Message, claim: Claim, exc: SendError) -> Wait | Failed:
        """
        What follows a send that did not work.

        Raises:
            SendError: It ends this message, or says nothing about it.
        """
        match exc:
            case MaybeSent():
                log.warning("ifinu.message.unknown", **message.told(), reason=exc.reason, took_s=_rounded(exc.took_s))
                unknown = message.event(Name.UNKNOWN, reason=exc.reason, error=str(exc))
                wait_s = min(_FIRST_LOOK_S, self.grace_s / 2)
                wait = self._wait(message, wait_s, "unknown", claim.token, unknown, "unknown", error=exc)
                return wait._replace(lost=exc.reason in _BROKEN)
            case Throttled() | Misconfigured():
                return self._held_back(message, claim, exc, self.instances.failed(message.instance, exc))
            case NotSent() if not is_outage(exc):
                if (hold_s := self.instances.failed(message.instance, exc)) > 0:
                    return self._held_back(message, claim, exc, hold_s)
                log.warning("ifinu.message.not_sent", **message.told(), reason=exc.reason, took_s=_rounded(exc.took_s))
                return Failed(exc, claim.token, message.event(Name.RETRYING, reason=exc.reason, error=str(exc)))
        raise exc

    def _held_back(self, message: _Message, claim: Claim, exc: SendError, hold_s: float) -> Wait:
        """The instance is at fault, not the message: it waits, and no try is counted."""
        instance = _masked(message.instance)
        log.warning("ifinu.instance.held", instance=instance, reason=exc.reason, wait_s=round(hold_s, 1))
        if isinstance(exc, Misconfigured):
            log.error("ifinu.instance.misconfigured", instance=instance, reason=exc.reason, error=str(exc))
        why = {Throttled: "throttled", Misconfigured: "misconfigured"}.get(type(exc), "instance")
        deferred = message.event(Name.DEFERRED, reason=why, error=str(exc))
        return self._wait(message, hold_s, "waiting", claim.token, deferred, why, error=exc)

    def _look_up(self, message: _Message, claim: Claim) -> Settled | Wait | Failed:
        """It may have been sent: adopt it if the gateway has it, else wait, send it again, or leave it to a person."""
        notification = message.notification
        started = claim.started or self.clock()
        try:
            with self.tracer.step(Work.LOOK_UP):
                found = claim.seen or self._find(message, claim.since or started)
        except GatewayError as exc:
            log.warning("ifinu.message.not_looked_up", id=notification.id, error=str(exc))
            return self._wait(message, min(_LOOK_AGAIN_S, self.grace_s), "unknown", claim.token, None, "look_up")
        if found:
            return self._sent(message, Sent(found, None, None), "webhook" if claim.seen else "look_up")
        waited_s = (self.clock() - started).total_seconds()
        if waited_s < self.grace_s:
            wait_s = min(max(waited_s, _FIRST_LOOK_S), self.grace_s - waited_s)
            return self._wait(message, wait_s, "unknown", claim.token, None, "look_up")
        if self.on_unknown is OnUnknown.HOLD:
            raise self._undecided(message, "it is held, as IFINU_ON_UNKNOWN asks")
        if (not_now := self._check(message, claim)) is not None:
            return not_now
        resending = message.event(Name.RESENDING)
        match self.claims.resend(message.asker, resending, tenant=notification.tenant, pseudonym=message.pseudonym):
            case Resend.GO:
                log.warning("ifinu.message.resending", id=notification.id)
                return self._send(message, claim)
            case Resend.AGAIN:
                raise self._undecided(message, "it was sent once more already")
            case Resend.CANCELLED:
                return _ended(message, "cancelled", Name.CANCELLED)
            case Resend.OPTED_OUT:
                return _ended(message, "suppressed", Name.SUPPRESSED, reason="opt_out")
            case Resend.LOST:
                log.info("ifinu.message.duplicate", id=notification.id, first="unknown")
                return Settled("duplicate", message.untried(Name.DUPLICATE, first="unknown"))

    def _find(self, message: _Message, since: datetime) -> str:
        """
        The gateway's id of this message, or empty.

        Raises:
            GatewayError: It could not be asked.
        """
        is_it = self._recognised(message.notification)
        since, until = since - _CLOCKS_DIFFER, self.clock() + _CLOCKS_DIFFER
        for form in phone.ninth_digit_forms(message.notification.phone):
            jid = f"{phone.digits(form)}@s.whatsapp.net"
            for page in range(1, _MOST_PAGES + 1):
                found = self.gateway.find_messages(
                    message.instance, since=since, until=until, remote_jid=jid, page=page
                )
                for one in found.messages:
                    if one.text and is_it(one.text):
                        return one.key_id
                if page >= found.pages:
                    break
        return ""

    def _recognised(self, notification: Notification) -> Callable[[str], bool]:
        """What tells a notification's text from others to the same person: its reference, or else all of it."""
        if self.renderer.refers(notification):
            reference = reference_of(notification.id)
            return lambda text: reference == reference_in(text)
        mine = self.text(notification)
        return lambda text: text == mine

    def _undecided(self, message: _Message, why: str) -> MaybeSent:
        return MaybeSent(
            f"{message.instance}: it may have been sent, was looked for during {self.grace_s:g} s, not found; {why}: "
            "look at the phone, then `ifinu unknown resolve`",
            reason=Reason.UNKNOWN,
            instance=message.instance,
        )

    def _sent(self, message: _Message, sent: Sent, by: str, took_s: float | None = None) -> Settled:
        notification = message.notification
        log.info(
            "ifinu.message.sent",
            **message.told(),
            phone=message.about["phone"],
            confirmed=sent.confirmed,
            by=by,
            took_s=_rounded(took_s),
        )
        # An answer of this person is for them.
        key = senders_key(message.instance, f"{self.clock():%Y-%m}")
        sender = key, message.pseudonym, notification.tenant or ""
        event = message.event(Name.SENT, key_id=sent.key_id, confirmed=sent.confirmed, by=by)
        return Settled("sent", event, sent.key_id or "", sender, took_s)

    def _wait(
        self,
        message: _Message,
        wait_s: float,
        claim: str,
        token: str,
        event: Event | None,
        why: str,
        *,
        free: bool = False,
        error: SendError | None = None,
    ) -> Wait:
        if event is not None and event.name is Name.DEFERRED:
            log.info("ifinu.message.deferred", **message.told(), reason=why, wait_s=round(wait_s, 1))
        until = self.clock() + timedelta(seconds=wait_s)
        return Wait(until, claim, token, event, message.instance, why, free, error=error)


def _ended(message: _Message, state: str, name: Name, **data: Any) -> Settled:
    log.info(_ENDED[name], **message.told(), why=data.get("reason"))
    return Settled(state, message.untried(name, **data))


def _rounded(took_s: float | None) -> float | None:
    return None if took_s is None else round(took_s, 3)


def _digest(notification: Notification) -> str:
    """A digest of everything that a notification says."""
    return hashlib.sha256(json.dumps(wire.encode(notification), sort_keys=True).encode()).hexdigest()[:32]


def today_in_brazil() -> date:
    """The day in São Paulo, by which a charge is due."""
    return datetime.now(_BRAZIL).date()
