"""What is backed up in the tests, and what a store, a database and a Redis hold, to be compared."""

from __future__ import annotations

import collections
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from processes import FIRST_NUMBER, Queue, Simulated, numbered, raw, wait_until
from sqlalchemy import create_engine

from ifinu.broker import NORMAL, QUEUES, Keys
from ifinu.broker.optouts import OptOuts
from ifinu.broker.pseudonyms import Pseudonyms

# Names that have to be quoted, values that depend on settings, and what is no plain table.
ODD = """
CREATE TYPE "SessionState" AS ENUM ('open', 'close');
CREATE SCHEMA "Other Schema";
CREATE TABLE "Instance" (
  id serial PRIMARY KEY, name varchar(20) UNIQUE, state "SessionState" NOT NULL DEFAULT 'close', creds jsonb,
  "row" bytea, at timestamptz, share double precision, spent interval, price numeric(10, 2), tags text[],
  "the whole row!" text
);
INSERT INTO "Instance" (name, state, creds, "row", at, share, spent, price, tags, "the whole row!")
SELECT 'n' || n, 'open', jsonb_build_object('key', n, 'é', null), decode(md5(n::text), 'hex'),
       '2026-11-01 12:00:00+00'::timestamptz + n * interval '1 hour', n / 3.0, n * interval '1 day 2 hours',
       n * 1.5, ARRAY['a', n::text, NULL], E'line\nline\t"quoted" ' || n
FROM generate_series(1, 500) AS n;
INSERT INTO "Instance" (name) VALUES (NULL), (NULL);
CREATE TABLE "Other Schema"."Message" (id int REFERENCES "Instance", body text);
INSERT INTO "Other Schema"."Message" SELECT 1, 'x' FROM generate_series(1, 3);
CREATE TABLE nothing_in_it (a int);
CREATE TABLE parts (day date, n int) PARTITION BY RANGE (day);
CREATE TABLE parts_2026 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO parts SELECT '2026-03-01', n FROM generate_series(1, 10) AS n;
CREATE VIEW open_ones AS SELECT name FROM "Instance" WHERE state = 'open';
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM "Instance";
CREATE FUNCTION doubled(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2';
ALTER TABLE "Instance" DROP COLUMN price;
"""
ROWS = {'"Instance"': 502, '"Other Schema"."Message"': 3, "parts_2026": 10}


OTHERS = 100
_OTHERS = 500_000  # the first of their numbers


def run(url: str, *statements: str) -> list[Any]:
    """The rows of the last statement, where it has any."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            for statement in statements:
                found = connection.exec_driver_sql(statement)
            return list(found.all()) if found.returns_rows else []
    finally:
        engine.dispose()


@dataclass
class Store:
    """A directory of backups, as an operator sees it."""

    path: Path

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path)) if self.path.exists() else []

    def files(self) -> dict[str, list[str]]:
        return {name: sorted(os.listdir(self.path / name)) for name in self.names()}

    def damage(self, name: str, file: str, at: float) -> None:
        """Change one byte; `at` is its place, from 0 for the first to 1 for the last."""
        content = bytearray((self.path / name / file).read_bytes())
        content[round(at * (len(content) - 1))] ^= 0x20
        (self.path / name / file).write_bytes(content)


def digest(client: redis.Redis) -> str:
    """Of all that a server holds, in any order."""
    answer = client.execute_command("DEBUG", "DIGEST")
    return answer.decode() if isinstance(answer, bytes) else str(answer)


def fill(queue: Queue, count: int, due_in_s: float = 1e8) -> None:
    """
    Messages in every place but in flight, and people who opted out; as producers and workers bring them.

    Args:
        queue: Gets `numbered(count)`; beside these there are `OTHERS` messages, delayed and in the other queues.
        count: That.
        due_in_s: When the delayed are due.
    """
    client = queue.client
    queue.push(*numbered(count))
    due_ms = (client.time()[0] + due_in_s) * 1000
    others = iter(range(_OTHERS, _OTHERS + OTHERS))
    for name in QUEUES:
        if name != NORMAL:
            Queue(client, name).push(*(_numbered(next(others)) for _ in range(20)))
        client.zadd(Keys.of(name).delayed, {_numbered(next(others)): due_ms + n for n in range(20)})
    optouts = OptOuts(client, Pseudonyms.load(client, None))
    for n in range(50):
        optouts.add("t1" if n % 2 else None, f"+55779988{n:05}", source="whatsapp")


def _numbered(number: int) -> bytes:
    return raw(number, telefone=f"77 9{FIRST_NUMBER + number}")


def dead_letters(queue: Queue, count: int) -> list[bytes]:
    """Messages that a worker buries."""
    return [b'{"id": "bad_%d", "tipo_notificacao": "nope"}' % n for n in range(count)]


def harm(simulator: Simulated, count: int, others: int = 0) -> dict[str, set[str]]:
    """Of `processes.numbered` and others like them what was never sent, and what was more than once."""
    times = collections.Counter(f"test_{int(send.number[-8:]) - FIRST_NUMBER}" for send in simulator.sends())
    there = {f"test_{n}" for n in (*range(count), *range(_OTHERS, _OTHERS + others))}
    return {"lost": there - times.keys(), "twice": {name for name, many in times.items() if many > 1}}


def idle(client: redis.Redis) -> bool:
    return all(Queue(client, name).idle() for name in QUEUES)


def counts(client: redis.Redis) -> dict[str, dict[str, int]]:
    return {name: Queue(client, name).counts() for name in QUEUES}


def dead_ids(queue: Queue) -> dict[str, str]:
    return {letter["id"]: letter["reason"] for letter in queue.dead()}


def until_idle(client: redis.Redis, deadline_s: float = 90) -> None:
    wait_until(lambda: idle(client), deadline_s, lambda: counts(client))


def manifest_of(store: Store, name: str) -> dict[str, Any]:
    content = json.loads((store.path / name / "manifest.json").read_bytes())
    assert isinstance(content, dict)
    return content
