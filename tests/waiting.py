"""Registered numbers in Redis, and messages that a fetch has put into their lanes."""

from __future__ import annotations

import json

import redis

from ifinu.broker import NORMAL, Keys
from ifinu.broker.keys import GENERATION, NUMBERS, QUEUES, number_key, script

FOREVER_MS = 32_472_144_000_000  # the end of a hold that has none


def register(client: redis.Redis, *names: str, **about: float | str) -> None:
    """Numbers without a gap or a cap, unless `about` says so."""
    client.set(GENERATION, "g1")
    client.sadd(NUMBERS, *names)
    for name in names:
        client.hset(number_key(name), mapping={"par": 1, "min": 0, "max": 0, "canal": "BAILEYS", **about})


def hold(client: redis.Redis, name: str, reason: str = "desconectado") -> None:
    client.hset(number_key(name), mapping={"presa": FOREVER_MS, "motivo": reason})


def message(id_: str, number: str, tenant: str = "u1", **fields: str) -> bytes:
    about = {"id": id_, "tipo_notificacao": "lembrete", "telefone": "(77) 99861-6740", "texto": "Segredo"}
    return json.dumps(about | {"instancia": number, "usuario_id": tenant} | fields).encode()


def fetch(client: redis.Redis, want: int = 10) -> list[str]:
    """The ids of the messages that a worker takes now."""
    keys = [key for queue in QUEUES for key in Keys.of(queue)]
    answer = script("fetch")(client, keys, (want, 60_000, "t", "g1", 0.5, 300, "padrao"))
    return [json.loads(raw)["id"] for raw in answer[4::4]]


def put_aside(client: redis.Redis, *messages: bytes, queue: str = NORMAL) -> None:
    """Push messages of numbers that may not send, and let a fetch put them into lanes."""
    client.lpush(queue, *messages)
    assert fetch(client) == []
    assert not client.llen(queue)
