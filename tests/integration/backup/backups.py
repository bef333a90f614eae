"""The data that the tests back up, and readings of a store, a database and a Redis, to compare them."""

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

# Names that need quoting, values that depend on settings, and objects other than plain tables.
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
_OTHERS = 500_000  # the number of the first of them


def run(url: str, *statements: str) -> list[Any]:
    """The rows of the last statement, or an empty list if it returns none."""
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
    """A directory of backups, as seen by an operator."""

    path: Path

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path)) if self.path.exists() else []

    def files(self) -> dict[str, list[str]]:
        return {name: sorted(os.listdir(self.path / name)) for name in self.names()}

    def damage(self, name: str, file: str, at: float) -> None:
        """Change one byte at the relative position `at`: 0 is the file's first byte, 1 its last."""
        content = bytearray((self.path / name / file).read_bytes())
        content[round(at * (len(content) - 1))] ^= 0x20
        (self.path / name / file).write_bytes(content)


def digest(client: redis.Redis) -> str:
    """A hash of all keys and values of a server, in any order."""
    answer = client.execute_command("DEBUG", "DIGEST")
    return answer.decode() if isinstance(answer, bytes) else str(answer)


def fill(queue: Queue, count: int, due_in_s: float = 1e8) -> None:
    """
    Put messages into every place except in flight, and opt people out, as producers and workers do.

    Args:
        queue: Gets `numbered(count)` and `OTHERS` more messages, delayed or in the other queues.
        count: The number of `numbered` messages.
        due_in_s: Seconds until the delayed messages are due.
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
    """Messages that a worker dead-letters, since their kind is unknown."""
    return [b'{"id": "bad_%d", "tipo_notificacao": "nope"}' % n for n in range(count)]


def harm(simulator: Simulated, count: int, others: int = 0) -> dict[str, set[str]]:
    """The ids that were never sent and those sent more than once, of `processes.numbered` and `others` more."""
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
