"""The pages of reference, and the READMEs: each table is the code's, and what they show to type can be typed."""

from __future__ import annotations

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
from pages import CODE, blocks, inline, prose, script, tables, tables_in, text_of

from ifinu import cli, errors, producer, settings, wire
from ifinu.broker import QUEUES, Keys
from ifinu.errors import InvalidNotification, Reason, SendError
from ifinu.gateway.breaker import OUTAGE
from ifinu.notification import Kind
from ifinu.settings import Settings
from ifinu.tables import Fields, Table
from ifinu.worker.tasks import send_notification

ROOT = Path(__file__).parents[2]
MESSAGES, SENDING, CLI, SETTINGS, MEASURED, GLOSSARY, NUMBERS = (
    ROOT / f"docs/{name}.md" for name in ("messages", "sending", "cli", "settings", "measured", "glossary", "numbers")
)
READMES = [ROOT / "README.md", ROOT / "README.pt-BR.md"]
MOST_WORDS = 60  # lines of the glossary

# The tests of these rows do not state their number of messages: they run rounds of several workers, add up short runs
# or push several copies of each bad input.
COMPUTED = {"33,000", "780"}

document = pytest.mark.parametrize(
    "page", [*READMES, MESSAGES, SENDING, CLI, SETTINGS, MEASURED, GLOSSARY, NUMBERS], ids=lambda page: page.name
)
showing_commands = pytest.mark.parametrize(
    "page", [*READMES, MESSAGES, SENDING, CLI, NUMBERS], ids=lambda page: page.name
)
showing_messages = pytest.mark.parametrize("page", [*READMES, MESSAGES], ids=lambda page: page.name)


