"""
A Redis primary for one replica: it loads a snapshot into a server without access to the server's volume.

REPLICAOF makes the server a replica of this process. It drops its data, loads the snapshot that it receives, and runs
the commands that follow in the replication stream. After it has acknowledged them, REPLICAOF NO ONE makes it a primary
again, and it rewrites its append-only file.

The server has to be able to connect to this process. `masterauth` is set to a random password meanwhile, so no other
process can take its place.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import redis

from ifinu.errors import BackupFailed

_CONNECT_S = 30.0  # deadline for the server to connect; it tries every second
_HANDSHAKE_S = 10.0  # deadline for a read or write during the handshake
_QUIET_S = 120.0  # deadline for a read or write after it
_REWRITE_S = 600.0
_POLL_S = 0.1
_PAUSE_MS = 30_000  # Redis ends the pause itself after this, if this process is killed
_LONGEST_LINE = 64 * 1024
_MOST_WORDS = 100  # of a command, and commands in a handshake
_GETACK = ("REPLCONF", "GETACK", "*")
_REFUSED = "it does not accept another primary: restore a managed server from its provider's snapshots"


class Address:
    """
    The address at which Redis can reach this process.

    Args:
        given: `HOST:PORT` or `:PORT`. The default host is the local address of a connection to Redis, the default port
            a free one.

    Raises:
        ValueError: `given` has another form.
    """

    def __init__(self, given: str | None = None) -> None:
        host, colon, port = (given or ":0").rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65_535:
            raise ValueError("must be HOST:PORT or :PORT")
        self.host = host.strip("[]")
        self.port = int(port)


def replace_data(
    client: redis.Redis,
    chunks: Iterable[bytes],
    size: int,
    *,
    address: Address,
    commands: Sequence[Sequence[str]] = (),
    last_check: Callable[[], None] = lambda: None,
    loaded: Callable[[], None] = lambda: None,
) -> None:
    """
    Replace all data of a Redis server with a snapshot. The server accepts no writes until the end.

    Args:
        address: The address at which the server can reach this process.
        commands: Commands that the server runs after loading, before it accepts other writes.
        last_check: Called while writes are paused, before the server drops its data; an exception cancels the load.
        loaded: Called after loading, before the commands; an exception ends the load.

    Raises:
        redis.RedisError: The server is away.
        BackupFailed: The server did not connect, did not load the snapshot, or does not accept another primary. It is a
            primary again, perhaps an empty one; the load may be repeated.
    """
    password = secrets.token_hex(32)
    with _listening(client, address) as (listener, host, port), _password(client, password):
        try:
            with _permitted(), _writes_paused(client):
                last_check()
                client.replicaof(host, port)
            with _Replica.accepted(listener, password) as replica:
                replica.send_snapshot(chunks, size)
                replica.wait_for_ack()
                loaded()
                replica.send(commands)
                replica.wait_for_ack()
        finally:
            client.replicaof("NO", "ONE")


def wait_until_on_disk(client: redis.Redis) -> None:
    """
    Wait until a server has rewritten its append-only file, if it keeps one.

    Raises:
        redis.RedisError: The server is away.
        BackupFailed: The rewrite failed or took too long.
    """
    give_up_at = time.monotonic() + _REWRITE_S
    while time.monotonic() < give_up_at:
        persistence: Any = client.info("persistence")
        if not persistence.get("aof_enabled"):
            return
        if not persistence.get("aof_rewrite_in_progress") and not persistence.get("aof_rewrite_scheduled"):
            if persistence.get("aof_last_bgrewrite_status") == "ok":
                return
            raise BackupFailed("Redis loaded the snapshot but cannot write its append-only file: is its disk full?")
        time.sleep(_POLL_S)
    raise BackupFailed(f"Redis loaded the snapshot but did not write its append-only file within {_REWRITE_S:g} s")


@contextlib.contextmanager
def _listening(client: redis.Redis, address: Address) -> Iterator[tuple[socket.socket, str, int]]:
    """Listen for Redis; yields the listener, and the host and port for REPLICAOF."""
    host = address.host or _local_address(client)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server(("", address.port), family=family, backlog=8)
    except OSError as exc:
        raise BackupFailed(f"cannot listen on port {address.port} for Redis: {exc.strerror}") from exc
    with listener:
        yield listener, host, listener.getsockname()[1]


def _local_address(client: redis.Redis) -> str:
    connection: Any = client.connection_pool.get_connection()
    try:
        connection.connect()
        return str(connection._sock.getsockname()[0])
    finally:
        client.connection_pool.release(connection)


@contextlib.contextmanager
def _password(client: redis.Redis, password: str) -> Iterator[None]:
    """Set `masterauth`, the password a server sends to its primary, until the end of the block."""
    with _permitted():
        before: Any = client.config_get("masterauth")
        client.config_set("masterauth", password)
    try:
        yield
    finally:
        client.config_set("masterauth", before.get("masterauth", ""))


@contextlib.contextmanager
def _writes_paused(client: redis.Redis) -> Iterator[None]:
    """Make the writes of other clients wait until the end of the block; a replica then refuses them."""
    client.client_pause(_PAUSE_MS, all=False)
    try:
        yield
    finally:
        client.client_unpause()


@contextlib.contextmanager
def _permitted() -> Iterator[None]:
    try:
        yield
    except redis.exceptions.NoPermissionError as exc:
        raise BackupFailed(f"Redis refuses ({exc}): {_REFUSED}") from exc
    except redis.ResponseError as exc:
        if "unknown command" in str(exc):
            raise BackupFailed(f"Redis refuses ({str(exc).partition(',')[0]}): {_REFUSED}") from exc
        raise


class _Replica:
    def __init__(self, stream: socket.socket) -> None:
        stream.settimeout(_HANDSHAKE_S)
        self._stream = stream
        self._input = stream.makefile("rb")
        self._offset = 0  # bytes sent after the snapshot; the replica counts them too, and acknowledges the number

    @classmethod
    @contextlib.contextmanager
    def accepted(cls, listener: socket.socket, password: str) -> Iterator[_Replica]:
        """Accept the first connection that knows the password and asks for a snapshot."""
        give_up_at = time.monotonic() + _CONNECT_S
        with contextlib.ExitStack() as stack:
            while True:
                listener.settimeout(max(0.01, give_up_at - time.monotonic()))
                try:
                    stream, _ = listener.accept()
                except TimeoutError:
                    raise BackupFailed(
                        f"Redis did not connect to fetch its snapshot within {_CONNECT_S:g} s: can it reach this "
                        "process? See --listen, and the network policies"
                    ) from None
                replica = cls(stream)
                with contextlib.suppress(OSError, ValueError):
                    if replica._handshake(password):
                        stack.callback(replica._close)
                        break
                replica._close()
            yield replica

    def send_snapshot(self, chunks: Iterable[bytes], size: int) -> None:
        self._stream.settimeout(_QUIET_S)
        with self._failures("during the transfer of the snapshot"):
            self._stream.sendall(f"+FULLRESYNC {secrets.token_hex(20)} 0\r\n${size}\r\n".encode())
            for chunk in chunks:
                self._stream.sendall(chunk)
        self.send(())

    def send(self, commands: Sequence[Sequence[str]]) -> None:
        """Send commands to run, and ask for an acknowledgement."""
        data = b"".join(map(_encoded, (*commands, _GETACK)))
        with self._failures("after it received the snapshot"):
            self._stream.sendall(data)
        self._offset += len(data)

    def wait_for_ack(self) -> None:
        """Wait until the replica has run everything sent before the last GETACK."""
        expected = self._offset - len(_encoded(_GETACK))  # the replica answers before it counts GETACK itself
        with self._failures("before it had loaded the snapshot; its log says why"):
            while True:
                words = _command(self._input)
                if [word.upper() for word in words[:2]] == [b"REPLCONF", b"ACK"] and int(words[2]) >= expected:
                    return

    def _handshake(self, password: str) -> bool:
        """Whether the peer shows the password and asks for a snapshot."""
        known = False
        for _ in range(_MOST_WORDS):
            words = _command(self._input)
            match words[0].upper():
                case b"AUTH":
                    known = hmac.compare_digest(words[-1], password.encode())
                    self._stream.sendall(b"+OK\r\n" if known else b"-WRONGPASS\r\n")
                    if not known:
                        return False
                case b"PING":
                    self._stream.sendall(b"+PONG\r\n")
                case _ if not known:
                    self._stream.sendall(b"-NOAUTH Authentication required.\r\n")
                    return False
                case b"REPLCONF":
                    self._stream.sendall(b"+OK\r\n")
                case b"PSYNC":
                    return True
                case _:
                    self._stream.sendall(b"-ERR unknown command\r\n")
        return False

    def _close(self) -> None:
        self._input.close()
        self._stream.close()

    @contextlib.contextmanager
    def _failures(self, when: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as exc:
            reason = f"was silent for {_QUIET_S:g} s" if isinstance(exc, TimeoutError) else "closed the connection"
            raise BackupFailed(f"Redis {reason} {when}") from exc


def _command(stream: Any) -> list[bytes]:
    """
    Read the next command, as words.

    Raises:
        ValueError: The input is not a command, or the connection ended.
    """
    while (line := _line(stream)) == b"":
        pass  # newlines keep the connection alive while the replica loads
    if not line.startswith(b"*"):
        return line.split() or [b""]  # an inline command
    words = []
    for _ in range(min(int(line[1:]), _MOST_WORDS)):
        size = int(_line(stream)[1:])
        if not 0 <= size <= _LONGEST_LINE:
            raise ValueError("too long")
        words.append(stream.read(size))
        stream.read(2)
    if not words:
        raise ValueError("no command")
    return words


def _line(stream: Any) -> bytes:
    line: bytes = stream.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise ValueError("the connection ended")
    return line.rstrip(b"\r\n")


def _encoded(words: Sequence[str]) -> bytes:
    parts = [f"${len(raw := word.encode())}\r\n".encode() + raw + b"\r\n" for word in words]
    return f"*{len(parts)}\r\n".encode() + b"".join(parts)
