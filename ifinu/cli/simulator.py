"""`ifinu simulator`: a simulated Evolution API that sends nothing and remembers every request."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ifinu import settings
from ifinu.errors import ConfigurationError


def simulator(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File with the API key that clients must send; IFINU_EVOLUTION_API_KEY by default."),
    ] = None,
    instance: Annotated[
        list[str] | None,
        typer.Option(help="Name of a connected instance; repeatable. IFINU_EVOLUTION_INSTANCE by default."),
    ] = None,
    business: Annotated[
        list[str] | None, typer.Option(help="Name of an instance of WHATSAPP-BUSINESS; repeatable.")
    ] = None,
    latency_ms: Annotated[float, typer.Option(min=0, help="Duration of a send, in milliseconds.")] = 20.0,
    plays: Annotated[
        Literal["2.3.6", "2.3.7"], typer.Option(help="Release of the Evolution API to simulate.")
    ] = "2.3.7",
    pairing_ms: Annotated[
        float | None,
        typer.Option(min=0, help="Time until a shown QR code is scanned, in milliseconds; by default it never is."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Let every send succeed, for any number.")] = False,
    gap_ms: Annotated[
        float | None, typer.Option(min=0, help="Throttle an instance with a shorter gap between two sends.")
    ] = None,
    a_minute: Annotated[
        int | None, typer.Option(min=0, help="Throttle an instance that sends more than this in a minute.")
    ] = None,
    new_chats: Annotated[
        int | None, typer.Option(min=0, help="Refuse the new chats of an instance beyond this number in 24 hours.")
    ] = None,
    ban_after: Annotated[
        int | None, typer.Option(min=1, help="Ban an instance that breaks these rules this many times in 24 hours.")
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="How many times as fast the times of these rules run.")] = 1.0,
    ledger: Annotated[Path | None, typer.Option(help="Append every send to this JSON Lines file.")] = None,
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", help="URL that gets its instances' events; IFINU_WEBHOOK_URL by default."),
    ] = None,
) -> None:
    """
    Simulate an Evolution API: it answers like the real one and sends nothing.

    The last four digits of a number decide the outcome of a send: 0001 is not on
    WhatsApp, 0002 fails twice, 0003 always fails. It sends [bold]IFINU_WEBHOOK_SECRET[/bold] to
    the webhook if that is set.

    [bold]--gap-ms[/bold], [bold]--a-minute[/bold] and [bold]--new-chats[/bold] are rules of WhatsApp: an instance that
    is too fast gets rate-overlimit, and new chats beyond the number get the receipt
    ERROR. With [bold]--ban-after[/bold] one that goes on is banned.

    [bold]Examples[/bold]

    IFINU_EVOLUTION_API_KEY=secret ifinu simulator
    ifinu simulator --port 0 --api-key-file key --plain --latency-ms 200
    ifinu simulator --plays 2.3.6 --pairing-ms 5000
    ifinu simulator --gap-ms 5000 --new-chats 60 --ban-after 10
    """
    from ifinu.simulator import SimulatorConfig, run
    from ifinu.simulator.ban_rules import for_all

    config = settings.load(webhook_url=webhook)
    secret = config.webhook_secret
    script: dict[str, Any] = {"latency_ms": latency_ms, "speed": speed} | ({"endings": {}} if plain else {})
    script |= for_all(
        {"gap_ms": gap_ms, "a_minute": a_minute, "new_chats": new_chats, "ban_after": ban_after},
    )
    try:
        run(
            SimulatorConfig(
                api_key=_key(api_key_file, config),
                host=host,
                port=port,
                instances=tuple(instance or [config.evolution_instance]),
                business=tuple(business or ()),
                version=plays,
                pairing_ms=pairing_ms,
                ledger_file=ledger,
                webhook_url=config.webhook_url,
                webhook_secret=None if secret is None else secret.get_secret_value(),
                script=script,
            )
        )
    except OSError as exc:
        raise ConfigurationError(f"{host}:{port}: {exc.strerror or exc}") from exc


def _key(file: Path | None, config: settings.Settings) -> str:
    if file is not None:
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigurationError(f"--api-key-file: {exc}") from exc
        if not key:
            raise ConfigurationError(f"--api-key-file: {file} is empty")
        return key
    if config.evolution_api_key is None:
        raise ConfigurationError(
            "the API key that clients must send is not set: give --api-key-file or set IFINU_EVOLUTION_API_KEY"
        )
    return config.evolution_api_key.get_secret_value()
