"""
CPU time that the ledger costs, apart from sending, and events a second: into SQLite and into PostgreSQL.

    python bench/recorder.py [--messages 10000] [--rounds 3] [--json FILE]

`ifinu recorder` writes the events of sends, alone and with two receipts for each, from a full stream into a new ledger,
and then those of 1,000 sends a second, as twenty workers make them. The first tenth of the messages is not counted, so
that the start of the recorder does not matter. The exit code is 1 if PostgreSQL gets fewer than 5,000 events a second
from a full stream.
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
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import redis
import report
import usage
from report import table
from sqlalchemy import create_engine, make_url

from ifinu.broker import NORMAL
from ifinu.broker.keys import EVENTS
from ifinu.embedded import Postgres, Valkey
from ifinu.ledger.engine import connect
from ifinu.ledger.migrate import migrate

LEAST_EVENTS_PER_S = 5_000
_PAGE = 1_000
_FEEDS_PER_S = 40


class Load(NamedTuple):
    """The receipts of each message, and messages a second; all at once if that is None."""

    receipts: tuple[str, ...] = ()
    per_s: int | None = None


class Cost(NamedTuple):
    """CPU time for a message, events a second, and the recorder's memory, of one round."""

    recorder_us: float
    database_us: float
    events_per_s: float
    memory_mib: float


LOADS = {
    "sends": Load(),
    "sends and two receipts of each": Load(receipts=("server_ack", "delivered")),
    "1,000 sends a second": Load(per_s=1_000),
}


def fill(client: redis.Redis, messages: range, load: Load) -> None:
    """Write the events of these messages, the receipts a little after the sends, as another process does."""
    at_a_time = _PAGE if load.per_s is None else load.per_s // _FEEDS_PER_S
    began = time.monotonic()
    for page in (messages[start : start + at_a_time] for start in range(0, len(messages), at_a_time)):
        pipe = client.pipeline(transaction=False)
        for number in page:
            _sent(pipe, number)
        for number in page:
            for status in load.receipts:
                _receipt(pipe, number, status)
        pipe.execute()
        if load.per_s is not None:
            due = began + (page.stop - messages.start) / load.per_s
            time.sleep(max(0.0, due - time.monotonic()))


def _sent(pipe: redis.client.Pipeline, number: int) -> None:
    about = {
        "kind": "lembrete", "tenant": f"t{number % 50}", "instance": "ifinu", "queue": NORMAL, "attempts": 1,
        "phone": "+55 77 9****-6740", "hash": f"{number * 2654435761 % 2**32:032x}", "key_id": _key_id(number),
        "confirmed": True, "by": "gateway",
    }  # fmt: skip
    pipe.xadd(EVENTS, {"event": "sent", "id": f"bench-{number}", "data": json.dumps(about, separators=(",", ":"))})


def _receipt(pipe: redis.client.Pipeline, number: int, status: str) -> None:
    about = {"key_id": _key_id(number), "status": status, "instance": "ifinu"}
    pipe.xadd(EVENTS, {"event": "receipt", "id": "", "data": json.dumps(about, separators=(",", ":"))})


def _key_id(number: int) -> str:
    """An id in no order, as WhatsApp makes them."""
    return f"3EB0{number * 11400714819323198485 % 2**64:016X}"


def measure(valkey: Valkey, database_url: str, postgres: int | None, messages: int, load: Load) -> Cost:
    first, rest = range(messages // 10), range(messages // 10, messages)
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        fill(client, first, Load(load.receipts))
        if load.per_s is None:
            fill(client, rest, load)
        with _recorder(valkey.url, database_url) as process:
            pids = (process.pid, *([] if postgres is None else [postgres]))
            _wait(client, 0 if load.per_s else len(rest) * (1 + len(load.receipts)), process)
            written = client.xlen(EVENTS) if load.per_s is None else len(rest)
            before, began = usage.of(*pids), time.monotonic()
            if load.per_s is not None:
                fill(client, rest, load)
            _wait(client, 0, process)
            took_s, after = time.monotonic() - began, usage.of(*pids)
            counted = written / (1 + len(load.receipts))
            spent_us = [(b.all_cpu_s - a.all_cpu_s) / counted * 1e6 for a, b in zip(before, after, strict=True)]
            return Cost(spent_us[0], sum(spent_us[1:]), written / took_s, after[0].all_memory_mib)


@contextlib.contextmanager
def _recorder(redis_url: str, database_url: str) -> Iterator[subprocess.Popen[bytes]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("IFINU_", "REDIS_ADDR"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "ifinu", "recorder"],
        env={**clean, "IFINU_REDIS_URL": redis_url, "IFINU_DATABASE_URL": database_url, "IFINU_LOG_LEVEL": "warning"},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def _wait(client: redis.Redis, length: int, process: subprocess.Popen[bytes], deadline_s: float = 300) -> None:
    give_up_at = time.monotonic() + deadline_s
    while client.xlen(EVENTS) > length:
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise SystemExit("the recorder ended, or is too slow")
        time.sleep(0.01)


def _database(server: Postgres, name: str) -> str:
    url = make_url(server.url)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    made = url.set(database=name).render_as_string(hide_password=False)
    engine = connect(made)
    migrate(engine)
    engine.dispose()
    return made


def parser() -> argparse.ArgumentParser:
    made = report.arguments(__doc__)
    made.add_argument("--messages", type=int, default=10_000)
    made.add_argument("--rounds", type=int, default=3)
    return made


def main() -> int:
    given = parser().parse_args()
    costs: dict[tuple[str, str], list[Cost]] = {}
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ifinu-bench-")))
        root.chmod(0o755)  # PostgreSQL runs as another account
        valkey = stack.enter_context(Valkey(root / "valkey"))
        postgres = stack.enter_context(Postgres(root / "postgres"))
        for number, (name, load) in enumerate(list(LOADS.items()) * given.rounds):
            for ledger, url, pid in (
                ("SQLite", f"sqlite:///{root}/ledger_{number}.db", None),
                ("PostgreSQL", _database(postgres, f"ledger_{number}"), postgres.pid),
            ):
                costs.setdefault((ledger, name), []).append(measure(valkey, url, pid, given.messages, load))
    median = {key: Cost(*map(statistics.median, zip(*measured, strict=True))) for key, measured in costs.items()}
    table(
        ("ledger, events", "CPU µs a message", "database's", "events a second", "memory MiB"),
        [
            (
                f"{ledger}, {name}",
                f"{cost.recorder_us:.0f}",
                f"{cost.database_us:.0f}" if ledger == "PostgreSQL" else "",
                f"{cost.events_per_s:,.0f}",
                f"{cost.memory_mib:.0f}",
            )
            for (ledger, name), cost in sorted(median.items())
        ],
    )
    rows = [{"ledger": ledger, "events": name, **cost._asdict()} for (ledger, name), cost in median.items()]
    report.write(given, {"costs": rows})
    full = [cost for (ledger, name), cost in median.items() if ledger == "PostgreSQL" and LOADS[name].per_s is None]
    return 0 if min(cost.events_per_s for cost in full) >= LEAST_EVENTS_PER_S else 1


if __name__ == "__main__":
    sys.exit(main())
