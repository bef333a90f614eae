"""`ifinu restore`: bring a backup back into the servers that are in use."""

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
    from ifinu.backup.reconciliation import Reconciled
    from ifinu.backup.store import Store
    from ifinu.backup.streams import Progress
    from ifinu.settings import Settings


def restore(
    name: Name = "latest",
    only: Annotated[
        list[Part] | None, typer.Option("--only", help="Restore this alone; may be given more than once.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace what is there.")] = False,
    gateway_kept: Annotated[
        bool,
        typer.Option(
            "--gateway-kept",
            help="The gateway's own database was not lost: what it does not have was not sent, and may be sent again.",
        ),
    ] = False,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where Redis finds us; by default our address and a free port."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Although others are connected to the databases.")] = False,
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Restore a backup into Redis, the ledger and the gateway's database.

    First end what writes to them: workers, recorder, webhook, metrics, the
    gateway. The backup is checked before anything is touched, and so are the
    servers: what a fresh install puts there by itself counts as empty, anything
    more is left alone without [bold]--replace[/bold]. Redis fetches its part from this
    process, so it has to be able to connect to it. A server that cannot be reached
    is tried for 30 seconds.

    A backup is older than the disaster. So Redis comes back with all queues
    paused, and is told whatever the ledger knows: what was sent since is not
    sent again, and what may have been sent is looked up at the gateway; what
    that does not have goes to the dead letters for a person to decide, unless
    [bold]--gateway-kept[/bold]. What was sent after the ledger's last entry nobody can know:
    look at what is told at the end, then [bold]ifinu queue resume --queue all[/bold].

    All of it may be done again after an interruption, with [bold]--replace[/bold].

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
            "--gateway-kept says that the gateway's database was not lost, and here it is restored: leave one out"
        )
    with connection.broker() as client:
        targets = _Targets(config, parts)
        connection.reach(client.ping, *(database.ping for database in targets.databases.values()))
        if Part.REDIS in parts:
            restoration.promote(client, _step)
        targets.refuse_living(client, force=force)
        with transfers.progress() as progress:
            restoration.check(store, manifest, parts, progress)
        if not replace:
            restoration.refuse_filled(targets.databases, client if Part.REDIS in parts else None)
        hosts = ", ".join(f"{part} at {host}" for part, host in targets.hosts.items())
        holds = " What they hold is replaced." if replace else ""
        what = f"{manifest.name} will be restored into {hosts}.{holds}"
        terminal.confirm(what, next(iter(targets.hosts.values())), yes=yes)
        with transfers.progress() as progress:
            reconciled = _restore(
                store, manifest, targets, client, progress,
                replace=replace, resend=gateway_kept, claim_ttl_s=config.claim_ttl_s, address=address,
            )  # fmt: skip
    if as_json:
        terminal.print_json(_facts(manifest, targets, reconciled))
    else:
        _tell(manifest, reconciled, gateway_kept=gateway_kept)


class _Targets:
    """
    The servers that are restored into.

    Attributes:
        parts: Which parts.
        databases: Those of them that are databases.
        hosts: Where each is.
    """

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

    def refuse_living(self, client: redis.Redis, *, force: bool) -> None:
        """
        Whoever writes has to have ended.

        Raises:
            BackupFailed: Somebody has not.
            redis.RedisError: Redis is away.
        """
        from ifinu.cli.top.workers import AWAY, Workers

        if Part.REDIS in self.parts or Part.LEDGER in self.parts:
            try:
                with Workers(self._redis_url) as fleet:
                    alive = sorted({name for name, _ in fleet.ask()})
            except AWAY as exc:
                raise redis.ConnectionError(str(exc)) from exc
            if alive:
                raise BackupFailed(f"workers are running: {', '.join(alive)}; end them first")
            if client.exists(RECORDER):
                raise BackupFailed("somebody records the ledger: end it first; what was killed is gone after 15 s")
        for database in self.databases.values():
            others = {} if force else database.others()
            if others:
                told = ", ".join(f"{count} of {name!r}" for name, count in others.items())
                raise BackupFailed(
                    f"{database.label} has other connections ({told}): end who writes to it, or add --force"
                )


def _parts(config: Settings, manifest: Manifest, only: list[Part] | None) -> set[Part]:
    """What is restored: what was asked for, or all that is in the backup and has a server."""
    if only:
        wanted = set(only)
        if Part.EVOLUTION in wanted and config.evolution_database_url is None:
            raise ConfigurationError("IFINU_EVOLUTION_DATABASE_URL is not set: it says where the gateway's database is")
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
    """What was sent since could not be told to Redis."""
    from ifinu.ledger.migrate import is_current

    if not is_current(ledger):
        raise BackupFailed("the ledger has no tables, and tells Redis what was sent: restore it first, or with it")


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


def _tell(manifest: Manifest, reconciled: Reconciled | None, *, gateway_kept: bool) -> None:
    out = terminal.results()
    for line in _lines(manifest, reconciled, gateway_kept=gateway_kept):
        out.print(line)


def _lines(manifest: Manifest, reconciled: Reconciled | None, *, gateway_kept: bool) -> Iterator[str]:
    yield f"{manifest.name} is restored."
    if reconciled is None:
        return
    rest = reconciled.waiting - reconciled.settled - reconciled.in_doubt
    yield (
        f"{reconciled.waiting:,} messages wait: {rest:,} to be sent, {reconciled.settled:,} that the ledger knows to "
        f"be sent or ended, which are dropped when their turn comes, {reconciled.in_doubt:,} that may have been sent, "
        "which are looked up first."
    )
    if reconciled.in_doubt and not gateway_kept:
        yield "Those of them that the gateway does not have will be dead letters: see `ifinu unknown list`."
    if reconciled.opt_outs:
        yield f"{reconciled.opt_outs:,} opt-outs and opt-ins since then are told to Redis."
    known = "nothing" if reconciled.known_to is None else f"{reconciled.known_to:%Y-%m-%d %H:%M:%S} UTC"
    yield (
        f"[yellow]The ledger's last entry is of {known}. What was sent after it and before the disaster nobody can "
        "know: it waits as if it had not been.[/]"
    )
    yield "All queues are paused. When that is weighed: `ifinu queue resume --queue all`"
