"""`ifinu simulator`: an Evolution API that sends nothing and remembers everything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ifinu import settings
from ifinu.errors import ConfigurationError


def simulator(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with the key that clients must send. Else IFINU_EVOLUTION_API_KEY.")
    ] = None,
    instance: Annotated[
        list[str] | None, typer.Option(help="Connected instance; repeatable. Else IFINU_EVOLUTION_INSTANCE.")
    ] = None,
    latency_ms: Annotated[float, typer.Option(min=0, help="Time that a send takes.")] = 20.0,
    plays: Annotated[Literal["2.3.6", "2.3.7"], typer.Option(help="The release that it plays.")] = "2.3.7",
    pairing_ms: Annotated[
        float | None, typer.Option(min=0, help="Time until a phone scans a code that is shown. Else none does.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Every send works, whatever the number ends in.")] = False,
    ledger: Annotated[Path | None, typer.Option(help="JSON Lines file that gets every send.")] = None,
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Receives the events of its instances. Else IFINU_WEBHOOK_URL."),
    ] = None,
) -> None:
    """
    Simulate an Evolution API: it answers as the real one and sends nothing.

    What a number ends in decides what becomes of it: 0001 is not on WhatsApp,
    0002 fails twice, 0003 always. Where [bold]IFINU_WEBHOOK_SECRET[/bold] is set, it is shown
    to the webhook.

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
        raise ConfigurationError("choose the key that clients must send: --api-key-file or IFINU_EVOLUTION_API_KEY")
    return config.evolution_api_key.get_secret_value()
