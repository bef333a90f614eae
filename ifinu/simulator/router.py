"""
Routing of requests, with the checks in upstream's order:

body is JSON (400) > route exists (404) > instance exists (404), or its name is free (403) > key (401) > the query
string may replace the instance's name, a security hole of upstream that is kept.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import parse_qsl, unquote

from ifinu.simulator import bodies, chat_routes, control, instance_routes, send_routes, webhook_routes
from ifinu.simulator.envelopes import HTML, RESET, JsonResponse, answer, error, proxy_page
from ifinu.simulator.fault_script import Gateway
from ifinu.simulator.server import HttpRequest
from ifinu.simulator.world import World

Route = Callable[[World, HttpRequest, str], JsonResponse | Coroutine[Any, Any, JsonResponse]]

_SENDS: dict[tuple[str, str], Route] = {
    ("POST", "message/sendText"): send_routes.send_text,
    ("POST", "message/sendMedia"): send_routes.send_media,
    ("POST", "message/sendTemplate"): send_routes.send_template,
}
_WITH_INSTANCE: dict[tuple[str, str], Route] = {
    **_SENDS,
    ("GET", "instance/connect"): instance_routes.connect,
    ("GET", "instance/connectionState"): instance_routes.connection_state,
    ("POST", "instance/restart"): instance_routes.restart,
    ("DELETE", "instance/logout"): instance_routes.logout,
    ("DELETE", "instance/delete"): instance_routes.delete,
    ("POST", "chat/whatsappNumbers"): chat_routes.whatsapp_numbers,
    ("POST", "chat/findMessages"): chat_routes.find_messages,
    ("POST", "chat/findStatusMessage"): chat_routes.find_status_message,
    ("POST", "webhook/set"): webhook_routes.set_webhook,
    ("GET", "webhook/find"): webhook_routes.find_webhook,
}
_MANAGER = JsonResponse(200, b"<!doctype html><title>Evolution Manager</title>", HTML)


class Router:
    """Answers the requests of one world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __call__(self, request: HttpRequest) -> JsonResponse | Coroutine[Any, Any, JsonResponse]:
        path = request.path
        if path.startswith(control.PREFIX):
            return self._control(request)
        group, _, name = path[1:].rpartition("/")
        key = (request.method, group)
        is_send = key in _SENDS
        if is_send:
            self._world.ledger.arrived(request.headers.get("x-ifinu-worker", "-"))
        if self._world.faults.gateway is not Gateway.UP:
            return self._down(self._world.faults.gateway, is_send)
        if problem := bodies.read(request):
            return self._refused(is_send, "malformed", error(400, problem, "Internal Server Error"))
        route = _WITH_INSTANCE.get(key)
        if route is None or not name:
            return self._without_instance(request)
        if "%" in name:
            name = unquote(name)
        return self._guarded(route, request, name, is_send)

    def _guarded(
        self, route: Route, request: HttpRequest, name: str, is_send: bool
    ) -> JsonResponse | Coroutine[Any, Any, JsonResponse]:
        instance = self._world.instances.get(name)
        if instance is None:
            missing = error(404, [f'The "{name}" instance does not exist'])
            return self._refused(is_send, "unknown_instance", missing)
        given = request.headers.get("apikey", "")
        if not (_same(given, self._world.config.api_key) or _same(given, instance.token)):
            return self._refused(is_send, "unauthorized", error(401, "Unauthorized"))
        if request.query:
            name = dict(parse_qsl(request.query)).get("instanceName", name)
        return route(self._world, request, name)

    def _without_instance(self, request: HttpRequest) -> JsonResponse:
        where = (request.method, request.path)
        authorized = _same(request.headers.get("apikey", ""), self._world.config.api_key)
        if where == ("GET", "/"):
            return self._welcome()
        if where in (("GET", "/manager/"), ("GET", "/manager")):
            return _MANAGER
        if where == ("POST", "/instance/create"):
            if taken := instance_routes.name_problem(self._world, request):
                return taken
            return instance_routes.create(self._world, request, "") if authorized else error(401, "Unauthorized")
        if where == ("GET", "/instance/fetchInstances"):
            return instance_routes.fetch(self._world, request, "")
        return error(404, [f"Cannot {request.method} {request.path}"])

    def _control(self, request: HttpRequest) -> JsonResponse | Coroutine[Any, Any, JsonResponse]:
        if not _same(request.headers.get("apikey", ""), self._world.config.api_key):
            return error(401, "Unauthorized")
        if problem := bodies.read(request):
            return error(400, problem)
        return control.answer_control(self._world, request)

    def _down(self, gateway: Gateway, is_send: bool) -> JsonResponse | Coroutine[Any, Any, JsonResponse]:
        label = f"gateway_{gateway}"
        if gateway is Gateway.UNAVAILABLE:
            return self._refused(is_send, label, proxy_page(503))
        if gateway is Gateway.HANG:
            self._refused(is_send, label, RESET)
            return _silence(self._world.faults.hang_s)
        return self._refused(is_send, label, RESET)

    def _refused(self, is_send: bool, how: str, reply: JsonResponse) -> JsonResponse:
        if is_send:
            self._world.ledger.ended(how)
        return reply

    def _welcome(self) -> JsonResponse:
        return answer(
            200,
            {
                "status": 200,
                "message": "Welcome to the Evolution API, it is working!",
                "version": self._world.config.version,
                "clientName": self._world.config.client_name,
                "manager": f"{self._world.url}/manager",
                "documentation": "https://doc.evolution-api.com",
                "whatsappWebVersion": "2.3000.1028450369",
            },
        )


async def _silence(for_s: float) -> JsonResponse:
    await asyncio.sleep(for_s)
    return RESET


def _same(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode("utf-8", "replace"))
