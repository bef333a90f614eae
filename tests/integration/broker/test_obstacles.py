"""The states of numbers, beside the script that decides by the same fields."""

from __future__ import annotations

import pytest
import redis
from holders import now_ms
from waiting import hold, message, put_aside, register, take

from ifinu.broker import NORMAL, lanes, obstacles
from ifinu.broker.keys import number_key
from ifinu.broker.obstacles import Obstacle

DAY_MS, HOUR_MS, ZONE_MS = 86_400_000, 3_600_000, -10_800_000


def local(client: redis.Redis) -> tuple[int, int]:
    """The local day and hour of a number."""
    hour = int((now_ms(client) + ZONE_MS) // HOUR_MS)
    return hour // 24, hour


def obstruct(client: redis.Redis, obstacle: Obstacle) -> None:
    day, hour = local(client)
    used = {"fuso": ZONE_MS, "teto": 16, "dia": day, "hora": hour}
    match obstacle:
        case Obstacle.HELD:
            hold(client, "a")
        case Obstacle.RESTARTED:
            client.set("ifinu:numeros:desde", round(now_ms(client)) + 60_000)
        case Obstacle.DAY:
            client.hset(number_key("a"), mapping={**used, "hoje": 16, "nesta_hora": 1})
        case Obstacle.HOUR:
            client.hset(number_key("a"), mapping={**used, "hoje": 5, "nesta_hora": 2})
        case Obstacle.GAP:
            client.hset(number_key("a"), "livre", round(now_ms(client)) + 60_000)
        case Obstacle.BUSY:
            client.lpush(NORMAL, message("first", "a"))
            assert len(take(client)) == 1


@pytest.mark.parametrize("obstacle", [one for one in Obstacle if one is not Obstacle.UNREGISTERED])
def test_the_obstacle_is_the_one_for_which_the_fetch_puts_a_message_aside(client: redis.Redis, obstacle: Obstacle):
    register(client, "a", "b")
    obstruct(client, obstacle)
    put_aside(client, message("second", "a"))
    one, other = obstacles.read(client, ["a", "b"])
    assert one.obstacle is obstacle
    assert other.obstacle is (obstacle if obstacle is Obstacle.RESTARTED else None)
    if obstacle is not Obstacle.BUSY:  # the end of a send is not known
        (lane,) = lanes.counts(client)
        assert one.until_ms == lane.next_ms
    assert (one.reason, bool(one.held_ms)) == (("desconectado", True) if obstacle is Obstacle.HELD else ("", False))


def test_a_count_of_another_day_is_over_and_an_unknown_number_is_not_registered(client: redis.Redis):
    register(client, "a", teto=16, fuso=ZONE_MS, dia=local(client)[0] - 1, hoje=16, nesta_hora=16)
    one, other = obstacles.read(client, ["a", "b"])
    assert (one.obstacle, one.sent, one.per_day) == (None, 0, 16)
    assert (other.obstacle, other.per_day) == (Obstacle.UNREGISTERED, None)
