"""
Numbers after a restore: what waits for them waits again, and their caps hold.
"""

from __future__ import annotations

from datetime import UTC, datetime

import ledger_rows
import pytest
import redis
from command_line import Shell

from ifinu.broker import NORMAL, clock, lanes
from ifinu.broker.keys import GENERATION, Keys, number_key, script
from ifinu.embedded import Valkey
from ifinu.ledger.engine import connect
from ifinu.ledger.states import State
from ifinu.numbers import cache, registry
from ifinu.numbers.directory import Directory
from ifinu.numbers.registry import Number


def test_lanes_are_kept_and_the_ledger_counts_what_was_sent_since_the_backup(
    ifinu: Shell, client: redis.Redis, valkey: Valkey, target: Valkey, fresh: redis.Redis, ledger_url: str,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    ledger = connect(ledger_url)
    now = datetime.now(UTC)
    registry.register(ledger, Number("a1", now, "a"))
    cache.load(client, ledger)
    waiting = [b'{"id": "n%d", "usuario_id": "a", "telefone": "77998616740"}' % n for n in range(3)]
    client.lpush(NORMAL, *waiting)
    fetched = script("fetch")(client, Keys.of(NORMAL), (5, 60_000, "t.", client.get(GENERATION), 0.5, 300, "x"))
    assert len(fetched) == 2  # its first gap is not over, so all wait in its lane
    assert lanes.total(client, NORMAL) == 3
    assert ifinu("backup", "--without", "evolution").code == 0
    for n in range(4):
        ledger_rows.notification(ledger, f"since{n}", State.SENT, clock.now(client), instance="a1", sent_at=now)
    registry.register(ledger, Number("b1", now, "b"))
    valkey.kill()

    monkeypatch.setenv("IFINU_REDIS_URL", target.url)
    ended = ifinu("restore", "--only", "redis", "--yes", "--json", "--gateway-kept")
    assert ended.code == 0, ended.err
    assert ended.json["queue"]["waiting"] == 3
    assert [raw for lane in lanes.counts(fresh) for raw in lanes.peek(fresh, lane, 9)] == waiting
    assert fresh.hget(number_key("a1"), "hoje") == b"4"
    assert Directory.load(fresh).generation == registry.generation(ledger)
    assert Directory.load(fresh).numbers_of("b") == ("b1",)
    ledger.dispose()
