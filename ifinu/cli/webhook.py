"""`ifinu webhook`: receives the gateway's webhooks."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from ifinu import logs, settings, sockets, tracing
from ifinu.errors import ConfigurationError


def webhook(
    host: Annotated[
        str, typer.Option(help="Address to listen on; :: is every address, IPv6 and IPv4.")
    ] = sockets.EVERY,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")] = 8090,
    log_level: Annotated[str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")] = None,
) -> None:
    """
    Receive receipts, opt-outs and instance states from the gateway.

    It accepts a POST on any path with [bold]IFINU_WEBHOOK_SECRET[/bold] and answers when the
    event is durable in Redis. Otherwise it answers 503, and the gateway retries.
    Register it with [bold]ifinu instance webhook NAME[/bold]. Probes: /healthz (the process
    runs) and /readyz (Redis answers). Prometheus scrapes /metrics on the port
    [bold]IFINU_METRICS_PORT[/bold], if that is set.

    With [bold]IFINU_PAYMENT_SECRETS_FILE[/bold] it also receives the webhooks of payment providers, at
    /pagamentos/PROVIDER/TENANT, and answers when the payment is in PostgreSQL: docs/billing.md.

    To change the secret without loss, set the old one as
    [bold]IFINU_WEBHOOK_SECRET_PREVIOUS[/bold] until every instance has the new one.

    On SIGTERM it answers the requests under way and stops. You can run several.

    [bold]Examples[/bold]

    export IFINU_WEBHOOK_SECRET=$(openssl rand -hex 32)
    ifinu webhook
    ifinu webhook --host 127.0.0.1 --port 9000
    """
    config = settings.load(log_level=log_level)
    if config.webhook_secret is None:
        raise ConfigurationError(
            "IFINU_WEBHOOK_SECRET is not set: the gateway authenticates with it; make one with: openssl rand -hex 32"
        )
    secrets = [config.webhook_secret]
    if config.webhook_secret_previous is not None:
        secrets.append(config.webhook_secret_previous)
    from ifinu.metrics import endpoint
    from ifinu.receipts.http_server import server
    from ifinu.receipts.webhook_app import application

    try:
        listener = sockets.listen(host, port)
    except OSError as exc:
        raise ConfigurationError(f"{host}:{port}: {exc.strerror or exc}") from exc
    logs.configure(config.log_level, config.log_format, config.log_limit)
    series = endpoint.registry()
    receiver = application(
        secrets=[secret.get_secret_value() for secret in secrets],
        redis_url=config.redis_url.get_secret_value(),
        phone_key=None if config.phone_key is None else config.phone_key.get_secret_value(),
        registry=series,
        tracer=tracing.tracer(config.tracing, tracing.WEBHOOK),
        payment_secrets=config.payment_secrets_file,
        database_url=config.database_url.get_secret_value(),
    )
    # uvicorn raises the signal that stopped it again; without this, a clean stop would exit with a failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with endpoint.serving(series, config.metrics_port):
        server(receiver).run(sockets=[listener])
