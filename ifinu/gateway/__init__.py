"""The Evolution API, one process of it or several: sending through it, managing it, and judging what it answers."""

from ifinu.gateway import flaps
from ifinu.gateway.client import Evolution
from ifinu.gateway.factory import Gateway, gateway_of, instance_names_of, management_of
from ifinu.gateway.managed_shards import ManagedShards
from ifinu.gateway.management import Management
from ifinu.gateway.message_records import (
    ConnectionState,
    CreatedInstance,
    FoundMessage,
    FoundMessages,
    Instance,
    Integration,
    Pairing,
    QrCode,
    Webhook,
)
from ifinu.gateway.outcomes import Sent, classify
from ifinu.gateway.shards import Shards

__all__ = [
    "ConnectionState",
    "CreatedInstance",
    "Evolution",
    "FoundMessage",
    "FoundMessages",
    "Gateway",
    "Instance",
    "Integration",
    "ManagedShards",
    "Management",
    "Pairing",
    "QrCode",
    "Sent",
    "Shards",
    "Webhook",
    "classify",
    "flaps",
    "gateway_of",
    "instance_names_of",
    "management_of",
]
