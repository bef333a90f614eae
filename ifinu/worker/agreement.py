"""
The agreement between Celery's configuration and our settings.

Celery takes its broker from many places: `CELERY_BROKER_URL` and two more variables, `celery -b`, `BROKER_URL`, and
code that changes `app.conf`. Leases and claims use our settings only. A worker or producer with its messages at one
Redis and its claims at another would lose messages, so Celery's effective configuration is compared with the settings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import click
import kombu

from ifinu import urls
from ifinu.errors import ConfigurationError
from ifinu.worker.pool import TaskPool

# A queue that loses nothing depends on these, beside the connection; other settings of Celery may be changed.
_KEPT = (
    "broker_transport",
    "broker_transport_options",
    "task_default_queue",
    "task_default_exchange",
    "task_default_routing_key",
    "task_create_missing_queues",
    "task_serializer",
    "accept_content",
    "worker_consumer",
)


class Disagreement(ConfigurationError, click.ClickException):  # noqa: N818 - as the others of `errors.py`
    """Celery's command line shows it in one line and exits with 2."""

    exit_code = 2


def check_connection(made: kombu.Connection, ours: kombu.Connection, url: str) -> None:
    """
    Check that a connection leads to the Redis of the settings.

    Args:
        made: Celery's connection.
        ours: The connection by the settings alone.
        url: `IFINU_REDIS_URL`.

    Raises:
        Disagreement: It leads elsewhere.
    """
    if made.alt or _place(made) != _place(ours):
        where = f"{_scheme(made)}://{made.hostname}:{made.port or 6379}/{str(made.virtual_host or 0).strip('/')}"
        other = "several servers" if made.alt else urls.shown(where)
        beside = " (with another login, TLS option or transport)" if other == urls.shown(url) else ""
        raise Disagreement(
            f"Celery is configured for the broker {other}{beside}, by app.conf, `celery -b` or the environment, and "
            f"IFINU_REDIS_URL names {urls.shown(url)}: ifinu uses one Redis; set IFINU_REDIS_URL alone"
        )


def check_configuration(conf: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """
    Check that the settings the queue depends on are unchanged.

    Args:
        conf: Celery's settings, `app.conf`.
        ours: The settings as ifinu made them.

    Raises:
        Disagreement: Some were changed; it names them.
    """
    if changed := sorted(_changed(conf, ours)):
        raise Disagreement(
            f"Celery's {', '.join(changed)} {'was' if len(changed) == 1 else 'were'} changed, and messages would be "
            "lost: leave to ifinu how its application is configured"
        )


def check_result_backend(celerys: object, ours: str | None) -> None:
    """
    Check that Celery would keep results at the backend of the settings.

    Raises:
        Disagreement: It would keep them elsewhere.
    """
    if (celerys or None) != ours:
        raise Disagreement(
            f"Celery is configured for the result backend {_backend(celerys)}, by app.conf or CELERY_RESULT_BACKEND, "
            f"and IFINU_RESULT_BACKEND {'is not set' if ours is None else f'names {_backend(ours)}'}: "
            "set IFINU_RESULT_BACKEND alone"
        )


def check_worker(pool: type) -> None:
    """
    Check that a worker's pool and configuration can keep the guarantees.

    Args:
        pool: The class of its pool.

    Raises:
        Disagreement: The pool cannot, or `CELERY_CONFIG_MODULE` is set, which ifinu does not read.
    """
    if not issubclass(pool, TaskPool):
        raise Disagreement(
            f"the pool {pool.__module__} cannot run ifinu, whose messages are tasks of one event loop: "
            "leave out -P, and run more workers for more messages"
        )
    if module := os.environ.get("CELERY_CONFIG_MODULE"):
        raise Disagreement(
            f"CELERY_CONFIG_MODULE (or celery --config) names {module}, of which nothing is read: "
            "ifinu is configured by the IFINU_* variables alone; unset it"
        )


def _changed(conf: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    yield from (name for name in _KEPT if conf[name] != ours[name])
    there = {queue.name for queue in conf["task_queues"] or ()}
    if not there >= {queue.name for queue in ours["task_queues"]}:
        yield "task_queues"


def _place(connection: kombu.Connection) -> tuple[Any, ...]:
    return (
        str(connection.transport_cls),
        (connection.hostname or "localhost").lower(),
        connection.port or 6379,
        str(connection.virtual_host or "0").strip("/") or "0",
        connection.userid or "default",
        connection.password or None,
        connection.ssl or None,
    )


def _scheme(connection: kombu.Connection) -> str:
    return "rediss" if connection.ssl else "redis"


def _backend(url: object) -> str:
    return urls.shown(url) if isinstance(url, str) and "://" in url else "none" if not url else "of another kind"
