from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import fakeredis
import pytest
import redis

from ifinu import producer
from ifinu.broker import LOW, NORMAL, QUEUES, URGENT
from ifinu.broker.keys import QUEUE_OF
from ifinu.errors import BrokerUnavailable, InvalidNotification
from ifinu.notification import Kind, Notification, Priority
from ifinu.producer import Enqueued, PartlyEnqueued, RefusedNotification, enqueue_many, notification_of

FIELDS: dict[str, object] = {
    "id": "a", "kind": "lembrete", "phone": "(77) 99861-6740", "name": "Maria", "amount": "1.50",
    "due_date": "2026-12-01",
}  # fmt: skip
WIRE: dict[str, object] = {
    "id": "a", "tipo_notificacao": "lembrete", "telefone": "(77) 99861-6740", "nome": "Maria", "valor": "1,50",
    "vencimento": "01/12/2026",
}  # fmt: skip
NESTED: dict[str, object] = {
    "id": "a", "tipo_notificacao": "lembrete",
    "cobranca": {
        "valor": 1.5, "vencimento": "2026-12-01", "cliente": {"nome": "Maria", "telefone": "77998616740"},
    },
}  # fmt: skip
READ = Notification.model_validate(FIELDS)


@pytest.fixture
def server() -> Iterator[redis.Redis]:
    with fakeredis.FakeRedis() as client:
        yield client


def source(number: int, **changes: object) -> dict[str, object]:
    return {**FIELDS, "id": f"n{number}", **changes}


def ids(client: redis.Redis, queue: str = NORMAL) -> list[str]:
    """The ids in the queue, in the order in which they will be served."""
    return [json.loads(message)["id"] for message in reversed(client.lrange(queue, 0, -1))]


@pytest.mark.parametrize("given", [READ, FIELDS, WIRE, NESTED])
def test_every_form_is_read_as_the_same_notification(given: producer.Source):
    assert notification_of(given) == READ


def test_a_sandbox_number_fills_in_a_wire_objects_phone_and_no_python_field():
    bare = {"id": "a", "tipo_notificacao": "lembrete"}
    assert notification_of(bare, sandbox_number="+5577998616740").phone == "+5577998616740"
    with pytest.raises(InvalidNotification, match="phone: is required"):
        notification_of({"id": "a", "kind": "lembrete"}, sandbox_number="+5577998616740")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({**FIELDS, "phone": "123"}, "phone"),
        ({**WIRE, "telefone": "123"}, "telefone"),
        ({"id": "a"}, "kind"),
        ({}, "id"),
        (["a"], ""),
        (None, ""),
        ("text", ""),
        (b"{}", ""),
    ],
)
def test_a_refusal_names_the_field_as_the_caller_spelled_it(given: Any, field: str):
    with pytest.raises(InvalidNotification) as caught:
        notification_of(given)
    assert caught.value.field == field


def test_the_producer_pushes_the_same_json_as_another_language(server: redis.Redis):
    assert enqueue_many([FIELDS], client=server) == Enqueued(accepted=1)
    pushed = json.loads(server.lindex(NORMAL, 0) or b"")
    assert datetime.fromisoformat(pushed.pop("criado_em")).tzinfo is UTC
    assert pushed == {
        "id": "a", "tipo_notificacao": "lembrete", "telefone": "+5577998616740", "nome": "Maria", "valor": "1.50",
        "vencimento": "2026-12-01",
    }  # fmt: skip


def test_each_priority_has_its_queue_and_the_order_within_it_is_kept(server: redis.Redis):
    priorities = ["baixa", "normal", "urgente"]
    sources = [source(i, priority=priorities[i % 3]) for i in range(1_500)]
    assert enqueue_many(sources, client=server).accepted == 1_500
    for first, queue in enumerate((LOW, NORMAL, URGENT)):
        assert ids(server, queue) == [f"n{i}" for i in range(first, 1_500, 3)]


def test_there_is_a_queue_for_every_priority():
    assert sorted(QUEUE_OF[priority] for priority in Priority) == sorted(QUEUES)


def test_the_refused_are_listed_by_place_id_field_and_reason_and_the_others_are_accepted(server: redis.Redis):
    given: list[Any] = [
        source(0),
        source(1, phone="123"),
        {**WIRE, "id": "w2", "valor": "de graça"},
        None,
        source(4, id="x" * 300),
        source(5, nome="Maria"),
        source(6, name="\ud800"),
        source(7),
    ]
    done = enqueue_many(iter(given), client=server)
    assert done.accepted == 2
    assert ids(server) == ["n0", "n7"]
    assert [(refusal.index, refusal.id, refusal.field) for refusal in done.refused] == [
        (1, "n1", "phone"), (2, "w2", "valor"), (3, None, ""), (4, "x" * 200, "id"), (5, "n5", "nome"),
        (6, "n6", "name"),
    ]  # fmt: skip
    assert done.refused[1] == RefusedNotification(2, "w2", "valor", "is not an amount; write 1234.50 or '1.234,50'")


