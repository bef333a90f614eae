"""Messages that keep a number's pace, through the channel and on a real server."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import kombu
import pytest
import redis
from holders import KEYS, SHORT_S, Account, Consumer, Holder, now_ms, wire
from kombu.asynchronous import Hub
from kombu.message import Message
from paced import GENERATION, TENANTS, Paced
from processes import wait_until

from ifinu.broker import LOW, NORMAL, URGENT, Keys, lanes
from ifinu.broker.channel import Channel
from ifinu.broker.claims import ClaimState
from ifinu.broker.events import Event, Name
from ifinu.broker.headers import NUMBER, QUEUE, TAG
from ifinu.broker.keys import EVENTS, QUEUES, script
from ifinu.broker.leases import Settled
from ifinu.broker.purge import purge
from ifinu.embedded import Valkey
from ifinu.errors import MaybeSent, NotSent, Reason, SendError
from ifinu.notification import Kind, Notification
from ifinu.numbers.directory import DISCONNECTED
from ifinu.outcome import Wait
from ifinu.worker.attempt import Attempt

FOREVER_MS = 4_102_444_800_000


def register(client: redis.Redis, *names: str, **about: int) -> None:
    client.set("ifinu:numeros:geracao", GENERATION)
    client.sadd("ifinu:numeros", *names)
    for name in names:
        client.hset(f"ifinu:numero:{name}", mapping={"par": 1, "min": 0, "max": 0, **about})


def of(instance: str, *ids: str, tenant: str = "t") -> list[bytes]:
    return [
        json.dumps({"id": id_, "tipo_notificacao": "lembrete", "instancia": instance, "usuario_id": tenant}).encode()
        for id_ in ids
    ]


def waiting(client: redis.Redis) -> dict[tuple[str, str], int]:
    return {(lane.number, lane.tenant): lane.length for lane in lanes.counts(client)}


class Worker(Holder):
    """A holder that has the directory."""

    def take(self, want: int = 10) -> list[tuple[str, str]]:
        """Fetch; returns the tag and the id of each message."""
        arguments = (want, self.leases.lease_ms, self.leases.next_prefix(), GENERATION, 0.5, 300, "padrao")
        answer = script("fetch")(self.client, [key for queue in QUEUES for key in Keys.of(queue)], arguments)
        taken = []
        for index, tag, raw, mark in zip(answer[2::4], answer[3::4], answer[4::4], answer[5::4], strict=True):
            number = mark.decode().partition(" ")[2]
            self.leases.hold(tag.decode(), Keys.of(QUEUES[index]), raw, number)
            taken.append((tag.decode(), json.loads(raw)["id"]))
        return taken

    def ids(self, want: int = 10) -> list[str]:
        return [id_ for _, id_ in self.take(want)]

    def settle(self, tag: str, id_: str, number: str, then: list[tuple[str, bytes]] | None = None) -> None:
        outcome = Settled(ClaimState.SENT, Event(Name.SENT, id_), "k")
        self.leases.settle(tag, outcome, queue=NORMAL, ttl_s=60, then=then or (), number=number)


@pytest.fixture
def worker(client: redis.Redis, valkey: Valkey) -> Iterator[Worker]:
    made = Worker(valkey.url, 60.0)
    yield made
    made.die()


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The channel loads its directory by this; returns a list of what it was loaded for."""
    loads: list[str] = []

    def load() -> str:
        loads.append(GENERATION)
        return GENERATION

    monkeypatch.setattr(Channel, "reload_directory", staticmethod(load))
    return loads


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long a channel waits between two fetches, in seconds: on a busy machine it may wake later."""
    found: list[float] = []
    arm, command = Channel._arm, Channel._wait_command

    def armed(self: Channel, wait_s: float) -> None:
        found.append(wait_s)
        arm(self, wait_s)

    def commanded(self: Channel) -> tuple[Any, ...]:
        found.append(self._wait_s)
        return command(self)

    monkeypatch.setattr(Channel, "_arm", armed)
    monkeypatch.setattr(Channel, "_wait_command", commanded)
    return found


def fetches(client: redis.Redis) -> int:
    return sum(stats["calls"] for name, stats in client.info("commandstats").items() if name == "cmdstat_evalsha")


# -- the pace, on a real server


@pytest.mark.parametrize("seed", range(3))
def test_the_scripts_keep_every_numbers_pace_on_a_real_server(client: redis.Redis, seed: int):
    rng = random.Random(seed)
    paced = Paced(client, lambda: float(now_ms(client)), exact=False, scale=0.002)
    for name in paced.numbers:
        paced.cap(name, 80)
    named = ("", "", "shared", "own", "slow", "unregistered")
    ends = ("sent", "sent", "found", "in doubt", "retry", "number at fault", "refused", "given back", "duplicate")
    for _ in range(250):
        tags = list(paced.tags())
        match rng.choice(("push", "fetch", "fetch", "end", "end", "lose", "reroute", "hold")):
            case "push":
                for _ in range(rng.randrange(1, 8)):
                    queue, tenant = rng.choice(QUEUES), rng.choice(tuple(TENANTS))
                    paced.push(queue, tenant, rng.choice(named), "77998616740", envelope=rng.random() < 0.5)
            case "fetch":
                paced.fetch(rng.randrange(1, 7), rng.random(), rng.choice((QUEUES, QUEUES[1:2])))
            case "end" if tags:
                paced.end(rng.choice(tags), rng.choice(ends), rng.random())
            case "lose" if tags and rng.random() < 0.2:
                paced.lose(rng.random())
            case "reroute" if tags:
                paced.reroute(rng.choice(tags), "own")
            case "hold":
                paced.hold("solo", rng.randrange(60))
        paced.check()
    assert sum(bool(number.taken) for number in paced.numbers.values()) >= 3


def test_messages_behind_a_long_backlog_of_another_number_are_reached(client: redis.Redis, worker: Worker):
    register(client, "a", "b")
    client.lpush(NORMAL, *of("a", *(f"a{number}" for number in range(2_000))), *of("b", "b0"))
    taken = [*worker.ids()]
    while client.llen(NORMAL):
        taken += worker.ids()
    assert taken == ["a0", "b0"]
    assert lanes.total(client, NORMAL) == 1_999
    assert waiting(client) == {("a", "t"): 1_999}


@pytest.mark.parametrize(
    ("waits", "gap_ms", "freed"), [(True, 0, True), (True, 20, True), (True, 60_000, False), (False, 0, False)]
)
@pytest.mark.parametrize("how", ["settle", "ack", "bury", "postpone"])
def test_the_end_of_a_message_says_whether_another_may_go_at_once(
    client: redis.Redis, worker: Worker, how: str, waits: bool, gap_ms: int, freed: bool
):
    register(client, "a", max=gap_ms, min=gap_ms)
    client.lpush(NORMAL, *of("a", "1", *(("2",) if waits else ())))
    ((tag, id_),) = worker.take()
    went_out = how == "settle"
    match how:
        case "settle":
            worker.settle(tag, id_, "a")
        case "ack":
            worker.leases.ack(tag)
        case "bury":
            worker.bury(tag)
        case "postpone":
            worker.leases.postpone(tag, "later", 60.0, state=ClaimState.WAITING, notification_id=id_, event=None)
    assert worker.leases.freed is (freed if went_out else waits)


def test_payment_codes_that_wait_for_a_number_without_a_gap_may_go_at_once(client: redis.Redis, worker: Worker):
    register(client, "a")
    client.lpush(NORMAL, *of("a", "1"))
    ((tag, id_),) = worker.take()
    worker.settle(tag, id_, "a", then=[("1:pix", *of("a", "1:pix"))])
    assert worker.leases.freed


def test_once_no_number_is_registered_a_fetch_costs_what_it_costs_without_a_registry(
    client: redis.Redis, worker: Worker
):
    def commands(taken: Callable[[], list[object]]) -> dict[str, int]:
        client.lpush(NORMAL, *of("a", *map(str, range(100))))
        assert len(taken()) == 50  # the first fetch also connects, and sends the script
        client.config_resetstat()
        assert len(taken()) == 50
        return {name: stats["calls"] for name, stats in client.info("commandstats").items()}

    without = commands(lambda: list(worker.fetch(50, *map(Keys.of, QUEUES))))
    register(client, "a")
    client.delete("ifinu:numeros", "ifinu:numero:a")
    registered = commands(lambda: list(worker.take(50)))
    assert registered.pop("cmdstat_scard") == 1
    assert registered == without


def test_tenants_that_share_a_number_take_turns_by_their_weight(client: redis.Redis, worker: Worker):
    register(client, "a")
    client.hset("ifinu:inquilino:heavy", "peso", 2)
    for tenant in ("x", "heavy", "y"):
        client.lpush(NORMAL, *of("a", *(f"{tenant}{number}" for number in range(4)), tenant=tenant))
    order = []
    for _ in range(12):
        ((tag, id_),) = worker.take()
        order.append(id_)
        worker.settle(tag, id_, "a")
    assert order[1:9] == ["x1", "heavy0", "heavy1", "y0", "x2", "heavy2", "heavy3", "y1"]


def test_no_tenants_name_leads_into_the_lane_of_another_number_or_tenant(client: redis.Redis, worker: Worker):
    """The tenant comes from producers, and stands last in the key; a number's name has no colon (`registry`)."""
    numbers = ("a", "b", "voo", "espera")
    tenants = ("t", "b:t", "a:t", ":t", "t:", "b", "voo", "espera:a:t", f"roda:{NORMAL}", "agendadas", "x:purga")
    register(client, *numbers)
    for number in numbers:
        for tenant in tenants:
            client.lpush(NORMAL, *of(number, f"{number} {tenant} 1", f"{number} {tenant} 2", tenant=tenant))
    client.hset("ifinu:inquilino:b:t", "peso", 2)
    taken = worker.take(100)
    assert [id_ for _, id_ in taken] == [f"{number} t 1" for number in numbers]
    each = {(number, tenant): 2 - (tenant == "t") for number in numbers for tenant in tenants}
    assert waiting(client) == each
    for lane in lanes.counts(client):
        expected = [f"{lane.number} {lane.tenant} {n}" for n in range(3 - lane.length, 3)]
        assert [json.loads(raw)["id"] for raw in lanes.peek(client, lane, 10)] == expected
    seen = [id_ for _, id_ in taken]
    while taken:
        for tag, id_ in taken:
            worker.settle(tag, id_, id_.partition(" ")[0])
        taken = worker.take(100)
        seen += [id_ for _, id_ in taken]
    assert sorted(seen) == sorted(f"{number} {tenant} {n}" for number in numbers for tenant in tenants for n in (1, 2))
    assert (waiting(client), lanes.total(client, NORMAL)) == ({}, 0)
    assert not client.keys(f"{NORMAL}:espera:*")
    assert not client.keys("ifinu:numero:*:roda:*")


