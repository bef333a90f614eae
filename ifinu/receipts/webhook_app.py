"""
The webhook application: `POST` to any path, `GET /healthz`, `GET /readyz`.

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

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from time import monotonic, time_ns

import redis
import redis.asyncio
import structlog
from prometheus_client import CollectorRegistry
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ifinu import phone as phones
from ifinu.metrics.webhook_series import WebhookSeries
from ifinu.receipts.auth import WebhookAuth
from ifinu.receipts.optout_replies import ReplyHandler
from ifinu.receipts.receipt_spans import Follower, following
from ifinu.receipts.sink import Sink
from ifinu.receipts.webhook_events import ConnectionUpdate, Inbound, InvalidWebhook, Receipt, WebhookEvent, read
from ifinu.tracing import OFF, Tracer

MAX_BODY_BYTES = 1_000_000

_BODY_S = 10.0
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
) -> Starlette:
    """
    Make the application; it connects with the first request.

    Args:
        secrets: The secrets that are accepted; see `WebhookAuth`.
        redis_url: As `IFINU_REDIS_URL`.
        phone_key: As `IFINU_PHONE_KEY`, or None.
        registry: Registers its metrics; by default a new registry.
        tracer: Records the spans of receipts.
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
    series = WebhookSeries(
        registry or CollectorRegistry(), lambda: (replies.taken, replies.unresolved), lambda: replies.unclear
    )
    return _Webhook(WebhookAuth(*secrets), Sink(client, replies), series, follower).application()


class _Webhook:
    def __init__(self, auth: WebhookAuth, sink: Sink, series: WebhookSeries, follower: Follower | None) -> None:
        self._auth = auth
        self._sink = sink
        self._series = series
        self._follower = follower
        self._sharing: set[str] = set()

    def application(self) -> Starlette:
        routes = [
            Route("/healthz", self._healthz, methods=["GET"]),
            Route("/readyz", self._readyz, methods=["GET"]),
            Route("/{event:path}", self._receive, methods=["POST"]),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._sink.close)
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
            async with asyncio.timeout(_BODY_S):
                body = await _body(request)
        except (TimeoutError, ClientDisconnect):
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


def _taken() -> Response:
    return Response("ok\n", media_type="text/plain")  # some proxies accept only a 200 with a body


def _refused(refusal: str) -> Response:
    log.warning("ifinu.webhook.refused", reason=refusal)
    return Response(status_code=401, headers={"Connection": "close"})  # the rest of its body is not read


async def _body(request: Request) -> bytes | None:
    """
    Read the body; None if it is too large.

    Raises:
        ClientDisconnect: The client closed the connection before its end.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)
