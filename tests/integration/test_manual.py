"""The commands that the runbook and the operations manual give for a server, on a real server."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pages import blocks, simple_commands
from processes import Queue
from sqlalchemy import Connection, create_engine

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / name for name in ("runbook.md", "operations.md")]


def statements() -> list[str]:
    """The SQL of each `psql … -c`."""
    lines = [words for page in PAGES for block in blocks(page, "sh") for words in simple_commands(block)]
    commands = [words[words.index("psql") :] for words in lines if "psql" in words]
    return [words[words.index("-c") + 1] for words in commands if "-c" in words]


@pytest.fixture
def gateways(postgres: str) -> Iterator[Connection]:
    """The gateway's table of instances as version 2.3.7 creates it: one row a number, with the name of its pod."""
    engine = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(
            'CREATE TABLE "Instance" (id text PRIMARY KEY, name varchar(255) UNIQUE, "clientName" varchar(100))'
        )
        connection.exec_driver_sql(
            """INSERT INTO "Instance" VALUES ('1', 'acme', 'evolution-api-0'), ('2', 'beta', 'evolution-api-0'),
            ('3', 'gama', 'evolution-api-3'), ('4', 'delta', 'evolution-api-3')"""
        )
        yield connection
    engine.dispose()


def test_postgresql_accepts_every_query_of_the_manual(gateways: Connection):
    asked = [sql for sql in statements() if not sql.startswith("UPDATE")]
    assert len(asked) == 4
    for sql in asked:
        assert gateways.exec_driver_sql(sql).fetchall()


def test_a_number_is_moved_and_a_pod_is_emptied(gateways: Connection):
    """
    The first statement moves one number, the second all numbers of a pod; each only from the pod that it names.
    """
    (one, all_of_a_pod) = [sql for sql in statements() if sql.startswith("UPDATE")]
    assert [gateways.exec_driver_sql(sql).rowcount for sql in (one, one, all_of_a_pod, all_of_a_pod)] == [1, 0, 2, 0]
    assert dict(gateways.exec_driver_sql('SELECT name, "clientName" FROM "Instance"').fetchall()) == {
        "acme": "evolution-api-1",
        "beta": "evolution-api-0",
        "gama": "evolution-api-0",
        "delta": "evolution-api-0",
    }


def test_the_load_by_hand_pushes_a_thousand_messages_of_different_ids(client: redis.Redis, queue: Queue):
    """
    The lines are split as redis-cli splits them.
    """
    (block,) = [block for block in blocks(PAGES[1], "sh") if "seq 1 1000" in block]
    loop, pipe, _ = block.partition("done |")
    assert pipe
    printed = subprocess.run(["bash", "-euc", f"{loop}done"], capture_output=True, text=True, check=True).stdout
    for line in printed.splitlines():
        client.execute_command(*shlex.split(line))
    assert queue.counts()["ready"] == 1000
    assert len(set(client.lrange(queue.keys.ready, 0, -1))) == 1000
