"""
The sends of the channel WHATSAPP-BUSINESS, which the gateway passes on to Meta's Cloud API.

It looks no number up and answers 201 even if Meta refuses: then the body is Meta's error, which has no `key`. If Meta
answers no JSON, or not at all, the answer is 400 with a TypeError. 24 hours after a person's last message Meta takes
templates only; it accepts other messages and reports FAILED later, or refuses them at once (`window`).

Source: Evolution API 2.3.6, `whatsapp.business.service.ts`; Meta, "Error codes" of the Cloud API.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple

from ifinu.simulator import numbers
from ifinu.simulator.envelopes import RESET, JsonResponse, answer, error, pool_timeout, proxy_page
from ifinu.simulator.fault_script import REALLY_SENT, Outcome, Window
from ifinu.simulator.send_ledger import Call
from ifinu.simulator.state import Message, SimulatedInstance, wamid
from ifinu.simulator.world import World

_LONGEST_TEXT = 4096
_DAY_S = 86_400.0


class _Refusal(NamedTuple):
    code: int
    message: str
    details: str | None = None


_REFUSALS = {
    Outcome.META_UNAUTHORIZED: _Refusal(190, "Error validating access token: Session has expired"),
    Outcome.META_BLOCKED: _Refusal(368, "Temporarily blocked for policies violations"),
    Outcome.META_THROUGHPUT: _Refusal(130429, "Rate limit hit", "Message throughput has been reached"),
    Outcome.META_UNAVAILABLE: _Refusal(131016, "Service unavailable"),
    Outcome.META_UNDELIVERABLE: _Refusal(131026, "Message undeliverable", "Unable to deliver message"),
    Outcome.META_LOCKED: _Refusal(131031, "Account has been locked", "Business account has been locked"),
    Outcome.META_UNPAID: _Refusal(131042, "Business eligibility payment issue"),
    Outcome.META_RE_ENGAGEMENT: _Refusal(131047, "Re-engagement message", "More than 24 hours have passed"),
    Outcome.META_SPAM: _Refusal(131048, "Spam rate limit hit"),
    Outcome.META_KEPT_BACK: _Refusal(
        131049, "This message was not delivered to maintain healthy ecosystem engagement."
    ),
    Outcome.META_PAIR: _Refusal(131056, "(Business Account, Consumer Account) pair rate limit hit"),
    Outcome.META_NO_TEMPLATE: _Refusal(132001, "Template name does not exist in the translation"),
}
# Faults of a socket to WhatsApp, as Meta has them; any other one that sends nothing is Meta's outage.
_AS_META = {
    Outcome.NOT_ON_WHATSAPP: Outcome.META_UNDELIVERABLE,
    Outcome.GROUP_NOT_FOUND: Outcome.META_UNDELIVERABLE,
    Outcome.RATE_OVERLIMIT: Outcome.META_THROUGHPUT,
    Outcome.LOOKUP_OVERLIMIT: Outcome.META_THROUGHPUT,
}
_NO_JSON = "TypeError: Cannot read properties of undefined (reading 'message')"
_NO_ID = "TypeError: Cannot read properties of undefined (reading '0')"


@dataclass(slots=True)
class _Job:
    """One send, past its validation."""

    instance: SimulatedInstance
    number: str  # as asked
    content: str | dict[str, Any]
    text: str  # for the ledger
    is_text: bool
    is_template: bool
    quotes_nothing: bool
    outcome: Outcome
    call: Call
    receipts: Outcome

    @property
    def person(self) -> str:
        """Digits of the account."""
        return numbers.digits(numbers.canonical(self.number))


def send(
    world: World,
    instance: SimulatedInstance,
    body: dict[str, Any],
    content: str | dict[str, Any],
    text: str,
    *,
    is_template: bool = False,
) -> Coroutine[Any, Any, JsonResponse]:
    """
    Send a text, media or a template.

    Args:
        content: The text, or the message of another type.
        text: The text for the ledger.
    """
    number = body["number"]
    outcome = world.faults.outcome(instance.name, numbers.digits(numbers.canonical(number)))
    outcome = _AS_META.get(outcome, outcome)
    is_text, quoted = content == text, body.get("quoted")
    quotes_nothing = quoted is not None and "key" not in quoted
    if quoted is not None and not quotes_nothing:
        content = {"conversation": content} if isinstance(content, str) else content
        content = {**content, "contextInfo": {"stanzaId": quoted["key"]["id"]}}
    call = world.ledger.begins(instance.name)
    return _run(
        world, _Job(instance, number, content, text, is_text, is_template, quotes_nothing, outcome, call, outcome)
    )


async def _run(world: World, job: _Job) -> JsonResponse:
    sent = False
    try:
        await asyncio.sleep(world.faults.latency.draw_s(world.rng))
        if refused := _refused(world, job):
            if job.outcome is Outcome.HANG_UNSENT:
                await asyncio.sleep(world.faults.hang_s)
            return refused
        key_id = wamid(world.rng, job.person)
        world.ledger.sent(job.call, job.person, job.text, key_id, job.receipts.value)
        sent = True
        if job.outcome is Outcome.SENT_THEN_TYPE_ERROR:
            return _ended(world, job.outcome, error(400, [_NO_ID]))
        await asyncio.sleep(world.faults.hang_s if job.outcome is Outcome.SLOW_INSERT else world.faults.insert_s)
        reply = _stored(world, job, key_id)
        if job.outcome is Outcome.HANG:
            await asyncio.sleep(world.faults.hang_s)
        return reply
    except asyncio.CancelledError:  # the gateway was killed meanwhile
        world.ledger.ended("dropped_before_its_row" if sent else "dropped")
        raise
    finally:
        world.ledger.finishes(job.call)


def _refused(world: World, job: _Job) -> JsonResponse | None:
    """The answer to a message that Meta does not take; None if it takes it."""
    outcome, text = job.outcome, job.text if job.is_text else None
    if job.quotes_nothing:
        return _ended(world, "invalid", error(400, ["Message not found"]))
    if text == "":  # the gateway finds nothing to send
        return _ended(world, "invalid", error(400, [_NO_JSON]))
    if outcome is Outcome.RESET_BEFORE_SEND:
        return _ended(world, outcome, RESET)
    if outcome is Outcome.BAD_GATEWAY:
        return _ended(world, outcome, proxy_page(502))
    if text is not None and (not text.strip() or len(text) > _LONGEST_TEXT):
        problem = "must be at most 4096 characters long." if text.strip() else "must not be empty."
        return _ended(world, "invalid", _error_of_meta(world, _Refusal(100, f"Param text['body'] {problem}")))
    if refusal := _REFUSALS.get(outcome):
        return _ended(world, outcome, _error_of_meta(world, refusal))
    if outcome not in REALLY_SENT:
        return _ended(world, Outcome.META_DOWN, error(400, [_NO_JSON]))
    if job.is_template or world.faults.window is Window.OFF or _wrote_lately(world, job):
        return None
    if world.faults.window is Window.AT_ONCE:
        return _ended(world, Outcome.META_RE_ENGAGEMENT, _error_of_meta(world, _REFUSALS[Outcome.META_RE_ENGAGEMENT]))
    job.receipts = Outcome.REFUSED_LATER
    return None


def _stored(world: World, job: _Job, key_id: str) -> JsonResponse:
    """Write the event, insert the row and answer, in the gateway's order."""
    outcome = job.outcome
    jid, name = numbers.jid(job.number), job.instance.name
    if outcome is Outcome.SENT_THEN_DATABASE_ERROR:
        unsaved = Message(key_id, name, jid, job.content, 0.0, int(time.time()), Outcome.NO_RECEIPTS, True, "")
        world.events.sent(job.instance, unsaved, _body(unsaved, job.instance))
        failure = f"PrismaClientKnownRequestError: {pool_timeout('message.create()')}"
        return _ended(world, outcome, error(400, [failure]))
    message = world.messages.insert(key_id, name, jid, job.content, outcome=job.receipts, push_name="")
    body = _body(message, job.instance)
    world.events.sent(job.instance, message, body)
    if outcome is Outcome.SENT_THEN_RESET:
        return _ended(world, outcome, RESET)
    if outcome is Outcome.SENT_THEN_GATEWAY_TIMEOUT:
        return _ended(world, outcome, proxy_page(504))
    return _ended(world, job.receipts, answer(201, body))


