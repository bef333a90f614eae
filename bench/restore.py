"""
Duration of a backup and a restore, the basis of RTO and RPO: `python bench/restore.py [thousands]`.

The servers are real and local; each part is restored into a new server. The recorder fills the ledger from events like
those of workers and webhooks. The gateway's database is a table of messages as large as the gateway's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
import report
from report import table
from rig import push, raw
from sqlalchemy import create_engine, make_url

from ifinu.broker import NORMAL
from ifinu.broker.keys import EVENTS, claim_key
from ifinu.embedded import Postgres, Valkey
from ifinu.ledger.engine import connect
from ifinu.ledger.migrate import migrate
from ifinu.ledger.recorder import Recorder

_PAGE = 1_000
_DAYS_MS = 7 * 86_400_000
_MESSAGES = """
CREATE TABLE "Message" (id text PRIMARY KEY, key jsonb NOT NULL, message jsonb NOT NULL, at int NOT NULL);
INSERT INTO "Message"
SELECT md5(n::text), jsonb_build_object('id', md5(n::text), 'remoteJid', '55779' || n, 'fromMe', true),
       jsonb_build_object('conversation', repeat('Lembrete: sua mensalidade vence amanha. ', 8) || n), n
FROM generate_series(1, {count}) AS n;
CREATE INDEX ON "Message" (at);
"""


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("thousands", type=int, nargs="?", default=100, help="thousands of notifications")
    return made


def main() -> None:
    given = parser().parse_args()
    count = 1_000 * given.thousands
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ifinu-bench-")))
        root.chmod(0o755)  # PostgreSQL runs under another account
        source, target = (stack.enter_context(Valkey(root / name)) for name in ("valkey-1", "valkey-2"))
        here, there = (stack.enter_context(_postgres(root / name)) for name in ("postgres-1", "postgres-2"))
        print(
            f"filling: {count:,} notifications, their claims, {count:,} queued messages, {count:,} gateway messages …"
        )
        urls = _fill(source, here, count)
        environment = _environment(source.url, urls, root / "store")
        taken, backup_s = _run(environment, "backup", "--json")
        empty = tuple(_database(there, name) for name in ("ledger", "evolution"))
        drill, drill_s = _run(
            environment, "backup", "verify", "--json", "--into-database", _database(there, "drill_1"),
            "--into-evolution-database", _database(there, "drill_2"),
        )  # fmt: skip
        restored, restore_s = _run(_environment(target.url, empty, root / "store"), "restore", "--yes", "--json")
        shown = _print(taken, drill, restored, (backup_s, drill_s, restore_s))
        report.write(given, {"table": shown, "seconds": {"backup": backup_s, "drill": drill_s, "restore": restore_s}})


def _fill(server: Valkey, postgres: Postgres, count: int) -> tuple[str, str]:
    ledger, evolution = (_database(postgres, name) for name in ("ledger", "evolution"))
    _execute(evolution, *_MESSAGES.format(count=count).strip().split(";\n"))
    engine = connect(ledger)
    migrate(engine)
    with redis.Redis.from_url(server.url, socket_timeout=30) as client:
        for start in range(0, count, _PAGE):
            pipe = client.pipeline(transaction=False)
            for number in range(start, min(count, start + _PAGE)):
                _sent(pipe, number)
            pipe.execute()
        stop = threading.Event()
        recorder = Recorder(client, engine)
        thread = threading.Thread(target=recorder.run, args=(stop,))
        thread.start()
        while client.xlen(EVENTS):
            time.sleep(0.2)
        stop.set()
        thread.join()
        push(client, NORMAL, [raw(count + number) for number in range(count)])
    engine.dispose()
    return ledger, evolution


def _sent(pipe: Any, number: int) -> None:
    """Write the traces of a send: its claim and three events."""
    id_, key_id = f"bench-{number}", f"3EB0{number:016X}"
    about = {
        "kind": "lembrete", "tenant": f"t{number % 50}", "instance": "ifinu", "queue": NORMAL, "attempts": 1,
        "phone": "+55 77 9****-6740", "hash": f"{number:032x}", "key_id": key_id, "confirmed": True, "by": "gateway",
    }  # fmt: skip
    pipe.xadd(EVENTS, {"event": "sent", "id": id_, "data": json.dumps(about)})
    for status in ("server_ack", "delivered"):
        fields = {"key_id": key_id, "status": status, "instance": "ifinu"}
        pipe.xadd(EVENTS, {"event": "receipt", "id": "", "data": json.dumps(fields)})
    claim = {
        "state": "sent", "digest": f"{number:032x}", "in_flight": f"{NORMAL}:em_voo", "tag": "", "key_id": key_id,
        "token": f"{number:024x}", "since": "1796000000000", "started": "1796000000000",
    }  # fmt: skip
    pipe.hset(claim_key(id_), mapping=claim)
    pipe.pexpire(claim_key(id_), _DAYS_MS)


def _print(taken: Any, drill: Any, restored: Any, walls_s: tuple[float, float, float]) -> list[dict[str, str]]:
    drilled = {one["part"]: one["took_s"] for one in drill["restored"]}
    rows = []
    for part, about in taken["parts"].items():
        what = f"{about['rows']:,} rows" if about["rows"] is not None else f"{about['keys']:,} keys"
        took = f"{drilled[part]:.1f} s" if part in drilled else "see below"
        rows.append((part, what, f"{about['bytes'] / 1e6:.1f} MB", took))
    shown = table(("part", "holds", "in the store", "restored and compared in"), rows)
    backup_s, drill_s, restore_s = walls_s
    queue = restored["queue"]
    print(
        f"\nbackup: {backup_s:.1f} s, of which up to 5 s Redis waits by itself\n"
        f"drill of both databases, checksums first: {drill_s:.1f} s\n"
        f"restore of everything into empty servers, the whole command: RTO {restore_s:.1f} s\n"
        f"  of which the databases, by pg_restore and compared: {sum(drilled.values()):.1f} s\n"
        f"  {queue['waiting']:,} messages wait, {queue['settled']:,} known to be sent\n"
        f"RPO: the time between two backups, and {backup_s:.1f} s"
    )
    return shown


@contextlib.contextmanager
def _postgres(directory: Path) -> Iterator[Postgres]:
    with Postgres(directory) as server:
        yield server
        server.kill()


def _database(server: Postgres, name: str) -> str:
    url = make_url(server.url)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)


def _execute(url: str, *statements: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def _environment(redis_url: str, databases: tuple[str, ...], store: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("IFINU_", "REDIS_ADDR"))}
    return {
        **clean,
        "PATH": f"{Postgres.binaries()}{os.pathsep}{os.environ['PATH']}",
        "IFINU_REDIS_URL": redis_url,
        "IFINU_DATABASE_URL": databases[0],
        "IFINU_EVOLUTION_DATABASE_URL": databases[1],
        "IFINU_BACKUP_STORE": str(store),
    }


def _run(environment: dict[str, str], *arguments: str) -> tuple[Any, float]:
    """The output of a command, and its wall time in seconds."""
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "ifinu", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    took_s = time.monotonic() - began
    if ended.returncode:
        raise SystemExit(f"ifinu {' '.join(arguments)} ended with {ended.returncode}:\n{ended.stderr}{ended.stdout}")
    return json.loads(ended.stdout), took_s


if __name__ == "__main__":
    main()
