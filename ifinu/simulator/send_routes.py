"""
`message/sendText`, `message/sendMedia` and `message/sendTemplate`, the only routes that send.

A send has two steps. Errors of the look-up (is the number on WhatsApp?) are answered with 500, errors of the hand-over
to WhatsApp with 400. So the same fault gives 500 for a new number, and 400 for a cached one.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from ifinu.simulator import business_routes, numbers
from ifinu.simulator.ban_rules import Penalty
from ifinu.simulator.envelopes import (
    RESET,
    JsonResponse,
    answer,
    context_info,
    error,
    pool_timeout,
    proxy_page,
    unreadable,
)
from ifinu.simulator.fault_script import HANGING, OF_META, REALLY_SENT, Outcome
from ifinu.simulator.schemas import MEDIA, is_url_or_base64, media_problems, template_problems, text_problems
from ifinu.simulator.send_ledger import Call
from ifinu.simulator.server import HttpRequest
from ifinu.simulator.state import BUSINESS, EVOLUTION, Message, SimulatedInstance, new_key_id
from ifinu.simulator.whatsapp_sockets import BANNED, LOGGED_OUT
from ifinu.simulator.world import World

_LOOKUP_FAILS = {
    Outcome.LOOKUP_CLOSED: "Connection Closed",
    Outcome.LOOKUP_TIMEOUT: "Timed Out",
    Outcome.LOOKUP_OVERLIMIT: "rate-overlimit",
    Outcome.NEVER_CONNECTED: "Cannot read properties of undefined (reading 'onWhatsApp')",
    Outcome.DATABASE_DOWN: pool_timeout("isOnWhatsapp.findMany()"),
}
_TYPE_ERROR = "TypeError: Cannot read properties of undefined (reading 'id')"
_HAND_OVER_FAILS = {
    Outcome.SEND_CLOSED: "Error: Connection Closed",
    Outcome.SEND_TIMEOUT: "Error: Timed Out",
    Outcome.RATE_OVERLIMIT: "Error: rate-overlimit",
    Outcome.TYPE_ERROR: _TYPE_ERROR,
    Outcome.GROUP_NOT_FOUND: "[object Object]",
}
_SENT_NOT_STORED = {
    Outcome.SENT_THEN_TYPE_ERROR: _TYPE_ERROR,
    Outcome.SENT_THEN_DATABASE_ERROR: "PrismaClientKnownRequestError: " + pool_timeout("message.create()"),
}


_ENDS = {Penalty.LOG_OUT: LOGGED_OUT, Penalty.BAN: BANNED}


@dataclass(slots=True)
class _Job:
    """One send, past its validation."""

    instance: SimulatedInstance
    number: str  # as asked
    jid: str  # as WhatsApp knows it
    content: str | dict[str, Any]
    text: str  # for the ledger
    delay_s: float
    quoted: bool  # whether it quotes an object without a key, on which the gateway fails
    outcome: Outcome
    call: Call
    penalty: Penalty = Penalty.NONE


def send_text(world: World, request: HttpRequest, name: str) -> JsonResponse | Coroutine[Any, Any, JsonResponse]:
    body, instance = request.json, _held(world, name, text_problems(request.json), "textMessage")
    if isinstance(instance, JsonResponse):
        return instance
    text: str = body["text"]
    if instance.integration == EVOLUTION:
        return _plumbing(world, instance, body["number"], text)
    if instance.integration == BUSINESS:
        return business_routes.send(world, instance, body, text, text)
    if not text.strip():
        return _ended(world, "invalid", error(400, ["Text is required"]))
    return _start(world, instance, body, text, text)


def send_media(world: World, request: HttpRequest, name: str) -> JsonResponse | Coroutine[Any, Any, JsonResponse]:
    """`POST /message/sendMedia/{instance}`; the media is neither fetched nor stored."""
    body, instance = request.json, _held(world, name, media_problems(request.json), "mediaMessage")
    if isinstance(instance, JsonResponse):
        return instance
    media, kind, file_name = body.get("media"), body["mediatype"], body.get("fileName")
    if not media or not is_url_or_base64(media):
        return _ended(world, "invalid", error(400, ["Owned media must be a url or base64"]))
    if kind == "document" and not file_name and not media.startswith("http"):
        return _ended(world, "invalid", error(400, ["For base64 the file name must be informed."]))
    file_name = file_name or media.rsplit("/", 1)[-1][:80]
    caption = body.get("caption") or ""
    content = {MEDIA[kind]: {"mimetype": body.get("mimetype"), "fileName": file_name, "caption": caption}}
    text = f"{kind} {file_name}: {caption}"
    if instance.integration == EVOLUTION:
        return _plumbing(world, instance, body["number"], content)
    if instance.integration == BUSINESS:
        return business_routes.send(world, instance, body, content, text)
    return _start(world, instance, body, content, text)


def send_template(world: World, request: HttpRequest, name: str) -> JsonResponse | Coroutine[Any, Any, JsonResponse]:
    """`POST /message/sendTemplate/{instance}`, which only the channel BUSINESS has."""
    body, instance = request.json, _held(world, name, template_problems(request.json), "templateMessage")
    if isinstance(instance, JsonResponse):
        return instance
    if instance.integration == EVOLUTION:
        return _ended(world, "invalid", error(400, ["Method not available on Evolution Channel"]))
    if instance.integration != BUSINESS:
        return _ended(world, "invalid", error(500, "Method not available in the Baileys service"))
    shown, text = f"▶️{body['name']}◀️", business_routes.template_text(body)
    return business_routes.send(world, instance, body, shown, text, is_template=True)


def _held(world: World, name: str, problems: Any, kind: str) -> SimulatedInstance | JsonResponse:
    """The instance, or the answer to a send that is malformed or that another process has to take."""
    if problems:
        return _ended(world, "invalid", error(400, [problems]))
    instance = world.held(name)
    return _ended(world, "wrong_shard", unreadable(kind)) if instance is None else instance


def _start(
    world: World, instance: SimulatedInstance, body: dict[str, Any], content: str | dict[str, Any], text: str
) -> JsonResponse | Coroutine[Any, Any, JsonResponse]:
    number = body["number"]
    jid = numbers.canonical(number)
    outcome = world.faults.outcome(instance.name, numbers.digits(number))
    if outcome in OF_META:
        outcome = Outcome.OK
    if jid.endswith("@g.us"):
        outcome = Outcome.GROUP_NOT_FOUND  # these numbers are in no group
    elif jid == numbers.USER:
        outcome = Outcome.NOT_ON_WHATSAPP  # no digit was given
    latency_s = world.faults.latency.draw_s(world.rng)
    quoted = "quoted" in body and "key" not in body["quoted"]
    call = world.ledger.begins(instance.name)
    job = _Job(instance, number, jid, content, text, (body.get("delay") or 0) / 1000, quoted, outcome, call)
    if latency_s or job.delay_s or outcome in HANGING or world.faults.insert_s:
        return _slowly(world, job, latency_s)
    try:
        if failure := _looked_up(world, job):
            return failure
        handed = _handed_over(world, job)
        return _stored(world, job, handed) if isinstance(handed, str) else handed
    finally:
        world.ledger.finishes(call)


async def _slowly(world: World, job: _Job, latency_s: float) -> JsonResponse:
    """A send that takes time; it continues when the client has disconnected."""
    key_id: str | None = None  # sent, and not stored
    try:
        await asyncio.sleep(latency_s)
        if job.outcome is Outcome.HANG_UNSENT:
            await asyncio.sleep(world.faults.hang_s)
            return _ended(world, job.outcome, error(500, "Timed Out"))
        if failure := _looked_up(world, job):
            return failure
        await asyncio.sleep(job.delay_s)
        if job.outcome is Outcome.SLOW_INSERT and job.instance.can_send and not _is_throttled(world, job):
            key_id = _really_send(world, job)
            await asyncio.sleep(world.faults.hang_s)
            return _stored(world, job, key_id)
        handed = _handed_over(world, job)
        if isinstance(handed, str):
            key_id = handed
            await asyncio.sleep(world.faults.insert_s)
            handed = _stored(world, job, handed)
            key_id = None
        if job.outcome is Outcome.HANG:
            await asyncio.sleep(world.faults.hang_s)
        return handed
    except asyncio.CancelledError:  # the gateway was killed meanwhile
        world.ledger.ended("dropped" if key_id is None else "dropped_before_its_row")
        raise
    finally:
        world.ledger.finishes(job.call)


def _looked_up(world: World, job: _Job) -> JsonResponse | None:
    """The look-up before the send: its error, or None when the send goes on."""
    outcome = job.outcome
    if job.jid not in world.known_jids and job.instance.can_send:
        penalty = world.bans.at_look_up(job.instance)
        if penalty is Penalty.THROTTLE:
            return _ended(world, Outcome.LOOKUP_OVERLIMIT, error(500, _LOOKUP_FAILS[Outcome.LOOKUP_OVERLIMIT]))
        if penalty is Penalty.BAN:
            world.sockets.lose(job.instance, BANNED)
    if outcome is Outcome.OK and job.instance.can_send:
        world.known_jids.add(job.jid)
        return None
    if outcome is Outcome.RESET_BEFORE_SEND:
        return _ended(world, outcome, RESET)
    if outcome is Outcome.BAD_GATEWAY:
        return _ended(world, outcome, proxy_page(502))
    if failure := _LOOKUP_FAILS.get(outcome):
        return _ended(world, outcome, error(500, failure))
    if outcome is Outcome.NOT_ON_WHATSAPP:
        missing = {"jid": numbers.jid(job.number), "exists": False, "number": job.number}
        return _ended(world, outcome, error(400, [missing]))
    if job.jid in world.known_jids:
        return None
    if not job.instance.ever_connected:
        return _ended(world, Outcome.NEVER_CONNECTED, error(500, _LOOKUP_FAILS[Outcome.NEVER_CONNECTED]))
    if outcome is Outcome.CONNECTION_CLOSED or not job.instance.can_send:
        return _ended(world, Outcome.CONNECTION_CLOSED, error(500, "Connection Closed"))
    world.known_jids.add(job.jid)
    return None


def _handed_over(world: World, job: _Job) -> JsonResponse | str:
    """The hand-over and the send: its `key.id` if a row follows, else the answer."""
    outcome = job.outcome
    if job.quoted:
        return _ended(
            world, "invalid", error(400, ["TypeError: Cannot read properties of undefined (reading 'fromMe')"])
        )
    if not job.instance.can_send or outcome is Outcome.CONNECTION_CLOSED:
        return _ended(world, Outcome.CONNECTION_CLOSED, error(400, ["Error: Connection Closed"]))
    if failure := _HAND_OVER_FAILS.get(outcome):
        return _ended(world, outcome, error(400, [failure]))
    if job.penalty is Penalty.THROTTLE or _is_throttled(world, job):
        return _ended(world, Outcome.RATE_OVERLIMIT, error(400, [_HAND_OVER_FAILS[Outcome.RATE_OVERLIMIT]]))
    key_id = _really_send(world, job)
    if failure := _SENT_NOT_STORED.get(outcome):
        return _ended(world, outcome, error(400, [failure]))
    return key_id


def _really_send(world: World, job: _Job) -> str:
    if job.outcome not in REALLY_SENT:
        raise LookupError(f"{job.outcome} sends nothing, and no table of this module has its answer")
    key_id = new_key_id(world.rng)
    world.ledger.sent(job.call, numbers.digits(job.jid), job.text, key_id, _as_received(job).value)
    if code := _ENDS.get(job.penalty):
        world.sockets.lose(job.instance, code)
    return key_id


def _is_throttled(world: World, job: _Job) -> bool:
    """Let WhatsApp judge the hand-over; whether it refuses it."""
    job.penalty = world.bans.judge(job.instance, numbers.digits(job.jid))
    return job.penalty is Penalty.THROTTLE


def _as_received(job: _Job) -> Outcome:
    """The outcome that decides the receipts: a restricted number gets ERROR, and one whose session ended gets none."""
    if job.penalty is Penalty.RESTRICT:
        return Outcome.REFUSED_LATER
    return Outcome.NO_RECEIPTS if job.penalty in _ENDS else job.outcome


def _stored(world: World, job: _Job, key_id: str) -> JsonResponse:
    """Insert the row, write the event and answer."""
    message = world.messages.insert(key_id, job.instance.name, job.jid, job.content, outcome=_as_received(job))
    body = sent_body(message, job.instance)
    world.events.sent(job.instance, message, body)
    if job.outcome is Outcome.SENT_THEN_RESET:
        return _ended(world, job.outcome, RESET)
    if job.outcome is Outcome.SENT_THEN_GATEWAY_TIMEOUT:
        return _ended(world, job.outcome, proxy_page(504))
    return _ended(world, job.outcome, answer(201, body))


def _plumbing(world: World, instance: SimulatedInstance, number: str, content: str | dict[str, Any]) -> JsonResponse:
    """A send of the EVOLUTION channel: stored and reported by webhook, but sent nowhere."""
    message = world.messages.insert(
        str(uuid.uuid4()), instance.name, number, content, outcome=Outcome.NO_RECEIPTS, push_name=""
    )
    body = {
        "key": {"remoteJid": number, "fromMe": True, "id": message.key_id},
        "message": message.message,
        "messageType": message.type,
        "messageTimestamp": message.at,
        "instanceId": instance.id,
        "source": "unknown",
    }
    world.events.sent(instance, message, body)
    return _ended(world, Outcome.OK, answer(201, body))


def sent_body(message: Message, instance: SimulatedInstance) -> dict[str, Any]:
    """The body of a successful answer, which is also the `data` of `send.message`."""
    return {
        "key": {"remoteJid": message.jid, "fromMe": True, "id": message.key_id},
        "pushName": "Você",
        "status": "PENDING",
        "message": message.message,
        "contextInfo": context_info(message.at),
        "messageType": message.type,
        "messageTimestamp": message.at,
        "instanceId": instance.id,
        "source": "web",
    }


def _ended(world: World, how: str, reply: JsonResponse) -> JsonResponse:
    world.ledger.ended(how)
    return reply
