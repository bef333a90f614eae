"""`ifinu restore`: restore a backup into the production servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import redis
import typer

from ifinu import settings
from ifinu.backup.manifest import Part
from ifinu.broker.keys import RECORDER
from ifinu.cli import connection, terminal, transfers
from ifinu.cli.backup import Name, address_of
from ifinu.errors import BackupFailed, ConfigurationError

if TYPE_CHECKING:
    from ifinu.backup.manifest import Manifest
    from ifinu.backup.postgres import Database
    from ifinu.backup.store import Store
    from ifinu.backup.streams import Progress
    from ifinu.ledger.reconciliation import Reconciled
    from ifinu.settings import Settings


def restore(
    name: Name = "latest",
    only: Annotated[list[Part] | None, typer.Option("--only", help="Restore only this part; repeatable.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the data on servers that are not empty.")] = False,
    gateway_kept: Annotated[
        bool,
        typer.Option(
            "--gateway-kept",
            help="The gateway's database was not lost: a message that it does not have was not sent, and is resent.",
        ),
    ] = False,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Address at which Redis reaches this process; by default its own, on a free port."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Restore although the databases have other connections.")
    ] = False,
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Restore a backup into Redis, the ledger and the gateway's database.

    First stop everything that writes to them: workers, recorder, webhook, metrics
    and the gateway. The backup and the servers are checked before anything is
    changed. A server with only the content of a fresh install counts as empty; any
    other is refused without [bold]--replace[/bold]. Redis fetches its part from this process, so
    it must be able to connect to it. A server that cannot be reached is tried for
    30 seconds.

    A backup is older than the disaster. So Redis comes back with all queues paused
    and is reconciled with the ledger: messages sent since the backup are not sent
    again, and messages in doubt are looked up at the gateway. Those that the gateway
    does not have become dead letters for you to decide, or are resent with
    [bold]--gateway-kept[/bold]. Messages sent after the ledger's last entry cannot be detected.
    Read the report at the end, then run [bold]ifinu queue resume --queue all[/bold].

    After an interruption, run it again with [bold]--replace[/bold].

    [bold]Examples[/bold]

    ifinu restore
    ifinu restore 20261201T030000Z --replace --yes
    ifinu restore --only redis --gateway-kept
    """
    from ifinu.backup import restoration, rotation
    from ifinu.backup.store import open_store

    config = settings.load()
    address = address_of(listen)
    store = open_store(config.backup_store)
    manifest = rotation.find(store, name)
    parts = _parts(config, manifest, only)
    if gateway_kept and Part.EVOLUTION in parts:
        raise ConfigurationError(
            "--gateway-kept means that the gateway's database was not lost, but this restores it: drop --gateway-kept, "
            "or restore with --only"
        )
    with connection.broker() as client:
        targets = _Targets(config, parts)
        connection.reach(client.ping, *(database.ping for database in targets.databases.values()))
        if Part.REDIS in parts:
            restoration.promote(client, _step)
        targets.refuse_writers(client, force=force)
        with transfers.progress() as progress:
            restoration.check(store, manifest, parts, progress)
        if not replace:
            restoration.refuse_filled(targets.databases, client if Part.REDIS in parts else None)
        hosts = ", ".join(f"{part} at {host}" for part, host in targets.hosts.items())
        replaced = " Their data is replaced." if replace else ""
        question = f"{manifest.name} will be restored into {hosts}.{replaced}"
        terminal.confirm(question, next(iter(targets.hosts.values())), yes=yes)
        with transfers.progress() as progress:
            reconciled = _restore(
                store, manifest, targets, client, progress,
                replace=replace, resend=gateway_kept, claim_ttl_s=config.claim_ttl_s, address=address,
            )  # fmt: skip
    if as_json:
        terminal.print_json(_facts(manifest, targets, reconciled))
    else:
        for line in _lines(manifest, reconciled, gateway_kept=gateway_kept):
            terminal.results().print(line)


