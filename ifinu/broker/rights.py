"""
The rights that a Redis user needs, and a check whether the present user has them.

The check tries the commands, since a user without a right may not ask `ACL` either. A script runs each command once, on
keys below `ifinu:prova:` that it deletes at its end. Then each key of a queue is written to in a way that changes
nothing. docs/redis-users.md has the commands that create such users.
"""

from __future__ import annotations

import json
import re
import ssl
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import redis

from ifinu.broker.keys import EVENTS, QUEUES, UNKNOWN, Keys, script
from ifinu.errors import ConfigurationError

WORKER = (
    "ack", "bury", "claim", "delay", "fetch", "give_back", "load_numbers", "postpone",
    "release", "renew", "reroute", "resend", "restarted", "settle", "suspect", "sweep",
)  # fmt: skip
RECORDING = (
    "add_people", "add_senders", "brake_number", "forget_events", "hold_number", "lead", "load_numbers", "read_events",
    "release_number", "resign", "restarted", "return_lane",
)  # fmt: skip

_CALL = re.compile(r"redis\.p?call\('([A-Z]+)'")
_DENIED = ("NOPERM", "ACL failure", "no permissions", "executing the script can't")  # the last is Redis 7.0's
# How to try each command that a script may run: L is a list, Z a sorted set, H a hash, S a string, X a stream, A a set,
# P a HyperLogLog.
_TRIES = {
    "DECR": "DECR S", "DECRBY": "DECRBY S 1",
    "DEL": "DEL S", "EXISTS": "EXISTS S", "EXPIRE": "EXPIRE S 60", "GET": "GET S", "HDEL": "HDEL H a",
    "HEXISTS": "HEXISTS H a", "HGET": "HGET H a", "HGETALL": "HGETALL H", "HINCRBY": "HINCRBY H n 1", "HLEN": "HLEN H",
    "HMGET": "HMGET H a", "HSET": "HSET H a 1", "HSETNX": "HSETNX H a 1", "HSCAN": "HSCAN H 0", "INCR": "INCR S",
    "LINDEX": "LINDEX L 0", "LLEN": "LLEN L", "LMOVE": "LMOVE L L LEFT LEFT", "LPOP": "LPOP L", "LPUSH": "LPUSH L a",
    "LRANGE": "LRANGE L 0 0", "LREM": "LREM L 0 b", "LSET": "LSET L 0 a", "LTRIM": "LTRIM L 0 9",
    "PERSIST": "PERSIST S", "PEXPIRE": "PEXPIRE S 60000", "PFADD": "PFADD P a",
    "PTTL": "PTTL S", "RENAME": "RENAME S S",
    "RENAMENX": "RENAMENX S S", "RPOP": "RPOP L",
    "RPUSH": "RPUSH L a", "SADD": "SADD A a", "SCARD": "SCARD A", "SET": "SET S 1",
    "SISMEMBER": "SISMEMBER A a", "SMEMBERS": "SMEMBERS A", "SREM": "SREM A a",
    "TIME": "TIME", "TYPE": "TYPE S", "UNLINK": "UNLINK S", "XACK": "XACK X g 0-1", "XADD": "XADD X * a 1",
    "XDEL": "XDEL X 0-1", "XINFO": "XINFO STREAM X", "XLEN": "XLEN X", "XPENDING": "XPENDING X g",
    "XRANGE": "XRANGE X - + COUNT 1", "XREADGROUP": "XREADGROUP GROUP g c COUNT 1 STREAMS X >",
    "XTRIM": "XTRIM X MAXLEN 9", "ZADD": "ZADD Z 1 a", "ZCARD": "ZCARD Z", "ZCOUNT": "ZCOUNT Z 0 1",
    "ZINCRBY": "ZINCRBY Z 1 a", "ZPOPMIN": "ZPOPMIN Z", "ZRANGE": "ZRANGE Z 0 0",
    "ZRANGEBYSCORE": "ZRANGEBYSCORE Z 0 1",
    "ZRANK": "ZRANK Z a", "ZREM": "ZREM Z b", "ZREMRANGEBYSCORE": "ZREMRANGEBYSCORE Z 5 6", "ZSCORE": "ZSCORE Z a",
}  # fmt: skip
_FIRST = ("LPUSH L a", "ZADD Z 1 a", "HSET H a 1", "SET S 1", "XADD X * a 1", "XGROUP CREATE X g 0")
# Many keys each: `ifinu:<family>:…`.
_FAMILIES = ("claim", "visto", "optout", "instancia", "remetentes", "rastro", "numero", "inquilino", "grupo")


