import io
import json
from pathlib import Path

import fakeredis
import pytest
from command_line import Ended, Shell
from hypothesis import given
from hypothesis import strategies as st

from ifinu import wire
from ifinu.broker import LOW, NORMAL, URGENT
from ifinu.cli import enqueue
from ifinu.cli.record_files import RefusedCopy, Report
from ifinu.notification import Kind
from ifinu.tables import Table

CASES = Path(__file__).parents[1] / "cases"
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
    monkeypatch.setattr("ifinu.broker.connections.connect", lambda url: fakeredis.FakeRedis(server=server))
    return fakeredis.FakeRedis(server=server)


@pytest.fixture
def ifinu(capsys, monkeypatch):
    return Shell(capsys, monkeypatch)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "charges.jsonl"
    path.write_bytes(b"\n".join(LINES))
    return path


def test_valid_lines_are_enqueued_and_invalid_ones_reported_with_their_line(ifinu, server, file):
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


@pytest.mark.parametrize("name", ["charges.CSV", "charges.txt", "charges", "charges.xlsx"])
def test_a_csv_is_recognised_by_its_content(ifinu, server, tmp_path, name):
    content = b"id;tipo_notificacao;telefone;texto\na;lembrete;(77) 99861-6740;oi\n"
    path = tmp_path / name
    path.write_bytes(content)
    assert ifinu("enqueue", str(path)).code == 0
    assert ifinu("enqueue", "-", stdin=content).code == 0
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


def test_an_interruption_reports_where_to_resume(ifinu, monkeypatch, tmp_path):
    server = fakeredis.FakeServer()
    path = tmp_path / "many.jsonl"
    path.write_text("\n\n" + "\n".join(json.dumps(GOOD | {"id": f"n{i}"}) for i in range(1200)))
    monkeypatch.setattr("ifinu.broker.connections.connect", lambda url: GoesAway(server=server))
    ended = ifinu("enqueue", str(path), "--refused", f"{tmp_path}/not good.jsonl")
    assert ended.code == 3
    assert "500 notifications are on the queue, the next 500 may be" in ended.err
    assert f"ifinu enqueue {path} --refused '{tmp_path}/not good.jsonl' --from-line 503" in ended.err

    server.connected = True
    monkeypatch.setattr("ifinu.broker.connections.connect", lambda url: fakeredis.FakeRedis(server=server))
    assert ifinu("enqueue", str(path), "--from-line", "503").out.startswith("700 accepted")
    assert fakeredis.FakeRedis(server=server).llen(NORMAL) == 1200


@pytest.mark.parametrize("arguments", [("/no/such/file",), ("-", "--refused", "/no/such/directory/file")])
def test_a_file_that_cannot_be_opened_ends_with_2(ifinu, server, arguments):
    ended = ifinu("enqueue", *arguments)
    assert ended.code == 2
    assert "No such file or directory" in ended.err


class Interrupts(fakeredis.FakeRedis):
    """A Redis that takes one batch, and sees somebody press Ctrl-C, or a fault, at the next."""

    batches = 1
    raised: BaseException = KeyboardInterrupt()

    def pipeline(self, transaction=True, shard_hint=None):
        if not self.batches:
            raise self.raised
        self.batches -= 1
        return super().pipeline(transaction, shard_hint)


def test_ctrl_c_reports_how_many_were_enqueued_too(ifinu, monkeypatch, tmp_path):
    path, kept = tmp_path / "many.csv", tmp_path / "refused.csv"
    rows = "".join(f"n{i};lembrete;{'77998616740' if i else '12'};oi\n" for i in range(1200))
    path.write_text(f"id;kind;phone;text\n{rows}")
    monkeypatch.setattr("ifinu.broker.connections.connect", lambda url: Interrupts())
    ended = ifinu("enqueue", str(path), "--refused", str(kept))
    assert ended.code == 130
    assert ended.err.startswith(
        "500 notifications are on the queue, the next 500 may be; 1 were refused. Continue with: "
    )
    assert ended.err.endswith("--from-line 503\n")
    again = ifinu("enqueue", str(path), "--refused", str(kept), "--from-line", "503", "--dry-run")
    assert again.out.startswith("699 would be accepted, 0 refused")
    assert kept.read_text() == "id;kind;phone;text\nn0;lembrete;12;oi\n"


# -- the files that people have


def tried(ifinu: Shell, name: str, *options: str) -> Ended:
    return ifinu("enqueue", str(CASES / name), "--dry-run", *options)


