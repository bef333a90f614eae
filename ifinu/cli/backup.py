"""`ifinu backup`: create, list and verify backups, and drill a restore."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from ifinu import settings
from ifinu.backup.manifest import Part
from ifinu.cli import connection, terminal, transfers
from ifinu.cli.durations import span
from ifinu.errors import BackupFailed, ConfigurationError

if TYPE_CHECKING:
    from ifinu.backup.creation import Sources
    from ifinu.backup.manifest import Manifest
    from ifinu.backup.verification import Checked, Targets
    from ifinu.settings import Settings

app = typer.Typer()


Name = Annotated[str, typer.Argument(help="A backup's name; latest by default.", metavar="[NAME]", show_default=False)]


@app.callback(invoke_without_command=True)
def backup(
    context: typer.Context,
    without: Annotated[list[Part] | None, typer.Option("--without", help="Leave this part out; repeatable.")] = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Back up Redis, the ledger and the gateway's database; list and verify backups.

    The backup goes to IFINU_BACKUP_STORE, a directory or s3://bucket/prefix. It
    includes the gateway's database if IFINU_EVOLUTION_DATABASE_URL is set. All
    services keep running. Afterwards, backups older than IFINU_BACKUP_KEEP_DAYS
    are deleted; the newest complete one always stays. A backup holds phones, names
    and WhatsApp sessions: keep the store encrypted. A server that cannot be reached
    is tried for 30 seconds.

    [bold]Examples[/bold]

    ifinu backup
    ifinu backup --without redis --json
    ifinu backup list
    ifinu backup verify latest
    """
    if context.invoked_subcommand is not None:
        return
    from ifinu.backup import creation, rotation
    from ifinu.backup.store import open_store

    config = settings.load()
    store = open_store(config.backup_store)
    left_out = set(without or ())
    sources = _sources(config, left_out)
    _reach(sources)
    began = time.monotonic()
    with transfers.progress() as progress:
        created = creation.create(store, sources, progress=progress)
    took_s = time.monotonic() - began
    try:
        deleted = rotation.prune(store, datetime.now(UTC), config.backup_keep_days)
    except BackupFailed as exc:
        raise BackupFailed(f"{created.name} is complete, but old backups could not be deleted: {exc}") from exc
    if as_json:
        terminal.print_json({**_facts(created), "took_s": round(took_s, 3), "store": store.place, "deleted": deleted})
        return
    out = terminal.results()
    out.print(f"{created.name} is in {terminal.plain(store.place)}: {decimal(created.size)} in {span(took_s)}")
    for part, kept in created.parts.items():
        out.print(f"  {part}: {decimal(kept.bytes)} of {terminal.plain(kept.server)}{_held(kept)}")
    if deleted:
        out.print(f"deleted by IFINU_BACKUP_KEEP_DAYS={config.backup_keep_days}: {', '.join(deleted)}")
    if sources.evolution is None and Part.EVOLUTION not in left_out:
        terminal.notes().print(
            "The gateway's database is not in this backup: IFINU_EVOLUTION_DATABASE_URL is not set.", style="yellow"
        )


@app.command("list")
def list_(as_json: terminal.Json = False) -> None:
    """
    List the backups, the oldest first.

    An incomplete backup was interrupted, or is still being created. The exit code
    is 1 if no backup is complete.

    [bold]Examples[/bold]

    ifinu backup list
    ifinu backup list --json | jq -r .name
    """
    from ifinu.backup import manifest, rotation
    from ifinu.backup.store import open_store

    store = open_store(settings.load().backup_store)
    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = []
    for name in store.names():
        files = store.files(name)
        rows.append(
            {
                "name": name,
                "age_s": round((now - manifest.began(name)).total_seconds()),
                "complete": manifest.FILE in files,
                "parts": sorted(part.value for part in manifest.Part if part.file in files),
                "bytes": sum(files.values()),
            }
        )
    if as_json:
        for row in rows:
            terminal.print_json(row)
    else:
        table = terminal.columns("backup", "age", "size", "parts", "", right=("age", "size"), whole=("backup",))
        for row in rows:
            state = "" if row["complete"] else "[yellow]incomplete[/]"
            size = decimal(row["bytes"])
            table.add_row(row["name"], span(row["age_s"]), size, ", ".join(row["parts"]) or "–", state)
        terminal.results().print(table if rows else f"There is no backup in {terminal.plain(store.place)}.")
    if not rotation.complete(store):
        raise typer.Exit(1)


