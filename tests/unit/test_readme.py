from __future__ import annotations

import enum
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import typer.main
from integration.test_worker import BAD_INPUT
from pydantic import SecretStr

from ifinu import cli, errors, producer, wire
from ifinu.broker import QUEUES, Keys
from ifinu.errors import InvalidNotification, Reason, SendError
from ifinu.gateway.breaker import OUTAGE
from ifinu.notification import Kind
from ifinu.settings import Settings
from ifinu.tables import Fields, Table
from ifinu.worker.tasks import send_notification

ROOT = Path(__file__).parents[2]
ENGLISH, PORTUGUESE = "README.md", "README.pt-BR.md"
FIELDS, BAD, OUTCOMES, KEYS, SETTINGS = range(5)  # the tables, as they follow one another

CODE = re.compile(r"`([^`]+)`")
ONLY_CODE = re.compile(r"(?:`[^`]+`[, ]*)+")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"\s+#.*$", re.MULTILINE)
TABLE = re.compile(r"^\|[^\n]*\n\|(?:---\|)+\n((?:\|[^\n]*\n)+)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


@pytest.fixture(params=[ENGLISH, PORTUGUESE])
def readme(request: pytest.FixtureRequest) -> str:
    return text_of(request.param)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(text) if kind == language]


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each row of each table."""
    return [
        [[cell.strip() for cell in row.strip("|").split("|")] for row in body.splitlines()]
        for body in TABLE.findall(FENCE.sub("", text))
    ]


def command_lines(text: str) -> list[list[str]]:
    """Every line of shell, as words, without what it sets in front of its command."""
    lines = [
        shlex.split(line, comments=True)
        for block in blocks(text, "sh")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [[word for n, word in enumerate(line) if n or not re.match(r"[A-Z_]+=", word)] for line in lines]


def leaves(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The commands of the command line, by the words that name them."""
    if not hasattr(command, "commands"):
        return {path: command}
    own = {path: command} if command.invoke_without_command else {}  # a group that does something by itself
    return own | {k: v for name, inner in command.commands.items() for k, v in leaves(inner, (*path, name)).items()}


COMMANDS = leaves(typer.main.get_command(cli.app))


def setting_rows() -> list[str]:
    """The table of the settings as it has to be in English."""
    rows = []
    for field, names in Settings.names().items():
        info = Settings.model_fields[field]
        value = info.default
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if isinstance(value, enum.Enum):
            value = value.value
        if isinstance(value, bool):
            value = str(value).lower()
        if isinstance(value, float):
            value = int(value) if value.is_integer() else value
        variables = [*names, *([f"{names[0]}_FILE"] if field in Settings._secrets else [])]
        default = "–" if value is None else f"`{value}`"
        rows.append(f"| {', '.join(f'`{name}`' for name in variables)} | {default} | {info.description} |")
    return rows


def test_every_setting_is_in_the_english_table_as_the_code_has_it():
    rows = setting_rows()
    missing = [row for row in rows if row not in text_of(ENGLISH).splitlines()]
    assert not missing, "the rows of README.md must be:\n" + "\n".join(rows)
    assert len(tables(text_of(ENGLISH))[SETTINGS]) == len(rows)


def test_both_readmes_say_the_same():
    """
    The same commands, the same code, and in every table the same rows.
    """
    english, portuguese = text_of(ENGLISH), text_of(PORTUGUESE)
    assert [(kind, COMMENT.sub("", body)) for kind, body in FENCE.findall(portuguese)] == [
        (kind, COMMENT.sub("", body)) for kind, body in FENCE.findall(english)
    ]
    for ours, theirs in zip(tables(portuguese), tables(english), strict=True):
        for row, other in zip(ours, theirs, strict=True):
            assert [c for c in row if ONLY_CODE.fullmatch(c)] == [c for c in other if ONLY_CODE.fullmatch(c)]
            assert [not c for c in row] == [not c for c in other]
    assert len(re.findall(r"^## ", portuguese, re.MULTILINE)) == len(re.findall(r"^## ", english, re.MULTILINE))


def test_every_command_is_named(readme: str):
    assert {path for path in COMMANDS if f"ifinu {' '.join(path)}" not in readme} == set()


def test_every_command_line_is_one_that_ifinu_takes(readme: str):
    """
    The command exists, and so does each option; values are of their types.
    """
    lines = [line[1:] for line in command_lines(readme) if line[:1] == ["ifinu"]]
    assert len(lines) > 15
    for line in lines:
        path = max((path for path in COMMANDS if line[: len(path)] == list(path)), key=len)
        COMMANDS[path].make_context("ifinu", line[len(path) :]).close()


