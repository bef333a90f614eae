from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import redis
from prometheus_client import CollectorRegistry

from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS, LOW, NORMAL, QUEUES, RECORDER, UNKNOWN, Keys
from ifinu.broker.redis_state import RecorderLag, StateReader, recorder_lag
from ifinu.ledger.stream import Stream
from ifinu.metrics.redis_series import RedisCollector


def lag_of_the_exporter(client: redis.Redis) -> tuple[float, float]:
    registry = CollectorRegistry()
    RedisCollector(registry, client)
    figures = (registry.get_sample_value(f"ifinu_recorder_lag_{unit}") for unit in ("events", "seconds"))
    events, seconds = (figure if figure is not None else -1.0 for figure in figures)
    return events, seconds


def test_an_empty_redis_has_a_state(client: redis.Redis):
    state = StateReader(client).read()
    assert [queue.queue for queue in state.queues] == [*QUEUES]
    assert state.tails == state.oldest_s == dict.fromkeys(QUEUES)
    assert (state.reasons, state.unknown, state.unknown_oldest_s) == (Counter(), 0, None)
    assert state.lag == RecorderLag(0, None, recorded=False)


def test_the_state_is_that_of_redis(client: redis.Redis):
    now = datetime.now(UTC)
    client.lpush(NORMAL, json.dumps({"id": "a", "criado_em": (now - timedelta(minutes=10)).isoformat()}), "newer")
    client.lpush(LOW, "of no known age")
    client.lpush(Keys.of(LOW).dead, *["not ours"] * 3)
    client.zadd(UNKNOWN, {"x": (now.timestamp() - 30) * 1000, "y": now.timestamp() * 1000})
    client.set(RECORDER, "somebody")
    state = StateReader(client, letters=2).read()
    assert state.oldest_s[NORMAL] == pytest.approx(600, abs=60)
    assert (state.oldest_s[LOW], state.tails[LOW]) == (None, b"of no known age")
    assert state.reasons == {"foreign": 2}
    assert (state.unknown, state.unknown_oldest_s) == (2, pytest.approx(30, abs=20))
    assert state.lag == RecorderLag(0, None, recorded=True)
    assert "of no known age" not in repr(state)


def test_the_lag_counts_events_that_were_read_and_not_recorded(client: redis.Redis):
    assert recorder_lag(client).events == 0
    stream = Stream(client)
    stream.make_group()
    for number in range(5):
        Event(Name.CANCELLED, f"n{number}").write(client)
    assert recorder_lag(client).events == 5
    taken = stream.take(2, again=False, recorded_to=(0, 0))
    assert taken is not None
    assert recorder_lag(client).events == 5
    stream.acknowledge(taken.entries)
    assert recorder_lag(client).events == 3


def test_the_lag_leaves_out_recorded_events_that_another_group_keeps(client: redis.Redis):
    """
    Status and exporter agree on three events: an hour, a minute and a second old.
    """
    stream = Stream(client)
    stream.make_group()
    client.xgroup_create(EVENTS, "audit", id="0")
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    for age_s in (3600, 60, 1):
        client.xadd(EVENTS, {"event": "sent", "id": "x", "data": "{}"}, id=f"{now_ms - age_s * 1000}-0")
    for left, age_s in ((2, 60), (1, 1)):
        taken = stream.take(1, again=False, recorded_to=(0, 0))
        assert taken is not None
        stream.acknowledge(taken.entries)
        lag = recorder_lag(client)
        assert (lag.events, lag.oldest_s) == (left, pytest.approx(age_s, abs=30))
        assert lag_of_the_exporter(client) == (left, pytest.approx(age_s, abs=30))
    taken = stream.take(1, again=False, recorded_to=(0, 0))
    assert recorder_lag(client).events == 1  # read, and not recorded
    assert taken is not None
    stream.acknowledge(taken.entries)
    assert client.xlen(EVENTS) == 3
    assert recorder_lag(client) == RecorderLag(0, None, recorded=False)
    assert lag_of_the_exporter(client) == (0, 0)


def test_all_events_wait_before_the_first_recorder(client: redis.Redis):
    client.xadd(EVENTS, {"event": "sent", "id": "x", "data": "{}"}, id=f"{datetime.now(UTC).timestamp() * 1000:.0f}-0")
    lag = recorder_lag(client)
    assert (lag.events, lag.recorded) == (1, False)
    assert lag.oldest_s == pytest.approx(0, abs=30)
