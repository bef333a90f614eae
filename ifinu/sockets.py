"""Listening sockets, on one address or on all addresses of this machine, IPv6 and IPv4."""

from __future__ import annotations

import errno
import socket
from typing import Any

EVERY = "::"  # all addresses of both families, or of IPv4 where there is no IPv6
_EVERY_IPV4 = "0.0.0.0"  # noqa: S104 - `EVERY` without IPv6

_BACKLOG = 1024
_HELD = (errno.EADDRINUSE, errno.EACCES)  # these concern the port in either family


def listen(host: str, port: int) -> socket.socket:
    """
    Bind a port and listen on it.

    Args:
        host: IPv4 or IPv6 address, or a name; `EVERY` for all addresses of this machine.
        port: 0 picks a free one.

    Raises:
        OSError: The port is taken or forbidden, or the address is not one of this machine.
    """
    if host != EVERY:
        return _listen(*_address(host, port))
    try:
        return _listen(socket.AF_INET6, (EVERY, port))
    except OSError as exc:
        if exc.errno in _HELD:
            raise
        return _listen(socket.AF_INET, (_EVERY_IPV4, port))


def url(listener: socket.socket) -> str:
    """The socket's `http://host:port`, as it was bound."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _address(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return family, address


def _listen(family: socket.AddressFamily, address: Any) -> socket.socket:
    # asyncio turns Nagle's algorithm off only if the protocol is named; with it, a body waits 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Only `EVERY` takes IPv4 too, whatever the system's default is.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != EVERY)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
