"""
The Redis keys of a queue, and the moves between them.

    <queue>                LIST   ready; LPUSH adds, the tail is served next; LLEN is the backlog
    <queue>:agendadas      ZSET   delayed: message -> due time in ms
    <queue>:purga, <queue>:agendadas:purga  messages that a purge has set aside and is about to delete
    <queue>:em_voo         HASH   in flight: tag -> the message's bytes, as they were on the list
    <queue>:em_voo:prazos  ZSET   in flight: tag -> end of its lease in ms
    <queue>:dlq            LIST   dead letters, newest first; LLEN counts them
    <queue>:pausada        STRING present while the queue is paused
    <queue>:suspeitas      HASH   digest of a message whose worker died -> how often it was started since; for an hour.
                                  `<digest>:handed` -> how often it was handed to a task since a worker survived that

    A number is an instance with a pace. A message that waits for its number is in a lane; LLEN does not count it, since
    another worker could not take it either:

    <queue>:espera:<number>:<tenant>  LIST  a lane; LPUSH adds, the tail is served next
    <queue>:turnos         ZSET   number with lanes -> when it is looked at next, in ms
    <queue>:na_espera      STRING how many messages are in lanes
    <queue>:em_voo:numeros HASH   in flight: tag -> `<local hour in which it was taken> <number>`
    ifinu:numeros          SET    names of the registered numbers, which have no `:`; from here on it is, for the most
                           part, the registry's copy (see `numbers/cache.py`)
    ifinu:numeros:geracao  STRING generation of the copy; absent: nothing ever was registered, or the copy is
                           gone
    ifinu:numeros:carga    STRING lock of the process that writes the copy
    ifinu:numeros:desde    STRING no number sends before this, in ms: set when Redis has restarted, or lost the copy
    ifinu:numeros:servidor STRING id of the server that was seen last (see `restarts.py`)
    ifinu:numeros:pessoas  STRING since when the people of two months are there, in ms (see `numbers/contacts.py`)
    ifinu:numero:<number>  HASH   `par` most messages in flight, `min` and `max` gap after the end of a send in ms,
                           `fator` 0.1 to 1: gaps are divided by it, `teto` most messages a day, `novos` most new chats,
                           `espera` its last hold in trouble in ms, `fuso` offset of its local time in ms; `dia`,
                           `hoje`, `hora`, `nesta_hora` count what it has taken on this day and in this hour; `livre`
                           end of its gap, `presa` and `motivo` end of its hold and why,
                           `presa_desde` its start; `desviada` while its tenant's other numbers send in its place;
                           `ouve` since when the people who write to it are counted, in ms; `grupo` its portfolio at
                           Meta, `conversas` the most people whom that may write to in 24 hours
    ifinu:numero:<number>:voo  SET  `<queue> <tag>` of its messages in flight; others are dropped when it looks full
    ifinu:numero:<number>:novos:<day>  SET  pseudonyms of the people it wrote to for the first time on its local day
                           (days since 1970); for two days
    ifinu:numero:<number>:respostas:<day>  HLL  the people who wrote to it on that day; for nine days
    ifinu:numero:<number>:roda:<queue>  LIST  the tenants with lanes, each as often as its weight; they take turns
    ifinu:grupo:<portfolio>:conversas  ZSET  pseudonyms of the people that a portfolio's numbers have written to in the
                           last 24 hours -> when first, in ms
    ifinu:grupo:<portfolio>:espera  ZSET  pseudonyms of those for whom it has no room -> when they are tried again
    ifinu:inquilinos       SET    names of the tenants
    ifinu:inquilino:<tenant>   HASH  `numeros` its numbers (JSON), `politica` (fixo | rodizio), `peso` its weight, `vez`
                           its last turn of rodizio

    ifinu:contato:<tenant>:<pseudonym>:<day>  SET  ids of the reminders to a person on that day, by registered numbers,
                           and the gateway's ids of what was typed on such a number's phone; for two days
    ifinu:contato:<tenant>:<pseudonym>:ultima  STRING  when the last message to a person was sent, in ms; for a minute

    ifinu:claim:<id>       HASH   the state of a notification id, for days (see `claims.py`)
    ifinu:desconhecidas    ZSET   ids that may have been sent -> since when, in ms
    ifinu:visto:<ref>:<digest>  STRING  the gateway's id of a message with this reference that a webhook reported sent;
                           for two days. The digest is of the instance and the phone's pseudonym
    ifinu:rastro:<key_id>  STRING the trace of the message with this gateway id, for two days (see `trace_links.py`)
    ifinu:eventos          STREAM events, the ledger's input (see `events.py`)
    ifinu:optout:<tenant>  HASH   people who opted out of a tenant (see `optouts.py`); tenant `*`: of all tenants
    ifinu:respostas        HASH   people's replies that are still open (see `replies.py`)
    ifinu:respostas:novas  SET    those of them that were not looked up in the ledger yet
    ifinu:instancia:<name>          HASH    `shard`: the gateway process that holds an instance (see `locations.py`)
    ifinu:instancia:<name>:criando  STRING  lock while the instance is being created; expires after two minutes
    ifinu:remetentes:<instance>:<month>  HASH  phone's pseudonym -> the tenant that last wrote to it (empty: no tenant);
                           for two months
    ifinu:recorder         STRING the process that may write the ledger (see `ledger/leader.py`)
    ifinu:regua:epoca      HASH   `epoca` the value that the database has too while this server holds what the régua has
                           pushed, `visto` when that was seen last, in ms (see `billing/epoch.py`)
    ifinu:chave:telefone   STRING the key of pseudonyms, unless one was set (see `pseudonyms.py`)

A message is in exactly one of ready, delayed, lane, in flight and dead, and every move is one Lua script in `scripts/`:

    fetch      delayed -> ready when due, up to 200 per call; lane -> in flight when its number may send; ready -> in
               flight, or -> lane, a batch per call
    ack        in flight -> gone
    settle     in flight -> gone, and the outcome is recorded in the id's claim
    postpone   in flight -> delayed, as its retry or its next look-up
    delay      in flight -> delayed, unchanged, since its `eta` has not come
    give_back  in flight -> ready or its lane, to be served next
    reroute    in flight -> another number's lane
    move_lane  lane -> another number's lane
    return_lane  lane -> ready, once no number is registered
    lift       lane -> in flight, to be buried
    bury       in flight -> dead
    renew      in flight stays in flight, with a later deadline
    sweep      in flight -> ready or its lane when the deadline has passed; delayed -> ready when due
    replay     dead -> ready
    purge_dead_letter  dead -> gone
    resolve    dead -> gone, and a person's decision is recorded in the id's claim
    purge      ready, delayed, lanes -> gone, after they were set aside; ends the claims that waited for them
    hold_number, release_number, brake_number  move no message: they set from when and how fast a number may send
    hear, hand_sent  move no message: they count what webhooks report of a number's chats
    load_numbers, restarted  move no message: they write a part of the registry's copy, and a pause after a restart
    reconcile  moves no message: writes the ledger's knowledge of an id into its claim, after a restore
    push       database -> ready, if this server holds what the régua pushed before

Due messages join the ready list at the end where new ones do, the earliest first. They keep the order of their due
times, do not overtake messages that waited before them, and count in LLEN.

Whatever frees a number (`settle`, `ack`, `bury`, `postpone`, `delay`, `give_back`, `sweep`, `reroute`) sets its next
turn in the same step. `broker/scripts/include/numbers.lua` has what these scripts and `fetch` share.

Times are Redis' own (`TIME`), so that workers' clocks do not matter. A move takes hardly any memory, so the scripts run
even when Redis is full (`allow-oom`): a full queue can always be drained.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import date
from importlib import resources
from typing import Any, NamedTuple

import redis

URGENT = "ifinu:fila:urgente"
NORMAL = "ifinu:fila:whatsapp"  # what producers in other languages LPUSH to
LOW = "ifinu:fila:baixa"
QUEUES = (URGENT, NORMAL, LOW)  # in the order they are served
QUEUE_OF = {"urgente": URGENT, "normal": NORMAL, "baixa": LOW}  # by `notification.Priority`

# Celery's remote control and task events, kept apart from those of other applications on the same Redis.
CONTROL = "ifinu"
TASK_EVENTS = "ifinu.celeryev"

EVENTS = "ifinu:eventos"
LEDGER_GROUP = "ledger"  # the group of EVENTS in which recorders read
RECORDER = "ifinu:recorder"
UNKNOWN = "ifinu:desconhecidas"
REPLIES = "ifinu:respostas"
NEW_REPLIES = "ifinu:respostas:novas"
NUMBERS = "ifinu:numeros"
GENERATION = "ifinu:numeros:geracao"
LOADING = "ifinu:numeros:carga"
SINCE = "ifinu:numeros:desde"
SERVER = "ifinu:numeros:servidor"
PEOPLE = "ifinu:numeros:pessoas"
EPOCH = "ifinu:regua:epoca"
TENANTS = "ifinu:inquilinos"
SENDERS_TTL_MS = 62 * 86_400_000
ANSWERS_TTL_MS = 9 * 86_400_000  # the guard looks back a week
EVERY_TENANT = "*"  # in the opt-outs: all tenants


_USES = re.compile(r"^ *-- uses: (\w+)\n", re.MULTILINE)


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
    @functools.lru_cache(maxsize=64)
    def of(cls, queue: str) -> Keys:
        return cls(
            queue, *(f"{queue}:{s}" for s in ("agendadas", "em_voo", "em_voo:prazos", "dlq", "pausada", "suspeitas"))
        )


def claim_key(notification_id: str) -> str:
    return f"ifinu:claim:{notification_id}"


def seen_key(reference: str, instance: str, pseudonym: str) -> str:
    """Key of the gateway's id of the message with this reference, sent by an instance to the phone of a pseudonym."""
    to = hashlib.sha256(f"{pseudonym} {instance}".encode()).hexdigest()[:16]
    return f"ifinu:visto:{reference}:{to}"


