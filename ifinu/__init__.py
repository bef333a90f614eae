"""
Billing notifications over WhatsApp, on Celery.

    from ifinu import send_notification
    send_notification.delay(kind="lembrete", phone="(77) 99861-6740", name="Maria", amount="1234.50",
                            due_date="2026-12-01", description="Mensalidade", id="inv-42:lembrete")

The names below are found when they are first used, so that importing the package touches nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ifinu.notification import Kind, Notification, Priority
    from ifinu.producer import Enqueued, RefusedNotification, cancel, enqueue_many
    from ifinu.worker.app import app
    from ifinu.worker.tasks import send_notification

__version__ = "0.1.0"

__all__ = [
    "Enqueued",
    "Kind",
    "Notification",
    "Priority",
    "RefusedNotification",
    "app",
    "cancel",
    "enqueue_many",
    "send_notification",
]

_HOMES = {
    "Enqueued": "ifinu.producer",
    "Kind": "ifinu.notification",
    "Notification": "ifinu.notification",
    "Priority": "ifinu.notification",
    "RefusedNotification": "ifinu.producer",
    "app": "ifinu.worker.app",
    "cancel": "ifinu.producer",
    "enqueue_many": "ifinu.producer",
    "send_notification": "ifinu.worker.tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
