"""
Redis: our Lua scripts on fakeredis, and connections to it that break, lose answers and are late.

The server runs a command when it arrives, whether its client lives or not. A connection answers in the order in which
it was asked.
"""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Callable
from typing import Any

import fakeredis
import hiredis
import redis
from fakeredis import FakeServer
from fakeredis._socket import FakeSocket  # what executes commands for a connection of fakeredis
from fakeredis.model import ZSet

from ifinu.broker.keys import Script
from simulation.world import Process, Task, World, here, is_running

_BLOCKING = {"BLMOVE", "BLPOP"}
TIMEOUT_S = 2.0  # of a command, for the workers

Watch = Callable[[str, list[str], list[Any], Any], None]  # the script's name, KEYS, ARGV and answer


class _Lua:
    """fakeredis' Lua, which compiles a script once, without its `#!lua` line, and leaves garbage to Lua."""

    _compiled: dict[bytes, Any]

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._compiled = {}

    def execute(self, source: bytes | str) -> Any:
        if source == "collectgarbage()":
            return None
        found = self._compiled.get(source)
        if found is None:
            found = self._compiled[source] = self._runtime.compile(source.partition(b"\n")[2])
        return found()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)


@functools.cache
def _with_lua() -> FakeServer:
    """The first server: its Lua serves all that follow, since making one takes as long as a run."""
    first = FakeServer(version=(8,))
    client = fakeredis.FakeRedis(server=first)
    client.eval("return 1", 0)
    first._lua_runtime.globals().redis[b"sha1hex"] = lambda text: hashlib.sha1(text).hexdigest().encode()
    first._lua_runtime = _Lua(first._lua_runtime)
    return first


def fake_server() -> FakeServer:
    """An empty server that runs our scripts."""
    fake = FakeServer(version=(8,))
    for name, value in vars(_with_lua()).items():
        if name.startswith("_lua"):
            setattr(fake, name, value)
    return fake


class Server:
    """
    The one Redis of a world.

    Args:
        world: The world.
        scripts: Their sources by name; a mutant has another one.

    Attributes:
        away_until: End of an outage; in the past if it is there.
        starts: How often it has started. Connections from before are broken.
        watch: Called after each script that ran.
    """

    def __init__(self, world: World, scripts: dict[str, Script]) -> None:
        self.world = world
        self.away_until = 0.0
        self.starts = 1
        self.watch_before: Callable[[str, list[str]], None] = lambda *_: None
        self.watch: Watch = lambda *_: None
        self.fake = fake_server()
        self._socket = FakeSocket(self.fake, 0, client_class=redis.Redis)
        self._names = {script.sha: name for name, script in scripts.items()}
        self._sources = {script.sha: script.source for script in scripts.values()}
        self._parked: dict[Pending, str] = {}  # commands that wait for an element, by its list
        for source in self._sources.values():
            self._call("SCRIPT", "LOAD", source)
        # What it does at once and without a network, for people and for the promises.
        self.direct = redis.Redis(
            connection_pool=redis.ConnectionPool(connection_class=_Direct, server=self, protocol=2)
        )

    @property
    def is_away(self) -> bool:
        return self.world.now < self.away_until

    def run(self, command: tuple[Any, ...]) -> Any:
        """Run a command now. Returns the answer, or the error."""
        if command[0] == "INFO":  # which fakeredis lacks
            return f"run_id:simulated-{self.starts}\r\n".encode()
        name = self.name_of(command)
        keys, args = _keys_and_args(command) if name else ([], [])
        if name:
            self.watch_before(name, keys)
        answer = self._call(*command)
        if name and not isinstance(answer, Exception):
            self.watch(name, keys, args, answer)
        self._unpark()
        return answer

    def name_of(self, command: tuple[Any, ...]) -> str:
        """The name of the script that a command runs; empty if it runs none."""
        match command[0]:
            case "EVALSHA":
                return self._names[str(command[1])]
            case "EVAL":
                return self._names[Script("", str(command[1])).sha]
        return ""

    def _call(self, *command: Any) -> Any:
        encoded = [part if isinstance(part, bytes) else str(part).encode() for part in command]
        self.world.serving = True
        try:
            self._socket._process_command(encoded)
        finally:
            self.world.serving = False
        return self._socket.responses.get_nowait()

    def restart(self, for_s: float) -> None:
        """Die, and start again after a while with the same data: every connection is broken."""
        self.starts += 1
        self.away_until = max(self.away_until, self.world.now + for_s)
        while self._parked:
            self._parked.popitem()[0].answered(redis.ConnectionError("Connection reset by peer"))

    # -- what is in it, read without a command, since that is much faster

    def elements(self, key: str) -> list[bytes]:
        """The elements of a list, the members of a sorted set or the values of a hash."""
        value = self._value(key)
        if value is None or isinstance(value, list):
            return value or []
        return list(value._bylex if isinstance(value, ZSet) else value._values.values())

    def scores(self, key: str) -> dict[bytes, float]:
        """The members of a sorted set with their scores."""
        value = self._value(key)
        return {} if value is None else value._bylex

    def fields(self, key: str) -> dict[bytes, bytes]:
        """The fields of a hash."""
        value = self._value(key)
        return {} if value is None else value._values

    def members(self, key: str) -> list[bytes]:
        """The members of a set."""
        value = self._value(key)
        return [] if value is None else list(value)

    def text(self, key: str) -> bytes | None:
        """The value of a string."""
        value: bytes | None = self._value(key)
        return value

    def _value(self, key: str) -> Any:
        item = self.fake.dbs[0]._dict.get(key.encode())
        return item and item.value

    # -- commands that wait

    def park(self, pending: Pending) -> None:
        key = str(pending.command[1])
        if self.elements(key):
            self._serve(pending)
            return
        self._parked[pending] = key
        self.world.after(float(pending.command[-1]), lambda: self._give_up(pending))

    def _serve(self, pending: Pending) -> None:
        source, to, where_from, where_to, _ = pending.command[1:]
        pending.answered(self._call("LMOVE", source, to, where_from, where_to))

    def _give_up(self, pending: Pending) -> None:
        if self._parked.pop(pending, None) is not None:
            pending.answered(None)

    def _unpark(self) -> None:
        for pending, key in list(self._parked.items()):
            if self.elements(key):
                del self._parked[pending]
                self._serve(pending)

    def forget(self, pending: Pending) -> None:
        self._parked.pop(pending, None)


