"""`/instance/…`: create, connect, look, restart, log out, delete."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any
from urllib.parse import parse_qs

from ifinu.simulator.envelopes import JsonResponse, answer, disconnection, error, hidden_error, invalid_argument
from ifinu.simulator.server import HttpRequest
from ifinu.simulator.state import BAILEYS, BUSINESS, EVOLUTION, Link, SimulatedInstance
from ifinu.simulator.webhook_routes import webhook_of, webhook_problems
from ifinu.simulator.world import World

_NUMBER = re.compile(r"\d+[\.@\w-]+")
# One white pixel: a QR code that no phone can scan.
_PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg=="
)
_SETTINGS = {
    "rejectCall": False,
    "msgCall": "",
    "groupsIgnore": False,
    "alwaysOnline": False,
    "readMessages": False,
    "readStatus": False,
    "syncFullHistory": False,
    "wavoipToken": "",
}


def name_problem(world: World, request: HttpRequest) -> JsonResponse | None:
    """The error of `instance/create` for a name, checked before the key: its query takes an absent name for any."""
    body = request.json
    name = body.get("instanceName")
    if "instanceName" not in body:
        return error(403, ['This name "undefined" is already in use.']) if world.instances else None
    if not isinstance(name, str):
        return error(500, invalid_argument("instance.findMany()", "name", "StringFilter or String", name))
    return error(403, [f'This name "{name}" is already in use.']) if name in world.instances else None


def create(world: World, request: HttpRequest, _name: str) -> JsonResponse:
    """`POST /instance/create`."""
    body = request.json
    integration, hook = body.get("integration"), body.get("webhook")
    if problems := _create_problems(body):
        return error(400, [problems])
    missing = next((key for key in ("token", "number") if not body.get(key)), None)
    if integration == BUSINESS and missing:
        return error(400, [f"{missing} is required"])
    if integration not in (BAILEYS, BUSINESS, EVOLUTION):
        return error(400, ["Invalid integration"])
    if hook is not None and "url" not in hook:
        return error(400, ['Invalid "url" property'])
    if hook is not None and "events" not in hook:  # the instance is made, fails here and is deleted
        return error(400, ["Cannot read properties of undefined (reading 'length')"])
    name, number = body["instanceName"], body.get("number")
    token = str(body.get("token") or str(uuid.uuid4()).upper())
    settings = {key: body.get(key, default) for key, default in _SETTINGS.items()}
    instance = SimulatedInstance(
        name, token, world.config.client_name, integration=integration, number=number, settings=settings
    )
    if hook is not None:
        instance.webhook = webhook_of({**hook, "enabled": True}, instance)
    if integration != BAILEYS:
        instance.state = instance.stored = Link.OPEN
    world.instances[name] = instance
    qrcode = None
    if body.get("qrcode") and integration == BAILEYS:
        world.sockets.connect(instance)
        qrcode = _qr(world, instance)
    shown_names = {
        "url": "webhookUrl",
        "headers": "webhookHeaders",
        "byEvents": "webhookByEvents",
        "base64": "webhookBase64",
    }
    reply: dict[str, Any] = {
        "instance": {
            "instanceName": name,
            "instanceId": instance.id,
            "integration": integration,
            "webhookWaBusiness": f"{world.url}/webhook/meta" if integration == BUSINESS else None,
            "accessTokenWaBusiness": "evolution" if integration == BUSINESS else "",
            "status": instance.state,
        },
        "hash": instance.token,
        "webhook": {shown: hook[key] for key, shown in shown_names.items() if hook is not None and key in hook},
        "websocket": {},
        "rabbitmq": {},
        "nats": {},
        "sqs": {},
        "settings": instance.settings,
    }
    if qrcode:
        reply["qrcode"] = qrcode
    return answer(201, reply)


def connect(world: World, request: HttpRequest, name: str) -> JsonResponse:
    """`GET /instance/connect/{instance}`; upstream's wait of 2 s for the first QR code is left out."""
    instance = world.held(name)
    if instance is None:
        return hidden_error()
    if instance.state is Link.OPEN:
        return _state(instance)
    numbers = parse_qs(request.query).get("number")
    instance.number = numbers[0] if numbers else instance.number
    if instance.state is Link.CLOSE:
        world.sockets.connect(instance)
    return answer(200, _qr(world, instance))


def connection_state(world: World, _request: HttpRequest, name: str) -> JsonResponse:
    """`GET /instance/connectionState/{instance}`."""
    instance = world.held(name)
    return _state(instance) if instance else answer(200, {"instance": {"instanceName": name}})