def test_every_make_target_is_there(readme: str):
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", readme, re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_every_link_leads_somewhere(readme: str):
    headings = re.findall(r"^#+ (.*)", readme, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for path, anchor in LINK.findall(readme):
        assert (ROOT / path).exists(), path
        assert not anchor or anchor in anchors, anchor


def test_every_test_that_proves_a_promise_is_there():
    promised = re.findall(r"`((?:tests|bench)/[^`]+)`", text_of("docs/guarantees.md"))
    assert len(promised) > 15
    assert [path for path in promised if not (ROOT / path).exists()] == []


def test_the_fields_are_those_of_the_wire(readme: str):
    rows = tables(readme)[FIELDS]
    assert {row[0].strip("`"): row[1].strip("`") for row in rows} == wire._TOP


@pytest.mark.parametrize("kind", list(Kind))
def test_what_is_required_of_a_kind_is_required_and_nothing_else(readme: str, kind: Kind):
    sample = {
        "id": "x", "tipo_notificacao": kind.value, "telefone": "77998616740", "nome": "Maria", "valor": "1.00",
        "vencimento": "2026-12-01",
    }  # fmt: skip
    every = {"always", "all kinds", "sempre", "todos os tipos"}
    rows = tables(readme)[FIELDS]
    required = [row[0].strip("`") for row in rows if row[3] in every or kind.value in row[3].split(", ")]
    body = {name: sample[name] for name in required}
    assert wire.decode(body).kind is kind
    for name in required:
        with pytest.raises(InvalidNotification) as caught:
            wire.decode({k: v for k, v in body.items() if k != name})
        assert caught.value.field == name


def test_every_row_of_bad_input_is_a_test_and_every_reason_tested_has_a_row(readme: str):
    rows = tables(readme)[BAD]
    assert {row[2].strip("`") for row in rows} == {reason for _, reason in BAD_INPUT}
    for _, examples, reason in rows:
        tested = [message for message, expected in BAD_INPUT if f"`{expected}`" == reason]
        for example in CODE.findall(examples):
            piece = example.encode().decode("unicode_escape").encode("latin-1")
            assert any(piece in message for message in tested), example


def test_every_way_a_send_can_fail_has_its_reasons(readme: str):
    rows = tables(readme)[OUTCOMES]
    assert sorted(reason for row in rows for reason in CODE.findall(row[2])) == sorted(Reason)
    named = [name for row in rows for name in CODE.findall(row[0])]
    assert sorted(set(named)) == sorted(kind.__name__ for kind in SendError.__subclasses__())
    assert {*OUTAGE} in [{*CODE.findall(row[2])} for row in rows]
    assert all(hasattr(errors, name) for name in named)


def test_every_key_of_a_queue_is_there(readme: str):
    assert [row[0].strip("`") for row in tables(readme)[KEYS]] == list(Keys.of("<queue>"))
    assert all(f"`{queue}`" in readme for queue in QUEUES)


def test_every_message_shown_is_accepted(readme: str):
    """
    The JSON, what redis-cli pushes, and each row of the CSV.
    """
    pushed = [line[3] for line in command_lines(readme) if line[:2] == ["redis-cli", "LPUSH"]]
    shown = [json.loads(body) for body in (*pushed, *blocks(readme, "json"))]
    for block in blocks(readme, "csv"):
        table = Table(io.BytesIO(block.encode()), Fields(names=wire.NAMES, needed=[]), name="a block")
        shown += [table.read(record) for record in table]
    assert len(shown) == 4
    ids = [producer.notification_of(fields).id for fields in shown]
    assert len(set(ids)) == len(ids)


def test_the_python_shown_runs(readme: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    redis = fakeredis.FakeRedis()
    published: list[dict[str, Any]] = []
    monkeypatch.setattr(producer, "connect", lambda _: redis)
    monkeypatch.setattr(send_notification, "apply_async", lambda **options: published.append(options))
    (block,) = blocks(readme, "python")
    exec(compile(block, "README", "exec"), {})
    assert [(options["task_id"], options["countdown"]) for options in published] == [
        ("inv-43:lembrete", None),
        ("inv-43:pagamento", 600),
    ]
    assert capsys.readouterr().out == "100 []\n"