def section(page: Path, title: str) -> list[list[str]]:
    """The rows of the only table below a heading."""
    parts = dict(re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", prose(page), re.DOTALL | re.MULTILINE))
    (rows,) = tables_in(parts[title])
    return rows


def command_lines(page: Path) -> list[list[str]]:
    """Every line of shell, as words, without the variables set in front of its command."""
    lines = [
        shlex.split(line, comments=True)
        for block in blocks(page, "sh")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [[word for n, word in enumerate(line) if n or not re.match(r"[A-Z_]+=", word)] for line in lines]


def leaves(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The commands of the command line, by the words that name them."""
    if not hasattr(command, "commands"):
        return {path: command}
    own = {path: command} if command.invoke_without_command else {}  # a group that is also a command
    return own | {k: v for name, inner in command.commands.items() for k, v in leaves(inner, (*path, name)).items()}


COMMANDS = leaves(typer.main.get_command(cli.app))


@showing_commands
def test_every_command_line_is_one_that_ifinu_takes(page: Path):
    """
    The command exists, and so does each option; values are of their types.
    """
    lines = [line[1:] for line in command_lines(page) if line[:1] == ["ifinu"]]
    assert len(lines) > 10
    for line in lines:
        path = max((path for path in COMMANDS if line[: len(path)] == list(path)), key=len)
        COMMANDS[path].make_context("ifinu", line[len(path) :]).close()


def test_every_command_is_named():
    assert {path for path in COMMANDS if f"ifinu {' '.join(path)}" not in text_of(CLI)} == set()


@document
def test_every_make_target_is_there(page: Path):
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", text_of(page), re.MULTILINE))
    assert named <= targets
    assert page not in READMES or {"demo", "test"} <= named


@document
def test_every_setting_named_is_one(page: Path):
    known = {name for names in Settings.names().values() for name in (*names, *(f"{own}_FILE" for own in names))}
    named = {name for code in inline(page) for name in re.findall(r"\bIFINU_[A-Z_]+\b", code)}
    assert named <= known


def test_the_settings_page_is_generated_from_the_code():
    """
    Each variable, its default and its description.
    """
    made = script(ROOT / "docs/settings_page.py").page()
    assert text_of(SETTINGS) == made, "docs/settings.md is stale: make docs writes it"
    for field, names in Settings.names().items():
        assert f"| `{names[0]}`" in made, field


def test_every_secret_of_the_settings_page_may_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    named = {name for row in tables(SETTINGS)[0] for name in CODE.findall(row[0])[1:] if name.endswith("_FILE")}
    assert len(named) > 10
    for name in named:
        monkeypatch.setenv(name, str(tmp_path / "missing"))
    with pytest.raises(errors.ConfigurationError) as caught:
        settings.load()
    assert "no such setting" not in str(caught.value)
    assert all(f"{name}: " in str(caught.value) for name in named)


def test_every_test_that_proves_a_promise_is_there():
    promised = re.findall(r"`((?:tests|bench)/[^`]+)`", text_of(ROOT / "docs/guarantees.md"))
    assert len(promised) > 15
    assert [path for path in promised if not (ROOT / path).exists()] == []


def test_the_fields_are_those_of_the_wire():
    assert {row[0].strip("`"): row[1].strip("`") for row in section(MESSAGES, "Fields")} == wire._TOP


@pytest.mark.parametrize("kind", list(Kind))
def test_a_kind_requires_the_documented_fields_and_no_others(kind: Kind):
    sample = {
        "id": "x", "tipo_notificacao": kind.value, "telefone": "77998616740", "nome": "Maria", "valor": "1.00",
        "vencimento": "2026-12-01",
    }  # fmt: skip
    rows = section(MESSAGES, "Fields")
    required = [
        row[0].strip("`") for row in rows if row[3] in {"always", "all kinds"} or kind.value in row[3].split(", ")
    ]
    body = {name: sample[name] for name in required}
    assert wire.decode(body).kind is kind
    for name in required:
        with pytest.raises(InvalidNotification) as caught:
            wire.decode({k: v for k, v in body.items() if k != name})
        assert caught.value.field == name


def test_every_row_of_bad_input_is_a_test_and_every_reason_tested_has_a_row():
    rows = section(MESSAGES, "Bad input")
    assert {row[2].strip("`") for row in rows} == {reason for _, reason in BAD_INPUT}
    for _, examples, reason in rows:
        tested = [message for message, expected in BAD_INPUT if f"`{expected}`" == reason]
        for example in CODE.findall(examples):
            piece = example.encode().decode("unicode_escape").encode("latin-1")
            assert any(piece in message for message in tested), example


def test_every_way_a_send_can_fail_has_its_reasons():
    rows = section(SENDING, "Outcomes")
    assert sorted(reason for row in rows for reason in CODE.findall(row[3])) == sorted(Reason)
    named = [name for row in rows for name in CODE.findall(row[0])]
    assert sorted(set(named)) == sorted(kind.__name__ for kind in SendError.__subclasses__())
    assert {*OUTAGE} in [{*CODE.findall(row[3])} for row in rows]
    assert all(hasattr(errors, name) for name in named)


def test_the_exit_codes_are_those_that_the_help_has():
    rows = [f"{row[0]} {row[1]}." for row in tables(CLI)[0]]
    assert rows == re.findall(r"^\d .*", typer.main.get_command(cli.app).epilog, re.MULTILINE)


def test_every_key_of_a_queue_is_there():
    rows = section(CLI, "Keys in Redis")
    assert [row[0].strip("`") for row in rows] == list(Keys.of("<queue>"))
    assert [row[2].split()[1].strip("`") for row in rows] == list(Keys.of("ifinu:fila:whatsapp"))
    assert all(f"`{queue}`" in text_of(CLI) for queue in QUEUES)


@showing_messages
def test_every_message_shown_is_accepted(page: Path):
    """
    The JSON, what redis-cli pushes, and each row of the CSV.
    """
    pushed = [line[3] for line in command_lines(page) if line[:2] == ["redis-cli", "LPUSH"]]
    shown = [json.loads(body) for body in (*pushed, *blocks(page, "json"))]
    for block in blocks(page, "csv"):
        table = Table(io.BytesIO(block.encode()), Fields(names=wire.NAMES, needed=[]), name="a block")
        shown += [table.read(record) for record in table]
    assert len(shown) == (4 if page == MESSAGES else 2)
    ids = [producer.notification_of(fields).id for fields in shown]
    assert len(set(ids)) == len(ids)


@showing_messages
def test_the_python_shown_runs(page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    redis = fakeredis.FakeRedis()
    published: list[dict[str, Any]] = []
    monkeypatch.setattr("ifinu.broker.connections.connect", lambda _: redis)
    monkeypatch.setattr(send_notification, "apply_async", lambda **options: published.append(options))
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {})
    assert [(options["task_id"], options["countdown"]) for options in published] == [
        ("inv-43:lembrete", None),
        ("inv-43:pagamento", 600),
    ]
    assert capsys.readouterr().out == "100 []\n"


def number(cell: str) -> float:
    """The first number in a cell."""
    found = re.search(r"\d[\d,]*(?:\.\d+)?", cell)
    assert found is not None, cell
    return float(found[0].replace(",", ""))


def test_the_pace_measured_is_within_its_limits():
    burst = Settings.model_fields["rate_burst"].default
    for rate, mean, fullest, limit in section(MEASURED, "Pace"):
        assert number(mean) == pytest.approx(number(rate), rel=0.05)
        assert number(fullest) <= number(limit) == number(rate) + burst


def test_costs_are_compared_with_that_of_stock_celery():
    rows = section(MEASURED, "Cost")
    (stock,) = [number(cpu) for _, cpu, ratio, _ in rows if ratio == "1.00"]
    for name, cpu, ratio, _ in rows:
        assert ratio == f"{number(cpu) / stock:.2f}", name


def test_publishing_takes_no_more_than_one_core():
    for way, per_s, cpu_us in section(MEASURED, "Publishing"):
        assert 0.8e6 < number(per_s) * number(cpu_us) < 1e6, way


def test_the_times_of_receipts_grow_from_half_to_all():
    for rate, *quantiles in section(MEASURED, "Receipts"):
        assert [*map(number, quantiles)] == sorted(map(number, quantiles)), rate


def test_every_fault_measured_lost_nothing_and_has_its_test():
    """
    The row's message count is the test's; each send in doubt was found or repeated.
    """
    rows = section(MEASURED, "Faults")
    assert len(rows) > 15
    for fault, messages, lost, _, doubt, test in rows:
        source = text_of(ROOT / "tests/fault" / test.strip("`"))
        assert lost == "0", fault
        assert messages in COMPUTED or re.search(rf"\b{messages.replace(',', '_')}\b", source), fault
        if split := re.fullmatch(r"([\d,]+): ([\d,]+) found, ([\d,]+) sent again", doubt):
            total, found, resent = (number(each) for each in split.groups())
            assert total == found + resent, fault


def test_the_glossary_is_short_and_in_order():
    words = [row[0] for row in tables(GLOSSARY)[0]]
    assert len(text_of(GLOSSARY).splitlines()) <= MOST_WORDS
    assert words == sorted(words, key=str.lower)
    assert len({*words}) == len(words)
