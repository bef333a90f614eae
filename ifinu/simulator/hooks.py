"""`/webhook/set` and `/webhook/find`."""

from __future__ import annotations

from typing import Any

from ifinu.simulator.envelopes import Reply, answer, error, unreadable
from ifinu.simulator.server import Request
from ifinu.simulator.state import Instance, Webhook
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


def set_webhook(world: World, request: Request, name: str) -> Reply:
    """`POST /webhook/set/{instance}`."""
    hook = request.json.get("webhook")
    if not isinstance(hook, dict):
        return error(400, [['instance requires property "webhook"']])
    missing = [f'webhook requires property "{key}"' for key in ("enabled", "url") if key not in hook]
    if problems := missing + (webhook_problems(hook) if "events" in hook else []):
        return error(400, [problems])
    instance = world.held(name)
    if instance is None:
        return unreadable("setWebhook")
    if "events" not in hook:
        return error(500, "Cannot read properties of undefined (reading 'length')")
    instance.webhook = webhook_of(hook, instance)
    return answer(201, instance.webhook.row())


def find_webhook(world: World, _request: Request, name: str) -> Reply:
    """`GET /webhook/find/{instance}`."""
    instance = world.held(name)
    if instance is None:
        return unreadable("findWebhook")
    return answer(200, instance.webhook.row() if instance.webhook else None)


def webhook_problems(hook: Any) -> list[str]:
    """What the schema says of a webhook; nothing when it is good."""
    if not isinstance(hook, dict):
        return ["webhook is not of a type(s) object"]
    if not isinstance(hook.get("url"), str):
        return ['webhook requires property "url"']
    events = hook.get("events")
    if not isinstance(events, list):
        return ['webhook requires property "events"']
    return [
        f"webhook.events[{index}] is not one of enum values: {','.join(EVENTS)}"
        for index, event in enumerate(events)
        if event not in EVENTS
    ]


def webhook_of(hook: dict[str, Any], instance: Instance) -> Webhook:
    """The row of a good webhook; a disabled one keeps no events."""
    enabled = bool(hook["enabled"])
    return Webhook(
        url=hook["url"],
        enabled=enabled,
        events=list(hook["events"]) if enabled else [],
        headers=hook.get("headers"),
        by_events=bool(hook.get("byEvents", False)),
        base64=bool(hook.get("base64", False)),
        instance_id=instance.id,
    )
