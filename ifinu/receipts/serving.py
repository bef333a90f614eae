"""The webhook application on a socket."""

from __future__ import annotations

import socket

import uvicorn
from starlette.applications import Starlette

from ifinu.receipts.door import Door

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
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
    )[0]
    # Named as TCP, or asyncio leaves Nagle's algorithm on, and an answer with a body waits 40 ms for an ACK.
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener


def server(application: Starlette) -> uvicorn.Server:
    """
    Make the server; `run(sockets=[…])` serves until SIGTERM or SIGINT, then finishes what is under way.

    It logs no requests: the standard library's logging, as the process has set it up, gets the rest.
    """
    config = uvicorn.Config(
        application,
        http=Door,
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