def test_a_person_gets_all_messages_from_one_number_of_a_tenant_unless_that_is_banned(
    client: redis.Redis, worker: Worker
):
    register(client, "a", "b", "c", par=50)
    client.hset("ifinu:inquilino:t", mapping={"numeros": '["a", "b", "c", "gone"]', "politica": "fixo"})
    phones = [f"779986167{number:02}" for number in range(40)]

    def numbers_of(spelling: str) -> list[str]:
        written = [spelling.format(phone[:2], phone[2:]) for phone in phones]
        client.lpush(NORMAL, *(json.dumps({"id": p, "usuario_id": "t", "telefone": p}).encode() for p in written))
        taken = [worker.leases._held[tag] for tag, _ in worker.take(50)]
        worker.leases.give_back_all()
        purge(client, KEYS, delayed=False)
        assert [json.loads(held.raw)["telefone"] for held in taken] == written
        return [held.number for held in taken]

    before = numbers_of("{}{}")
    assert {*before} == {"a", "b", "c"}
    assert numbers_of("+55 ({}) {}") == before
    client.hset("ifinu:numero:a", "motivo", "banido")
    assert [now for was, now in zip(before, numbers_of("{}{}"), strict=True) if was != "a"] == [
        was for was in before if was != "a"
    ]
    assert "a" not in numbers_of("{}{}")
    client.hset("ifinu:inquilino:t", "politica", "rodizio")
    assert sorted(numbers_of("{}{}")) == ["b"] * 20 + ["c"] * 20