@pytest.mark.parametrize(
    ("name", "accepted", "refused"),
    [
        ("carriage-return-in-a-cell.csv", 2, {3: "has a carriage return inside a cell"}),
        ("carriage-return-line-ends.csv", 1, {}),
        ("utf-16-semicolon.csv", 1, {}),
        ("cp1252.csv", 2, {}),
        ("bom.jsonl", 2, {}),
        ("lone-quote.csv", 2, {2: 'has a " that no other one closes'}),
        ("empty-columns-at-the-end.csv", 1, {}),
        ("sep-line.csv", 1, {}),
        ("row-without-its-last-cell.csv", 1, {}),
        ("title-lines-above.csv", 1, {}),
        ("empty-kind.csv", 0, {2: "is required"}),
        ("unused-columns.csv", 1, {}),
        ("one-id-twice.csv", 2, {}),
        ("array-one-object-a-line.json", 2, {}),
        ("a-spreadsheet.xlsx", 1, {}),
        ("a-spreadsheet-named.csv", 1, {}),
        ("psql-copy-text.jsonl", 1, dict.fromkeys((1, 2, 4), "has a line break or a quote that is spelled out")),
    ],
)
def test_a_file_as_people_have_it(ifinu, name, accepted, refused):
    found = tried(ifinu, name, "--json").json
    assert found["accepted"] == accepted
    assert {one["line"]: one["reason"][: len(refused.get(one["line"], ""))] for one in found["refused"]} == refused
    assert tried(ifinu, name).code == bool(refused)


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("utf-16-semicolon.csv", "read as UTF-16"),
        ("cp1252.csv", "read as Windows-1252, since it is not UTF-8"),
        ("one-id-twice.csv", "duplicate ids: cli7 (line 3)"),
        (
            "unused-columns.csv",
            "columns not used: 'valido até' (did you mean valido_ate?), 'usuario' (did you mean usuario_id?), "
            "'pix' (did you mean pix_copia_cola?)",
        ),
    ],
)
def test_input_that_is_probably_a_mistake_gets_a_warning(ifinu, name, warning):
    found = tried(ifinu, name, "--json").json["warnings"]
    assert [one[: len(warning)] for one in found].count(warning) == 1
    assert warning in tried(ifinu, name).err.replace("\n", "")


def test_columns_of_other_names_are_mapped(ifinu, server):
    name = "ddd-in-a-column-of-its-own.csv"
    ended = tried(ifinu, name)
    assert ended.code == 2
    for message in ("missing: id, tipo_notificacao or kind, telefone or phone", '--map "Celular=telefone"', "--kind"):
        assert message in ended.err
    columns = ("ID Cobrança=id", "Cliente=nome", "Celular=telefone", "Descrição=descricao", "Link=link_pagamento")
    options = ("--kind", "lembrete", *(part for column in columns for part in ("--map", column)))
    assert ifinu("enqueue", str(CASES / name), *options).out == "1 accepted, 0 refused\n"
    sent = json.loads(server.lindex(NORMAL, 0))
    assert (sent["telefone"], sent["nome"], sent["valor"]) == ("+5511987654321", "Ana", "89.90")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("11;98765-4321", None),
        ("011;3456-7890", None),
        ("11;(11) 98765-4321", None),
        ("11;5511987654321", None),
        (";11987654321", None),
        ("21;11987654321", "DDD: differs from the area code in Fone"),
        ("1;98765-4321", "DDD: is not an area code of two digits"),
        ("11;123", "Fone: has 3 digits"),
        (";98765-4321", "Fone: has no area code"),
    ],
)
def test_an_area_code_may_have_a_column(ifinu, row, reason):
    content = f"id;kind;DDD;Fone;text\na;lembrete;{row};oi\n".encode()
    ended = ifinu("enqueue", "-", "--dry-run", "--map", "Fone=telefone", stdin=content)
    assert ended.out.startswith("1 would" if reason is None else f"0 would be accepted, 1 refused\n  line 2: {reason}")


def test_a_kind_is_given_to_the_lines_that_name_none(ifinu, server):
    lines = (
        {"id": "a", "phone": "77998616740", "text": "oi"},
        {"id": "b", "telefone": "77998616740", "texto": "oi"},
        {"id": "c", "tipo_notificacao": "pagamento", "telefone": "77998616740", "texto": "oi"},
        {"id": "d", "cobranca": {"cliente": {"telefone": "77998616740"}}, "texto": "oi"},
    )
    content = "\n".join(map(json.dumps, lines)).encode()
    assert ifinu("enqueue", "-", "--kind", "lembrete", stdin=content).out == "4 accepted, 0 refused\n"
    kinds = [json.loads(raw)["tipo_notificacao"] for raw in server.lrange(NORMAL, 0, -1)]
    assert kinds == ["lembrete", "pagamento", "lembrete", "lembrete"]


def test_errors_are_in_the_words_of_the_file(ifinu):
    content = b"id;kind;phone;Valor (R$);name;due_date\na;lembrete;12;1.234;Ana;x\n"
    ended = ifinu("enqueue", "-", "--dry-run", "--map", "Valor (R$)=valor", stdin=content)
    for message in ("line 2: phone: has 2 digits", "; Valor (R$): has two meanings", "; due_date: is not a date"):
        assert message in ended.out


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("dates.csv", ["d24", "d25", "d26", "d27", "d28", "d29"]),
        (
            "amounts.csv",
            ["a8", "a11", "a17", "a18", "a19", "a20", "a26", "a27", "a29", "a31", "a34", "a35", "a36"],
        ),
    ],
)
def test_dates_and_amounts_of_one_meaning_are_read_and_others_refused(ifinu, tmp_path, name, refused):
    assert tried(ifinu, name, "--refused", str(tmp_path / "refused.csv")).code == 1
    _, *lines = (tmp_path / "refused.csv").read_text().splitlines()
    assert [line.split(";")[0] for line in lines] == refused


