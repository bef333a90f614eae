"""
A snapshot of Redis over the network: this process asks for one as a replica does, and then disconnects.

The server forks, as for any replica, and goes on serving. It can stream the snapshot while it makes it (`capa eof`),
and so needs no file; a server that only sends files writes one to its own disk first. Before the first byte it sends
newlines as keep-alives, and by default waits 5 s for other replicas (`repl-diskless-sync-delay`).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import redis

from ifinu.backup.streams import CHUNK_BYTES
from ifinu.broker import connections
from ifinu.errors import BackupFailed

_QUIET_S = 60.0  # the longest time without a byte from the server
_MARK_BYTES = 40
_LONGEST_LINE = 1024
_MANAGED = "a managed server keeps it from us: use its provider's snapshots, and `ifinu backup --without redis`"


@dataclass(frozen=True)
class Snapshot:
    """
    A snapshot of Redis at one instant.

    Attributes:
        server: Name and version: `Valkey 9.1.2`.
        at: A time just before that instant, by Redis' clock.
        chunks: The snapshot file, to be read once.
    """

    server: str
    at: datetime
    chunks: Iterator[bytes] = field(repr=False)


@contextlib.contextmanager
def snapshot(url: str) -> Iterator[Snapshot]:
    """
    Request a snapshot, which has to be read within the block.

    Args:
        url: As `IFINU_REDIS_URL`.

    Raises:
        redis.RedisError: The server is away.
        BackupFailed: The server refuses to send one.
    """
    client = connections.connect(url)
    try:
        server = named(client)
        seconds, micros = client.time()
        at = datetime.fromtimestamp(seconds + micros / 1_000_000, UTC)
        pool = client.connection_pool
        connection: Any = pool.connection_class(**{**pool.connection_kwargs, "socket_timeout": _QUIET_S})
        connection.connect()
        try:
            yield Snapshot(server, at, _received(connection))
        finally:
            connection.disconnect()
    finally:
        client.close()


def named(client: redis.Redis) -> str:
    """Name and version of a server: `Redis 7.4.6`."""
    info: Any = client.info("server")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def _received(connection: Any) -> Iterator[bytes]:
    with contextlib.suppress(redis.ResponseError):  # an old server supports neither
        _ask(connection, "REPLCONF", "capa", "eof")
        _ask(connection, "REPLCONF", "rdb-only", "1")
    stream: socket.socket = connection._sock  # nothing is left unread in the parser: both commands were answered
    try:
        stream.sendall(b"SYNC\r\n")
        kind, buffered = _header(stream)
        if kind.startswith(b"EOF:"):
            yield from _until(stream, kind[4:], buffered)
        else:
            yield from _exactly(stream, int(kind), buffered)
    except TimeoutError as exc:
        raise redis.TimeoutError(f"nothing came for {_QUIET_S:g} s in the middle of a snapshot") from exc
    except OSError as exc:
        raise redis.ConnectionError(f"lost in the middle of a snapshot: {exc.strerror or exc}") from exc


def _ask(connection: Any, *command: str) -> None:
    connection.send_command(*command)
    connection.read_response()


def _header(stream: socket.socket) -> tuple[bytes, bytes]:
    """The framing of the snapshot, `<bytes>` or `EOF:<mark>`, and the bytes received after it."""
    buffered = b""
    while b"\n" not in (buffered := buffered.lstrip(b"\r\n")):
        if len(buffered) > _LONGEST_LINE:
            raise BackupFailed("Redis answers SYNC with something else than a snapshot")
        buffered += _more(stream)
    line, _, rest = buffered.partition(b"\n")
    line = line.rstrip(b"\r")
    if line.startswith(b"-"):
        words = line[1:].decode(errors="replace")
        if words.startswith(("ERR unknown command", "NOPERM")):
            raise BackupFailed(f"Redis gives no snapshot ({words.partition(',')[0]}): {_MANAGED}")
        raise redis.ResponseError(words)
    if line[:1] != b"$" or not (line[1:].isdigit() or (line[1:5] == b"EOF:" and len(line) == 5 + _MARK_BYTES)):
        raise BackupFailed("Redis answers SYNC with something else than a snapshot")
    return line[1:], rest


def _exactly(stream: socket.socket, size: int, buffered: bytes) -> Iterator[bytes]:
    left = size
    while left:
        chunk = (buffered or _more(stream))[:left]
        buffered = b""
        left -= len(chunk)
        yield chunk


def _until(stream: socket.socket, mark: bytes, buffered: bytes) -> Iterator[bytes]:
    """The bytes up to the mark, after which the server waits for an acknowledgement."""
    held = buffered
    while not held.endswith(mark):
        if len(held) > _MARK_BYTES:
            yield held[:-_MARK_BYTES]
            held = held[-_MARK_BYTES:]
        held += _more(stream)
    if len(held) > _MARK_BYTES:
        yield held[:-_MARK_BYTES]


def _more(stream: socket.socket) -> bytes:
    chunk = stream.recv(CHUNK_BYTES)
    if not chunk:
        raise redis.ConnectionError("Redis hung up in the middle of a snapshot; its log says why")
    return chunk
