"""
A connection of its own for each thread, for the scripts that every message needs.

redis-py's pool and retries cost as much as the command itself; a thread that keeps its connection needs neither.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from typing import Any

import redis

from ifinu.broker.keys import Script


class Line:
    """
    Runs scripts at one Redis server; threads may share it, and a forked process opens its own connections.

    Args:
        client: Says where the server is, and how to connect; its own connections are not used.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._local = threading.local()

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """
        Run a script.

        A connection that broke is opened again and the script sent once more: all of ours do nothing the second time.

        Raises:
            redis.RedisError: As the server answers, or because it does not.
        """
        connection = self._connection()
        try:
            return _ask(connection, script, keys, args)
        except redis.TimeoutError:
            connection.disconnect()
            raise
        except redis.ConnectionError:
            connection.disconnect()
            return self._again(connection, script, keys, args)

    def open(self) -> None:
        """Connect the thread that asks, before it has a script to run; where that fails, the first one will tell."""
        with contextlib.suppress(redis.RedisError):
            self._connection().connect()

    def close(self) -> None:
        """Close the connection of the thread that asks; another thread's ends with it."""
        pid, connection = getattr(self._local, "held", (None, None))
        if connection is not None and pid == os.getpid():
            connection.disconnect()

    def _again(self, connection: Any, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            return _ask(connection, script, keys, args)
        except (redis.ConnectionError, redis.TimeoutError):
            connection.disconnect()
            raise

    def _connection(self) -> Any:
        pid, connection = getattr(self._local, "held", (None, None))
        if pid != os.getpid():  # none yet, or one that is the parent's
            connection = self._pool.connection_class(**self._pool.connection_kwargs)
            self._local.held = os.getpid(), connection
        return connection


def _ask(connection: Any, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
    connection.send_command("EVALSHA", script.sha, len(keys), *keys, *args)
    try:
        return connection.read_response()
    except redis.exceptions.NoScriptError:
        connection.send_command("EVAL", script.source, len(keys), *keys, *args)
        return connection.read_response()
