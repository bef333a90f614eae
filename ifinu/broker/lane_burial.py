"""
Burying what waits for a number that is to be deleted.

Each message goes in flight under a lease, and from there to the dead letters as every message does. If the process dies
in between, the sweep returns it to its queue.
"""

from __future__ import annotations

import secrets

import redis

from ifinu.broker import clock, dead_letters, intake, lanes
from ifinu.broker.claims import ClaimState
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS, UNKNOWN, Keys, claim_key, script

REASON = "number_deleted"

_LEASE_MS = 60_000


def bury(client: redis.Redis, number: str) -> int:
    """
    Move what waits for a number to the dead letters of its queues, and return how many messages that were.

    Raises:
        redis.RedisError: Redis went away; what is not buried waits as before.
    """
    buried = 0
    for lane in lanes.counts(client, number=number):
        keys = Keys.of(lane.queue)
        while True:
            tag = secrets.token_hex(16)
            places = (keys.ready, keys.in_flight, keys.deadlines)
            raw = script("lift")(client, places, (number, lane.tenant, tag, _LEASE_MS))
            if raw is None:
                break
            buried += _bury(client, keys, tag, raw, number)
    return buried


def _bury(client: redis.Redis, keys: Keys, tag: str, raw: bytes, number: str) -> int:
    error = f"{number}, for which it waited, was deleted"
    record = dead_letters.encode(raw, reason=REASON, error=error, now=clock.now(client))
    id_, kind = dead_letters.identity(raw)
    fields = {"queue": keys.ready, "reason": REASON, "error": error, "attempts": 0} | ({"kind": kind} if kind else {})
    name, id_, data = Event(Name.DEAD, id_ or "", fields).arguments()
    claim = (claim_key(id_),) if id_ else ()
    places = (keys.in_flight, keys.deadlines, keys.dead, EVENTS, UNKNOWN, *claim)
    done: int = script("bury")(client, places, (tag, record, ClaimState.DEAD, id_, name, data, intake.token_of(raw)))
    return done
