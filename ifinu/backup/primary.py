"""
A snapshot is brought into Redis without touching its volume: we play the primary that it is told to follow.

It gets the snapshot as a replica gets it, and forgets what it held; then, as if they had been written to us, a few
commands; when it has said that it has all of that it is told to follow nobody, and is a server as before. It rewrites
its own append-only file.

It has to be able to connect to us. Only it can: for that time it is given a password that nobody else knows.
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

_COME_S = 30.0  # within which it connects to us; it looks every second
_GREETING_S = 10.0  # in which who connects has to say who they are
_QUIET_S = 120.0  # the longest that nothing is heard of it
_REWRITTEN_S = 600.0
_POLL_S = 0.1
_STILL_MS = 30_000  # at most, if we are killed within
_LONGEST_LINE = 64 * 1024
_MOST_WORDS = 100
_ASK = ("REPLCONF", "GETACK", "*")
_REFUSED = "it does not let itself be told whom to follow: restore a managed server from its provider's snapshots"


class Address:
    """
    Where Redis finds us.

    Args:
        given: `HOST:PORT`, `:PORT`, or None: the address that we reach Redis from, and a free port.

    Raises:
        ValueError: It is no such thing.
    """

    def __init__(self, given: str | None = None) -> None:
        host, colon, port = (given or ":0").rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65_535:
            raise ValueError("must be HOST:PORT or :PORT")
        self.host = host.strip("[]")
        self.port = int(port)


@contextlib.contextmanager
def following(
    client: redis.Redis,
    chunks: Iterable[bytes],
    size: int,
    *,
    address: Address,
    commands: Sequence[Sequence[str]] = (),
    last: Callable[[], None] = lambda: None,
    loaded: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """
    Give a Redis server a snapshot; all that it held is gone. Within the block it has it, and takes no writes yet.

    Args:
        client: A connection to it.
        chunks: The snapshot file.
        size: Its bytes.
        address: Where it finds us.
        commands: What it runs after it, before anybody else can write.
        last: Called while writes already wait, and the server still has what it held; what it raises ends it all.
        loaded: Called when it has the snapshot, and before it has the commands; what it raises ends it all.

    Raises:
        redis.RedisError: The server is away.
        BackupFailed: It did not come, did not take it, or does not let itself be told. It follows nobody again; what it
            holds now may be nothing, and the same may be done again.
    """
    password = secrets.token_hex(32)
    with _listening(client, address) as (listener, host, port), _password(client, password):
        try:
            with _permitted(), _still(client):
                last()
                client.replicaof(host, port)
            with _Follower.accepted(listener, password) as follower:
                follower.give(chunks, size)
                follower.acknowledged()
                loaded()
                follower.tell(commands)
                follower.acknowledged()
                yield
        finally:
            client.replicaof("NO", "ONE")


def settle(client: redis.Redis) -> None:
    """
    Wait until what a server was given is on its disk, where it keeps an append-only file.

    Raises:
        redis.RedisError: It is away.
        BackupFailed: It could not write it.
    """
    give_up_at = time.monotonic() + _REWRITTEN_S
    while time.monotonic() < give_up_at:
        told: Any = client.info("persistence")
        if not told.get("aof_enabled"):
            return
        if not told.get("aof_rewrite_in_progress") and not told.get("aof_rewrite_scheduled"):
            if told.get("aof_last_bgrewrite_status") == "ok":
                return
            raise BackupFailed("Redis has the snapshot and cannot write its append-only file: is its disk full?")
        time.sleep(_POLL_S)
    raise BackupFailed(f"Redis has the snapshot and has not written its append-only file within {_REWRITTEN_S:g} s")


@contextlib.contextmanager
def _listening(client: redis.Redis, address: Address) -> Iterator[tuple[socket.socket, str, int]]:
    """A listener, and what Redis is told of where it is."""
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
    """What the server says to whom it follows is this, until the end of the block."""
    with _permitted():
        before: Any = client.config_get("masterauth")
        client.config_set("masterauth", password)
    try:
        yield
    finally:
        client.config_set("masterauth", before.get("masterauth", ""))


@contextlib.contextmanager
def _still(client: redis.Redis) -> Iterator[None]:
    """Writes of others wait until the end of the block; a replica refuses them."""
    client.client_pause(_STILL_MS, all=False)
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


class _Follower:
    """
    The server, as it is connected to us.

    Args:
        stream: The connection.
    """

    def __init__(self, stream: socket.socket) -> None:
        stream.settimeout(_GREETING_S)
        self._stream = stream
        self._heard = stream.makefile("rb")
        self._told = 0  # bytes after the snapshot; it counts them too

    @classmethod
    @contextlib.contextmanager
    def accepted(cls, listener: socket.socket, password: str) -> Iterator[_Follower]:
        """The first who connects and knows the password, and asks for a snapshot."""
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
                follower = cls(stream)
                with contextlib.suppress(OSError, ValueError):
                    if follower._asks(password):
                        stack.callback(follower._close)
                        break
                follower._close()
            yield follower

    def give(self, chunks: Iterable[bytes], size: int) -> None:
        """Send the snapshot."""
        self._stream.settimeout(_QUIET_S)
        with self._lasting("while it was given the snapshot"):
            self._stream.sendall(f"+FULLRESYNC {secrets.token_hex(20)} 0\r\n${size}\r\n".encode())
            for chunk in chunks:
                self._stream.sendall(chunk)
        self.tell(())

    def tell(self, commands: Sequence[Sequence[str]]) -> None:
        """Have it run commands, and ask how far it is."""
        data = b"".join(map(_encoded, (*commands, _ASK)))
        with self._lasting("after it was given the snapshot"):
            self._stream.sendall(data)
        self._told += len(data)

    def acknowledged(self) -> None:
        """Wait until it has all that it was told before it was last asked."""
        expected = self._told - len(_encoded(_ASK))  # it answers before it has counted the question
        with self._lasting("before it had loaded the snapshot; its log says why"):
            while True:
                words = _words(self._heard)
                if [word.upper() for word in words[:2]] == [b"REPLCONF", b"ACK"] and int(words[2]) >= expected:
                    return

    def _asks(self, password: str) -> bool:
        """The handshake; False for somebody else."""
        known = False
        for _ in range(_MOST_WORDS):
            words = _words(self._heard)
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
        self._heard.close()
        self._stream.close()

    @contextlib.contextmanager
    def _lasting(self, when: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as exc:
            why = "said nothing for too long" if isinstance(exc, TimeoutError) else "hung up"
            raise BackupFailed(f"Redis {why} {when}") from exc


def _words(heard: Any) -> list[bytes]:
    """
    The next command of a connection.

    Raises:
        ValueError: It is none, or the connection ended.
    """
    while (line := _line(heard)) == b"":
        pass  # while it loads, it says by newlines that it lives
    if not line.startswith(b"*"):
        return line.split() or [b""]  # as a person types it
    words = []
    for _ in range(min(int(line[1:]), _MOST_WORDS)):
        size = int(_line(heard)[1:])
        if not 0 <= size <= _LONGEST_LINE:
            raise ValueError("too long")
        words.append(heard.read(size))
        heard.read(2)
    if not words:
        raise ValueError("no command")
    return words


def _line(heard: Any) -> bytes:
    line: bytes = heard.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise ValueError("the connection ended")
    return line.rstrip(b"\r\n")


def _encoded(words: Sequence[str]) -> bytes:
    parts = [f"${len(raw := word.encode())}\r\n".encode() + raw + b"\r\n" for word in words]
    return f"*{len(parts)}\r\n".encode() + b"".join(parts)
