"""The Evolution API: sending through it, and judging what it answers."""

from ifinu.gateway.client import Evolution
from ifinu.gateway.outcomes import Sent, classify
from ifinu.gateway.records import (
    Channel,
    Connection,
    CreatedInstance,
    FoundMessage,
    FoundMessages,
    Instance,
    QrCode,
    State,
    Webhook,
    WhatsAppNumber,
)

__all__ = [
    "Channel",
    "Connection",
    "CreatedInstance",
    "Evolution",
    "FoundMessage",
    "FoundMessages",
    "Instance",
    "QrCode",
    "Sent",
    "State",
    "Webhook",
    "WhatsAppNumber",
    "classify",
]
