"""
`POST /pagamentos/{provider}/{tenant}`: webhooks of payment providers.

The status decides whether a provider tries again. All of them stop at 200; Asaas takes no other 2xx, and wants a body.
The body of a 400 says what is wrong with the event, and repeats no value.

    200   the event is in the database with its effect, or changes nothing
    400   it is not an event of the provider, and never will be
    401   it does not prove where it comes from
    404   there is no such provider, or the tenant has no secrets for it; the answer does not say which
    408   the body stopped coming
    503   the database, or the API that has to be asked, does not answer: the provider tries again

The database is asked in a few threads of their own, so that a slow one delays no webhook of the gateway.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import redis
import sqlalchemy.exc
import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ifinu.billing import charges
from ifinu.billing.payments import settlement
from ifinu.billing.payments.provider_events import InvalidEvent, PaymentRequest
from ifinu.billing.payments.provider_secrets import ProviderSecrets, SecretsFile
from ifinu.billing.payments.providers import MODELS, PROVIDERS, event_of
from ifinu.errors import ConfigurationError, LedgerUnavailable, ProviderError
from ifinu.ledger import engine as ledger_engine
from ifinu.metrics.payment_series import PaymentSeries
from ifinu.receipts.request_body import read_body

_THREADS = 4
_ANSWER_S = 20.0  # below the limits of the providers, and above that of a statement
_FLAGS = 1000

log = structlog.get_logger()


class PaymentReceiver:
    """
    Receives the webhooks of payment providers.

    Args:
        engine: The ledger's database, which is PostgreSQL.
        client: A Redis client with timeouts, for the messages that a payment withdraws.
    """

    def __init__(self, secrets: SecretsFile, engine: Engine, client: redis.Redis, series: PaymentSeries) -> None:
        self._secrets = secrets
        self._engine = engine
        self._client = client
        self._series = series
        self._threads = ThreadPoolExecutor(_THREADS, "payments")

    async def receive(self, request: Request) -> Response:
        started = monotonic()
        status, words = await self._answer(request)
        self._series.answered(status, monotonic() - started)
        if status == 200:
            return Response(f"{words}\n", media_type="text/plain")
        if status == 404:
            raise HTTPException(404, headers={"Connection": "close"})
        # The rest of its body may be unread.
        return Response(f"{words}\n" if words else None, status, {"Connection": "close"}, "text/plain")

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        self._engine.dispose()

    async def _answer(self, request: Request) -> tuple[int, str]:
        """The status, and the words of the body."""
        provider, tenant = request.path_params["provider"], request.path_params["tenant"]
        secrets = self._secrets.of(provider, tenant)
        if secrets is None:
            log.warning("ifinu.payment.refused", reason="unknown_address")  # a stranger's words are not logged
            self._series.refused("", "unknown_address")
            return 404, ""
        try:
            body = await read_body(request)
        except TimeoutError:
            return 408, ""
        if body is None:
            self._refused(provider, tenant, "too_large")
            return 400, "the body is too large"
        client = request.client
        webhook = PaymentRequest(
            dict(request.headers), body, dict(request.query_params), "" if client is None else client.host
        )
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await loop.run_in_executor(self._threads, self._settle, provider, tenant, secrets, webhook)
        except TimeoutError:
            log.error("ifinu.payment.not_recorded", provider=provider, tenant=tenant, error="TimeoutError")
            return 503, ""

    def _settle(self, provider: str, tenant: str, secrets: ProviderSecrets, webhook: PaymentRequest) -> tuple[int, str]:
        now = datetime.now(UTC)
        if (refusal := PROVIDERS[provider].refusal(secrets, webhook, now)) is not None:
            self._refused(provider, tenant, refusal)
            return 401, ""
        try:
            event = event_of(provider, secrets, webhook)
            with self._engine.begin() as connection:
                settled = settlement.apply(connection, tenant, event, now)
        except InvalidEvent as exc:
            log.warning("ifinu.payment.not_an_event", provider=provider, tenant=tenant, reason=str(exc))
            self._series.refused(provider, "not_an_event")
            return 400, str(exc)
        except ProviderError as exc:
            log.error("ifinu.payment.not_asked", provider=provider, tenant=tenant, error=str(exc))
            return 503, ""
        except (LedgerUnavailable, sqlalchemy.exc.SQLAlchemyError) as exc:
            log.error("ifinu.payment.not_recorded", provider=provider, tenant=tenant, error=type(exc).__name__)
            return 503, ""
        self._series.event(provider, event.effect, settled.state)
        log.info(
            "ifinu.payment.event",
            provider=provider, tenant=tenant, name=event.event, effect=event.effect.value, state=settled.state,
            note=settled.note, charge=settled.charge, withdrawn=len(settled.cancelled),
        )  # fmt: skip
        if settled.state == settlement.APPLIED:
            self._apply_flags(now)
        return 200, "ok"

    def _apply_flags(self, now: datetime) -> None:
        """Cancel in Redis what the event withdrew; a scheduler does so later if this fails."""
        try:
            with self._engine.begin() as connection:
                charges.apply_cancel_flags(connection, self._client, _FLAGS, now)
        except (redis.RedisError, OSError, LedgerUnavailable, sqlalchemy.exc.SQLAlchemyError) as exc:
            log.warning("ifinu.payment.flags_wait", error=type(exc).__name__)

    def _refused(self, provider: str, tenant: str, reason: str) -> None:
        log.warning("ifinu.payment.refused", provider=provider, tenant=tenant, reason=reason)
        self._series.refused(provider, reason)


def receiver_of(path: Path, database_url: str, client: redis.Redis, registry: CollectorRegistry) -> PaymentReceiver:
    """
    Make the receiver.

    Args:
        path: As `IFINU_PAYMENT_SECRETS_FILE`.

    Raises:
        ConfigurationError: The file cannot be used, or the database is not PostgreSQL.
    """
    engine = ledger_engine.connect(database_url, create=False)
    if engine.dialect.name != "postgresql":
        raise ConfigurationError(
            "IFINU_PAYMENT_SECRETS_FILE is set, and payments need PostgreSQL: set IFINU_DATABASE_URL to it"
        )

    return PaymentReceiver(SecretsFile(path, MODELS), engine, client, PaymentSeries(registry))
