"""Workers that send through Meta's channel, and through a number that WhatsApp bans."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pix import pix
from processes import Fleet, Queue, Simulated, numbered, raw, stopping, wait_until

from ifinu.broker.keys import GENERATION, NUMBERS, number_key

PIX = pix()


@pytest.fixture
def meta(tmp_path: Path) -> Iterator[Simulated]:
    """A simulator with an instance `meta` of Meta's channel, without the window of 24 hours."""
    with stopping(Simulated(tmp_path, "--business", "meta")) as server:
        server.control.set_fault(window="off")
        yield server


def test_a_text_outside_metas_window_is_a_dead_letter_that_says_so(fleet: Fleet, queue: Queue, meta: Simulated):
    meta.control.set_fault(window="at_once")
    queue.push(raw(1, telefone="77 99861-6740", instancia="meta"))
    fleet.start(IFINU_EVOLUTION_URL=meta.url).ready()
    (letter,) = wait_until(lambda: queue.idle() and queue.dead(), seen=queue.counts)
    assert (letter["reason"], letter["attempts"]) == ("needs_template", 1)
    assert "templates only" in letter["error"]
    assert meta.total() == 0


def test_a_template_goes_outside_metas_window_and_one_in_doubt_is_held(
    fleet: Fleet, queue: Queue, client: redis.Redis, meta: Simulated, tmp_path: Path
):
    """
    No text with the payment code follows, which Meta would refuse.
    """
    meta.control.set_fault(window="at_once")
    parameters = [{"type": "text", "text": text} for text in ("{{ nome }}", "{{ pix_copia_cola }}")]
    of_meta = {"name": "cobranca", "language": "pt_BR", "components": [{"type": "body", "parameters": parameters}]}
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "lembrete.meta.json").write_text(json.dumps(of_meta), "utf-8")
    pace = {"par": 5, "min": 0, "max": 0, "fuso": 0, "canal": "BUSINESS", "inquilino": ""}
    client.hset(number_key("meta"), mapping=pace)
    client.sadd(NUMBERS, "meta")
    client.set(GENERATION, "1")
    queue.push(
        raw(1, id="sent", telefone="77 99860-7777", instancia="meta", pix_copia_cola=PIX),
        raw(2, id="doubt", telefone="77 99860-0004", instancia="meta", pix_copia_cola=PIX),
    )
    worker = fleet.start(IFINU_EVOLUTION_URL=meta.url, IFINU_TEMPLATES=str(folder), IFINU_UNKNOWN_GRACE_S="1").ready()
    (letter,) = wait_until(lambda: queue.idle() and queue.dead(), seen=worker.text)
    assert (letter["id"], letter["reason"]) == ("doubt", "unknown")
    assert sorted(send.number[-4:] for send in meta.sends()) == ["0004", "7777"]
    assert all(send.text.startswith("template cobranca: ") and PIX in send.text for send in meta.sends())


def test_a_limit_for_one_person_makes_no_other_wait(fleet: Fleet, queue: Queue, meta: Simulated):
    queue.push(raw("her", telefone="77 99860-0041", instancia="meta"))  # refused once, with 131056
    queue.push(*(raw(n, telefone=f"77 9986{n}-7777", instancia="meta") for n in range(5)))
    fleet.start(IFINU_EVOLUTION_URL=meta.url).ready()
    wait_until(lambda: (meta.total(), queue.counts()["delayed"]) == (5, 1), seen=queue.counts)
    wait_until(lambda: meta.total() == 6 and queue.idle(), seen=queue.counts)
    assert meta.sends()[-1].number.endswith("0041")
    assert queue.dead() == []


def test_the_messages_of_a_banned_number_wait_and_none_is_lost_or_sent_twice(
    fleet: Fleet, queue: Queue, simulator: Simulated
):
    simulator.control.set_fault(endings={}, bans={"*": {"gap_ms": 60_000, "too_fast": "ban"}})
    queue.push(*numbered(20))
    fleet.start().ready()
    (name,) = simulator.control.numbers()
    wait_until(lambda: simulator.control.numbers()[name]["banned"], seen=queue.counts)
    wait_until(lambda: queue.counts()["in_flight"] == 0, seen=queue.counts)
    assert queue.dead() == []
    assert simulator.total() == 2  # the one that broke the rule got through
    simulator.control.set_fault(bans={})
    simulator.control.set_instance(name, state="open")
    wait_until(lambda: simulator.total() == 20 and queue.idle(), seen=queue.counts)
    assert len({send.number for send in simulator.sends()}) == 20
    assert queue.dead() == []
