"""Redis clients for commands, for optional data, and for the scripts that run for every message."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ifinu.broker.keys import Script

_OPTIONAL_S = 1.0


def connect(url: str) -> redis.Redis:
    """
    A client that returns bytes; a command fails within seconds when Redis is away.

    Args:
        url: As `IFINU_REDIS_URL`.
    """
    return redis.Redis.from_url(url, socket_timeout=10, socket_connect_timeout=5, health_check_interval=10)


def connect_optional(url: str) -> redis.Redis:
    """
    A client for optional data: one attempt, with a timeout of one second.

    Args:
        url: As `IFINU_REDIS_URL`.
    """
    return redis.Redis.from_url(
        url, socket_timeout=_OPTIONAL_S, socket_connect_timeout=_OPTIONAL_S, retry=Retry(NoBackoff(), 0)
    )


class ScriptRunner:
    """
    Runs scripts at one Redis server, over one connection per thread.

    redis-py's pool and retries cost as much as the command itself; a thread that keeps its connection needs neither.
    Threads may share a runner. A forked process opens connections anew.

    Args:
        client: Its settings say where the server is and how to connect; its connections are not used.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._local = threading.local()

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """
        Run a script.

        A broken connection is opened again and the script sent once more: a second run of our scripts changes nothing.

        Raises:
            redis.RedisError: The server answered with an error, or not at all.
        """
        connection = self._connection()
        try:
            return _run(connection, script, keys, args)
        except redis.TimeoutError:
            connection.disconnect()
            raise
        except redis.ConnectionError:
            connection.disconnect()
            return self._retry(connection, script, keys, args)

    def open(self) -> None:
        """Connect the calling thread before its first script; an error is left to that script to raise."""
        with contextlib.suppress(redis.RedisError):
            self._connection().connect()

    def close(self) -> None:
        """Close the calling thread's connection; another thread's is closed when that thread ends."""
        pid, connection = getattr(self._local, "held", (None, None))
        if connection is not None and pid == os.getpid():
            connection.disconnect()

    def _retry(self, connection: Any, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            return _run(connection, script, keys, args)
        except (redis.ConnectionError, redis.TimeoutError):
            connection.disconnect()
            raise

    def _connection(self) -> Any:
        pid, connection = getattr(self._local, "held", (None, None))
        if pid != os.getpid():  # the first use in this thread, or the connection is the parent process's
            connection = self._pool.connection_class(**self._pool.connection_kwargs)
            self._local.held = os.getpid(), connection
        return connection


def _run(connection: Any, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
    connection.send_command("EVALSHA", script.sha, len(keys), *keys, *args)
    try:
        return connection.read_response()
    except redis.exceptions.NoScriptError:
        connection.send_command("EVAL", script.source, len(keys), *keys, *args)
        return connection.read_response()
