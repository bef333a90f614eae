"""`/instance/…`: create, connect, look, restart, log out, delete."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any
from urllib.parse import parse_qs

from ifinu.simulator.envelopes import Reply, answer, error, hidden_error
from ifinu.simulator.hooks import webhook_of, webhook_problems
from ifinu.simulator.server import Request
from ifinu.simulator.state import BAILEYS, EVOLUTION, Instance, Link
from ifinu.simulator.world import World

_NUMBER = re.compile(r"\d+[\.@\w-]+")
# One white pixel; a QR code nobody will scan.
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


def create(world: World, request: Request, _name: str) -> Reply:
    """`POST /instance/create`."""
    body = request.json
    name, number, integration = body.get("instanceName"), body.get("number"), body.get("integration")
    if not isinstance(name, str):
        return error(400, [['instance requires property "instanceName"']])
    if number and not (isinstance(number, str) and _NUMBER.match(number)):
        return error(400, [['number does not match pattern "^\\\\d+[\\\\.@\\\\w-]+"']])
    if integration not in (BAILEYS, EVOLUTION):
        return error(400, ["Invalid integration"])
    hook = body.get("webhook")
    if hook is not None and (problems := webhook_problems(hook)):
        return error(400, [problems])
    token = str(body.get("token") or str(uuid.uuid4()).upper())
    settings = {key: body.get(key, default) for key, default in _SETTINGS.items()}
    instance = Instance(
        name, token, world.config.client_name, integration=integration, number=number, settings=settings
    )
    if hook is not None:
        instance.webhook = webhook_of({**hook, "enabled": True}, instance)
    if integration == EVOLUTION:
        instance.state = Link.OPEN
    world.instances[name] = instance
    qrcode = None
    if body.get("qrcode") and integration == BAILEYS:
        _start_pairing(world, instance)
        qrcode = _qr(world, instance)
    reply: dict[str, Any] = {
        "instance": {
            "instanceName": name,
            "instanceId": instance.id,
            "integration": integration,
            "webhookWaBusiness": None,
            "accessTokenWaBusiness": "",
            "status": instance.state,
        },
        "hash": instance.token,
        "webhook": {
            "webhookUrl": instance.webhook.url if instance.webhook else None,
            "webhookHeaders": instance.webhook.headers if instance.webhook else None,
            "webhookByEvents": instance.webhook.by_events if instance.webhook else None,
            "webhookBase64": instance.webhook.base64 if instance.webhook else None,
        },
        "websocket": {},
        "rabbitmq": {},
        "nats": {},
        "sqs": {},
        "settings": instance.settings,
    }
    if qrcode:
        reply["qrcode"] = qrcode
    return answer(201, reply)


def connect(world: World, request: Request, name: str) -> Reply:
    """`GET /instance/connect/{instance}`; upstream's wait of 2 s for the first QR code is left out."""
    instance = world.held(name)
    if instance is None:
        return hidden_error()
    if instance.state is Link.OPEN:
        return _state(instance)
    numbers = parse_qs(request.query).get("number")
    instance.number = numbers[0] if numbers else instance.number
    if instance.state is Link.CLOSE:
        _start_pairing(world, instance)
    return answer(200, _qr(world, instance))


def connection_state(world: World, _request: Request, name: str) -> Reply:
    """`GET /instance/connectionState/{instance}`."""
    instance = world.held(name)
    return _state(instance) if instance else answer(200, {"instance": {"instanceName": name}})


def fetch(world: World, request: Request, _name: str) -> Reply:
    """`GET /instance/fetchInstances`, for the global key or an instance's own."""
    wanted = {key: values[0] for key, values in parse_qs(request.query).items()}
    key = request.headers.get("apikey")
    mine = [i for i in world.instances.values() if world.held(i.name)]
    if key != world.config.api_key:
        mine = [i for i in mine if i.token == key]
        if not mine:
            return error(401, "Unauthorized")
    if name := wanted.get("instanceName"):
        mine = [i for i in mine if i.name == name]
        if not mine:
            return error(404, [f'Instance "{name}" not found'])
    if instance_id := wanted.get("instanceId"):
        mine = [i for i in mine if i.id == instance_id]
    if number := wanted.get("number"):
        mine = [i for i in mine if i.number == number]
    return answer(200, [_row(world, i) for i in mine])


def restart(world: World, _request: Request, name: str) -> Reply:
    """`POST /instance/restart/{instance}`; an open one comes back with a new socket."""
    instance = world.held(name)
    if instance is None or instance.state is Link.CLOSE:
        return hidden_error()
    if instance.state is Link.OPEN:
        instance.socket_alive = True
        return _state(instance)
    return answer(200, _qr(world, instance))


def logout(world: World, _request: Request, name: str) -> Reply:
    """`DELETE /instance/logout/{instance}`; on the wrong shard it says SUCCESS and does nothing."""
    instance = world.held(name)
    if instance:
        if instance.state is Link.CLOSE:
            return error(400, [f'The "{name}" instance is not connected'])
        if instance.integration == BAILEYS:
            instance.has_session = False
            world.change(instance, Link.CLOSE)
    return _success("Instance logged out")


def delete(world: World, _request: Request, name: str) -> Reply:
    """`DELETE /instance/delete/{instance}`; on the wrong shard it erases the other shard's rows."""
    world.instances.pop(name, None)
    world.messages.forget_instance(name)
    return _success("Instance deleted")


def _start_pairing(world: World, instance: Instance) -> None:
    world.change(instance, Link.CONNECTING)
    instance.qr_until = 0.0
    world.change_later(instance, Link.OPEN, world.config.pairing_ms)


def _qr(world: World, instance: Instance) -> dict[str, Any]:
    now = time.monotonic()
    if now >= instance.qr_until:
        instance.qr_count += 1
        instance.qr_code = f"2@{world.rng.getrandbits(256):064x}"
        instance.qr_until = now + world.config.qr_ms / 1000
    code = f"{world.rng.getrandbits(40):08X}"[:8] if instance.number else None
    return {"pairingCode": code, "code": instance.qr_code, "base64": _PNG, "count": instance.qr_count}


def _state(instance: Instance) -> Reply:
    return answer(200, {"instance": {"instanceName": instance.name, "state": instance.state}})


def _success(message: str) -> Reply:
    return answer(200, {"status": "SUCCESS", "error": False, "response": {"message": message}})


def _row(world: World, instance: Instance) -> dict[str, Any]:
    return {
        "id": instance.id,
        "name": instance.name,
        "connectionStatus": instance.state,
        "ownerJid": instance.owner_jid,
        "profileName": None,
        "profilePicUrl": None,
        "integration": instance.integration,
        "number": instance.number,
        "businessId": None,
        "token": instance.token,
        "clientName": instance.client_name,
        "disconnectionReasonCode": None,
        "disconnectionObject": None,
        "disconnectionAt": None,
        "createdAt": instance.created_at,
        "updatedAt": instance.created_at,
        "Chatwoot": None,
        "Proxy": None,
        "Rabbitmq": None,
        "Nats": None,
        "Sqs": None,
        "Websocket": None,
        "Setting": instance.settings,
        "_count": {"Message": world.messages.count(instance.name), "Contact": 0, "Chat": 0},
    }