def test_the_lowest_queue_is_served_though_the_others_never_end(client: redis.Redis, worker: Worker):
    register(client, "a")
    for queue in QUEUES:
        client.lpush(queue, *of("free", *(f"{queue}{number}" for number in range(30))))
    assert [id_.split(":")[2][:5] for id_ in worker.ids(10)] == ["baixa", *["urgen"] * 9]


def test_a_message_that_cannot_be_read_keeps_no_pace_or_that_of_the_default_instance(
    client: redis.Redis, worker: Worker
):
    odd = [
        b'{"id": "1", "texto": "diga \\"instancia\\": \\"a\\"", "nome": "instancia"}',
        b'{"id": "2", "instancia": null, "usuario_id": ""}',
        b'{"id": "3", "instancia": "a',
        b'{"id": "4", "instancia": "a\\ud800"}',
        b'{"id": "5", "instancia": ' + b"[" * 10_000,
        b'{"id": "6", "usuario_id": "' + b"\\" * 9_999,
        b"\xff\xfe",
        b'{"id": "7", "instancia": "' + b"a" * 100_000 + b'"}',
    ]
    register(client, "a")
    client.lpush(NORMAL, *odd)
    answer = script("fetch")(worker.client, KEYS, (50, 60_000, "p.", GENERATION, 0.5, 300, "padrao"))
    assert answer[4::4] == odd
    assert answer[5::4] == [b""] * len(odd)
    register(client, "padrao")
    client.lpush(NORMAL, *odd[:2], b'{"id": "8", "instancia" :  "\\u0061" , "usuario_id": 42}')
    answer = script("fetch")(worker.client, KEYS, (50, 60_000, "q.", GENERATION, 0.5, 300, "padrao"))
    assert answer[4::4] == [odd[0], b'{"id": "8", "instancia" :  "\\u0061" , "usuario_id": 42}']
    assert answer[5::4] == [b" padrao", b" a"]
    assert waiting(client) == {("padrao", ""): 1}


