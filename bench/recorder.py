"""
What it costs to write the ledger, apart from sending: CPU time and events a second, into SQLite and into PostgreSQL.

    python bench/recorder.py [--messages 20000] [--rounds 3] [--json FILE]

The stream is filled with the events of sends, alone and with two receipts of each. Then `ifinu recorder` writes them,
into a new ledger each time. From the first tenth of the events to the last one, the CPU time of the recorder, that of
PostgreSQL's processes, and the time on the clock are counted. The exit code is 1 when PostgreSQL gets fewer than 5,000
events a second.
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


class Cost(NamedTuple):
    """Of one round: per message, and per second."""

    recorder_us: float
    database_us: float
    events_per_s: float
    memory_mib: float


def fill(client: redis.Redis, messages: int, receipts: tuple[str, ...]) -> int:
    """Write the events of so many sends; returns how many there are."""
    for start in range(0, messages, _PAGE):
        pipe = client.pipeline(transaction=False)
        for number in range(start, min(messages, start + _PAGE)):
            _sent(pipe, number)
        # Receipts come a little later than the sends, from another process.
        for number in range(start, min(messages, start + _PAGE)):
            for status in receipts:
                _receipt(pipe, number, status)
        pipe.execute()
    return messages * (1 + len(receipts))


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
    """As WhatsApp makes them: in no order."""
    return f"3EB0{number * 11400714819323198485 % 2**64:016X}"


def measure(valkey: Valkey, database_url: str, postgres: int | None, messages: int, receipts: tuple[str, ...]) -> Cost:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        count = fill(client, messages, receipts)
        with _recorder(valkey.url, database_url) as process:
            _wait(client, count * 9 // 10, process)
            pids = (process.pid, *([] if postgres is None else [postgres]))
            left, before, at = client.xlen(EVENTS), usage.of(*pids), time.monotonic()
            _wait(client, 0, process)
            took_s, after = time.monotonic() - at, usage.of(*pids)
            share = left / count * messages
            spent_us = [(now.all_cpu_s - then.all_cpu_s) / share * 1e6 for now, then in zip(after, before, strict=True)]
            return Cost(spent_us[0], sum(spent_us[1:]), left / took_s, after[0].all_memory_mib)


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
    made.add_argument("--messages", type=int, default=20_000)
    made.add_argument("--rounds", type=int, default=3)
    return made


def main() -> int:
    given = parser().parse_args()
    streams = {"sends": (), "sends and two receipts of each": ("server_ack", "delivered")}
    costs: dict[tuple[str, str], list[Cost]] = {}
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ifinu-bench-")))
        root.chmod(0o755)  # PostgreSQL runs as another account
        valkey = stack.enter_context(Valkey(root / "valkey"))
        postgres = stack.enter_context(Postgres(root / "postgres"))
        for round_ in range(given.rounds):
            for number, (stream, receipts) in enumerate(streams.items()):
                name = f"ledger_{round_}_{number}"
                for kind, url, pid in (
                    ("SQLite", f"sqlite:///{root / name}.db", None),
                    ("PostgreSQL", _database(postgres, name), postgres.pid),
                ):
                    costs.setdefault((kind, stream), []).append(measure(valkey, url, pid, given.messages, receipts))
    median = {key: Cost(*map(statistics.median, zip(*measured, strict=True))) for key, measured in costs.items()}
    table(
        ("ledger", "events", "CPU µs a message", "database's", "events a second", "memory MiB"),
        [
            (
                kind, stream, f"{cost.recorder_us:.0f}", f"{cost.database_us:.0f}" if kind != "SQLite" else "",
                f"{cost.events_per_s:,.0f}", f"{cost.memory_mib:.0f}",
            )
            for (kind, stream), cost in median.items()
        ],
    )  # fmt: skip
    report.write(
        given,
        {"costs": [{"ledger": kind, "events": stream, **cost._asdict()} for (kind, stream), cost in median.items()]},
    )
    slowest = min(cost.events_per_s for (kind, _), cost in median.items() if kind == "PostgreSQL")
    return 0 if slowest >= LEAST_EVENTS_PER_S else 1


if __name__ == "__main__":
    sys.exit(main())