def _keys_and_args(command: tuple[Any, ...]) -> tuple[list[str], list[Any]]:
    first_argument = 3 + int(command[2])
    return [_text(key) for key in command[3:first_argument]], list(command[first_argument:])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Pending:
    """A command on its way, and its answer."""

    def __init__(self, command: tuple[Any, ...], back_s: float) -> None:
        self.command = command
        self.done = False
        self.answer: Any = None
        self.reader: Task | None = None
        self.socket: _Socket | None = None  # that reads it, if no greenlet does
        self._back_s = back_s

    def answered(self, answer: Any) -> None:
        """The server has answered; the answer travels."""
        here().after(self._back_s, functools.partial(self._arrive, answer))

    def _arrive(self, answer: Any) -> None:
        self.done, self.answer = True, answer
        if self.reader is not None:
            here().wake(self.reader)
        if self.socket is not None:
            self.socket.arrived()


class _Socket:
    """The socket of a connection, as `connections.Pipeline` uses it: bytes of commands in, bytes of answers out."""

    def __init__(self, connection: Connection) -> None:
        self.on_readable: Callable[[], None] | None = None
        self._connection = connection
        self._commands = hiredis.Reader()
        self._pending: deque[Pending] = deque()
        self._answers = b""
        self._is_broken = False

    def setblocking(self, _: bool) -> None:
        pass

    def send(self, data: bytes) -> int:
        self._commands.feed(data)
        commands = []
        while (words := self._commands.gets()) is not False:
            commands.append((words[0].decode(), words[1].decode(), *words[2:]))
        batch = self._connection.send(commands)
        for pending in batch:
            pending.socket = self
        self._pending += batch
        return len(data)

    def arrived(self) -> None:
        """Answers are read in the order of their commands; one that is lost blocks those behind it."""
        while self._pending and self._pending[0].done:
            answer = self._pending.popleft().answer
            if isinstance(answer, redis.ConnectionError):
                self._is_broken = True
                break
            self._answers += _encoded(answer)
        if self.on_readable is not None and (self._answers or self._is_broken):
            self.on_readable()

    def recv(self, _: int) -> bytes:
        if self._answers:
            answers, self._answers = self._answers, b""
            if self._is_broken and self.on_readable is not None:
                self.on_readable()  # there is still something to read: the end
            return answers
        if self._is_broken:
            raise ConnectionResetError("reset")
        raise BlockingIOError


def _encoded(answer: Any) -> bytes:
    """An answer in RESP2."""
    match answer:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % answer
        case list():
            return b"*%d\r\n" % len(answer) + b"".join(map(_encoded, answer))
        case Exception():
            return b"-ERR %s\r\n" % str(answer).encode()
    text = answer if isinstance(answer, bytes) else str(answer).encode()
    return b"$%d\r\n%s\r\n" % (len(text), text)


