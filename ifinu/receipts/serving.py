"""The webhook application on a socket."""

from __future__ import annotations

import socket

import uvicorn
from starlette.applications import Starlette

_IDLE_S = 75  # longer than clients keep a connection that is not in use, so that they do not post into a closed one
_STOP_S = 10  # for what is under way at the end; Redis is given less


def listen(host: str, port: int) -> socket.socket:
    """
    Take a port.

    Args:
        host: Address, v4 or v6, or a name.
        port: 0 takes a free one.

    Raises:
        OSError: It is taken, forbidden, or no address of this machine.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server((address[0], address[1]), family=family, backlog=1024)


def server(application: Starlette) -> uvicorn.Server:
    """
    Make the server; `run(sockets=[…])` serves until SIGTERM or SIGINT, then finishes what is under way.

    It logs no requests: the standard library's logging, as the process has set it up, gets the rest.
    """
    config = uvicorn.Config(
        application,
        http="httptools",
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