def test_a_key_of_a_wrong_type_loses_no_message(client: redis.Redis, worker: Worker):
    register(client, "a", "b")
    client.set("ifinu:numero:b:voo", "no set")
    messages = [*of("a", "1"), *of("b", "2"), *of("a", "3")]
    client.lpush(NORMAL, *messages)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        worker.take()
    assert client.hvals(KEYS.in_flight) == messages[:1]
    assert client.lrange(NORMAL, 0, -1) == messages[:0:-1]
    client.delete("ifinu:numero:b:voo")
    assert worker.ids() == ["2"]
    assert waiting(client) == {("a", "t"): 1}


# -- ends


@pytest.mark.parametrize(
    ("error", "counted"),
    [(MaybeSent("no answer", reason=Reason.TIMEOUT), b"1"), (NotSent("no", reason=Reason.GATEWAY_ERROR), b"0")],
    ids=["maybe sent", "not sent"],
)
def test_a_number_pauses_for_a_send_in_doubt_that_redis_could_not_record(
    client: redis.Redis, worker: Worker, monkeypatch: pytest.MonkeyPatch, error: SendError, counted: bytes
):
    register(client, "a", min=5_000, max=5_000, teto=100)
    (message,) = of("a", "1")
    client.lpush(NORMAL, message)
    ((tag, _),) = worker.take()
    headers = {"retries": 0, QUEUE: NORMAL, TAG: tag, NUMBER: "a"}
    attempt = Attempt(Message(headers=headers, channel=SimpleNamespace(leases=worker.leases), properties={}))
    attempt.notification = Notification(id="1", kind=Kind.REMINDER, phone="+5577998616740", text="Olá", instance="a")
    wait = Wait(1.0, datetime.now(UTC), ClaimState.UNKNOWN, tag, None, "a", "unknown", error=error)
    with monkeypatch.context() as away:
        away.setattr(worker.leases._runner, "run", Mock(side_effect=redis.ConnectionError))
        with pytest.raises(redis.ConnectionError):
            attempt.postpone(wait, 1.0, retries=0)
    worker.leases.give_back((tag,))
    assert client.hget("ifinu:numero:a", "hoje") == counted
    assert worker.ids() == ([] if counted == b"1" else ["1"])


@pytest.mark.parametrize("doubtful", [0, 1, 2])
def test_messages_given_back_keep_their_order_whichever_of_them_may_have_been_sent(
    client: redis.Redis, worker: Worker, doubtful: int
):
    register(client, "n", par=3)
    client.lpush(NORMAL, *of("n", "first", "second", "third", "fourth"))
    taken = worker.take()
    assert [id_ for _, id_ in taken] == ["first", "second", "third"]
    worker.leases.doubt(taken[doubtful][0])
    worker.leases.give_back_all()
    client.hset("ifinu:numero:n", "par", 4)
    assert worker.ids() == ["first", "second", "third", "fourth"]


