"""
Loading a snapshot into Redis without access to its volume: this process acts as the primary that Redis replicates.

Redis loads the snapshot as a replica does, and drops its own data. A few commands follow over the replication stream.
Once Redis has acknowledged them it becomes a primary again, and rewrites its own append-only file.

Redis has to be able to connect to this process. No other client can: Redis gets a random password for that time.
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

_COME_S = 30.0  # limit of the wait for its connection; it tries every second
_GREETING_S = 10.0  # limit of a handshake
_QUIET_S = 120.0  # the longest time without a byte from it
_REWRITTEN_S = 600.0
_POLL_S = 0.1
_PAUSE_MS = 30_000  # the longest pause of writes, should this process be killed meanwhile
_LONGEST_LINE = 64 * 1024
_MOST_WORDS = 100
_ASK = ("REPLCONF", "GETACK", "*")
_REFUSED = "it does not accept REPLICAOF: restore a managed server from its provider's snapshots"


class Address:
    """
    The address at which Redis connects to this process.

    Args:
        given: `HOST:PORT`, `:PORT`, or None. By default this process' address towards Redis, and a free port.

    Raises:
        ValueError: It has another form.
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
    last: Callable[[], None] = lambda: None,
    loaded: Callable[[], None] = lambda: None,
) -> None:
    """
    Replace all data of a Redis server by a snapshot. It takes no writes until the end.

    Args:
        client: A client of the server.
        chunks: The snapshot file.
        size: Its size in bytes.
        address: The address at which the server connects to this process.
        commands: Commands to run after it, before other clients can write.
        last: Called while writes are paused, and the server still has its data. An exception aborts the load.
        loaded: Called when the snapshot is loaded, before the commands run. An exception aborts the load.

    Raises:
        redis.RedisError: The server is away.
        BackupFailed: The server did not connect, did not load it, or does not accept REPLICAOF. It is a primary again,
            and may be empty; try again.
    """
    password = secrets.token_hex(32)
    with _listening(client, address) as (listener, host, port), _password(client, password):
        try:
            with _permitted(), _writes_paused(client):
                last()
                client.replicaof(host, port)
            with _Replica.accepted(listener, password) as replica:
                replica.send_snapshot(chunks, size)
                replica.wait_for_acknowledgement()
                loaded()
                replica.send_commands(commands)
                replica.wait_for_acknowledgement()
        finally:
            client.replicaof("NO", "ONE")


def wait_until_on_disk(client: redis.Redis) -> None:
    """
    Wait until a server has written the snapshot to its append-only file, if it has one.

    Raises:
        redis.RedisError: Redis is away.
        BackupFailed: It could not write the file.
    """
    give_up_at = time.monotonic() + _REWRITTEN_S
    while time.monotonic() < give_up_at:
        info: Any = client.info("persistence")
        if not info.get("aof_enabled"):
            return
        if not info.get("aof_rewrite_in_progress") and not info.get("aof_rewrite_scheduled"):
            if info.get("aof_last_bgrewrite_status") == "ok":
                return
            raise BackupFailed("Redis has the snapshot and cannot write its append-only file: is its disk full?")
        time.sleep(_POLL_S)
    raise BackupFailed(f"Redis has the snapshot and has not written its append-only file within {_REWRITTEN_S:g} s")


@contextlib.contextmanager
def _listening(client: redis.Redis, address: Address) -> Iterator[tuple[socket.socket, str, int]]:
    """A listening socket, and the host and port at which Redis connects to it."""
    host = address.host or _our_address(client)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server(("", address.port), family=family, backlog=8)
    except OSError as exc:
        raise BackupFailed(f"port {address.port} for Redis to connect to: {exc.strerror}") from exc
    with listener:
        yield listener, host, listener.getsockname()[1]


def _our_address(client: redis.Redis) -> str:
    connection: Any = client.connection_pool.get_connection()
    try:
        connection.connect()
        return str(connection._sock.getsockname()[0])
    finally:
        client.connection_pool.release(connection)


@contextlib.contextmanager
def _password(client: redis.Redis, password: str) -> Iterator[None]:
    """Set the password that the server shows to its primary, until the end of the block."""
    with _permitted():
        before: Any = client.config_get("masterauth")
        client.config_set("masterauth", password)
    try:
        yield
    finally:
        client.config_set("masterauth", before.get("masterauth", ""))


@contextlib.contextmanager
def _writes_paused(client: redis.Redis) -> Iterator[None]:
    """Pause the writes of other clients until the end of the block, when the server is a replica and refuses them."""
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
    """
    The Redis server, connected as a replica.

    Args:
        stream: The connection.
    """

    def __init__(self, stream: socket.socket) -> None:
        stream.settimeout(_GREETING_S)
        self._stream = stream
        self._input = stream.makefile("rb")
        self._offset = 0  # bytes sent after the snapshot, which the replica acknowledges

    @classmethod
    @contextlib.contextmanager
    def accepted(cls, listener: socket.socket, password: str) -> Iterator[_Replica]:
        """The first client that shows the password and asks for a snapshot."""
        give_up_at = time.monotonic() + _COME_S
        with contextlib.ExitStack() as stack:
            while True:
                listener.settimeout(max(0.01, give_up_at - time.monotonic()))
                try:
                    stream, _ = listener.accept()
                except TimeoutError:
                    raise BackupFailed(
                        f"Redis did not come to fetch its snapshot within {_COME_S:g} s: can it connect to us? "
                        "See --listen, and the network policies"
                    ) from None
                replica = cls(stream)
                with contextlib.suppress(OSError, ValueError):
                    if replica._shakes_hands(password):
                        stack.callback(replica._close)
                        break
                replica._close()
            yield replica

    def send_snapshot(self, chunks: Iterable[bytes], size: int) -> None:
        self._stream.settimeout(_QUIET_S)
        with self._connected("while it was given the snapshot"):
            self._stream.sendall(f"+FULLRESYNC {secrets.token_hex(20)} 0\r\n${size}\r\n".encode())
            for chunk in chunks:
                self._stream.sendall(chunk)
        self.send_commands(())

    def send_commands(self, commands: Sequence[Sequence[str]]) -> None:
        """Send commands to run, and a request for an acknowledgement."""
        data = b"".join(map(_encoded, (*commands, _ASK)))
        with self._connected("after it was given the snapshot"):
            self._stream.sendall(data)
        self._offset += len(data)

    def wait_for_acknowledgement(self) -> None:
        """Wait until it has acknowledged all bytes before the last request."""
        expected = self._offset - len(_encoded(_ASK))  # it answers before it has counted the request
        with self._connected("before it had loaded the snapshot; its log says why"):
            while True:
                words = _words(self._input)
                if [word.upper() for word in words[:2]] == [b"REPLCONF", b"ACK"] and int(words[2]) >= expected:
                    return

    def _shakes_hands(self, password: str) -> bool:
        """Answer the handshake up to PSYNC; False for another client."""
        known = False
        for _ in range(_MOST_WORDS):
            words = _words(self._input)
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
    def _connected(self, when: str) -> Iterator[None]:
        """Raise BackupFailed if the connection fails within the block."""
        try:
            yield
        except (OSError, ValueError) as exc:
            reason = "said nothing for too long" if isinstance(exc, TimeoutError) else "hung up"
            raise BackupFailed(f"Redis {reason} {when}") from exc


def _words(stream: Any) -> list[bytes]:
    """
    The next command of a connection.

    Raises:
        ValueError: It is not a command, or the connection ended.
    """
    while (line := _line(stream)) == b"":
        pass  # while it loads, it sends newlines as keep-alives
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
