"""
A Redis replica for one snapshot: it asks for a full synchronisation with SYNC, and disconnects after it.

The server forks, as for any replica, and goes on serving. With `capa eof` it may stream the snapshot while it produces
it; with `repl-diskless-sync no` it writes a file to its own disk first. Until the first byte it sends newlines as a
sign of life, and by default it waits 5 s for other replicas (`repl-diskless-sync-delay`).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import redis

from ifinu.backup.streams import CHUNK_BYTES
from ifinu.broker import clock, connections
from ifinu.errors import BackupFailed

_QUIET_S = 60.0  # deadline for a read
_MARK_BYTES = 40
_LONGEST_LINE = 1024
_MANAGED = "a managed server may forbid it: use its provider's snapshots, and `ifinu backup --without redis`"


@dataclass(frozen=True)
class Snapshot:
    """
    The data of a Redis server at one instant.

    Attributes:
        server: Program and version, as in `Valkey 9.1.2`.
        at: A time just before that instant, by Redis' clock.
        chunks: Bytes of the RDB file; can be read once.
    """

    server: str
    at: datetime
    chunks: Iterator[bytes] = field(repr=False)


@contextlib.contextmanager
def snapshot(url: str) -> Iterator[Snapshot]:
    """
    Ask a server for a snapshot. Its chunks arrive, and errors are raised, as the block reads them.

    Args:
        url: As `IFINU_REDIS_URL`.

    Raises:
        redis.RedisError: The server is away.
        BackupFailed: The server refuses SYNC, or answers it with something else.
    """
    client = connections.connect(url)
    try:
        server = version(client)
        at = clock.now(client)
        pool = client.connection_pool
        connection: Any = pool.connection_class(**{**pool.connection_kwargs, "socket_timeout": _QUIET_S})
        connection.connect()
        try:
            yield Snapshot(server, at, _received(connection))
        finally:
            connection.disconnect()
    finally:
        client.close()


def version(client: redis.Redis) -> str:
    """Program and version of a server: `Redis 7.4.6`."""
    server: Any = client.info("server")
    if "valkey_version" in server:
        return f"Valkey {server['valkey_version']}"
    return f"Redis {server['redis_version']}"


def _received(connection: Any) -> Iterator[bytes]:
    with contextlib.suppress(redis.ResponseError):  # an old server knows neither option
        _ask(connection, "REPLCONF", "capa", "eof")
        _ask(connection, "REPLCONF", "rdb-only", "1")
    stream: socket.socket = connection._sock  # the buffer of the connection is empty: both commands were answered
    try:
        stream.sendall(b"SYNC\r\n")
        kind, buffered = _header(stream)
        if kind.startswith(b"EOF:"):
            yield from _until(stream, kind[4:], buffered)
        else:
            yield from _exactly(stream, int(kind), buffered)
    except TimeoutError as exc:
        raise redis.TimeoutError(f"Redis was silent for {_QUIET_S:g} s in the middle of a snapshot") from exc
    except OSError as exc:
        raise redis.ConnectionError(f"connection lost in the middle of a snapshot: {exc.strerror or exc}") from exc


def _ask(connection: Any, *command: str) -> None:
    connection.send_command(*command)
    connection.read_response()


def _header(stream: socket.socket) -> tuple[bytes, bytes]:
    """Framing of the snapshot, `<bytes>` or `EOF:<mark>`, and the bytes received after it."""
    buffered = b""
    while b"\n" not in (buffered := buffered.lstrip(b"\r\n")):
        if len(buffered) > _LONGEST_LINE:
            raise BackupFailed("Redis answered SYNC with something other than a snapshot")
        buffered += _more(stream)
    line, _, rest = buffered.partition(b"\n")
    line = line.rstrip(b"\r")
    if line.startswith(b"-"):
        error = line[1:].decode(errors="replace")
        if error.startswith(("ERR unknown command", "NOPERM")):
            raise BackupFailed(f"Redis refuses SYNC ({error.partition(',')[0]}): {_MANAGED}")
        raise redis.ResponseError(error)
    if line[:1] != b"$" or not (line[1:].isdigit() or (line[1:5] == b"EOF:" and len(line) == 5 + _MARK_BYTES)):
        raise BackupFailed("Redis answered SYNC with something other than a snapshot")
    return line[1:], rest


def _exactly(stream: socket.socket, size: int, buffered: bytes) -> Iterator[bytes]:
    left = size
    while left:
        chunk = (buffered or _more(stream))[:left]
        buffered = b""
        left -= len(chunk)
        yield chunk


def _until(stream: socket.socket, mark: bytes, buffered: bytes) -> Iterator[bytes]:
    """Yield the bytes before the mark. After it the server sends nothing without an acknowledgement."""
    tail = buffered
    while not tail.endswith(mark):
        if len(tail) > _MARK_BYTES:
            yield tail[:-_MARK_BYTES]
            tail = tail[-_MARK_BYTES:]
        tail += _more(stream)
    if len(tail) > _MARK_BYTES:
        yield tail[:-_MARK_BYTES]


def _more(stream: socket.socket) -> bytes:
    chunk = stream.recv(CHUNK_BYTES)
    if not chunk:
        raise redis.ConnectionError("Redis closed the connection in the middle of a snapshot; its log says why")
    return chunk