class MissingRight(NamedTuple):
    """
    A command or key that Redis refused.

    Attributes:
        what: The command, or the key.
    """

    what: str
    words: str

    @property
    def is_forbidden(self) -> bool:
        """Whether the user lacks the right; False if the server failed for another reason."""
        return any(word in self.words for word in _DENIED)


def commands_of(scripts: Iterable[str]) -> set[str]:
    """The Redis commands in the scripts of these names."""
    return {command for name in scripts for command in _CALL.findall(script(name).source)}


def refused(client: redis.Redis, scripts: Iterable[str] = (*WORKER, *RECORDING)) -> list[MissingRight]:
    """
    The commands and keys of these scripts that Redis refuses to this user.

    Raises:
        redis.RedisError: Redis does not answer, or does not let the user run scripts at all.
    """
    base = f"ifinu:prova:{uuid.uuid4().hex}"
    own = {letter: f"{base}:{letter}" for letter in "LZHSXAP"}
    tries = [*_FIRST, *(_TRIES[command] for command in sorted(commands_of(scripts)) if command in _TRIES)]
    script("attempt").load(client)
    found = dict(_attempt(client, [[own.get(word, word) for word in each.split()] for each in tries], own.values()))
    try:
        # An idle worker waits with it; a script cannot run it.
        client.blmove(own["L"], own["L"], 0.01, "RIGHT", "RIGHT")  # type: ignore[arg-type]  # Redis takes fractions
    except redis.ResponseError as exc:
        found["BLMOVE"] = str(exc)
    if not found:  # else each key would repeat the same error
        for kind, key in _keys():
            found.update((kind, words) for _, words in _attempt(client, [["PERSIST", key]], [base]))
    return [MissingRight(what, words) for what, words in found.items()]


def _attempt(client: redis.Redis, tries: Sequence[Sequence[str]], keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    for command, _, words in script("attempt")(client, list(keys), [json.dumps(tries)]):
        yield command.decode(), words.decode()


def check(client: redis.Redis) -> None:
    """
    Check that the user has the rights of a worker, before it takes its first message.

    Raises:
        ConfigurationError: Redis refuses the login, the certificate or a command, and will go on doing so.
        redis.RedisError: Redis is away, or fails for the moment; retry.
    """
    fix = "the rights that a worker needs are in docs/redis-users.md; try `ifinu doctor`"
    try:
        forbidden = [one.what for one in refused(client) if one.is_forbidden]
    except redis.AuthenticationError as exc:
        raise ConfigurationError(
            f"Redis refuses the login ({exc}): correct the user and password of IFINU_REDIS_URL"
        ) from exc
    except redis.exceptions.NoPermissionError as exc:
        raise ConfigurationError(f"Redis does not let this user run scripts ({exc}): {fix}") from exc
    except redis.ConnectionError as exc:
        if is_untrusted(exc):
            raise ConfigurationError(
                f"Redis shows a certificate that is not trusted ({exc}): name its authority by "
                "?ssl_ca_certs=/path/to/ca.pem in IFINU_REDIS_URL"
            ) from exc
        raise
    if forbidden:
        raise ConfigurationError(f"Redis does not allow this user {', '.join(forbidden)}: {fix}")


def is_untrusted(exc: BaseException | None) -> bool:
    """Whether a connection failed because of the server's certificate."""
    while exc is not None:
        if isinstance(exc, ssl.SSLCertVerificationError):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def _keys() -> Iterator[tuple[str, str]]:
    """The keys that workers write, each as (name to show, key to try); `PERSIST` changes none of them."""
    for queue in QUEUES:
        yield from ((key, key) for key in Keys.of(queue) if key != Keys.of(queue).suspects)
    for key in (EVENTS, UNKNOWN):
        yield key, key
    for family in _FAMILIES:
        yield f"ifinu:{family}:*", f"ifinu:{family}:{uuid.uuid4().hex}"
