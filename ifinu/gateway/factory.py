"""
The clients of the gateway that the settings name: one process, or several behind one name.

    gateway_of      `http_transport.py`       workers: send, look up, ask for a state
    management_of   `requests_transport.py`   `ifinu instance`, `doctor`, `status`, `top` and `metrics`; a worker that
                                              asks for the list of instances, or which process holds one
"""

from __future__ import annotations

import contextlib

from ifinu.errors import ConfigurationError
from ifinu.gateway.client import Evolution
from ifinu.gateway.managed_shards import ManagedShards
from ifinu.gateway.management import Management
from ifinu.gateway.routing import LocationStore
from ifinu.gateway.shards import Shards
from ifinu.settings import Settings

Gateway = Evolution | Shards


def gateway_of(config: Settings, *, worker: str, memory: LocationStore | None = None) -> Gateway:
    """
    The client for sending; nothing is connected yet.

    Args:
        worker: Name of the client, for the gateway's logs.
        memory: As for `Shards`.

    Raises:
        ConfigurationError: The key is missing, or the key or the URL cannot be used.
    """
    url, key = config.evolution_url, _key(config)
    connect_s, read_s = config.evolution_connect_timeout_s, config.evolution_read_timeout_s
    if config.evolution_sharded:
        return Shards(url, key, connect_timeout_s=connect_s, read_timeout_s=read_s, worker=worker, memory=memory)
    return Evolution(url, key, connect_timeout_s=connect_s, read_timeout_s=read_s, worker=worker)


def management_of(config: Settings, *, worker: str, connect_timeout_s: float, read_timeout_s: float) -> Management:
    """
    The client for everything else; nothing is connected yet.

    Args:
        worker: Name of the client, for the gateway's logs.

    Raises:
        ConfigurationError: The key is missing, or the key or the URL cannot be used.
    """
    kind = ManagedShards if config.evolution_sharded else Management
    return kind(
        config.evolution_url,
        _key(config),
        connect_timeout_s=connect_timeout_s,
        read_timeout_s=read_timeout_s,
        worker=worker,
    )


def instance_names_of(config: Settings, *, worker: str) -> frozenset[str]:
    """Same as `Management.instance_names`; a worker seldom asks."""
    connect_s, read_s = config.evolution_connect_timeout_s, config.evolution_read_timeout_s
    gateway = management_of(config, worker=worker, connect_timeout_s=connect_s, read_timeout_s=read_s)
    with contextlib.closing(gateway):
        return gateway.instance_names()


def _key(config: Settings) -> str:
    if config.evolution_api_key is None:
        raise ConfigurationError(
            "IFINU_EVOLUTION_API_KEY is not set: it is the key that the Evolution API was started with"
        )
    return config.evolution_api_key.get_secret_value()
