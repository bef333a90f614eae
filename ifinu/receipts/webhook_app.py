"""
The webhook application: `POST` to any path, `GET /healthz`, `GET /readyz`. Below `/pagamentos/` are the webhooks of
payment providers (`payment_route.py`); the rest of this page is about those of the gateway.

The status decides whether the gateway tries again: not after a 2xx, 400, 401, 403, 404 or 422, and ten times in twenty
minutes after any other. So:

    200   the webhook is durable in Redis, or holds nothing to record
    200   it is too large: a photo or a document with its content
    400   it is not JSON, or not an event, and never will be
    401   without a valid secret, or with that of another instance
    408   the body stopped coming
    503   Redis did not take it: the gateway tries again

The path is ignored, since the body names its event: the gateway may add `/messages-update` and the like, a proxy may
leave its prefix, and a 404 would lose the webhook for good.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from time import monotonic, time_ns
from typing import TYPE_CHECKING

import redis
import redis.asyncio
import structlog
from prometheus_client import CollectorRegistry
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ifinu import phone as phones
from ifinu.metrics.webhook_series import WebhookSeries
from ifinu.receipts.auth import WebhookAuth
from ifinu.receipts.optout_replies import ReplyHandler
from ifinu.receipts.receipt_spans import Follower, following
from ifinu.receipts.request_body import read_body
from ifinu.receipts.sink import Sink
from ifinu.receipts.webhook_events import ConnectionUpdate, Inbound, InvalidWebhook, Receipt, WebhookEvent, read
from ifinu.tracing import OFF, Tracer

if TYPE_CHECKING:
    from ifinu.receipts.payment_route import PaymentReceiver

_CONNECT_S, _ANSWER_S = 1.0, 2.0
_CONNECTIONS = 32
_MOST_NAMED = 1000

log = structlog.get_logger()


def application(
    *,
    secrets: Sequence[str],
    redis_url: str,
    phone_key: str | None,
    registry: CollectorRegistry | None = None,
    tracer: Tracer = OFF,
    payment_secrets: Path | None = None,
    database_url: str | None = None,
) -> Starlette:
    """
    Make the application; it connects with the first request.

    Args:
        secrets: The secrets that are accepted; see `WebhookAuth`.
        redis_url: As `IFINU_REDIS_URL`.
        phone_key: As `IFINU_PHONE_KEY`, or None.
        registry: Registers its metrics; by default a new registry.
        tracer: Records the spans of receipts.
        payment_secrets: As `IFINU_PAYMENT_SECRETS_FILE`; None for no webhooks of payment providers.
        database_url: As `IFINU_DATABASE_URL`, which they need.

    Raises:
        ConfigurationError: The file or the URL cannot be used.
    """
    # One immediate retry for a connection that Redis has closed meanwhile; none if Redis does not answer.
    lost = (redis.ConnectionError,)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        redis_url,
        max_connections=_CONNECTIONS,
        timeout=_ANSWER_S,
        socket_connect_timeout=_CONNECT_S,
        socket_timeout=_ANSWER_S,
        retry=AsyncRetry(NoBackoff(), 1, lost),
    )
    blocking = redis.Redis.from_url(
        redis_url, socket_connect_timeout=_CONNECT_S, socket_timeout=_ANSWER_S, retry=Retry(NoBackoff(), 1, lost)
    )
    replies = ReplyHandler(blocking, phone_key)
    client = redis.asyncio.Redis.from_pool(pool)
    follower = Follower(client, tracer) if tracer.on else None
    registry = registry or CollectorRegistry()
    series = WebhookSeries(registry, lambda: (replies.taken, replies.unresolved), lambda: replies.unclear)
    payments = None
    if payment_secrets is not None:
        from ifinu.receipts.payment_route import receiver_of  # with the database's libraries

        payments = receiver_of(payment_secrets, database_url or "", blocking, registry)
    return _Webhook(WebhookAuth(*secrets), Sink(client, replies), series, follower, payments).application()


class _Webhook:
    def __init__(
        self,
        auth: WebhookAuth,
        sink: Sink,
        series: WebhookSeries,
        follower: Follower | None,
        payments: PaymentReceiver | None,
    ) -> None:
        self._auth = auth
        self._sink = sink
        self._series = series
        self._follower = follower
        self._payments = payments
        self._sharing: set[str] = set()

    def application(self) -> Starlette:
        payments = []
        if self._payments is not None:
            payments.append(Route("/pagamentos/{provider}/{tenant}", self._payments.receive, methods=["POST"]))
        routes = [
            Route("/healthz", self._healthz, methods=["GET"]),
            Route("/readyz", self._readyz, methods=["GET"]),
            *payments,
            Route("/pagamentos/{rest:path}", _nothing_here, methods=["POST"]),  # it is not the gateway's
            Route("/{event:path}", self._receive, methods=["POST"]),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._sink.close)
            if self._payments is not None:
                stack.push_async_callback(self._payments.close)  # before Redis' client is closed
            if self._follower is not None:
                await stack.enter_async_context(following(self._follower))
            yield

    async def _healthz(self, _: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def _readyz(self, _: Request) -> Response:
        if await self._sink.is_redis_there():
            return Response("ok\n", media_type="text/plain")
        return Response("Redis does not answer\n", 503, media_type="text/plain")

    async def _receive(self, request: Request) -> Response:
        started = monotonic()
        response = await self._answer(request)
        self._series.answered(response.status_code, monotonic() - started)
        return response

    async def _answer(self, request: Request) -> Response:
        auth = self._auth.check(request.headers)
        if auth.refusal:
            return _refused(auth.refusal)
        try:
            body = await read_body(request)
        except TimeoutError:
            return Response(status_code=408)
        if body is None:
            log.info("ifinu.webhook.too_large")
            return _taken()
        try:
            events = read(body)
        except InvalidWebhook as exc:
            log.warning("ifinu.webhook.not_a_hook", reason=str(exc))
            return Response(status_code=400)
        if auth.instance is not None and any(event.instance != auth.instance for event in events):
            return _refused("another_instance")
        if auth.instance is None:
            self._note_shared_secret(events)
        started_ns = time_ns()
        try:
            await self._sink.record(events)
        except (redis.RedisError, OSError) as exc:  # TimeoutError is an OSError
            log.error("ifinu.webhook.not_recorded", error=type(exc).__name__)
            return Response(status_code=503)
        for event in events:
            match event:
                case Receipt():
                    self._series.receipt(event.status)
                    self._series.posted(event.posted)
                    if self._follower is not None:
                        self._follower.note(event, started_ns, time_ns())
                case ConnectionUpdate():
                    self._series.connection(event.state)
                case Inbound():
                    self._series.wrote(event.at)
        return _taken()

    def _note_shared_secret(self, events: Sequence[WebhookEvent]) -> None:
        """Log once that an instance still uses the secret shared by all."""
        for event in events:
            if event.instance not in self._sharing and len(self._sharing) < _MOST_NAMED:
                self._sharing.add(event.instance)
                log.info("ifinu.webhook.shared_secret", instance=phones.mask_in(event.instance))


async def _nothing_here(_: Request) -> Response:
    raise HTTPException(404, headers={"Connection": "close"})


def _taken() -> Response:
    return Response("ok\n", media_type="text/plain")  # some proxies accept only a 200 with a body


def _refused(refusal: str) -> Response:
    log.warning("ifinu.webhook.refused", reason=refusal)
    return Response(status_code=401, headers={"Connection": "close"})  # the rest of its body is not read