def test_a_json_key_that_resembles_a_field_gets_a_warning(ifinu):
    body = {"id": "a", "tipo_notificacao": "pagamento", "telefone": "77998616740", "nome": "Ana", "valor": 1}
    content = json.dumps(body | {"mensagem": "oi"}).encode()
    ended = ifinu("enqueue", "-", "--dry-run", "--json", stdin=content)
    assert ended.json["warnings"] == ["ignored a key that looks like a misspelt texto; lines: 1"]
    content = content.replace(b"mensagem", b"usuario")
    assert "usuario: unknown field; did you mean usuario_id?" in ifinu("enqueue", "-", "--dry-run", stdin=content).out


def test_a_million_distinct_ids_need_little_memory():
    ids = enqueue._Ids()
    assert all(ids.add(f"inv-{number}") for number in range(20_000))
    assert not any(ids.add(f"inv-{number}") for number in range(20_000))
    assert len(ids._slots) <= 65_536


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["cliente", "telefone", "valor"]), inner)
    ),
    max_leaves=3,
)
ANY_KEY = st.sampled_from([*wire.NAMES, "ddd", "usuario", "cobranca"]) | st.text(st.characters(codec=None), max_size=9)


@given(st.lists(st.dictionaries(ANY_KEY, ANY_JSON, max_size=6), max_size=3), st.sampled_from([None, Kind.PAID]))
def test_any_objects_are_accepted_or_refused_in_words(bodies, kind):
    content = "\n".join(map(json.dumps, bodies)).encode()
    table = Table(io.BytesIO(content), enqueue._fields((), kind, None), name="a.jsonl")
    report = Report(as_json=True)
    reading = enqueue._Reading(table, kind, None, report, RefusedCopy(None, b""))
    accepted = len(list(reading.notifications(report.over(table, 1))))
    reading.report_suspects()
    assert accepted + report.refused == len(bodies)
    assert json.dumps(report._warnings, ensure_ascii=False).encode()


def test_half_a_surrogate_pair_is_written_as_its_escape(ifinu):
    ended = ifinu("enqueue", "-", "--json", "--dry-run", stdin=b'{"id":"a","kind":"lembrete","\\ud800":1}')
    assert (ended.code, ended.json["refused"][0]["field"]) == (1, "\ufffd")


def test_a_kind_that_does_not_fit_its_due_date_is_warned_about_once_and_one_that_never_can_is_refused(ifinu):
    rows = [
        "a;lembrete;2020-01-06", "b;lembrete;2020-01-07", "c;vencimento;2099-01-06", "d;atraso;2020-01-06",
        "e;atraso;2099-01-06", "f;lembrete;2099-01-06",
    ]  # fmt: skip
    content = "id;kind;Data de venc;phone;name;amount\n" + "".join(f"{row};77998616740;Ana;10\n" for row in rows)
    options = ("--dry-run", "--map", "Data de venc=vencimento")
    printed = ifinu("enqueue", "-", "--json", *options, stdin=content.encode()).json
    assert printed["accepted"] == 5
    assert [(one["line"], one["field"]) for one in printed["refused"]] == [(6, "Data de venc")]
    assert printed["refused"][0]["reason"].startswith("2099-01-06 is yet to come, and atraso says")
    first, second = (one for one in printed["warnings"] if "due" in one)
    assert first.startswith("lembrete in line 2: 2020-01-06 is past")
    assert first.endswith("(and 1 more of this kind)")
    assert second.startswith("vencimento in line 4: vencimento is for the due date, and 2099-01-06 is not the day")


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([{"id": "a", "kind": "lembrete", "phone": "12", "text": "João"}] * 2, ensure_ascii=False).encode(),
        json.dumps([{"id": "a", "kind": "lembrete", "phone": "12", "text": "João"}] * 2, indent=1).encode(),
        "id;kind;phone;text\na;lembrete;12;João\na;lembrete;12;João\n".encode("utf-16"),
        "id;kind;phone;text\na;lembrete;12;João\na;lembrete;12;João\n".encode("cp1252"),
        "id;kind;phone;text\ra;lembrete;12;João\ra;lembrete;12;João".encode(),
    ],
    ids=["array", "indented", "UTF-16", "Windows-1252", "carriage returns"],
)
def test_refused_records_of_any_format_can_be_given_again(ifinu, tmp_path, content):
    kept = tmp_path / "refused"
    assert ifinu("enqueue", "-", "--dry-run", "--refused", str(kept), stdin=content).out.startswith("0 would")
    corrected = kept.read_bytes().replace(b"12", b"77998616740")
    assert ifinu("enqueue", "-", "--dry-run", stdin=corrected).out == "2 would be accepted, 0 refused\n"