def fetch(world: World, request: HttpRequest, _name: str) -> JsonResponse:
    """`GET /instance/fetchInstances`, for the global key or an instance's own; an id decides before a number."""
    wanted = {key: values[0] for key, values in parse_qs(request.query).items()}
    name, instance_id, number = (wanted.get(key) for key in ("instanceName", "instanceId", "number"))
    everything = world.instances.values()
    key = request.headers.get("apikey")
    if key != world.config.api_key:
        mine = [i for i in everything if i.token == key and name in (None, i.name) and instance_id in (None, i.id)]
        if not mine:
            return error(401, "Unauthorized")
        return answer(200, [_row(world, i) for i in mine])
    if instance_id or number:
        found = next((i.name for i in everything if (i.id == instance_id if instance_id else i.number == number)), None)
        if found is None:
            return error(404, [f'Instance "{instance_id or number}" not found'])
        name = found
    if not name:
        return answer(200, [_row(world, i) for i in everything if world.held(i.name)])
    instance = world.held(name)
    return answer(200, [_row(world, instance)]) if instance else error(404, [f'Instance "{name}" not found'])


def restart(world: World, _request: HttpRequest, name: str) -> JsonResponse:
    """`POST /instance/restart/{instance}`; an open instance answers `open`, and reconnects."""
    instance = world.held(name)
    if instance is None or instance.state is Link.CLOSE:
        return hidden_error()
    if instance.state is Link.OPEN:
        reply = _state(instance)
        if instance.integration == BAILEYS:
            world.sockets.reconnect(instance)
        return reply
    return answer(200, _qr(world, instance))


def logout(world: World, _request: HttpRequest, name: str) -> JsonResponse:
    """`DELETE /instance/logout/{instance}`; on the wrong shard it says SUCCESS and does nothing."""
    instance = world.held(name)
    if instance:
        if instance.state is Link.CLOSE:
            return error(400, [f'The "{name}" instance is not connected'])
        if instance.integration == BAILEYS:
            if not instance.socket_alive and world.config.version != "2.3.6":
                return error(500, ["Error: Connection Closed"])
            world.sockets.log_out(instance)
    return _success("Instance logged out")


def delete(world: World, _request: HttpRequest, name: str) -> JsonResponse:
    """`DELETE /instance/delete/{instance}`; on the wrong shard it erases the other shard's rows."""
    instance = world.held(name)
    if instance and instance.integration == BAILEYS and world.config.version != "2.3.6":
        # It logs out first, which fails while the socket is dead, and once while it is connecting.
        connecting = instance.state is Link.CONNECTING and not instance.delete_failed
        if connecting or (instance.state is Link.OPEN and not instance.socket_alive):
            instance.delete_failed = True
            return error(400, ["[object Object]"])
    world.instances.pop(name, None)
    world.messages.forget_instance(name)
    return _success("Instance deleted")


def _create_problems(body: dict[str, Any]) -> list[str]:
    """The schema's errors for a creation; it accepts a webhook without events."""
    problems = []
    if "number" in body:
        number = body["number"]
        if not isinstance(number, str):
            problems.append("number is not of a type(s) string")
        elif not _NUMBER.match(number):
            problems.append('number does not match pattern "^\\\\d+[\\\\.@\\\\w-]+"')
    if "webhook" in body:
        problems += webhook_problems(body["webhook"])
    if "instanceName" not in body:
        problems.append('instance requires property "instanceName"')
    return problems


def _qr(world: World, instance: SimulatedInstance) -> dict[str, Any]:
    now = time.monotonic()
    if instance.has_session and not instance.qr_code:  # paired already
        return {"count": 0}
    if now >= instance.qr_until and not instance.has_session:
        instance.qr_count += 1
        instance.qr_code = f"2@{world.rng.getrandbits(256):064x}"
        instance.qr_until = now + world.config.qr_ms / 1000
    code = f"{world.rng.getrandbits(40):08X}"[:8] if instance.number else None
    return {"pairingCode": code, "code": instance.qr_code, "base64": _PNG, "count": instance.qr_count}


def _state(instance: SimulatedInstance) -> JsonResponse:
    return answer(200, {"instance": {"instanceName": instance.name, "state": instance.state}})


def _success(message: str) -> JsonResponse:
    return answer(200, {"status": "SUCCESS", "error": False, "response": {"message": message}})


def _row(world: World, instance: SimulatedInstance) -> dict[str, Any]:
    code, at = instance.disconnected or (None, None)
    times = {"createdAt": instance.created_at, "updatedAt": instance.created_at}
    return {
        "id": instance.id,
        "name": instance.name,
        "connectionStatus": instance.stored,
        "ownerJid": instance.owner_jid,
        "profileName": None,
        "profilePicUrl": None,
        "integration": instance.integration,
        "number": instance.number,
        "businessId": None,
        "token": instance.token,
        "clientName": instance.client_name,
        "disconnectionReasonCode": code,
        "disconnectionObject": None if code is None else disconnection(code, at),
        "disconnectionAt": at,
        **times,
        "Chatwoot": None,
        "Proxy": None,
        "Rabbitmq": None,
        "Nats": None,
        "Sqs": None,
        "Websocket": None,
        "Setting": {
            "id": f"c{instance.id.replace('-', '')[:24]}",
            **_SETTINGS,
            **instance.settings,
            **times,
            "instanceId": instance.id,
        },
        "_count": {"Message": world.messages.count(instance.name), "Contact": 0, "Chat": 0},
    }
