import json

import fakeredis
import pytest
from command_line import Shell

from ifinu.broker import LOW, NORMAL, URGENT

GOOD = {"id": "a", "kind": "lembrete", "phone": "77998616740", "text": "Bom dia"}
LINES = [
    json.dumps(GOOD).encode(),
    b'{"id":"b","tipo_notificacao":"lembrete","telefone":"77998616740","texto":"oi","prioridade":"urgente"}',
    b'{"id":"c","tipo_notificacao":"lembrete","telefone":"123","texto":"oi"}',
    b"{bad",
    b'{"id":"d","kind":"lembrete","phone":"77998616740","text":"oi","priority":"baixa"}',
]


@pytest.fixture
def server(monkeypatch):
    server = fakeredis.FakeServer()
    monkeypatch.setattr("ifinu.producer.connect", lambda url: fakeredis.FakeRedis(server=server))
    return fakeredis.FakeRedis(server=server)


@pytest.fixture
def ifinu(capsys, monkeypatch):
    return Shell(capsys, monkeypatch)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "charges.jsonl"
    path.write_bytes(b"\n".join(LINES))
    return path


def test_what_is_right_is_enqueued_and_what_is_wrong_told_with_its_line(ifinu, server, file):
    ended = ifinu("enqueue", str(file))
    assert ended.code == 1
    first, *rest = ended.out.splitlines()
    assert first == "3 accepted, 2 refused"
    assert [line.split(":")[0] for line in rest] == ["  line 3", "  line 4"]
    ids = {queue: [json.loads(raw)["id"] for raw in server.lrange(queue, 0, -1)] for queue in (URGENT, NORMAL, LOW)}
    assert ids == {URGENT: ["b"], NORMAL: ["a"], LOW: ["d"]}


def test_json(ifinu, server, file):
    ended = ifinu("enqueue", str(file), "--json")
    assert ended.code == 1
    assert ended.json["accepted"] == 3
    assert [(one["line"], one["field"]) for one in ended.json["refused"]] == [(3, "telefone"), (4, "")]
    assert ended.err == ""


def test_a_file_without_a_mistake_ends_with_0(ifinu, server):
    ended = ifinu("enqueue", "-", stdin=LINES[0])
    assert (ended.code, ended.out) == (0, "1 accepted, 0 refused\n")


def test_a_dry_run_needs_no_redis(ifinu, monkeypatch, file):
    monkeypatch.setenv("IFINU_REDIS_URL", "redis://localhost:1")
    ended = ifinu("enqueue", str(file), "--dry-run")
    assert ended.code == 1
    assert ended.out.startswith("3 would be accepted, 2 refused")


def test_a_csv_is_known_by_its_ending_or_by_the_option(ifinu, server, tmp_path):
    content = b"id;tipo_notificacao;telefone;texto\na;lembrete;(77) 99861-6740;oi\n"
    path = tmp_path / "charges.CSV"
    path.write_bytes(content)
    assert ifinu("enqueue", str(path)).code == 0
    assert ifinu("enqueue", "-", "--format", "csv", stdin=content).code == 0
    assert server.llen(NORMAL) == 2


def test_refused_lines_are_kept_as_they_were_and_can_be_given_again(ifinu, server, tmp_path):
    header, bad = b"id;kind;phone;text\n", b"b;lembrete;12;oi\n"
    path, kept = tmp_path / "charges.csv", tmp_path / "refused.csv"
    path.write_bytes(header + b"a;lembrete;77998616740;oi\n" + bad)
    assert ifinu("enqueue", str(path), "--refused", str(kept)).code == 1
    assert kept.read_bytes() == header + bad
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.write_bytes(kept.read_bytes().replace(b"12", b"77998616740"))
    assert ifinu("enqueue", str(kept)).code == 0
    assert server.llen(NORMAL) == 2


class GoesAway(fakeredis.FakeRedis):
    """A Redis that takes one batch and is away for the next."""

    batches = 1

    def pipeline(self, transaction=True, shard_hint=None):
        if not self.batches:
            self.connection_pool.connection_kwargs["server"].connected = False
        self.batches -= 1
        return super().pipeline(transaction, shard_hint)


def test_an_interruption_says_where_to_go_on(ifinu, monkeypatch, tmp_path):
    server = fakeredis.FakeServer()
    path = tmp_path / "many.jsonl"
    path.write_text("\n\n" + "\n".join(json.dumps(GOOD | {"id": f"n{i}"}) for i in range(1200)))
    monkeypatch.setattr("ifinu.producer.connect", lambda url: GoesAway(server=server))
    ended = ifinu("enqueue", str(path))
    assert ended.code == 3
    assert "500 notifications are on the queue, the next 500 may be" in ended.err
    assert f"ifinu enqueue {path} --from-line 503" in ended.err

    server.connected = True
    monkeypatch.setattr("ifinu.producer.connect", lambda url: fakeredis.FakeRedis(server=server))
    assert ifinu("enqueue", str(path), "--from-line", "503").out.startswith("700 accepted")
    assert fakeredis.FakeRedis(server=server).llen(NORMAL) == 1200


@pytest.mark.parametrize("arguments", [("/no/such/file",), ("-", "--refused", "/no/such/directory/file")])
def test_a_file_that_cannot_be_opened_ends_with_2(ifinu, server, arguments):
    ended = ifinu("enqueue", *arguments)
    assert ended.code == 2
    assert "No such file or directory" in ended.err