@app.command()
def verify(
    name: Name = "latest",
    into_database: Annotated[
        str | None,
        typer.Option(envvar="DRILL_DATABASE_URL", metavar="URL", help="Restore the ledger into this empty database."),
    ] = None,
    into_evolution_database: Annotated[
        str | None,
        typer.Option(
            envvar="DRILL_EVOLUTION_DATABASE_URL",
            metavar="URL",
            help="Restore the gateway's database into this empty database.",
        ),
    ] = None,
    into_redis: Annotated[
        str | None, typer.Option(envvar="DRILL_REDIS_URL", metavar="URL", help="Restore Redis into this empty Redis.")
    ] = None,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Address at which that Redis reaches this process.")
    ] = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Verify a backup: check its checksums, and that its dumps can be read.

    With [bold]--into-…[/bold] it also drills a restore: it restores into empty servers and
    compares the number and the content of the rows of every table with the
    original. It reports how long that took (the RTO) and how old the backup is (the
    RPO if the disaster were now). The exit code is 1 if anything differs.

    Give a URL with a password by its environment variable.

    [bold]Examples[/bold]

    ifinu backup verify
    ifinu backup verify 20261201T030000Z --json
    ifinu backup verify latest --into-database postgresql://postgres@localhost/ledger
    """
    from ifinu.backup import rotation, verification
    from ifinu.backup.store import open_store

    targets = _targets(into_database, into_evolution_database, into_redis, listen)
    store = open_store(settings.load().backup_store)
    manifest = rotation.find(store, name)
    age_s = (datetime.now(UTC) - manifest.created_at).total_seconds()
    with transfers.progress() as progress:
        checked = verification.verify(store, manifest, progress)
        sound = not any(one.problems for one in checked)
        restored = verification.drill(store, manifest, targets, progress) if targets.parts and sound else []
    _report(manifest, checked, restored, targets, age_s, as_json=as_json)
    if any(one.problems for one in (*checked, *restored)):
        raise typer.Exit(1)


def _sources(config: Settings, left_out: set[Part]) -> Sources:
    from ifinu.backup.creation import Sources
    from ifinu.backup.postgres import Database

    ledger = evolution = None
    if Part.LEDGER not in left_out:
        url = config.database_url.get_secret_value()
        if url.startswith("sqlite"):
            raise ConfigurationError(
                "the ledger is a SQLite file: copy it by `sqlite3 FILE '.backup COPY'`, and leave it out here by "
                "--without ledger"
            )
        ledger = Database(url, "the ledger")
    if Part.EVOLUTION not in left_out and config.evolution_database_url is not None:
        evolution = Database(config.evolution_database_url.get_secret_value(), "the gateway's database")
    redis_url = None if Part.REDIS in left_out else config.redis_url.get_secret_value()
    if ledger is None and evolution is None and redis_url is None:
        raise ConfigurationError("--without leaves nothing to back up")
    return Sources(redis_url, ledger, evolution)


def _reach(sources: Sources) -> None:
    databases = [one.ping for one in (sources.ledger, sources.evolution) if one is not None]
    if sources.redis_url is None:
        connection.reach(*databases)
        return
    with connection.broker() as client:
        connection.reach(client.ping, *databases)


def _targets(ledger: str | None, evolution: str | None, redis_url: str | None, listen: str | None) -> Targets:
    from ifinu.backup.postgres import Database
    from ifinu.backup.verification import Targets

    return Targets(
        ledger=None if ledger is None else Database(ledger, "the drill's ledger"),
        evolution=None if evolution is None else Database(evolution, "the drill's gateway database"),
        redis_url=redis_url,
        address=address_of(listen),
    )


def address_of(listen: str | None) -> Any:
    """
    The address that `--listen` gives, at which Redis reaches this process.

    Raises:
        ConfigurationError: It is not an address.
    """
    from ifinu.backup.primary import Address

    try:
        return Address(listen)
    except ValueError as exc:
        raise ConfigurationError(f"--listen {exc}") from exc


def _report(
    manifest: Manifest,
    checked: list[Checked],
    restored: list[Checked],
    targets: Targets,
    age_s: float,
    *,
    as_json: bool,
) -> None:
    took_s = sum(one.took_s for one in restored)
    problems = [problem for one in (*checked, *restored) for problem in one.problems]
    if as_json:
        terminal.print_json(
            {
                **_facts(manifest),
                "age_s": round(age_s, 3),
                "checked": [_outcome(one) for one in checked],
                "restored": [_outcome(one) for one in restored],
                "rpo_s": round(age_s, 3),
                "rto_s": round(took_s, 3) if restored else None,
                "problems": problems,
            }
        )
        return
    out = terminal.results()
    for one in checked:
        kept = manifest.parts[one.part]
        out.print(f"  {one.part}: {'[red]damaged[/]' if one.problems else 'sound'}, {decimal(kept.bytes)}{_held(kept)}")
    for one in restored:
        state = "[red]restored, but different[/]" if one.problems else "restored and identical"
        out.print(f"  {one.part}: {state}, in {span(one.took_s)}")
    for problem in problems:
        out.print(f"[red]{terminal.plain(problem)}[/]")
    out.print(f"{manifest.name} is {'damaged' if problems else 'intact'}; it is {span(age_s)} old")
    if restored and not problems:
        parts = ", ".join(sorted(targets.parts))
        out.print(f"RTO {took_s:.1f} s for {parts}; RPO {span(age_s)} if the disaster were now")


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "created_at": manifest.created_at.isoformat(),
        "parts": {
            part.value: {
                "bytes": kept.bytes,
                "sha256": kept.sha256,
                "server": kept.server,
                "at": kept.at.isoformat(),
                "rows": None if kept.tables is None else sum(table.rows for table in kept.tables.values()),
                "keys": None if kept.keys is None else sum(kept.keys.values()),
            }
            for part, kept in manifest.parts.items()
        },
    }


def _outcome(checked: Checked) -> dict[str, Any]:
    return {"part": checked.part.value, "took_s": round(checked.took_s, 3), "problems": checked.problems}


def _held(kept: Any) -> str:
    if kept.tables is not None:
        return f", {sum(table.rows for table in kept.tables.values()):,} rows"
    return f", {sum(kept.keys.values()):,} keys" if kept.keys else ""
