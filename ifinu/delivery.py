"""
The delivery of one message: claim its id, check that it may go now, render it, send it, and return the outcome.

    outcome    what the worker does with the message
    Settled    acknowledge it: it was sent, or must not be sent
    Wait       put it into the delayed set; no try is counted
    Retry      put it into the delayed set; this try is counted
    GiveBack   return it to its queue unchanged; no try is counted
    Reroute    move it to the lane of another number; no try is counted
    Dead       move it to the dead letters

What follows a failed send, the usual outcome first:

    error          outcomes           reasons
    NotSent        GiveBack           unreachable, unavailable
    NotSent        Wait, Retry        gateway_database
    NotSent        Retry, Wait        connection_closed, never_connected, wrong_shard, lookup_timeout, gateway_error,
                                      meta_unavailable
    Throttled      Wait               rate_overlimit, too_many_requests
    Throttled      Wait               pair_limit
    Misconfigured  Wait, Retry, Dead  unauthorized, instance_not_found, route_not_found, redirected, license_required,
                                      meta_unauthorized, number_not_registered, account_restricted
    Refused        Dead               number_not_on_whatsapp, invalid_request, group_not_found, too_large,
                                      cannot_receive, needs_template, refused_by_meta
    MaybeSent      Wait               timeout, connection_lost, send_timeout, send_failed, gateway_5xx,
                                      unexpected_answer
    MaybeSent      Dead               unknown

A message waits if its instance or the gateway is at fault, and is retried if others are sent meanwhile, since then the
fault is its own. The last retry ends in Dead where another would follow. After `missing_ttl_s` without its instance a
message is Dead. After `MaybeSent` it is looked up, and Dead if it stays in doubt.

This module is independent of Celery.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from time import monotonic
from typing import Any, NamedTuple, Protocol
from zoneinfo import ZoneInfo

import redis
import structlog

from ifinu import loop, phone, wire
from ifinu.broker.claims import Claim, Claims, ClaimState, Limits, MessageRef, Resend, Verdict
from ifinu.broker.clock import TOO_FAR_OFF_S
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import month_of, seen_key, senders_key
from ifinu.broker.leases import DUPLICATE, Settled
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.errors import (
    GatewayError,
    IdReused,
    InvalidNotification,
    MaybeSent,
    Misconfigured,
    NotSent,
    Reason,
    SendError,
    Throttled,
)
from ifinu.gateway import Sent
from ifinu.gateway.breaker import is_outage
from ifinu.gateway.instances import Hold, Instances, Trouble
from ifinu.gateway.message_records import ConnectionState
from ifinu.json_encoder import encoder
from ifinu.notification import Kind, Notification, Stop, is_answer
from ifinu.numbers.assignment import route
from ifinu.numbers.directory import EMPTY, Directory
from ifinu.outcome import Dead, GiveBack, Outcome, Reroute, Retry, Wait
from ifinu.reference import reference_in, reference_of
from ifinu.render import Renderer
from ifinu.render.meta_templates import Filled, MetaTemplate
from ifinu.settings import OnUnknown
from ifinu.tracing import INSTANCE, KEY_ID, OFF, VERDICT, SpanName, Tracer
from ifinu.window import BRASILIA, Windows, expires_at, true_from

log = structlog.get_logger(__name__)

_BRAZIL = ZoneInfo(BRASILIA)
# How far Redis' and the gateway's clocks may differ. A reference belongs to one message; an equal text may have been
# sent the day before.
_CLOCKS_DIFFER = timedelta(days=1)
_CLOCKS_DIFFER_LITTLE = timedelta(minutes=5)
_PAIR_GAP_MS = 6_000  # between two messages to a person; WhatsApp's Cloud API asks for as much
_YOUNG_S = 2.0  # within this time after its claim a message is sent without a second claim
_FIRST_LOOK_S = 5.0
_META = "BUSINESS"  # the channel of `numbers.registry` that has templates
_LOOK_AGAIN_S = 10.0  # after the gateway could not be queried
_NOT_THE_NUMBERS = (Reason.PAIR_LIMIT, Reason.GATEWAY_DATABASE)  # a wait for which its number need not be held
_BROKEN = (Reason.CONNECTION_LOST, Reason.GATEWAY_5XX)
_ENDED = {
    Name.EXPIRED: "ifinu.message.expired",
    Name.SUPPRESSED: "ifinu.message.suppressed",
    Name.CANCELLED: "ifinu.message.cancelled",
}
_sorted_json = encoder(sort_keys=True)
one_resend = threading.Lock()  # held while a message that a worker died with is sent again
_masked = functools.lru_cache(maxsize=1024)(phone.mask_in)  # an instance may be named after its phone


class Gateway(Protocol):
    """What a delivery asks of the gateway: `gateway.Evolution` and `gateway.Shards` answer it."""

    def send_text(
        self, instance: str, number_e164: str, text: str, *, before: Callable[[], None] | None = None
    ) -> Sent: ...

    def send_template(
        self,
        instance: str,
        number_e164: str,
        name: str,
        language: str,
        components: list[Any],
        *,
        private: Iterable[str] = (),
        before: Callable[[], None] | None = None,
    ) -> Sent: ...

    def find_sent(
        self, instance: str, number_e164: str, is_it: Callable[[str], bool], *, since: datetime, until: datetime
    ) -> str: ...

    def connection_state(self, instance: str) -> ConnectionState: ...


class _Elsewhere(Exception):  # noqa: N818 - it ends a delivery before it begins
    """The message belongs into the lane of another number."""

    def __init__(self, number: str) -> None:
        super().__init__()
        self.outcome = Reroute(number)


class _Overtaken(Exception):  # noqa: N818 - it ends a send before it begins
    """
    Between claim and send so much time passed that the message must not be sent any more.

    Args:
        outcome: The outcome of the message.
    """

    def __init__(self, outcome: Settled | Wait) -> None:
        super().__init__()
        self.outcome = outcome


class _Now:
    """
    Redis' time, computed from one answer of Redis.

    The age of the answer is the larger one by the machine's two clocks: one may stop in a frozen virtual machine.
    """

    def __init__(self, asked: tuple[float, float], at: datetime) -> None:
        self._monotonic_s, self._wall_s = asked
        self._at = at

    def __call__(self) -> datetime:
        return self._at + timedelta(seconds=monotonic() - self._monotonic_s)

    def age_s(self) -> float:
        """Seconds since the query, or more."""
        return max(monotonic() - self._monotonic_s, time.time() - self._wall_s)


class _Message(NamedTuple):
    """A notification under delivery, with the message that brought it."""

    notification: Notification
    instance: str
    ref: MessageRef
    event_fields: dict[str, Any]
    pseudonym: str
    trouble: Trouble | None
    paced: bool = False  # whether its instance is a registered number
    on_fresh: Callable[[Notification], None] = lambda notification: None

    def by(self, instance: str, *, paced: bool) -> _Message:
        """The same, sent by another instance."""
        return self._replace(instance=instance, event_fields={**self.event_fields, "instance": instance}, paced=paced)

    def event(self, name: Name, **data: Any) -> Event:
        return Event(name, self.notification.id, {**self.event_fields, **data})

    def log_fields(self) -> dict[str, Any]:
        """Fields of its log lines; `attempt` is this try, from 1."""
        return {
            "id": self.notification.id,
            "kind": self.event_fields["kind"],
            "instance": _masked(self.instance),
            "attempt": self.event_fields["attempts"],
        }

    def dead(self, error: InvalidNotification | SendError) -> Dead:
        return Dead(error, {"id": self.notification.id, **self.event_fields})

    def untried(self, name: Name, **data: Any) -> Event:
        """An event that does not count this try, since nothing went to the gateway."""
        return self.event(name, attempts=self.event_fields["attempts"] - 1, **data)


@dataclass(frozen=True)
class Delivery:
    """
    Sends notifications, with everything that a send needs.

    Attributes:
        gateway: Client of the gateway.
        renderer: Makes the texts.
        claims: The claims of ids.
        instances: The instances, some of them held back.
        missing_ttl_s: How long a message waits for an instance that is missing at the gateway, in seconds.
        windows: The sending windows.
        pseudonyms: The pseudonyms of phones.
        instance: WhatsApp instance for notifications without one.
        numbers: The registered numbers, as this worker knows them.
        registered_only: Whether nothing goes by an instance that is not registered.
        reminders: The most reminders that a person gets a day from a tenant by registered numbers; 0: no limit.
        on_unknown: What to do with a message that may have been sent and that the gateway does not have.
        grace_s: How long to search the gateway for such a message, in seconds.
        compares: Whether to refuse an id that was used for other content.
        charges: Looks at the charge of a message with `charge_ref`. Returns what is sent instead, why nothing is, or
            None if that is not known (`billing/charge_check.py`).
        tracer: Traces the steps.
        on_post: Called with a message's delivery tag when its request is about to be written.
    """

    gateway: Gateway
    renderer: Renderer
    claims: Claims
    instances: Instances
    missing_ttl_s: float
    windows: Windows
    pseudonyms: Pseudonyms
    instance: str
    on_unknown: OnUnknown
    grace_s: float
    compares: bool
    numbers: Callable[[], Directory] = lambda: EMPTY
    registered_only: bool = False
    reminders: int = 0
    charges: Callable[[Notification, datetime], Notification | Stop | None] = lambda notification, now: None
    tracer: Tracer = OFF
    on_post: Callable[[str], None] = lambda tag: None

    def deliver(
        self,
        notification: Notification,
        ref: MessageRef,
        *,
        attempt: int,
        trouble: Trouble | None = None,
        last: bool = False,
        on_fresh: Callable[[Notification], None] = lambda notification: None,
    ) -> Outcome:
        """
        Send one notification, if it may be sent.

        Args:
            notification: The notification.
            ref: The message that brought it.
            attempt: Number of this try, from 1.
            trouble: The message's failures so far.
            last: Whether no other try may follow this one.
            on_fresh: Called with what is sent instead of it, if it is about a charge that was looked at.

        Raises:
            redis.RedisError: Redis did not answer. Nothing was sent, and the message goes back to its queue.
        """
        message = self._message(notification, ref, attempt, trouble, on_fresh)
        try:
            outcome = self._outcome(self._routed(message))
        except InvalidNotification as exc:  # it has no text, one that is not true, or no instance that may send it
            return message.dead(exc)
        except _Elsewhere as exc:
            return exc.outcome
        return message.dead(outcome.error) if last and isinstance(outcome, Retry) else outcome

    def _routed(self, message: _Message) -> _Message:
        """
        The message with the instance by which it goes.

        Raises:
            InvalidNotification: No instance may send it.
            _Elsewhere: It goes by another number than the one that the fetch took for it.
        """
        notification, taken, directory = message.notification, message.ref.number, self.numbers()
        if not (len(directory) or self.registered_only):
            return message
        instance, paced = route(
            directory,
            tenant=notification.tenant,
            named=notification.instance,
            phone=notification.phone,
            taken=taken,
            default=self.instance,
            registered_only=self.registered_only,
        )
        if paced and taken != instance:
            raise _Elsewhere(instance)
        return message.by(instance, paced=paced)

    def _outcome(self, message: _Message) -> Outcome:
        hold = self.instances.hold(message.instance)
        if message.paced:  # its hold is in Redis, and the fetch keeps it; this one is a probe
            hold = None
        claim, now = self._claim(message, held=hold is not None)
        match claim.verdict:
            case Verdict.GO:
                if (not_now := self._check(message, claim, now())) is not None:
                    return not_now
                checked = self._look_at_charge(message, now)
                return _stopped(message, checked) if isinstance(checked, Stop) else self._send(checked, claim, now)
            case Verdict.HELD if hold is not None:
                return self._held(message, claim, hold)
            case Verdict.HELD:
                raise AssertionError("HELD is answered only to a claim with held=True")
            case Verdict.LOOK_UP:
                return self._look_up(message, claim, now, held=hold is not None)
            case Verdict.DUPLICATE:
                if claim.before:
                    log.info("ifinu.message.duplicate", id=message.notification.id, first=claim.before)
                else:  # there is no first message: this one is not in flight at the Redis of the claims
                    log.warning("ifinu.message.not_held", id=message.notification.id, queue=message.ref.queue)
                return Settled(DUPLICATE, message.untried(Name.DUPLICATE, first=claim.before))
            case Verdict.NEW_CHATS | Verdict.PERSON_CAP | Verdict.PAIR_GAP | Verdict.PORTFOLIO:
                return self._limited(message, claim, now())
            case Verdict.CANCELLED:
                return _ended(message, ClaimState.CANCELLED, Name.CANCELLED)
            case Verdict.OPTED_OUT:
                return _ended(message, ClaimState.SUPPRESSED, Name.SUPPRESSED, reason="opt_out")
            case Verdict.REUSED:
                return message.dead(IdReused("id", "was used before, for a notification that says something else"))

    def text(self, notification: Notification, at: datetime) -> str:
        """
        Render the text that the person reads.

        Args:
            notification: The notification.
            at: Time of sending, aware: "today" in a text is the day in Brazil.

        Raises:
            InvalidNotification: The text cannot be rendered.
        """
        return self.renderer.render(notification, today=at.astimezone(_BRAZIL).date())

    def event_fields(self, notification: Notification) -> dict[str, Any]:
        """Fields of a notification's events; none is personal data."""
        return {
            "kind": notification.kind.value,
            "tenant": notification.tenant,
            "instance": notification.instance or self.instance,
            "phone": phone.mask(notification.phone),
            "hash": self.pseudonyms.of(notification.phone),
        }

    def _message(
        self,
        notification: Notification,
        ref: MessageRef,
        attempt: int,
        trouble: Trouble | None,
        on_fresh: Callable[[Notification], None],
    ) -> _Message:
        fields = {**self.event_fields(notification), "queue": ref.queue, "attempts": attempt}
        return _Message(notification, fields["instance"], ref, fields, fields["hash"], trouble, on_fresh=on_fresh)

    def _claim(self, message: _Message, *, held: bool = False) -> tuple[Claim, _Now]:
        asked = monotonic(), time.time()
        # An id belongs to one content; that of a planned message belongs to a charge, whose amount may change.
        compares = self.compares and message.notification.charge_ref is None
        with self.tracer.step(SpanName.CLAIM) as span:
            claim = self.claims.claim(
                message.ref,
                message.event(Name.UNKNOWN, reason="worker_died", error="its worker died while it sent it"),
                digest=self._digest(message.notification) if compares else "",
                tenant=message.notification.tenant,
                pseudonym=message.pseudonym,
                seen=seen_key(reference_of(message.notification.id), message.instance, message.pseudonym),
                held=held,
                limits=self._limits(message) if message.paced else None,
            )
            if span.sampled:
                span.set_attributes({VERDICT: claim.verdict.value})
        return claim, _Now(asked, claim.at)

    def _limits(self, message: _Message) -> Limits:
        """What a number with a pace asks of the claim; nothing of the person for what answers at once."""
        notification, today = message.notification, datetime.now(UTC)
        days = today, today.replace(day=1) - timedelta(days=1)
        this, last = (senders_key(message.instance, month_of(day)) for day in days)
        answers = is_answer(notification.id)
        counts = self.reminders and notification.kind is not Kind.PAID and not answers
        return Limits(
            message.instance,
            (this, last),
            reminders=self.reminders if counts else None,
            gap_ms=None if answers else _PAIR_GAP_MS,
        )

    def _limited(self, message: _Message, claim: Claim, now: datetime) -> Settled | Wait:
        """Wait for a limit to end: of the person, for seconds or until tomorrow, or of the number's new chats."""
        assert claim.until is not None  # noqa: S101 - the claim says so of a limit
        notification = message.notification
        opens = self._opens_at(notification, claim.until)
        return self._not_before(message, claim, now, opens or claim.until, claim.verdict.value, "it may be sent")

    def _digest(self, notification: Notification) -> str:
        """A digest of the whole content."""
        return self.pseudonyms.digest(_sorted_json(wire.encode(notification)))

    def _held(self, message: _Message, claim: Claim, hold: Hold) -> Wait | Dead:
        """Wait without a try, since the instance is held back."""
        trouble, at_ms = message.trouble, _ms(claim.at)
        wait_s, refund = hold.wait_s, 0
        if hold.missing:
            if trouble is None or trouble.reason != Reason.INSTANCE_NOT_FOUND:
                trouble = (trouble or Trouble(Reason.INSTANCE_NOT_FOUND, at_ms, at_ms, 0)).again(
                    Reason.INSTANCE_NOT_FOUND, at_ms
                )
            if (given_up := self._missed_too_long(message, trouble, claim.at)) is not None:
                return given_up
            wait_s = max(wait_s, self.instances.patience_s(trouble, at_ms))
        elif trouble is not None and self.instances.may_be_blameless(message.instance, trouble):
            refund, trouble = trouble.counted, trouble._replace(counted=0)
        deferred = None if message.ref.waited else message.untried(Name.DEFERRED, reason="instance")
        wait = self._wait(message, wait_s, claim.at, ClaimState.WAITING, claim.token, deferred, "instance", free=True)
        return wait._replace(trouble=trouble, refund=refund)

    def _missed_too_long(self, message: _Message, trouble: Trouble, at: datetime) -> Dead | None:
        """The end of a message that has waited too long for a missing instance; None while it may wait."""
        waited_s = (_ms(at) - trouble.since_ms) / 1000
        if waited_s < self.missing_ttl_s:
            return None
        return message.dead(
            Misconfigured(
                f"{_masked(message.instance)}: the gateway has no such instance, and had none for {waited_s:.0f} s: "
                "create it, or correct its name, then `ifinu dlq replay`",
                reason=Reason.INSTANCE_NOT_FOUND,
                instance=message.instance,
            )
        )

    def _check(self, message: _Message, claim: Claim, now: datetime) -> Settled | Wait | None:
        """
        Check that a message may go now. Returns that it has expired or must wait; None if it may go.

        Raises:
            InvalidNotification: Its text cannot be true, see `window.true_from`.
        """
        expires = expires_at(message.notification)
        if expires is not None and now >= expires:
            return _ended(message, ClaimState.EXPIRED, Name.EXPIRED, reason=f"it was valid until {expires.isoformat()}")
        late = true_from(message.notification, now)
        opens = self._opens_at(message.notification, late or now)
        goes = opens or late
        if goes is None:
            return None
        reason = "window" if late is None else "not_late"
        its_charge = late is not None and expires is not None and late >= expires
        then = "its charge is late" if its_charge else "its sending window opens"
        return self._not_before(message, claim, now, goes, reason, then)

    def _opens_at(self, notification: Notification, now: datetime) -> datetime | None:
        """As `Windows.opens_at`."""
        return self.windows.opens_at(
            now, phone=notification.phone, tenant=notification.tenant, own=notification.sending_window
        )

    def _not_before(
        self, message: _Message, claim: Claim, now: datetime, goes: datetime, reason: str, then: str
    ) -> Settled | Wait:
        """Wait until a time, or expire if that comes too late; `then` says in words what happens at that time."""
        expires = expires_at(message.notification)
        if expires is not None and goes >= expires:
            return _ended(message, ClaimState.EXPIRED, Name.EXPIRED, reason=f"{then} after it has expired")
        state = ClaimState.UNKNOWN if claim.verdict is Verdict.LOOK_UP else ClaimState.WAITING
        deferred = message.untried(Name.DEFERRED, reason=reason)
        wait_s = (goes - now).total_seconds()
        wait = self._wait(message, wait_s, now, state, claim.token, deferred, reason, free=True)
        return wait._replace(trouble=message.trouble)

    def _look_at_charge(self, message: _Message, now: _Now) -> _Message | Stop:
        """The message with what its charge says now, or why it must not go."""
        if message.notification.charge_ref is None:
            return message
        with self.tracer.step(SpanName.CHECK):
            found = self.charges(message.notification, now())
        # Without a reference, a look-up compares its whole text, which has to stay the same. That of a payment code is
        # looked for as it was and as it is (`_recognised`).
        if isinstance(found, Notification) and (self.renderer.refers(found) or is_answer(found.id)):
            message.on_fresh(found)
            return message._replace(notification=found)
        return found if isinstance(found, Stop) else message

    def _send(self, message: _Message, claim: Claim, now: _Now) -> Outcome:
        began, started = now(), monotonic()
        template = self._template(message.notification, message.instance) if message.paced else None
        with self.tracer.step(SpanName.RENDER):
            if template is None:
                content: str | Filled = self.text(message.notification, began)
            else:
                today = began.astimezone(_BRAZIL).date()
                content = self.renderer.fill(template, message.notification, today=today)
        try:
            sent = self._post(message, content, functools.partial(self._confirm, message, now, template is not None))
        except _Overtaken as exc:
            return exc.outcome
        except SendError as exc:
            exc.took_s = monotonic() - started
            return self._not_sent(message, claim, exc, now())
        took_s = monotonic() - started
        if self.instances.sent(message.instance, _ms(began)):
            log.info("ifinu.instance.back", instance=_masked(message.instance))
        name = None if template is None else template.name
        return self._sent(message, sent, "gateway", now(), took_s, new=claim.new, template=name)

    def _template(self, notification: Notification, instance: str) -> MetaTemplate | None:
        """The template by which Meta's channel sends it; None if it goes as a text."""
        number = self.numbers().number(instance)
        return self.renderer.of_meta(notification) if number is not None and number.channel == _META else None

    def _may_be_a_template(self, notification: Notification, sender: str) -> bool:
        """Whether a send in doubt may have been a template: by its claim, or, after a restore, by what it is now."""
        if not self.numbers().generation:  # nothing is registered
            return False
        return self._template(notification, sender) is not None or self.claims.went_as_template(notification.id)

    def _post(self, message: _Message, content: str | Filled, before: Callable[[], None]) -> Sent:
        with self.tracer.step(SpanName.SEND) as span:
            if span.sampled:
                span.set_attributes({INSTANCE: phone.mask_in(message.instance)})  # a name may hold a phone
            instance, number = message.instance, message.notification.phone
            if isinstance(content, str):
                sent = self.gateway.send_text(instance, number, content, before=before)
            else:
                of_meta = content.name, content.language, content.components
                sent = self.gateway.send_template(
                    instance, number, *of_meta, private=tuple(content.texts()), before=before
                )
            if span.sampled and sent.key_id:
                span.set_attributes({KEY_ID: sent.key_id})
            return sent

    def _confirm(self, message: _Message, now: _Now, as_template: bool) -> None:
        """
        Confirm the claim just before the request is written: a worker frozen since then may have lost it to another.

        Raises:
            _Overtaken: The claim is lost, or the message has expired or must wait by now.
            redis.RedisError: Redis could not be asked; nothing was sent.
        """
        if now.age_s() > min(_YOUNG_S, self.grace_s / 4):
            self._confirm_again(message)
        if as_template:
            self.claims.goes_as_template(message.notification.id)
        self.on_post(message.ref.tag)

    def _confirm_again(self, message: _Message) -> None:
        claim, now = self._claim(message)
        if claim.verdict is not Verdict.GO:
            with contextlib.suppress(redis.RedisError):  # then the worker that has the message by now looks it up
                self.claims.release(message.notification.id, message.ref.tag)
            log.warning("ifinu.message.overtaken", **message.log_fields())
            raise _Overtaken(Settled(DUPLICATE, message.untried(Name.DUPLICATE, first=claim.before)))
        if (not_now := self._check(message, claim, now())) is not None:
            raise _Overtaken(not_now)
        if isinstance(stop := self._look_at_charge(message, now), Stop):
            raise _Overtaken(_stopped(message, stop))

    def _not_sent(self, message: _Message, claim: Claim, exc: SendError, at: datetime) -> Outcome:
        """Decide what follows a failed send, by the table above."""
        match exc:
            case MaybeSent():
                log.warning(
                    "ifinu.message.unknown", **message.log_fields(), reason=exc.reason, took_s=_rounded(exc.took_s)
                )
                unknown = message.event(Name.UNKNOWN, reason=exc.reason, error=str(exc))
                wait_s = min(_FIRST_LOOK_S, self.grace_s / 2)
                wait = self._wait(message, wait_s, at, ClaimState.UNKNOWN, claim.token, unknown, "unknown", error=exc)
                return wait._replace(lost=exc.reason in _BROKEN)
            case NotSent() if is_outage(exc):
                with contextlib.suppress(redis.RedisError):  # then its next worker looks it up first
                    self.claims.release(message.notification.id, message.ref.tag)
                return GiveBack(exc)
            case NotSent() | Throttled() | Misconfigured():
                is_open = functools.partial(self._is_open, message.instance)
                trouble, wait_s, counts = self.instances.failed(
                    message.instance, message.pseudonym, exc, message.trouble, at_ms=_ms(at), is_open=is_open
                )
                if not counts:
                    return self._held_back(message, claim, exc, at, wait_s, trouble)
                log.warning(
                    "ifinu.message.not_sent", **message.log_fields(), reason=exc.reason, took_s=_rounded(exc.took_s)
                )
                retrying = message.event(Name.RETRYING, reason=exc.reason, error=str(exc))
                return Retry(exc, at, claim.token, retrying, trouble)
        return message.dead(exc)

    def _is_open(self, instance: str) -> bool:
        """Whether an instance is connected; False if the gateway cannot say, since it could not send either."""
        try:
            return self.gateway.connection_state(instance) is ConnectionState.OPEN
        except GatewayError:
            return False

    def _held_back(
        self, message: _Message, claim: Claim, exc: SendError, at: datetime, wait_s: float, trouble: Trouble
    ) -> Wait | Dead:
        """Wait without counting a try, since the instance or the gateway is at fault, not the message."""
        instance = _masked(message.instance)
        if exc.reason is Reason.PAIR_LIMIT:
            log.warning(
                "ifinu.message.not_sent", **message.log_fields(), reason=exc.reason, took_s=_rounded(exc.took_s)
            )
        else:
            log.warning("ifinu.instance.held", instance=instance, reason=exc.reason, wait_s=round(wait_s, 1))
        if isinstance(exc, Misconfigured):
            log.error("ifinu.instance.misconfigured", instance=instance, reason=exc.reason, error=str(exc))
        if exc.reason is Reason.INSTANCE_NOT_FOUND:
            given_up = self._missed_too_long(message, trouble, at)
            if given_up is not None:
                return given_up
        reason = {Throttled: "throttled", Misconfigured: "misconfigured"}.get(type(exc), "instance")
        refund = 0
        if self.instances.may_be_blameless(message.instance, trouble):
            refund, trouble = trouble.counted, trouble._replace(counted=0)
        deferred = message.event(Name.DEFERRED, reason=reason, error=str(exc))
        wait = self._wait(message, wait_s, at, ClaimState.WAITING, claim.token, deferred, reason, error=exc)
        held = message.paced and exc.reason not in _NOT_THE_NUMBERS
        return wait._replace(trouble=trouble, refund=refund, held=held)

    def _look_up(self, message: _Message, claim: Claim, now: _Now, *, held: bool) -> Outcome:
        """Look up a send in doubt: settle it if the gateway has it; else wait, resend it, or leave it to a person."""
        notification = message.notification
        started = claim.started or claim.at
        if self._may_be_a_template(notification, self._sender(message, claim)):
            return self._undecided(message, "it may have been sent as a template of Meta's, which no look-up finds")
        try:
            with self.tracer.step(SpanName.LOOK_UP):
                found = self._seen(message, claim) or self._find(message, claim, claim.since or started, started, now())
        except GatewayError as exc:
            log.warning("ifinu.message.not_looked_up", id=notification.id, error=str(exc))
            return self._look_again(message, claim, now(), min(_LOOK_AGAIN_S, self.grace_s))
        if found:
            message = message.by(self._sender(message, claim), paced=message.paced)
            return self._sent(message, Sent(found, None, None), "webhook" if claim.seen else "look_up", now())
        waited_s = max(0.0, (now() - started).total_seconds())
        if waited_s < self.grace_s:
            wait_s = min(max(waited_s, _FIRST_LOOK_S), self.grace_s - waited_s)
            return self._look_again(message, claim, now(), wait_s)
        if self.on_unknown is OnUnknown.HOLD:
            return self._undecided(message, self._looked_for("it is held, as IFINU_ON_UNKNOWN asks"))
        if abs(claim.off_s) > TOO_FAR_OFF_S:  # one of the two clocks is wrong, so the grace may not be over
            log.error("ifinu.message.not_resent", id=notification.id, off_s=round(claim.off_s, 1))
            return self._look_again(message, claim, now(), _LOOK_AGAIN_S)
        # Should it kill this worker too, no second one of those that were sent beside it then may be in doubt again.
        with loop.held(one_resend) if claim.died else contextlib.nullcontext():
            return self._resend(message, claim, now, held=held)

    def _resend(self, message: _Message, claim: Claim, now: _Now, *, held: bool) -> Outcome:
        if (not_now := self._check(message, claim, now())) is not None:
            return not_now
        if held:
            return self._look_again(message, claim, now(), _LOOK_AGAIN_S)
        if isinstance(checked := self._look_at_charge(message, now), Stop):
            return _stopped(message, checked)
        message = checked
        notification, resending = message.notification, message.event(Name.RESENDING)
        match self.claims.resend(message.ref, resending, tenant=notification.tenant, pseudonym=message.pseudonym):
            case Resend.GO:
                log.warning("ifinu.message.resending", id=notification.id)
                return self._send(message, claim, now)
            case Resend.AGAIN:
                return self._undecided(message, self._looked_for("it was sent once more already"))
            case Resend.CANCELLED:
                return _ended(message, ClaimState.CANCELLED, Name.CANCELLED)
            case Resend.OPTED_OUT:
                return _ended(message, ClaimState.SUPPRESSED, Name.SUPPRESSED, reason="opt_out")
            case Resend.LOST:
                log.info("ifinu.message.duplicate", id=notification.id, first=ClaimState.UNKNOWN.value)
                return Settled(DUPLICATE, message.untried(Name.DUPLICATE, first=ClaimState.UNKNOWN.value))

    def _look_again(self, message: _Message, claim: Claim, at: datetime, wait_s: float) -> Wait:
        wait = self._wait(message, wait_s, at, ClaimState.UNKNOWN, claim.token, None, "look_up")
        return wait._replace(trouble=message.trouble)

    def _seen(self, message: _Message, claim: Claim) -> str:
        """The gateway's id of a message that a webhook reported as sent; empty if none did."""
        if (instance := self._sender(message, claim)) == message.instance:
            return claim.seen
        return self.claims.seen(seen_key(reference_of(message.notification.id), instance, message.pseudonym))

    def _sender(self, message: _Message, claim: Claim) -> str:
        """The instance that may have sent a message: it may go by another one since a number was registered."""
        return claim.number or message.notification.instance or self.instance

    def _find(self, message: _Message, claim: Claim, since: datetime, started: datetime, now: datetime) -> str:
        """
        Search the gateway for a message. Returns the gateway's id of it, or empty.

        Args:
            message: The message.
            claim: Its claim.
            since: Start of its first send in doubt.
            started: Start of its last one.
            now: The time.

        Raises:
            GatewayError: The gateway could not be queried.
        """
        is_it = self._recognised(message.notification, since, started)
        margin = _CLOCKS_DIFFER if self.renderer.reference else _CLOCKS_DIFFER_LITTLE
        instance, number = self._sender(message, claim), message.notification.phone
        return self.gateway.find_sent(instance, number, is_it, since=since - margin, until=now + margin)

    def _recognised(self, notification: Notification, *sent_at: datetime) -> Callable[[str], bool]:
        """A test for a notification's text among others to the same person: by its reference, or by the whole text."""
        if self.renderer.refers(notification):
            reference = reference_of(notification.id)
            return lambda text: reference == reference_in(text)
        mine = {self.text(notification, at) for at in sent_at}  # "today" may differ
        if notification.charge_ref is not None and is_answer(notification.id):  # a code, which may have changed since
            fresh = self.charges(notification, sent_at[-1])
            mine |= {self.text(fresh, sent_at[-1])} if isinstance(fresh, Notification) else set()
        return lambda text: text in mine

    def _looked_for(self, cause: str) -> str:
        return f"it may have been sent, was looked for during {self.grace_s:g} s, not found; {cause}"

    def _undecided(self, message: _Message, cause: str) -> Dead:
        return message.dead(
            MaybeSent(
                f"{message.instance}: {cause}: look at the phone, then `ifinu unknown resolve`",
                reason=Reason.UNKNOWN,
                instance=message.instance,
            )
        )

    def _sent(
        self,
        message: _Message,
        sent: Sent,
        by: str,
        at: datetime,
        took_s: float | None = None,
        *,
        new: bool = False,
        template: str | None = None,
    ) -> Settled:
        notification = message.notification
        log.info(
            "ifinu.message.sent",
            **message.log_fields(),
            phone=message.event_fields["phone"],
            confirmed=sent.confirmed,
            by=by,
            took_s=_rounded(took_s),
        )
        # A reply of this person concerns this tenant.
        key = senders_key(message.instance, month_of(at))
        sender = key, message.pseudonym, notification.tenant or ""
        more: dict[str, Any] = {"new": True} if new else {}  # the number had not written to this person before
        if template is not None:
            more["template"] = template
        event = message.event(Name.SENT, key_id=sent.key_id, confirmed=sent.confirmed, by=by, **more)
        return Settled(ClaimState.SENT, event, sent.key_id or "", sender, took_s)

    def _wait(
        self,
        message: _Message,
        wait_s: float,
        at: datetime,
        claim: ClaimState,
        token: str,
        event: Event | None,
        reason: str,
        *,
        free: bool = False,
        error: SendError | None = None,
    ) -> Wait:
        if event is not None and event.name is Name.DEFERRED:
            log.info("ifinu.message.deferred", **message.log_fields(), reason=reason, wait_s=round(wait_s, 1))
        return Wait(wait_s, at, claim, token, event, message.instance, reason, free, error=error)


def _ended(message: _Message, state: ClaimState, name: Name, **data: Any) -> Settled:
    log.info(_ENDED[name], **message.log_fields(), reason=data.get("reason"))
    return Settled(state, message.untried(name, **data))


def _stopped(message: _Message, stop: Stop) -> Settled:
    return _ended(message, ClaimState.CANCELLED, Name.CANCELLED, reason=stop.value)


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _rounded(took_s: float | None) -> float | None:
    return None if took_s is None else round(took_s, 3)


def today_in_brazil() -> date:
    """The day in São Paulo, by which a charge is due."""
    return datetime.now(_BRAZIL).date()
