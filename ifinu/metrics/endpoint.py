"""`/metrics` of a process, served by a separate thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from importlib import metadata
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from ifinu import sockets
from ifinu.errors import ConfigurationError


class _Server(ThreadingWSGIServer):
    """Takes its port as the rest of ifinu does: on both families, which `start_http_server` leaves to the system."""

    def server_bind(self) -> None:
        self.socket.close()
        host, port = str(self.server_address[0]), int(self.server_address[1])
        self.socket = sockets.listen(host, port)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = host, int(self.server_address[1])
        self.setup_environ()

    def server_activate(self) -> None:
        """Nothing to do: `server_bind` listens."""


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Log no requests."""


def registry() -> CollectorRegistry:
    """A registry with the series of every process: version, memory and CPU time."""
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    info = Gauge("ifinu_build_info", "The version that runs.", ("version",), registry=made)
    info.labels(metadata.version("ifinu")).set(1)
    return made


@contextlib.contextmanager
def serving(series: CollectorRegistry, port: int | None, host: str = sockets.EVERY) -> Iterator[int | None]:
    """
    Serve series over HTTP until the end of the block.

    Args:
        port: TCP port; 0 takes a free one, None serves nothing.

    Yields:
        The port.

    Raises:
        ConfigurationError: The port is taken or forbidden.
    """
    if port is None:
        yield None
        return
    try:
        server = _Server((host, port), _Handler)
    except OSError as exc:
        raise ConfigurationError(
            f"IFINU_METRICS_PORT: {host}:{port}: {exc.strerror or exc}; choose another, or leave it unset"
        ) from exc
    server.set_app(make_wsgi_app(series))
    thread = threading.Thread(target=server.serve_forever, name="ifinu-metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
