"""`/chat/…`: look-ups of numbers, stored messages and their receipts."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import Any

from ifinu.simulator import numbers, receipt_timeline
from ifinu.simulator.envelopes import (
    JsonResponse,
    answer,
    boom,
    context_info,
    error,
    invalid_argument,
    raw_error,
    unreadable,
)
from ifinu.simulator.schemas import numbers_problems
from ifinu.simulator.server import HttpRequest
from ifinu.simulator.state import BAILEYS, BUSINESS, EVOLUTION, Message, SimulatedInstance
from ifinu.simulator.world import World


def whatsapp_numbers(world: World, request: HttpRequest, name: str) -> JsonResponse:
    """`POST /chat/whatsappNumbers/{instance}`; its failures come in their own envelope."""
    if problems := numbers_problems(request.json):
        return raw_error([problems])
    asked = request.json.get("numbers")
    instance = world.held(name)
    if asked is None or instance is None:
        return answer(400, {})
    if instance.integration == EVOLUTION:
        return raw_error(["Method not available on Evolution Channel"])
    if instance.integration == BUSINESS:
        return raw_error(["Method not available on WhatsApp Business API"])
    answers = [(number, numbers.canonical(number)) for number in asked]
    if any(jid not in world.known_jids for _, jid in answers):
        if not instance.ever_connected:
            return answer(400, {})
        if not instance.can_send:
            return boom(428, "Precondition Required", "Connection Closed")
    # Groups come first, regardless of the order requested.
    answers.sort(key=lambda pair: not pair[1].endswith("@g.us"))
    return answer(200, [_existence(world, number, jid) for number, jid in answers])


def find_messages(world: World, request: HttpRequest, name: str) -> JsonResponse:
    """`POST /chat/findMessages/{instance}`: stored messages, newest first."""
    instance = world.held(name)
    if instance is None:
        return unreadable("fetchMessages")
    if refused := _unpageable(request, "message.findMany()"):
        return refused
    where = _object(request.json.get("where"))
    found = list(_matching(world, instance, where))
    size, page = _count(request.json.get("offset"), 50), _count(request.json.get("page"), 1)
    records = [_record(world, instance, m) for m in found[(page - 1) * size : page * size]]
    pages = -(-len(found) // size)
    return answer(200, {"messages": {"total": len(found), "pages": pages, "currentPage": page, "records": records}})


def find_status_message(world: World, request: HttpRequest, name: str) -> JsonResponse:
    """`POST /chat/findStatusMessage/{instance}`: receipts, without their times."""
    instance = world.held(name)
    if instance is None:
        return unreadable("fetchStatusMessage")
    if refused := _unpageable(request, "messageUpdate.findMany()"):
        return refused
    where = _object(request.json.get("where"))
    size, page = _count(request.json.get("offset"), 50), _count(request.json.get("page"), 1)
    message = world.messages.find(str(where.get("id")))
    if message is None or message.instance != name:
        return answer(200, [])
    jid = receipt_timeline.jid_in_receipts(message)
    if where.get("remoteJid", jid) != jid:
        return answer(200, [])
    rows = [
        {
            "id": f"{message.row_id}{index}",
            "keyId": message.key_id,
            "remoteJid": jid,
            **receipt_timeline.sides(message),
            "pollUpdates": None,
            "status": status,
            "messageId": message.row_id,
            "instanceId": instance.id,
        }
        for index, status in enumerate(receipt_timeline.statuses(message, instance, world.faults, time.monotonic()))
    ]
    return answer(200, rows[(page - 1) * size : page * size])


def _existence(world: World, number: str, jid: str) -> dict[str, Any]:
    if jid in world.known_jids:
        return {"jid": jid, "exists": True, "number": number}
    if not numbers.digits(jid) or not world.faults.is_on_whatsapp(numbers.digits(number)):
        return {"jid": numbers.jid(number), "exists": False, "number": number}
    world.known_jids.add(jid)
    return {"jid": jid, "exists": True, "number": number}


def _matching(world: World, instance: SimulatedInstance, where: dict[str, Any]) -> Iterator[Message]:
    key = _object(where.get("key"))
    times = _object(where.get("messageTimestamp"))
    since, until = _epoch(times.get("gte")), _epoch(times.get("lte"))
    if since is None or until is None:  # one alone is ignored
        since, until = float("-inf"), float("inf")
    kind, source = where.get("messageType"), where.get("source")
    if key.get("id"):
        message = world.messages.find(str(key["id"]))
        rows = iter([message] if message else [])
    else:
        rows = world.messages.newest_first(key.get("remoteJid"))
    for message in rows:
        if message.at < since:
            return  # newest first: the rest is older
        if (
            message.instance == instance.name
            and message.at <= until
            and (key.get("remoteJid") in (None, message.jid))
            and (message.from_me or key.get("fromMe") is not True)  # false is ignored
            and kind in (None, message.type)
            and source in (None, _source(message, instance))
            and where.get("id") in (None, message.row_id)
        ):
            yield message


def _record(world: World, instance: SimulatedInstance, message: Message) -> dict[str, Any]:
    updates = receipt_timeline.statuses(message, instance, world.faults, time.monotonic())
    return {
        "id": message.row_id,
        "key": {"id": message.key_id, "fromMe": message.from_me, "remoteJid": message.jid},
        "pushName": message.push_name,
        "messageType": message.type,
        "message": message.message,
        "messageTimestamp": message.at,
        "instanceId": instance.id,
        "source": _source(message, instance),
        "contextInfo": context_info(message.at) if message.from_me and instance.integration == BAILEYS else None,
        "MessageUpdate": [{"status": status} for status in updates],
    }


def _source(message: Message, instance: SimulatedInstance) -> str:
    return instance.source if message.from_me or instance.integration == BUSINESS else "ios"


def _unpageable(request: HttpRequest, call: str) -> JsonResponse | None:
    """The database client's error for a page or a size that is not a whole number; None if both are valid."""
    for key, argument in (("page", "skip"), ("offset", "take")):
        given = request.json.get(key)
        if given and (not isinstance(given, int) or isinstance(given, bool)):
            return error(500, invalid_argument(call, argument, "Int", given))
    return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any, default: int) -> int:
    return value if isinstance(value, int) and value > 0 else default


def _epoch(value: Any) -> float | None:
    try:
        return datetime.datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError):
        return None