def trail_key(key_id: str) -> str:
    return f"ifinu:rastro:{key_id}"


def optout_key(tenant: str | None) -> str:
    return f"ifinu:optout:{tenant or ''}"


def instance_key(name: str) -> str:
    return f"ifinu:instancia:{name}"


def turns_key(queue: str) -> str:
    return f"{queue}:turnos"


def in_lanes_key(queue: str) -> str:
    return f"{queue}:na_espera"


def number_key(name: str) -> str:
    return f"ifinu:numero:{name}"


def contact_key(tenant: str, pseudonym: str, day: int) -> str:
    """Key of the reminders to a person; the day is counted since the epoch, in the number's zone."""
    return f"ifinu:contato:{tenant}:{pseudonym}:{day}"


def new_chats_key(number: str, day: int) -> str:
    """Key of the people that a number wrote to first on a day, counted as in `contact_key`."""
    return f"{number_key(number)}:novos:{day}"


def conversations_key(portfolio: str) -> str:
    """Key of the people that a portfolio's numbers have written to lately."""
    return f"ifinu:grupo:{portfolio}:conversas"


def conversation_waits_key(portfolio: str) -> str:
    """Key of the people for whom a portfolio has no room."""
    return f"ifinu:grupo:{portfolio}:espera"


def answers_key(number: str, day: int) -> str:
    """Key of the people who wrote to a number on a day, counted as in `contact_key`."""
    return f"{number_key(number)}:respostas:{day}"