def test_payment_codes_follow_their_message_before_anything_else_of_its_number(client: redis.Redis, worker: Worker):
    register(client, "a", min=60_000, max=60_000)
    client.lpush(NORMAL, *of("a", "1", "2"))
    ((tag, _),) = worker.take()
    codes = list(zip(("1:pix", "1:boleto"), of("a", "1:pix", "1:boleto"), strict=True))
    worker.settle(tag, "1", "a", codes)
    assert client.llen(NORMAL) == 0
    assert worker.ids() == []
    register(client, "a", min=40, max=40, livre=0)
    client.zadd(f"{NORMAL}:turnos", {"a": 0})
    order = []
    for _ in range(3):
        wait_until(lambda: order.extend(worker.take()) or len(order) % 2)  # type: ignore[func-returns-value]
        tag, id_ = order.pop()
        order.append(id_)
        worker.settle(tag, id_, "a")
        order.append("|")
    assert order[::2] == ["1:pix", "1:boleto", "2"]


def test_a_send_that_ends_after_its_lease_ran_out_makes_its_number_pause(client: redis.Redis, worker: Worker):
    register(client, "a", min=5_000, max=5_000)
    client.lpush(NORMAL, *of("a", "1", "2"))
    ((tag, _),) = worker.take()
    client.zadd(KEYS.deadlines, {tag: 1})
    script("sweep")(client, (*KEYS[:4], KEYS.suspects), (500, 0.5))
    assert [json.loads(raw)["id"] for raw in lanes.peek(client, lanes.counts(client)[0], 5)] == ["1", "2"]
    client.hset("ifinu:numero:a", "livre", 0)  # the pause after the sweep
    worker.leases._let_go(tag)
    worker.settle(tag, "1", "a")
    assert float(client.hget("ifinu:numero:a", "livre") or 0) > now_ms(client) + 4_000


# -- people and the guard


def test_what_waits_for_a_number_moves_to_another_one_except_what_names_it(client: redis.Redis, worker: Worker):
    register(client, "a", "b")
    client.hset("ifinu:inquilino:t", "numeros", '["a"]')
    lanes.hold(client, "a", FOREVER_MS, "teste")
    lanes.hold(client, "b", FOREVER_MS, "teste")
    free = [json.dumps({"id": f"f{number}", "usuario_id": "t"}).encode() for number in range(450)]
    client.lpush(NORMAL, *free[:200], *of("a", "named 1", "named 2"), *free[200:])
    while client.llen(NORMAL):
        assert worker.ids() == []
    assert lanes.move(client, "a", ["unregistered"]) == 0
    assert lanes.move(client, "a", ["b"]) == 450
    assert waiting(client) == {("a", "t"): 2, ("b", "t"): 450}
    assert lanes.total(client, NORMAL) == 452
    at_a, at_b = sorted(lanes.counts(client))
    assert lanes.peek(client, at_a, 5) == of("a", "named 1", "named 2")
    assert lanes.peek(client, at_b, 500) == free
    assert set(lanes.scan(client, NORMAL)) == {*free, *of("a", "named 1", "named 2")}


def test_a_hold_stops_a_number_and_a_longer_one_for_another_reason_stays(client: redis.Redis, worker: Worker):
    register(client, "a")
    day = now_ms(client) + 86_400_000
    assert lanes.hold(client, "unregistered", day, "x") is None
    assert lanes.hold(client, "a", day, "guarda") == (day, "guarda")
    assert lanes.hold(client, "a", day - 9_000, "desconectado") == (day, "guarda")
    assert lanes.hold(client, "a", day - 9_000, "guarda") == (day - 9_000, "guarda")
    client.lpush(NORMAL, *of("a", "1"))
    assert worker.ids() == []
    assert not lanes.release(client, "a", "desconectado")
    assert lanes.release(client, "a", "guarda")
    assert worker.ids() == ["1"]


def test_of_two_holds_without_an_end_that_of_a_closed_connection_yields(client: redis.Redis, worker: Worker):
    """
    Else the end of an outage would release what a person holds, or a ban.
    """
    register(client, "a")
    for first, second in (("banido", DISCONNECTED), (DISCONNECTED, "manual")):
        lanes.hold(client, "a", FOREVER_MS, first)
        in_force = lanes.hold(client, "a", FOREVER_MS, second)
        assert in_force == (FOREVER_MS, first if second == DISCONNECTED else second)
        assert not lanes.release(client, "a", DISCONNECTED)
        assert lanes.release(client, "a")


