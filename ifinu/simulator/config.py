"""The configuration of a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSIONS = ("2.3.6", "2.3.7")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorConfig:
    """
    How to start a simulator.

    Args:
        api_key: The global key; clients send it as `apikey`.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        instances: Names of the instances that exist and are connected from the start.
        business: Names of the instances of the channel WHATSAPP-BUSINESS that exist from the start.
        client_name: Name of this process, which holds the instances with the same `client_name`.
        version: The release to simulate: one of `VERSIONS`.
        load_ms: Time after a start during which it answers, without an instance in memory.
        boot_ms: Time after that during which its instances are `close`.
        pairing_ms: Time from a QR code until a phone scans it; None waits for `{"phone": "scans"}` (`control`).
        reconnect_ms: Time that a socket is `close` before the gateway reconnects it, and then `connecting`.
        qr_ms: Time after which WhatsApp replaces a QR code.
        ledger_file: JSON Lines file to which every real send is appended.
        webhook_url: Receiver of every event of every instance (the gateway's global webhook).
        webhook_secret: If it is set, `webhook_url` becomes the webhook of each initial instance, with this secret as
            its `jwt_key`; the global webhook cannot carry one.
        webhook_retry_s: First wait before a failed webhook is tried again; it doubles up to 300 s.
        keep_alive_s: Idle connections are closed after this time.
        script: Initial faults, as `Faults.apply` reads them.
        seed: Seed of the random numbers; None draws one.
    """

    api_key: str = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 0
    instances: tuple[str, ...] = ("ifinu",)
    business: tuple[str, ...] = ()
    client_name: str = "evolution_exchange"
    version: str = "2.3.7"
    load_ms: float = 0.0
    boot_ms: float = 0.0
    pairing_ms: float | None = None
    reconnect_ms: float = 300.0
    qr_ms: float = 20_000.0
    ledger_file: Path | None = None
    webhook_url: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    webhook_retry_s: float = 5.0
    keep_alive_s: float = 5.0
    script: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
