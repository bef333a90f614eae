"""The webhook application as a server."""

from __future__ import annotations

import uvicorn
from starlette.applications import Starlette

from ifinu.receipts.connection_limits import LimitedProtocol

_IDLE_S = 75  # longer than clients keep idle connections, so that they do not post into a closed one
_STOP_S = 10  # for requests under way at the end; the limit of Redis' answers is less


def server(application: Starlette) -> uvicorn.Server:
    """
    Make the server; `run(sockets=[…])` serves until SIGTERM or SIGINT, then finishes the requests under way.

    It logs no requests. Other messages go to the standard library's logging, as the process configured it.
    """
    config = uvicorn.Config(
        application,
        http=LimitedProtocol,
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_STOP_S,
    )
    return uvicorn.Server(config)