class Connection(redis.Connection):
    """A connection of a worker to the server, as redis-py, Kombu and our script runner use one."""

    def __init__(self, **settings: Any) -> None:
        self._pending: deque[Pending] = deque()
        self._is_open = False
        self._start = 0  # of the server, at which it was opened
        self._free_at = self._back_at = 0.0
        settings["socket_timeout"] = TIMEOUT_S
        super().__init__(**settings)

    @property
    def server(self) -> Server:
        return here().server

    @property
    def is_connected(self) -> bool:
        return self._is_open

    def connect(self) -> None:
        if self._is_open:
            return
        faults = here().faults
        here().sleep(faults.latency_s())
        if self.server.is_away or faults.happens("connect_refused"):
            raise redis.ConnectionError("Connection refused")
        self._is_open, self._free_at, self._sock = True, 0.0, _Socket(self)
        self._start = self.server.starts

    def connect_check_health(self, *_: Any, **__: Any) -> None:
        self.connect()

    def check_health(self) -> None:
        pass

    def on_connect(self) -> None:
        pass

    def disconnect(self, *_: Any, **__: Any) -> None:
        self._is_open = False
        for pending in self._pending:
            if is_running():
                self.server.forget(pending)
        self._pending.clear()

    def can_read(self, timeout: float = 0) -> bool:
        return bool(self._pending) and self._pending[0].done

    def send_command(self, *command: Any, **_: Any) -> None:
        self.connect()
        self._pending += self.send([(*str(command[0]).split(), *command[1:])])

    def pack_commands(self, commands: Any) -> Any:
        return list(commands)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        self.connect()
        self._pending += self.send([(*str(each[0]).split(), *each[1:]) for each in command])

    def send(self, commands: list[tuple[Any, ...]]) -> list[Pending]:
        """Send commands that leave together; if the connection breaks, some of them may have been executed."""
        world = here()
        fate, there_s, back_s = world.faults.of_command()
        batch = [Pending(command, back_s) for command in commands]
        at = self._free_at = max(self._free_at, world.now + there_s)
        world.after(at - world.now, functools.partial(self._arrive, batch, fate, world.process, self._start))
        return batch

    def _arrive(self, batch: list[Pending], fate: str, process: Process | None, start: int) -> None:
        world = here()
        is_gone = self.server.is_away or start != self.server.starts
        if is_gone:
            fate = "break_before"
        if fate != "ok":
            world.trace(f"redis {fate}", of=process and process.name, command=_short(batch[0].command))
        is_whole = is_gone or batch[0].command[0] == "MULTI"
        breaks_at = 0 if is_whole else world.rng.randrange(len(batch))
        for index, pending in enumerate(batch):
            self._serve(pending, "break_after" if fate == "break_before" and index < breaks_at else fate)

    def _serve(self, pending: Pending, fate: str) -> None:
        if fate == "lost_before":
            return
        if fate == "break_before":
            pending.answered(redis.ConnectionError("Connection reset by peer"))
        elif pending.command[0] in _BLOCKING:
            self.server.park(pending)
        else:
            answer = self.server.run(pending.command)
            if fate != "lost_after":
                pending.answered(redis.ConnectionError("reset") if fate == "break_after" else answer)

    def wait_readable(self) -> None:
        """Wait as the event loop does, with no limit of its own but a check for silence."""
        if self._pending:
            self._await(self._pending[0], 12.0)

    def _await(self, pending: Pending, timeout_s: float) -> bool:
        if pending.done:
            return True
        task = here().task()
        pending.reader = task
        try:
            return here().wait(timeout_s) or pending.done
        finally:
            pending.reader = None

    def read_response(self, *_: Any, **__: Any) -> Any:
        if not self._pending:
            raise redis.ConnectionError("Connection closed by server.")
        pending = self._pending[0]
        if not self._await(pending, TIMEOUT_S):
            self.disconnect()
            raise redis.TimeoutError("Timeout reading from socket")
        if self._pending:
            self._pending.popleft()
        if isinstance(pending.answer, redis.ConnectionError):
            self.disconnect()
            raise redis.ConnectionError(str(pending.answer))
        if isinstance(pending.answer, Exception):
            raise pending.answer
        return pending.answer


class _Direct(redis.Connection):
    """A connection without a network, for what is no worker."""

    def __init__(self, server: Server, **settings: Any) -> None:
        self._answers: deque[Any] = deque()
        self._simulated = server
        super().__init__(**settings)

    def connect(self) -> None:
        pass

    def disconnect(self, *_: Any, **__: Any) -> None:
        self._answers.clear()

    def can_read(self, timeout: float = 0) -> bool:
        return False

    def check_health(self) -> None:
        pass

    def send_command(self, *command: Any, **_: Any) -> None:
        self._answers.append(self._simulated.run((*str(command[0]).split(), *command[1:])))

    def pack_commands(self, commands: Any) -> Any:
        return list(commands)

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        for each in command:
            self.send_command(*each)

    def read_response(self, *_: Any, **__: Any) -> Any:
        answer = self._answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _short(command: tuple[Any, ...]) -> str:
    return here().server.name_of(command) or " ".join(str(part)[:40] for part in command[:2])