def _wrote_lately(world: World, job: _Job) -> bool:
    at = world.wrote_at.get((job.instance.name, job.person))
    return at is not None and (time.monotonic() - at) * world.faults.speed < _DAY_S


def _body(message: Message, instance: SimulatedInstance) -> dict[str, Any]:
    """The body of a successful answer, which is also the `data` of `send.message`."""
    return {
        "key": {"fromMe": True, "id": message.key_id, "remoteJid": message.jid},
        "message": message.message,
        "messageType": message.type,
        "messageTimestamp": message.at,
        "instanceId": instance.id,
        "status": "PENDING",
        "source": "unknown",
    }


def _error_of_meta(world: World, refusal: _Refusal) -> JsonResponse:
    """Meta's error as the gateway passes it on: with 201."""
    title = refusal.message if refusal.code == 190 else f"(#{refusal.code}) {refusal.message}"
    body: dict[str, Any] = {"message": title, "type": "OAuthException", "code": refusal.code}
    if refusal.details:
        body["error_data"] = {"messaging_product": "whatsapp", "details": refusal.details}
    return answer(201, {**body, "fbtrace_id": f"A{world.rng.getrandbits(96):024x}"})


def template_text(body: dict[str, Any]) -> str:
    """A template and its values, for the ledger."""
    return f"template {body['name']}: {json.dumps(body['components'], ensure_ascii=False)}"


def _ended(world: World, how: str, reply: JsonResponse) -> JsonResponse:
    world.ledger.ended(how)
    return reply