def test_a_purge_deletes_what_waits_for_a_number_and_frees_its_ids(client: redis.Redis, worker: Worker):
    register(client, "a", "b")
    client.lpush(NORMAL, *of("a", *map(str, range(120))), *of("b", "x", "y", tenant="u"))
    client.lpush(URGENT, *of("a", "urgent"))
    while client.llen(NORMAL):
        worker.take(1)
    before = lanes.total(client, NORMAL)
    assert before > 100
    assert purge(client, KEYS, delayed=False).deleted == before
    assert lanes.total(client, NORMAL) == 0
    assert not client.keys(f"{NORMAL}:espera:*")
    assert not client.exists(f"{NORMAL}:turnos", f"{NORMAL}:purga")
    assert lanes.total(client, URGENT) + client.llen(URGENT) + client.hlen(Keys.of(URGENT).in_flight) == 1
    assert client.xlen(EVENTS) == before


# -- through the channel


def test_a_consumer_knows_the_number_of_each_message_and_frees_it_when_it_acknowledges(
    account: Account, connection: kombu.Connection, client: redis.Redis, loading: list[str]
):
    register(client, "a")
    account.push(*of("a", "1", "2"), wire(3))
    consumer = Consumer(connection, URGENT, NORMAL, LOW)
    consumer.drain(lambda: len(consumer.messages) == 2)
    assert loading == [GENERATION]
    assert [(m.headers["id"], m.headers.get(NUMBER)) for m in consumer.messages] == [("1", "a"), ("id-3", None)]
    assert waiting(client) == {("a", "t"): 1}
    consumer.messages[0].ack()
    consumer.drain(lambda: len(consumer.messages) == 3)
    assert consumer.ids()[2] == "2"
    assert client.smembers("ifinu:numero:a:voo") == {f"{NORMAL} {consumer.messages[2].delivery_tag}".encode()}


def test_messages_of_a_dead_worker_return_to_the_front_of_their_lane_and_free_their_number(
    valkey: Valkey,
    connection: kombu.Connection,
    client: redis.Redis,
    holder_of: Callable[..., Holder],
    loading: list[str],
):
    register(client, "a", par=2)
    dead = Worker(valkey.url, SHORT_S)
    client.lpush(NORMAL, *of("a", "1", "2", "3"))
    assert dead.ids() == ["1", "2"]
    dead.die()
    reaper = holder_of(SHORT_S)
    reaper.leases.watch(KEYS)
    wait_until(lambda: client.hlen(KEYS.in_flight) == 0)
    (lane,) = lanes.counts(client)
    assert [json.loads(raw)["id"] for raw in lanes.peek(client, lane, 5)] == ["1", "2", "3"]
    assert not client.exists("ifinu:numero:a:voo", f"{KEYS.in_flight}:numeros")
    assert client.llen(NORMAL) == 0
    consumer = Consumer(connection)
    consumer.drain(lambda: len(consumer.messages) == 2)
    assert consumer.ids() == ["1", "2"]


def test_an_idle_consumer_wakes_when_a_numbers_gap_ends_and_does_not_spin_before(
    account: Account, connection: kombu.Connection, client: redis.Redis, loading: list[str], waits: list[float]
):
    register(client, "a", min=1_500, max=1_500)
    account.push(*of("a", "1", "2"))
    consumer = Consumer(connection)
    consumer.drain(lambda: consumer.messages)
    message = consumer.messages[0]
    leases = message.channel.leases
    leases.settle(
        message.delivery_tag, Settled(ClaimState.SENT, Event(Name.SENT, "1"), "k"), queue=NORMAL, ttl_s=60, number="a"
    )
    waits.clear()
    started, before = time.monotonic(), fetches(client)
    consumer.drain(lambda: len(consumer.messages) == 2)
    assert time.monotonic() - started >= 1.4
    assert sum(waits) <= 1.51
    assert fetches(client) - before < 12


