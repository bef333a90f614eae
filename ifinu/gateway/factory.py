"""The gateway that the settings name: one process, or several behind one name."""

from __future__ import annotations

from ifinu.errors import ConfigurationError
from ifinu.gateway.client import Evolution
from ifinu.gateway.routing import LocationStore
from ifinu.gateway.shards import Shards
from ifinu.settings import Settings

Gateway = Evolution | Shards


def gateway_of(
    config: Settings,
    *,
    worker: str,
    connect_timeout_s: float | None = None,
    read_timeout_s: float | None = None,
    memory: LocationStore | None = None,
) -> Gateway:
    """
    The gateway of these settings; nothing is connected yet.

    Args:
        worker: Name of the client, for the gateway's logs.
        memory: As for `Shards`.

    Raises:
        ConfigurationError: The key is missing, or the key or the URL cannot be used.
    """
    if config.evolution_api_key is None:
        raise ConfigurationError(
            "IFINU_EVOLUTION_API_KEY is not set: it is the key that the Evolution API was started with"
        )
    url, key = config.evolution_url, config.evolution_api_key.get_secret_value()
    connect_s = config.evolution_connect_timeout_s if connect_timeout_s is None else connect_timeout_s
    read_s = config.evolution_read_timeout_s if read_timeout_s is None else read_timeout_s
    if config.evolution_sharded:
        return Shards(url, key, connect_timeout_s=connect_s, read_timeout_s=read_s, worker=worker, memory=memory)
    return Evolution(url, key, connect_timeout_s=connect_s, read_timeout_s=read_s, worker=worker)
