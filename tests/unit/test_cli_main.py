import re

import pytest
import redis
from command_line import Shell
from forks import as_module, libraries, programs

from ifinu import cli
from ifinu.errors import (
    BrokerUnavailable,
    ConfigurationError,
    GatewayError,
    IfinuError,
    InvalidNotification,
    LedgerUnavailable,
    NotSent,
)

COMMANDS = [
    "demo", "worker", "send", "enqueue", "cancel", "status", "top", "show", "guard", "plan", "load", "doctor", "erase",
    "simulator", "migrate", "recorder", "scheduler", "metrics", "flower", "restore",
    "backup", "backup list", "backup verify",
    "queue size", "queue peek", "queue pause", "queue resume", "queue purge",
    "dlq list", "dlq show", "dlq replay", "dlq purge", "dlq export",
    "unknown list", "unknown resolve",
    "webhook", "instance create", "instance connect", "instance qr", "instance list", "instance state", "instance show",
    "instance test", "instance assign", "instance pace", "instance hold", "instance release", "instance restart",
    "instance webhook", "instance move", "instance logout", "instance delete", "instance orphans", "instance sync",
    "optout list", "optout add", "optout remove", "optout unresolved", "optout resolve", "optout import",
    "optout export",
    "template check", "template preview", "template list", "template show", "template set", "template diff",
    "template lint",
    "rules show", "rules apply", "rules diff", "rules simulate", "rules preview", "regua run", "regua today",
    "regua pause", "regua resume",
    "pay reconcile", "pay events", "pay unmatched", "report day", "report month",
    "tenant add", "tenant list", "tenant show", "tenant change",
    "customer add", "customer list", "customer show", "customer change", "customer hold", "customer release",
    "charge add", "charge list", "charge show", "charge pay", "charge reopen", "charge cancel", "charge hold",
    "charge release", "charge edit", "charge import", "charge repeat", "charge stop",
]  # fmt: skip
# These run until stopped or have an output format other than JSON.
WITHOUT_JSON = {"worker", "recorder", "metrics", "flower", "webhook", "simulator", "dlq export"}


@pytest.fixture
def ifinu(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return Shell(capsys, monkeypatch)


def test_the_commands_are_these(ifinu):
    listed = {*re.findall(r"^│ (\w+)  ", ifinu("--help").out, re.MULTILINE)} - {"Options"}
    assert listed == {name.split()[0] for name in COMMANDS}
    for group in (
        "queue",
        "dlq",
        "unknown",
        "optout",
        "template",
        "instance",
        "backup",
        "pay",
        "tenant",
        "customer",
        "charge",
        "rules",
        "regua",
        "report",
    ):
        listed = {*re.findall(r"^│ (\w+)  ", ifinu(group, "--help").out, re.MULTILINE)}
        assert listed == {name.split()[1] for name in COMMANDS if name.startswith(f"{group} ")}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_examples_and_json(ifinu, command):
    ended = ifinu(*command.split(), "--help")
    assert ended.code == 0
    assert f"Usage: ifinu {command}" in ended.out
    _, _, examples = ended.out.partition("Examples")
    assert f"ifinu {command}" in examples
    assert ("--json" in ended.out) == (command not in WITHOUT_JSON)


def test_help_lists_the_exit_codes(ifinu):
    text = ifinu("--help").out
    assert [line.strip()[:2] for line in text.splitlines() if re.match(r" \d \w", line)] == ["0 ", "1 ", "2 ", "3 "]


def test_version(ifinu):
    ended = ifinu("--version")
    assert (ended.code, ended.out) == (0, "ifinu 0.1.0\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nope",),
        ("demo", "--messages", "0"),
        ("load",),
        ("dlq", "list", "--older-than", "soon"),
        ("queue", "size", "-q", "x"),
        ("send", "--id", "a"),
    ],
)
def test_wrong_arguments_end_with_2(ifinu, arguments):
    ended = ifinu(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (ConfigurationError("IFINU_X: no"), 2, "error: IFINU_X: no\n"),
        (InvalidNotification("phone", "is empty"), 2, "error: phone: is empty\n"),
        (BrokerUnavailable("Redis is away"), 3, "error: Redis is away\n"),
        (LedgerUnavailable("the ledger failed"), 3, "error: the ledger failed\n"),
        (GatewayError("no answer"), 3, "error: no answer\n"),
        (GatewayError("HTTP 404", status=404), 1, "error: HTTP 404\n"),
        (NotSent("refused"), 3, "error: refused\n"),
        (IfinuError("anything else"), 1, "error: anything else\n"),
        (redis.ConnectionError("refused"), 3, "Redis cannot be reached (refused)"),
        (redis.TimeoutError("too late"), 3, "Redis cannot be reached (too late)"),
        (redis.AuthenticationError("WRONGPASS"), 3, "Redis refused the login (WRONGPASS)"),
        (redis.ResponseError("OOM"), 3, "Redis refused the command (OOM)"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(ifinu, monkeypatch, raised, code, message):
    def fail(*_args, **_kwargs):
        raise raised

    monkeypatch.setattr("ifinu.settings.load", fail)
    ended = ifinu("status")
    assert (ended.code, ended.out) == (code, "")
    assert message in ended.err
    assert ended.err.count("\n") <= 1


def test_an_unforeseen_exception_is_not_hidden(ifinu, monkeypatch):
    monkeypatch.setattr("ifinu.settings.load", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ifinu("status")


def test_a_misspelt_setting_ends_with_2(ifinu, monkeypatch):
    monkeypatch.setenv("IFINU_REDIS_ULR", "redis://x")
    ended = ifinu("queue", "size")
    assert ended.code == 2
    assert "IFINU_REDIS_ULR" in ended.err


def test_a_worker_does_not_start_without_the_key(ifinu):
    # In a separate process, since it configures the application.
    ended = programs().run(as_module("ifinu", "worker"))
    assert ended.code == 2
    assert ended.err.startswith("error: IFINU_EVOLUTION_API_KEY is not set")


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_a_closed_pipe_is_no_traceback(arguments):
    closed = "import os\nreading, writing = os.pipe()\nos.close(reading)\nos.dup2(writing, 1)\n"
    ended = libraries().run(closed + as_module("ifinu", *arguments))
    assert (ended.code, ended.err) == (1, "")


def test_help_does_not_load_what_only_some_commands_need():
    code = "import sys, ifinu.cli; print(*{'celery', 'kombu', 'urllib3', 'babel', 'jinja2'} & set(sys.modules))"
    assert libraries().run(code) == (0, "\n", "")


def test_exit_codes_are_those_of_the_help():
    assert (cli.FAILED, cli.WRONG_USAGE, cli.UNREACHABLE) == (1, 2, 3)