def test_a_consumer_without_a_directory_takes_nothing_and_does_not_spin(
    account: Account, connection: kombu.Connection, client: redis.Redis
):
    register(client, "a")
    account.push(wire(0))
    consumer = Consumer(connection)
    before, started = fetches(client), time.monotonic()
    consumer.drain(lambda: time.monotonic() - started > 1.5)
    assert fetches(client) - before <= 2.5 + time.monotonic() - started
    assert not consumer.messages
    client.flushdb()  # nothing is registered any more
    account.push(wire(1))
    consumer.drain(lambda: consumer.messages)


def test_a_busy_worker_sees_soon_that_another_one_has_freed_a_number(
    account: Account,
    connection: kombu.Connection,
    client: redis.Redis,
    worker: Worker,
    loading: list[str],
    waits: list[float],
):
    register(client, "a")
    account.push(*of("a", "1"))
    ((tag, id_),) = worker.take()
    account.push(*of("a", "2"), wire(3))
    consumer, hub = Consumer(connection), Hub()
    connection.register_with_event_loop(hub)

    def turn() -> int:
        next(hub.loop)
        return len(consumer.messages)

    try:
        wait_until(turn, every_s=0)
        fetched = fetches(client)
        wait_until(lambda: turn() and fetches(client) >= fetched + 3, every_s=0)
        worker.settle(tag, id_, "a")
        fetched = fetches(client)
        waits.clear()
        wait_until(lambda: turn() == 2, every_s=0)
        assert fetches(client) - fetched <= 2
        assert sum(waits) < 0.1
    finally:
        hub.close()
    assert consumer.ids() == ["id-3", "2"]


@pytest.mark.parametrize("fault", [None, RuntimeError, redis.exceptions.ConnectionError])
def test_the_event_loop_goes_on_while_a_directory_is_loaded(
    account: Account,
    connection: kombu.Connection,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    fault: type[Exception] | None,
):
    register(client, "a")
    account.push(*of("a", "1"))
    turns, loads, turns_of_a_load = 0, 0, 0

    def load() -> str:
        nonlocal loads, turns_of_a_load
        loads += 1
        before = turns
        wait_until(lambda: turns >= before + 4)
        turns_of_a_load = turns - before
        if loads == 1 and fault is not None:
            raise fault("no directory")
        return GENERATION

    monkeypatch.setattr(Channel, "reload_directory", staticmethod(load))
    consumer, hub = Consumer(connection), Hub()
    connection.register_with_event_loop(hub)
    hub.propagate_errors = (Exception,)

    def turn() -> list[Message]:
        nonlocal turns
        turns += 1
        next(hub.loop)
        return consumer.messages

    try:
        if fault is redis.exceptions.ConnectionError:  # the worker connects again
            with pytest.raises(fault):
                wait_until(turn, every_s=0)
            assert loads == 1
        else:
            wait_until(turn, every_s=0)
            assert consumer.ids() == ["1"]
            assert loads == 1 + (fault is not None)
    finally:
        hub.close()
    assert turns_of_a_load >= 4


def test_a_directory_that_is_always_behind_is_loaded_about_once_a_second(
    account: Account,
    connection: kombu.Connection,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    waits: list[float],
):
    register(client, "a")
    loads: list[float] = []

    def load() -> str:
        loads.append(time.monotonic())
        if len(loads) == 2:
            raise RuntimeError("the registry is away")
        return "behind"

    monkeypatch.setattr(Channel, "reload_directory", staticmethod(load))
    account.push(wire(0))
    consumer = Consumer(connection)
    consumer.drain(lambda: len(loads) >= 4)
    assert loads[3] - loads[1] > 1.9
    assert {*waits} == {1.0}
    assert len(waits) <= 3
    monkeypatch.setattr(Channel, "reload_directory", staticmethod(lambda: GENERATION))
    consumer.drain(lambda: consumer.messages)


def test_a_paused_queue_keeps_its_messages_and_its_lanes(client: redis.Redis, worker: Worker):
    register(client, "a")
    client.lpush(NORMAL, *of("a", "1", "2", "3"))
    ((tag, _),) = worker.take(1)
    worker.ids()
    client.set(KEYS.paused, "1")
    worker.settle(tag, "1", "a")
    client.lpush(NORMAL, *of("a", "4"))
    assert worker.ids() == []
    assert (client.llen(NORMAL), waiting(client)) == (1, {("a", "t"): 2})
    client.delete(KEYS.paused)
    assert worker.ids() == ["2"]
