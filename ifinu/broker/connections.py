"""Redis clients for commands, for optional data, and for the scripts that run for every message."""

from __future__ import annotations

import collections
import contextlib
import functools
import ssl
import threading
from collections.abc import Sequence
from time import monotonic
from typing import Any

import greenlet
import hiredis
import redis
from redis.backoff import NoBackoff
from redis.connection import DefaultParser
from redis.retry import Retry

from ifinu import loop
from ifinu.broker.keys import Script

_OPTIONAL_S = 1.0
_ANSWER_S = 10.0
_OF_PUSHES = ("maint_notifications", "oss_cluster_maint_notifications")


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
    Runs scripts at one Redis server.

    The tasks of a worker's loop share one connection (`Pipeline`); any other thread has one of its own. redis-py's pool
    and retries cost as much as the command itself, and a connection that is kept needs neither.

    Args:
        client: Its settings say where the server is and how to connect; its connections are not used.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._local = threading.local()
        self._server = tuple(self._pool.connection_kwargs.get(name) for name in ("host", "port", "path", "db"))

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """
        Run a script.

        A broken connection is opened again and the script sent once more: a second run of our scripts changes nothing.

        Raises:
            redis.RedisError: The server answered with an error, or not at all.
        """
        try:
            return self._call("EVALSHA", script.sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            return self._call("EVAL", script.source, len(keys), *keys, *args)

    def command(self, *command: Any) -> Any:
        """
        Run a command. As with scripts, a second run must change nothing.

        Raises:
            redis.RedisError: As for `run`.
        """
        return self._call(*command)

    def open(self) -> None:
        """Connect before the first script; an error is left to that script to raise."""
        with contextlib.suppress(redis.RedisError):
            if (pipeline := self._pipeline()) is not None:
                pipeline.open()
            else:
                self._connection().connect()

    def close(self) -> None:
        """Close the calling thread's connection; another thread's is closed when that thread ends."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.disconnect()

    def _call(self, *command: Any) -> Any:
        call = self._exchange if (pipeline := self._pipeline()) is None else pipeline.run
        try:
            return call(*command)
        except redis.ConnectionError:
            return call(*command)

    def _exchange(self, *command: Any) -> Any:
        connection = self._connection()
        try:
            connection.send_command(*command)
            return connection.read_response()
        except (redis.ConnectionError, redis.TimeoutError):
            connection.disconnect()
            raise

    def _connection(self) -> Any:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._pool.connection_class(**self._pool.connection_kwargs)
        return connection

    def _pipeline(self) -> Pipeline | None:
        here = loop.current()
        if here is None:
            return None
        found: Pipeline | None = here.pipelines.get(self._server)
        if found is None:
            found = here.pipelines[self._server] = Pipeline(here, self._pool)
        return found


class Pipeline:
    """
    A connection that the tasks of a loop share. The commands of one turn of the loop leave together.

    A connection that breaks, or does not answer in time, fails every command in flight on it. The next command opens
    another.

    Args:
        here: The loop.
        pool: Its settings say where the server is and how to connect.
    """

    def __init__(self, here: loop.Loop, pool: redis.ConnectionPool) -> None:
        self._loop = here
        # RESP2: with RESP3 the server pushes messages that no command asked for, as notices of its maintenance.
        kept = {name: value for name, value in pool.connection_kwargs.items() if not name.startswith(_OF_PUSHES)}
        self._connect = functools.partial(pool.connection_class, **{**kept, "protocol": 2})
        self._answer_s = float(pool.connection_kwargs.get("socket_timeout") or _ANSWER_S)
        self._connection: Any = None
        self._watch: loop.Watch | None = None
        self._reader = hiredis.Reader()
        self._unsent = b""
        self._packed: list[bytes] = []
        self._in_flight: collections.deque[tuple[greenlet.greenlet, float]] = collections.deque()
        self._opening: list[greenlet.greenlet] | None = None
        self._overdue: loop.Timer | None = None

    def run(self, *command: Any) -> Any:
        """
        Run a command for the calling task, which waits.

        Raises:
            redis.ConnectionError: The connection broke, and the command may have been executed; or there is none.
            redis.TimeoutError: The server did not answer in time; likewise.
            redis.RedisError: The server answered with an error.
        """
        while self._connection is None:  # it may break again before a task that waited for it runs
            self.open()
        if not self._packed:
            self._loop.at_turn(self._flush)
        self._packed.append(hiredis.pack_command(command))
        now = monotonic()
        self._in_flight.append((greenlet.getcurrent(), now))
        if self._overdue is None:
            self._overdue = self._loop.call_at(now + self._answer_s, self._on_overdue)
        answer = self._loop.park()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def open(self) -> None:
        """
        Connect, unless it is connected; tasks that come meanwhile wait for the one that connects.

        Raises:
            redis.RedisError: The server cannot be reached.
        """
        if self._connection is not None:
            return
        if self._opening is not None:
            self._opening.append(greenlet.getcurrent())
            if isinstance(failure := self._loop.park(), Exception):
                raise failure
            return
        self._opening = []
        connection, failure = self._connect(), None
        try:
            self._loop.in_thread(connection.connect)
            self._adopt(connection)
        except Exception as exc:
            connection.disconnect()
            failure = exc
            raise
        finally:
            waiting, self._opening = self._opening, None
            for task in waiting:
                self._loop.call_soon(functools.partial(task.switch, failure))

    def close(self) -> None:
        """Close the connection; commands in flight fail."""
        if self._connection is not None:
            self._fail(redis.ConnectionError, "closed")

    def _adopt(self, connection: Any) -> None:
        connection._sock.setblocking(False)
        self._reader = hiredis.Reader(replyError=DefaultParser.parse_error)
        self._watch = loop.Watch(self._loop, connection._sock, self._on_readable)
        self._connection = connection

    def _flush(self) -> None:
        packed, self._packed = self._packed, []
        if self._connection is None:  # it broke in the same turn, and has failed these commands
            return
        self._unsent += b"".join(packed)
        self._send()

    def _send(self) -> None:
        if self._connection is None or self._watch is None:
            return
        try:
            while self._unsent:
                self._unsent = self._unsent[self._connection._sock.send(self._unsent) :]
        except loop.NOT_NOW:
            self._watch.once_writable(self._send, only=False)
        except OSError as exc:
            self._fail(redis.ConnectionError, f"Error while writing to Redis: {exc}")

    def _on_readable(self) -> None:
        sock, reader = self._connection._sock, self._reader
        try:
            while data := sock.recv(loop.CHUNK_BYTES):
                reader.feed(data)
                self._resume(reader)
                if reader is not self._reader or (len(data) < loop.CHUNK_BYTES and not _holds_more(sock)):
                    return
        except loop.NOT_NOW:
            return
        except (OSError, hiredis.ProtocolError) as exc:
            self._fail(redis.ConnectionError, f"Error while reading from Redis: {exc}")
        else:
            self._fail(redis.ConnectionError, "Connection closed by server.")

    def _resume(self, reader: hiredis.Reader) -> None:
        while (answer := reader.gets()) is not False:
            if not self._in_flight:
                raise OSError("an answer to no command")
            self._in_flight.popleft()[0].switch(answer)

    def _on_overdue(self) -> None:
        self._overdue = None
        if not self._in_flight:
            return
        due = self._in_flight[0][1] + self._answer_s
        if due > monotonic():
            self._overdue = self._loop.call_at(due, self._on_overdue)
        else:
            self._fail(redis.TimeoutError, "Timeout reading from Redis")

    def _fail(self, kind: type[redis.RedisError], words: str) -> None:
        """Close the connection, and fail every command in flight on it."""
        connection, self._connection = self._connection, None
        if self._watch is not None:
            self._watch.close()
        connection.disconnect()
        failed, self._in_flight = self._in_flight, collections.deque()
        self._reader, self._unsent, self._packed = hiredis.Reader(), b"", []
        for task, _ in failed:
            self._loop.call_soon(functools.partial(task.switch, kind(words)))


def _holds_more(sock: Any) -> bool:
    """Whether TLS has read more from the socket than it has handed over."""
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
