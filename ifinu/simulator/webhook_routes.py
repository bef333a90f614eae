"""`/webhook/set` and `/webhook/find`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ifinu.simulator.envelopes import JsonResponse, answer, error, unreadable
from ifinu.simulator.server import HttpRequest
from ifinu.simulator.state import SimulatedInstance, WebhookSettings
from ifinu.simulator.world import World

EVENTS = (
    "APPLICATION_STARTUP",
    "QRCODE_UPDATED",
    "MESSAGES_SET",
    "MESSAGES_UPSERT",
    "MESSAGES_EDITED",
    "MESSAGES_UPDATE",
    "MESSAGES_DELETE",
    "SEND_MESSAGE",
    "SEND_MESSAGE_UPDATE",
    "CONTACTS_SET",
    "CONTACTS_UPSERT",
    "CONTACTS_UPDATE",
    "PRESENCE_UPDATE",
    "CHATS_SET",
    "CHATS_UPSERT",
    "CHATS_UPDATE",
    "CHATS_DELETE",
    "GROUPS_UPSERT",
    "GROUP_UPDATE",
    "GROUP_PARTICIPANTS_UPDATE",
    "CONNECTION_UPDATE",
    "LABELS_EDIT",
    "LABELS_ASSOCIATION",
    "CALL",
    "TYPEBOT_START",
    "TYPEBOT_CHANGE_STATUS",
    "REMOVE_INSTANCE",
    "LOGOUT_INSTANCE",
    "INSTANCE_CREATE",
    "INSTANCE_DELETE",
    "STATUS_INSTANCE",
)


def set_webhook(world: World, request: HttpRequest, name: str) -> JsonResponse:
    """`POST /webhook/set/{instance}`."""
    hook = request.json.get("webhook")
    if not isinstance(hook, dict):
        return error(400, [['instance requires property "webhook"']])
    missing = [f'webhook requires property "{key}"' for key in ("enabled", "url") if key not in hook]
    if problems := webhook_problems(hook) + missing:
        return error(400, [problems])
    if hook["enabled"] and "events" not in hook:
        return unreadable("length")
    instance = world.held(name)
    if instance is None:
        return unreadable("instanceId")
    instance.webhook = webhook_of(hook, instance)
    return answer(201, instance.webhook.row())


def find_webhook(world: World, _request: HttpRequest, name: str) -> JsonResponse:
    """`GET /webhook/find/{instance}`; `null` on the wrong shard, even if a webhook is set."""
    instance = world.held(name)
    return answer(200, instance.webhook.row() if instance and instance.webhook else None)


def webhook_problems(hook: Any) -> list[str]:
    """The schema's errors for a webhook; empty when it is valid."""
    if not isinstance(hook, dict):
        return ["webhook is not of a type(s) object"]
    problems = [] if isinstance(hook.get("url", ""), str) else ["webhook.url is not of a type(s) string"]
    events = hook.get("events", [])
    if not isinstance(events, list):
        return [*problems, "webhook.events is not of a type(s) array"]
    return problems + [
        f"webhook.events[{index}] is not one of enum values: {','.join(EVENTS)}"
        for index, event in enumerate(events)
        if event not in EVENTS
    ]


def webhook_of(hook: dict[str, Any], instance: SimulatedInstance) -> WebhookSettings:
    """
    The row of a valid webhook. A disabled one keeps no events, no events mean all events, and absent fields keep their
    values.
    """
    before = instance.webhook or WebhookSettings(hook["url"], True, [], None, False, False, instance.id)
    enabled = bool(hook["enabled"])
    return replace(
        before,
        url=hook["url"],
        enabled=enabled,
        events=list(hook["events"] or EVENTS) if enabled else [],
        headers=hook.get("headers", before.headers),
        by_events=bool(hook.get("byEvents", before.by_events)),
        base64=bool(hook.get("base64", before.base64)),
    )