class _Targets:
    """The servers to restore into."""

    def __init__(self, config: Settings, parts: set[Part]) -> None:
        from ifinu.backup.postgres import Database

        self._redis_url = config.redis_url.get_secret_value()
        self.parts = parts
        self.databases: dict[Part, Database] = {}
        self.hosts: dict[str, str] = {}
        if Part.LEDGER in parts:
            self.databases[Part.LEDGER] = Database(config.database_url.get_secret_value(), "the ledger")
        if Part.EVOLUTION in parts and config.evolution_database_url is not None:
            url = config.evolution_database_url.get_secret_value()
            self.databases[Part.EVOLUTION] = Database(url, "the gateway's database")
        for part, database in self.databases.items():
            self.hosts[part.value] = database.host
        if Part.REDIS in parts:
            self.hosts["redis"] = urlsplit(self._redis_url).hostname or "localhost"

    def refuse_writers(self, client: redis.Redis, *, force: bool) -> None:
        """
        Check that no process writes to the servers.

        Raises:
            BackupFailed: A worker or recorder runs, or a database has other connections.
            redis.RedisError: Redis does not answer.
        """
        from ifinu.cli.top.workers import AWAY, Workers

        if Part.REDIS in self.parts or Part.LEDGER in self.parts:
            try:
                with Workers(self._redis_url) as fleet:
                    alive = sorted({name for name, _ in fleet.ask()})
            except AWAY as exc:
                raise redis.ConnectionError(str(exc)) from exc
            if alive:
                raise BackupFailed(f"workers are running: {', '.join(alive)}; stop them first")
            if client.exists(RECORDER):
                raise BackupFailed(
                    "a recorder is running: stop it first; the lock of one that was killed expires after 15 s"
                )
        for database in self.databases.values():
            others = {} if force else database.others()
            if others:
                listed = ", ".join(f"{count} of {name!r}" for name, count in others.items())
                raise BackupFailed(
                    f"{database.label} has other connections ({listed}): stop the programs that write to it, or add "
                    "--force"
                )


def _parts(config: Settings, manifest: Manifest, only: list[Part] | None) -> set[Part]:
    """The parts to restore: those of `--only`, or all parts of the backup that have a server."""
    if only:
        wanted = set(only)
        if Part.EVOLUTION in wanted and config.evolution_database_url is None:
            raise ConfigurationError("IFINU_EVOLUTION_DATABASE_URL is not set: it is the URL of the gateway's database")
        return wanted
    there = set(manifest.parts)
    return there - {Part.EVOLUTION} if config.evolution_database_url is None else there


def _restore(
    store: Store,
    manifest: Manifest,
    targets: _Targets,
    client: redis.Redis,
    progress: Progress,
    *,
    replace: bool,
    resend: bool,
    claim_ttl_s: float,
    address: Any,
) -> Reconciled | None:
    from ifinu.backup import restoration

    with connection.ledger() as ledger:
        if Part.REDIS in targets.parts and Part.LEDGER not in targets.parts:
            _refuse_without_ledger(ledger)
        for part, database in targets.databases.items():
            restoration.database(store, manifest, part, database, replace=replace, progress=progress, report=_step)
            if part is Part.LEDGER:
                restoration.catch_up(ledger)
        if Part.REDIS not in targets.parts:
            return None
        return restoration.queue(
            store, manifest, client, ledger,
            replace=replace, resend=resend, claim_ttl_s=claim_ttl_s, address=address, progress=progress, report=_step,
        )  # fmt: skip


def _step(step: str) -> None:
    terminal.notes().print(terminal.plain(step))


def _refuse_without_ledger(ledger: Any) -> None:
    """Without the ledger's tables, Redis could not be reconciled with what was sent since the backup."""
    from ifinu.ledger.migrate import is_current

    if not is_current(ledger):
        raise BackupFailed(
            "the ledger has no tables, and Redis is reconciled with it: restore the ledger first, or both together"
        )


def _facts(manifest: Manifest, targets: _Targets, reconciled: Reconciled | None) -> dict[str, Any]:
    queue = None
    if reconciled is not None:
        queue = {
            "known_to": reconciled.known_to and reconciled.known_to.isoformat(),
            "claims": dict(reconciled.claims),
            "opt_outs": reconciled.opt_outs,
            "waiting": reconciled.waiting,
            "settled": reconciled.settled,
            "in_doubt": reconciled.in_doubt,
            "paused": True,
        }
    parts = [part.value for part in Part if part in targets.parts]
    return {"name": manifest.name, "restored": parts, "queue": queue}


def _lines(manifest: Manifest, reconciled: Reconciled | None, *, gateway_kept: bool) -> Iterator[str]:
    yield f"{manifest.name} is restored."
    if reconciled is None:
        return
    rest = reconciled.waiting - reconciled.settled - reconciled.in_doubt
    yield (
        f"{reconciled.waiting:,} messages are waiting: {rest:,} will be sent; {reconciled.settled:,} have ended by the "
        f"ledger and will be dropped in their turn; {reconciled.in_doubt:,} may have been sent and will be looked up "
        "first."
    )
    if reconciled.in_doubt and not gateway_kept:
        yield "Of the last, those that the gateway does not have become dead letters: see `ifinu unknown list`."
    if reconciled.opt_outs:
        yield f"{reconciled.opt_outs:,} opt-outs and opt-ins since the backup were copied from the ledger to Redis."
    if reconciled.known_to is None:
        last = "The ledger has no entries. Messages sent before the disaster"
    else:
        last = f"The ledger's last entry is of {reconciled.known_to:%Y-%m-%d %H:%M:%S} UTC. Messages sent after it"
    yield f"[yellow]{last} cannot be detected: if they are in the backup, they wait and would be sent again.[/]"
    yield "All queues are paused. Once you accept that, run `ifinu queue resume --queue all`."