def test_nothing_to_publish_is_no_error(server: redis.Redis):
    assert enqueue_many([], client=server) == Enqueued()
    assert enqueue_many([{}], client=server).refused[0].index == 0
    assert server.keys() == []


class Counting(redis.Redis):
    """A Redis that accepts every batch and keeps its size; from batch `fails_at` on it is unreachable."""

    def __init__(self, fails_at: int = 10**9) -> None:
        self.batches: list[int] = []
        self.pushed_bytes: list[int] = []
        self.fails_at = fails_at

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        assert transaction
        return Pipeline(self)


class Pipeline:
    def __init__(self, client: Counting) -> None:
        self.client = client
        self.messages: list[bytes] = []

    def lpush(self, queue: str, *messages: bytes) -> None:
        self.messages.extend(messages)

    def execute(self) -> None:
        if len(self.client.batches) + 1 >= self.client.fails_at:
            raise redis.ConnectionError("gone")
        self.client.batches.append(len(self.messages))
        self.client.pushed_bytes.append(sum(map(len, self.messages)))


def test_a_generator_is_read_a_batch_at_a_time_and_nothing_of_it_is_kept():
    """
    Of 4,000 notifications at most one batch is read ahead, and the memory used stays below that of two batches.
    """
    client = Counting()
    ahead: list[int] = []

    def rows() -> Iterator[Mapping[str, object]]:
        for number in range(4_000):
            ahead.append(number - sum(client.batches))
            yield source(number, text="x" * 1_000)

    enqueue_many([source(0)], client=Counting())  # warms the caches, such as the tables of phone numbers
    tracemalloc.start()
    done = enqueue_many(rows(), client=client)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert done.accepted == sum(client.batches) == 4_000
    assert client.batches == [500] * 8
    assert max(ahead) == 499
    assert peak_bytes < 2_500_000  # all messages would be 5 MB


def test_large_messages_make_smaller_batches():
    client = Counting()
    sources = (source(number, text="x" * 4_000) for number in range(1_000))
    assert enqueue_many(sources, client=client).accepted == 1_000
    assert max(client.pushed_bytes) < 1_100_000
    assert len(client.batches) == 5


def test_a_lost_redis_connection_reports_how_many_were_pushed():
    client = Counting(fails_at=2)
    sources = [source(number) for number in range(1_200)]
    sources[3] = source(3, phone="123")
    sources[700] = source(700, phone="123")
    with pytest.raises(PartlyEnqueued, match=r"a batch of 500 \(ConnectionError\) after 500 were accepted") as caught:
        enqueue_many(sources, client=client)
    assert isinstance(caught.value, BrokerUnavailable)
    assert caught.value.done.accepted == 500
    assert caught.value.unsure == 500
    assert [refusal.index for refusal in caught.value.done.refused] == [3, 700]


def test_an_unreachable_redis_is_one_clear_error_within_seconds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IFINU_REDIS_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(PartlyEnqueued, match=r"\(ConnectionError\) after 0 were accepted"):
        enqueue_many([FIELDS])


def test_a_source_that_fails_raises_its_own_error_and_what_was_pushed_before_stays():
    def rows() -> Iterator[Mapping[str, object]]:
        for number in range(700):
            yield source(number)
        raise RuntimeError("the database is gone")

    client = Counting()
    with pytest.raises(RuntimeError, match="the database is gone"):
        enqueue_many(rows(), client=client)
    assert client.batches == [500]


def test_kinds_and_priorities_are_pushed_under_their_wire_names(server: redis.Redis):
    enqueue_many([source(n, kind=kind.value) for n, kind in enumerate(Kind)], client=server)
    assert [json.loads(m)["tipo_notificacao"] for m in reversed(server.lrange(NORMAL, 0, -1))] == [
        "lembrete", "vencimento", "atraso", "pagamento", "cobranca_criada",
    ]  # fmt: skip


def test_an_ignored_key_that_looks_like_a_field_is_logged_once_a_call(
    server: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    source = {"id": "a", "tipo_notificacao": "lembrete", "telefone": "77998616740", "texto": "oi", "Descrição": "x"}
    enqueue_many([{**source, "id": f"n{number}"} for number in range(3)], client=server)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("a key that looks like descricao is ignored")
    refused = enqueue_many([{**source, "usuario": "u1"}], client=server).refused
    assert [(one.field, one.reason) for one in refused] == [("usuario", "unknown field; did you mean usuario_id?")]
