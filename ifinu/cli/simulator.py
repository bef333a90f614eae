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
    latency_ms: Annotated[float, typer.Option(min=0, help="Duration of a send, in milliseconds.")] = 20.0,
    plays: Annotated[
        Literal["2.3.6", "2.3.7"], typer.Option(help="Release of the Evolution API to simulate.")
    ] = "2.3.7",
    pairing_ms: Annotated[
        float | None,
        typer.Option(min=0, help="Time until a shown QR code is scanned, in milliseconds; by default it never is."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Let every send succeed, for any number.")] = False,
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

    [bold]Examples[/bold]

    IFINU_EVOLUTION_API_KEY=secret ifinu simulator
    ifinu simulator --port 0 --api-key-file key --plain --latency-ms 200
    ifinu simulator --plays 2.3.6 --pairing-ms 5000
    """
    from ifinu.simulator import SimulatorConfig, run

    config = settings.load(webhook_url=webhook)
    secret = config.webhook_secret
    script: dict[str, Any] = {"latency_ms": latency_ms} | ({"endings": {}} if plain else {})
    try:
        run(
            SimulatorConfig(
                api_key=_key(api_key_file, config),
                host=host,
                port=port,
                instances=tuple(instance or [config.evolution_instance]),
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
