"""`/metrics` of a process, answered by a thread of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import metadata

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, start_http_server

from ifinu.errors import ConfigurationError

EVERYWHERE = "0.0.0.0"  # noqa: S104 - Prometheus comes from another host; nothing here is personal


def registry() -> CollectorRegistry:
    """A registry with what every process tells: its version, memory and CPU time."""
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    info = Gauge("ifinu_build_info", "The version that runs.", ("version",), registry=made)
    info.labels(metadata.version("ifinu")).set(1)
    return made


@contextlib.contextmanager
def serving(series: CollectorRegistry, port: int | None, host: str = EVERYWHERE) -> Iterator[int | None]:
    """
    Serve them until the end of the block.

    Args:
        series: What to serve.
        port: Where; 0 takes a free one, None serves nothing.
        host: Address to listen on.

    Yields:
        The port.

    Raises:
        ConfigurationError: It is taken or forbidden.
    """
    if port is None:
        yield None
        return
    try:
        server, thread = start_http_server(port, addr=host, registry=series)
    except OSError as exc:
        raise ConfigurationError(
            f"IFINU_METRICS_PORT: {host}:{port}: {exc.strerror or exc}; choose another, or leave it unset"
        ) from exc
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
