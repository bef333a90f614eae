"""
The Redis keys of a queue, and the moves between them.

    <queue>                LIST   ready; LPUSH adds, the tail is served next; LLEN is the backlog
    <queue>:agendadas      ZSET   delayed: message -> due time in ms
    <queue>:purga, <queue>:agendadas:purga  what a purge has set aside and is about to delete, as it was
    <queue>:em_voo         HASH   in flight: tag -> the message's bytes, as they were on the list
    <queue>:em_voo:prazos  ZSET   in flight: tag -> when its lease ends, in ms
    <queue>:dlq            LIST   dead letters, newest first; LLEN counts them
    <queue>:pausada        STRING present while the queue is paused
    <queue>:suspeitas      HASH   digest of a message whose worker died -> how often it was started since, for an hour;
                                  `<digest>:handed` -> how often it was handed to a task, and nobody survived it

    ifinu:claim:<id>       HASH   what becomes of a notification id, for days (see `claims.py`)
    ifinu:desconhecidas    ZSET   ids that may have been sent -> since when, in ms
    ifinu:visto:<ref>:<digest>  STRING  the gateway's id of a message with this reference that it said it sent, for
                           days; the digest is of the instance and the phone's pseudonym
    ifinu:rastro:<key_id>  STRING the trace of what has this id at the gateway, for two days (see `trace_links.py`)
    ifinu:eventos          STREAM what happened; the ledger's input (see `events.py`)
    ifinu:optout:<tenant>  HASH   who wants no messages (see `optouts.py`); of the tenant `*`: those of all tenants
    ifinu:respostas        HASH   answers of persons that have to be looked into (see `replies.py`), and
    ifinu:respostas:novas  SET    those that the ledger was not asked about
    ifinu:instancia:<name>          HASH    `shard`: the gateway process that holds an instance (see `locations.py`)
    ifinu:instancia:<name>:criando  STRING  present while somebody creates it, for two minutes at most
    ifinu:remetentes:<instance>:<month>  HASH  phone's pseudonym -> the tenant that last wrote to it (empty for none),
                           for two months
    ifinu:recorder         STRING whose turn it is to write the ledger (see `ledger/leader.py`)
    ifinu:chave:telefone   STRING the key of pseudonyms, where none was set (see `pseudonyms.py`)

A message is in exactly one of ready, delayed, in flight and dead, and every move is one Lua script in `scripts/`:

    fetch      delayed -> ready when due, up to 200 at a time; ready -> in flight, a batch at a time
    ack        in flight -> gone
    settle     in flight -> gone, and the outcome is recorded in the id's claim
    postpone   in flight -> delayed, as its retry or its next look-up
    delay      in flight -> delayed, as it is: its `eta` has not come
    give_back  in flight -> ready, to be served next
    bury       in flight -> dead
    renew      in flight stays: a later deadline
    sweep      in flight -> ready where the deadline has passed; delayed -> ready when due
    replay     dead -> ready
    purge_dead_letter  dead -> gone
    resolve    dead -> gone, and the outcome that a person told is recorded
    purge      ready, delayed -> gone, by a purge that has set them aside; what waited for them in the ids' claims ends
    recall     none: a claim is told what the ledger knows of its id, after a restore

What becomes due joins the list where new messages do, the earliest first. So it is served in the order of its due
times, neither passes what waited before it nor is passed by what comes after it, and LLEN counts it.

Times are Redis' own (`TIME`), so that workers' clocks do not matter. A move needs no memory to speak of, so scripts
that move run even when Redis is full (`allow-oom`): a full queue can always be drained.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, NamedTuple

import redis

URGENT = "ifinu:fila:urgente"
NORMAL = "ifinu:fila:whatsapp"  # what producers in other languages LPUSH to
LOW = "ifinu:fila:baixa"
QUEUES = (URGENT, NORMAL, LOW)  # in the order they are served

# Celery's remote control and task events, apart from those of other applications at the same Redis.
CONTROL = "ifinu"
TASK_EVENTS = "ifinu.celeryev"

EVENTS = "ifinu:eventos"
RECORDER = "ifinu:recorder"
UNKNOWN = "ifinu:desconhecidas"
ANSWERS = "ifinu:respostas"
NEW_ANSWERS = "ifinu:respostas:novas"
EVERY_TENANT = "*"  # stands for all of them among the opt-outs


class Keys(NamedTuple):
    """The keys of one queue, in the order that the scripts take them."""

    ready: str
    delayed: str
    in_flight: str
    deadlines: str
    dead: str
    paused: str
    suspects: str

    @classmethod
    def of(cls, queue: str) -> Keys:
        """The keys of the queue whose list is `queue`."""
        return cls(
            queue, *(f"{queue}:{s}" for s in ("agendadas", "em_voo", "em_voo:prazos", "dlq", "pausada", "suspeitas"))
        )


def claim_key(notification_id: str) -> str:
    """Where the claim of a notification id is."""
    return f"ifinu:claim:{notification_id}"


def seen_key(reference: str, instance: str, pseudonym: str) -> str:
    """Where the gateway's word is that an instance sent a message with this reference to the phone of a pseudonym."""
    to = hashlib.sha256(f"{pseudonym} {instance}".encode()).hexdigest()[:16]
    return f"ifinu:visto:{reference}:{to}"


def trail_key(key_id: str) -> str:
    """Where the trace is of a message with this id at the gateway."""
    return f"ifinu:rastro:{key_id}"


def optout_key(tenant: str | None) -> str:
    """Where those are who want no messages of a tenant."""
    return f"ifinu:optout:{tenant or ''}"


def instance_key(name: str) -> str:
    """Where it stands what workers tell each other of a WhatsApp instance."""
    return f"ifinu:instancia:{name}"


def creation_key(name: str) -> str:
    """What is there while somebody creates an instance of this name."""
    return f"{instance_key(name)}:criando"


def senders_key(instance: str, month: str) -> str:
    """Where it stands which tenant last wrote to whom from an instance; `month` is `2026-11`."""
    return f"ifinu:remetentes:{instance}:{month}"


class Script:
    """
    One Lua script: run by its hash, and loaded again when the server has forgotten it (restart, `SCRIPT FLUSH`).

    `redis.Redis.register_script` does the same but binds to one client; here the caller brings the connection, and the
    event loop needs the bare hash.
    """

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        # What Redis calls the script; it asks for SHA-1.
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def load(self, client: redis.Redis) -> None:
        """Teach the server this script."""
        client.script_load(self.source)

    def __call__(self, client: redis.Redis, keys: Sequence[str], args: Iterable[Any] = ()) -> Any:
        """
        Run it.

        Args:
            client: Any connection to the server that holds the keys.
            keys: What the head of the script lists.
            args: Likewise.

        Raises:
            redis.RedisError: As the server answers.
        """
        arguments = (*keys, *args)
        try:
            return client.evalsha(self.sha, len(keys), *arguments)
        except redis.exceptions.NoScriptError:
            return client.eval(self.source, len(keys), *arguments)


@functools.cache
def script(name: str) -> Script:
    """
    One of the Lua scripts in `scripts/`, read from the package once in a process.

    Args:
        name: Its file's name without `.lua`.

    Raises:
        FileNotFoundError: There is no such script.
    """
    path = resources.files(__package__).joinpath("scripts", f"{name}.lua")
    return Script(name, path.read_text(encoding="utf-8"))
