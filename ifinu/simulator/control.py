"""
The control surface: `/_simulator/…`, on the gateway's own port, for the global key.

GET  ledger?since=N&limit=M   {"total", "next", "sends": [the fields of `Send`]}
GET  summary                  the figures of `Ledger.summary`, and `webhooks`
GET  numbers?utc_offset_s=N   by instance: the figures of `number_figures.by_instance`, and `breaches`, `throttled`,
                              `restricted`, `banned`; N is the zone of its days, Brasília's by default
GET  faults                   the script in force
POST faults                   changes it; `for_s` beside `gateway` puts the gateway back up after that time
POST reset                    deletes recorded sends and messages, keeps faults and instances
POST instances/{name}         {"state": "open|close|connecting", "socket": "alive|dead", "held": true|false,
                              "phone": "scans"}, each of them optional; `open` lifts a ban and other punishments
POST inbound                  {"instance", "number", "text", "name"?, "quoted"?, "variant"?}
                              where variant is plain, lid or lid_alone; answers {"key_id"}
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote

from ifinu.errors import ConfigurationError
from ifinu.simulator import numbers
from ifinu.simulator.envelopes import JsonResponse, answer, error
from ifinu.simulator.fault_script import Gateway
from ifinu.simulator.number_figures import BRASILIA_S, NOTHING_SENT, by_instance
from ifinu.simulator.server import HttpRequest
from ifinu.simulator.state import ELSEWHERE, Link
from ifinu.simulator.world import World

PREFIX = "/_simulator/"
_ANSWER_S = 0.05
_VARIANTS = ("plain", "lid", "lid_alone")
_OPENNESS = {"alive": True, "dead": False}


def answer_control(world: World, request: HttpRequest) -> JsonResponse:
    """Answer a control request; an invalid one with 400 and the error."""
    route = request.path.removeprefix(PREFIX)
    where = (request.method, route)
    try:
        if where == ("GET", "ledger"):
            return _ledger(world, request.query)
        if where == ("GET", "summary"):
            return answer(200, summary(world))
        if where == ("GET", "numbers"):
            return _numbers(world, request.query)
        if where == ("GET", "faults"):
            return answer(200, world.faults.as_script())
        if where == ("POST", "faults"):
            set_faults(world, request.json, reachable=False)
            return answer(200, world.faults.as_script())
        if where == ("POST", "reset"):
            world.reset()
            return answer(200, {"reset": True})
        if where == ("POST", "inbound"):
            return answer(200, {"key_id": inbound(world, request.json)})
        if request.method == "POST" and route.startswith("instances/"):
            return answer(200, set_instance(world, unquote(route.removeprefix("instances/")), request.json))
    except ConfigurationError as exc:
        return error(400, [str(exc)])
    return error(404, [f"Cannot {request.method} {request.path}"])


def summary(world: World) -> dict[str, Any]:
    """The ledger's figures and the webhooks'."""
    return {**world.ledger.summary(), "webhooks": world.couriers.report()}


def numbers_of(world: World, utc_offset_s: int = BRASILIA_S) -> dict[str, dict[str, Any]]:
    """The figures of each instance that exists or has sent, and what WhatsApp holds against it."""
    sent = by_instance(world.ledger, utc_offset_s)
    figures: dict[str, dict[str, Any]] = {}
    for name in sorted({*world.instances, *sent}):
        instance = world.instances.get(name)
        banned = instance is not None and instance.banned
        figures[name] = {**sent.get(name, NOTHING_SENT), **world.bans.report(name), "banned": banned}
    return figures


def set_faults(world: World, script: Mapping[str, Any], *, reachable: bool) -> None:
    """
    Change the script.

    Args:
        script: As `Faults.apply` reads it, and `for_s`: seconds after which the gateway is up again.
        reachable: Whether the caller does not need the port, and so may refuse connections without `for_s`.

    Raises:
        ConfigurationError: The script is invalid, or would lock its author out.
    """
    script = dict(script)
    for_s = script.pop("for_s", None)
    if for_s is not None and (not isinstance(for_s, int | float) or for_s <= 0 or "gateway" not in script):
        raise ConfigurationError("for_s must be a number of seconds beside gateway")
    if script.get("gateway") == Gateway.REFUSE and for_s is None and not reachable:
        raise ConfigurationError("gateway refuse needs for_s: nothing could reach the simulator to end it")
    world.faults.apply(script)
    if "gateway" in script and reachable:
        world.gateway_changed()
    elif "gateway" in script:
        # Later, since the answer to this request has to be sent first.
        asyncio.get_running_loop().call_later(_ANSWER_S, world.gateway_changed)
    if for_s is not None:
        asyncio.get_running_loop().call_later(for_s, _back_up, world, world.faults.gateway)


def set_instance(world: World, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """
    Put an instance into a state.

    Args:
        changes: `state`; `socket`: `dead` leaves the state as it is and fails every send; `held`: false
            makes it an instance of another process, true of this one; `phone`: `scans` the code that is shown.

    Raises:
        ConfigurationError: No such instance, no such state, or no code to scan.
    """
    instance = world.instances.get(name)
    if instance is None:
        raise ConfigurationError(f"{name}: no such instance")
    if unknown := set(changes) - {"state", "socket", "held", "phone"}:
        raise ConfigurationError(f"{', '.join(sorted(unknown))}: unknown; there are state, socket, held, phone")
    state, socket, held = changes.get("state"), changes.get("socket", "alive"), changes.get("held", True)
    if state not in (None, *Link) or socket not in _OPENNESS or not isinstance(held, bool):
        raise ConfigurationError("state is open, close or connecting; socket is alive or dead; held is true or false")
    if state is not None:
        world.sockets.set_state(instance, Link(state))
        if state == Link.OPEN:
            world.bans.forgive(instance)
    if "socket" in changes:
        instance.socket_alive = _OPENNESS[socket]
    if "phone" in changes and (changes["phone"] != "scans" or not world.sockets.scan(instance)):
        raise ConfigurationError(f"{name}: no code is shown that a phone scans")
    if "held" in changes:
        instance.client_name = world.config.client_name if held else ELSEWHERE
    return {
        "instance": name,
        "state": instance.state,
        "socket": "alive" if instance.socket_alive else "dead",
        "held": world.held(name) is not None,
    }


def inbound(world: World, body: Mapping[str, Any]) -> str:
    """
    Simulate a message from a person to an instance.

    Args:
        body: See `POST inbound` above.

    Returns:
        `key.id` of the message.

    Raises:
        ConfigurationError: A field is missing or invalid.
    """
    instance = world.instances.get(body.get("instance", ""))
    number, text, variant = body.get("number"), body.get("text"), body.get("variant", "plain")
    if instance is None or not isinstance(number, str) or not isinstance(text, str):
        raise ConfigurationError("inbound needs instance (an existing one), number and text")
    if variant not in _VARIANTS:
        raise ConfigurationError(f"variant must be one of {', '.join(_VARIANTS)}")
    name, quoted = str(body.get("name", "Maria")), body.get("quoted")
    jid = numbers.canonical(number)
    world.bans.met(instance, numbers.digits(jid))
    world.wrote_at[instance.name, numbers.digits(jid)] = time.monotonic()
    return world.events.inbound(instance, jid, text, quoted=quoted, name=name, variant=variant).key_id


def _ledger(world: World, query: str) -> JsonResponse:
    wanted = {key: values[0] for key, values in parse_qs(query).items()}
    if not all(value.isdecimal() for value in wanted.values()) or set(wanted) - {"since", "limit"}:
        raise ConfigurationError("ledger takes since and limit, both whole numbers")
    since = int(wanted.get("since", 0))
    limit = int(wanted["limit"]) if "limit" in wanted else None
    sends = world.ledger.sends(since, limit)
    body = {
        "total": len(world.ledger),
        "next": since + len(sends),
        "sends": [send._asdict() for send in sends],
    }
    return answer(200, body)


def _numbers(world: World, query: str) -> JsonResponse:
    wanted = {key: values[0] for key, values in parse_qs(query).items()}
    offset = wanted.pop("utc_offset_s", str(BRASILIA_S))
    if wanted or not re.fullmatch(r"-?\d{1,5}", offset, re.ASCII):
        raise ConfigurationError("numbers takes utc_offset_s, a whole number")
    return answer(200, numbers_of(world, int(offset)))


def _back_up(world: World, from_gateway: Gateway) -> None:
    if world.faults.gateway is from_gateway:
        world.faults.apply({"gateway": Gateway.UP})
        world.gateway_changed()