def creation_key(name: str) -> str:
    return f"{instance_key(name)}:criando"


def tenant_key(name: str) -> str:
    return f"ifinu:inquilino:{name}"


def month_of(day: date) -> str:
    """The month of a day as `senders_key` takes it."""
    return f"{day.year}-{day.month:02}"


def senders_key(instance: str, month: str) -> str:
    """Key of the tenant that last wrote to each phone from an instance; `month` is like `2026-11`."""
    return f"ifinu:remetentes:{instance}:{month}"


class Script:
    """
    One Lua script, run by its hash, and sent in full when the server does not have it (restart, `SCRIPT FLUSH`).

    `redis.Redis.register_script` does the same but binds to one client; here the caller passes the client, and the
    event loop needs the bare hash.
    """

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        # Redis identifies scripts by SHA-1.
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def load(self, client: redis.Redis) -> None:
        """Load the script into the server, for calls by its bare hash."""
        client.script_load(self.source)

    def __call__(self, client: redis.Redis, keys: Sequence[str], args: Iterable[Any] = ()) -> Any:
        """
        Run the script.

        Args:
            keys: As KEYS in the head of the script.
            args: As ARGV there.

        Raises:
            redis.RedisError: The server answered with an error, or not at all.
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

    A line `-- uses: <name>` stands for the text of `scripts/include/<name>.lua`. So its functions are made where a
    number has a pace, and cost nothing elsewhere.

    Args:
        name: Its file's name without `.lua`.

    Raises:
        FileNotFoundError: There is no such script.
    """
    scripts = resources.files(__package__).joinpath("scripts")

    def text(*path: str) -> str:
        return scripts.joinpath(*path).read_text(encoding="utf-8")

    return Script(name, _USES.sub(lambda line: text("include", f"{line[1]}.lua"), text(f"{name}.lua")))
