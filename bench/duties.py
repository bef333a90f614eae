"""
Duration of what a recorder does for many numbers beside its recording, and the memory that it takes.

    python bench/duties.py [--numbers 10000] [--messages 1000000] [--against REVISION] [--json FILE]

The ledger, on PostgreSQL, has that many messages of today to as many people, by that many registered numbers in turns.
Measured are a pass of the guard over all numbers, one over those that sent lately, and what follows a FLUSHALL: the
registry's copy, the people of today, and those of this month and the last. Each is done by a new process. With
`--against` the package of another commit does the same in the same servers, in turns with this one's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import redis
import report
from checkout import package_of
from report import table
from sqlalchemy import create_engine, make_url, text

from ifinu.embedded import Postgres, Valkey
from ifinu.ledger.engine import connect
from ifinu.ledger.migrate import migrate

DUTIES = {
    "guard, all numbers": "judged, now = Patrol(client, engine).look(); Patrol(client, engine).act(judged, now)",
    "guard, those that sent": "judged, now = Patrol(client, engine).look(everyone=False); "
    "Patrol(client, engine).act(judged, now)",
    "diversions": "Patrol(client, engine).divert(clock.now(client))",
    "copy, after a FLUSHALL": "client.flushall(); begin(); cache.load(client, engine)",
    "people of today": "contacts.restore(client, engine)",
    "people of two months": "contacts.restore_senders(client, engine)",
}
_CHILD = """
import json, resource, sys, time
import redis
from ifinu.broker import clock
from ifinu.ledger.engine import connect
from ifinu.numbers import cache, contacts
from ifinu.numbers.patrol import Patrol
client, engine = redis.Redis.from_url(sys.argv[1]), connect(sys.argv[2])
engine.connect().close()
client.ping()
def begin():
    global began, cpu
    began, cpu = time.monotonic(), time.process_time()
begin()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
exec(sys.argv[3])
took = time.monotonic() - began, time.process_time() - cpu
print(json.dumps([*took, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""
_NUMBERS = """
INSERT INTO numbers (name, registered_at, tenant, channel, zone, preset, overrides, paired_at, warm_up, risk, brake,
                     guard, missing_count)
SELECT 'n' || n, now() - interval '300 days', 't' || n / 2, 'BAILEYS', 'America/Sao_Paulo', 'conservador', '{}',
       now() - interval '300 days', true, 0, 1, '{}', 0
FROM generate_series(0, :numbers - 1) AS n
"""
_TENANTS = "INSERT INTO tenants (name, policy, weight) SELECT DISTINCT tenant, 'fixo', 1 FROM numbers"
# A message is older than the next one; the last hour has a tenth of them.
_AT = "now() - interval '5 minutes' - interval '1 second' * (:messages - n) * (36000.0 / :messages)"
_MESSAGES = f"""
INSERT INTO notifications (id, tenant, kind, instance, queue, phone, phone_hash, state, state_rank, state_ms, state_seq,
                           attempts, key_id, confirmed, first_at, last_at, sent_at, server_ack_at, delivered_at)
SELECT 'm' || n, 't' || n % :numbers / 2, 'lembrete', 'n' || n % :numbers, 'ifinu:fila:whatsapp', '+55 77 9****-6740',
       md5(n::text), 'delivered', 60, floor(extract(epoch FROM at) * 1000), n, 1, '3EB0' || n, true, at, at, at,
       at + interval '1 second', at + interval '2 seconds'
FROM generate_series(1, :messages) AS n, LATERAL (SELECT {_AT} AS at) AS a
"""
_EVENTS = f"""
INSERT INTO events (ms, seq, at, name, notification_id, key_id, data)
SELECT floor(extract(epoch FROM at) * 1000), n, at, 'sent', 'm' || n, '3EB0' || n,
       jsonb_build_object('instance', 'n' || n % :numbers, 'kind', 'lembrete', 'new', n % 10 = 0)
FROM generate_series(1, :messages) AS n, LATERAL (SELECT {_AT} AS at) AS a
"""


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("--numbers", type=int, default=10_000, help="registered numbers")
    made.add_argument("--messages", type=int, default=1_000_000, help="messages that they sent today")
    made.add_argument("--rounds", type=int, default=3, help="how often each duty is done")
    made.add_argument("--against", metavar="REVISION", help="also measure the package of this commit")
    return made


def main() -> None:
    given = parser().parse_args()
    progress = report.Progress()
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ifinu-bench-")))
        root.chmod(0o755)  # PostgreSQL runs under another account
        valkey = stack.enter_context(Valkey(root / "valkey"))
        postgres = stack.enter_context(Postgres(root / "postgres"))
        stack.callback(postgres.kill)
        progress.step(f"filling: {given.numbers:,} numbers, {given.messages:,} messages …")
        fill(postgres.url, given.numbers, given.messages)
        packages: dict[str, Path | None] = {"now": None}
        if given.against:
            packages["before"] = stack.enter_context(package_of(given.against))
        measured: dict[tuple[str, str], list[list[float]]] = {}
        with redis.Redis.from_url(valkey.url) as client:
            client.config_set("save", "")
            run(None, valkey.url, postgres.url, DUTIES["copy, after a FLUSHALL"])  # so that there is one
            for _ in range(given.rounds):
                for duty, code in DUTIES.items():
                    for name, package in packages.items():
                        progress.show(f"{duty}: {name}")
                        measured.setdefault((duty, name), []).append(run(package, valkey.url, postgres.url, code))
        progress.end()
        shown = _print(measured, [*packages])
        report.write(given, {"table": shown})


def fill(url: str, numbers: int, messages: int) -> None:
    """Write a ledger with numbers and the messages that they sent."""
    engine = connect(url)
    migrate(engine)
    engine.dispose()
    engine = create_engine(make_url(url))  # without the ledger's timeouts
    with engine.begin() as connection:
        for statement in (_NUMBERS, _TENANTS, _MESSAGES, _EVENTS):
            connection.execute(text(statement), {"numbers": numbers, "messages": messages})
        connection.execute(text("INSERT INTO registry (id, generation, changed_at) VALUES (1, 'bench', now())"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()


def run(package: Path | None, redis_url: str, database_url: str, code: str) -> list[float]:
    """Seconds, seconds of CPU of the process itself, and the MiB that it grew by."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IFINU_")}
    if package is not None:
        environment["PYTHONPATH"] = str(package)
    command = [sys.executable, "-c", _CHILD, redis_url, database_url, code]
    # The folder that a process runs in comes before all others in which Python looks for packages.
    ended = subprocess.run(command, env=environment, cwd=package, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{code}:\n{ended.stderr}")
    measured: list[float] = json.loads(ended.stdout.splitlines()[-1])
    return measured


def _print(measured: dict[tuple[str, str], list[list[float]]], packages: list[str]) -> list[dict[str, str]]:
    """Print the medians, and what each is of the commit before."""
    rows = []
    for duty in DUTIES:
        medians = {
            name: [statistics.median(each) for each in zip(*measured[duty, name], strict=True)] for name in packages
        }
        for name in packages:
            wall_s, cpu_s, grown_mib = medians[name]
            of = f"{wall_s / medians['before'][0]:.2f}" if "before" in medians and name == "now" else ""
            rows.append((f"{duty}: {name}", f"{wall_s:.2f}", f"{cpu_s:.2f}", f"{grown_mib:.0f}", of))
    return table(("duty", "seconds", "CPU seconds of its process", "MiB", "of before"), rows)


if __name__ == "__main__":
    main()
