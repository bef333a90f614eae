"""The Evolution API, one process of it or several: sending through it, and judging what it answers."""

from ifinu.gateway import flapping
from ifinu.gateway.client import Evolution
from ifinu.gateway.opening import Gateway, gateway_of
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
from ifinu.gateway.shards import Shards

__all__ = [
    "Channel",
    "Connection",
    "CreatedInstance",
    "Evolution",
    "FoundMessage",
    "FoundMessages",
    "Gateway",
    "Instance",
    "QrCode",
    "Sent",
    "Shards",
    "State",
    "Webhook",
    "WhatsAppNumber",
    "classify",
    "flapping",
    "gateway_of",
]
