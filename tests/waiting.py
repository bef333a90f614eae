"""Registered numbers in Redis, and messages that a fetch has put into their lanes."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime

import redis

from ifinu.broker import NORMAL, Keys
from ifinu.broker.keys import GENERATION, NUMBERS, QUEUES, number_key, script

FOREVER_MS = 32_472_144_000_000  # the end of a hold that has none


def zone_amid_an_hour() -> str:
    """A time zone in which no hour, and so no day, ends within the next 25 minutes."""
    return "America/Sao_Paulo" if 5 <= datetime.now(UTC).minute < 35 else "Asia/Kolkata"


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


def take(client: redis.Redis, want: int = 10) -> list[tuple[str, bytes]]:
    """The tags and bytes of the messages that a worker takes now."""
    keys = [key for queue in QUEUES for key in Keys.of(queue)]
    generation = client.get(GENERATION) or b""
    answer = script("fetch")(client, keys, (want, 60_000, secrets.token_hex(8), generation, 0.5, 300, "padrao"))
    return [(tag.decode(), raw) for tag, raw in zip(answer[3::4], answer[4::4], strict=True)]


def fetch(client: redis.Redis) -> list[str]:
    """The ids of those messages."""
    return [json.loads(raw)["id"] for _, raw in take(client)]


def put_aside(client: redis.Redis, *messages: bytes, queue: str = NORMAL) -> None:
    """Push messages of numbers that may not send, and let a fetch put them into lanes, with what is due."""
    if messages:
        client.lpush(queue, *messages)
    assert take(client) == []
    assert not client.llen(queue)
