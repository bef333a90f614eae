from __future__ import annotations

import traceback
from typing import Any

import pytest
from command_line import Shell
from forks import libraries

from ifinu.broker import intake
from ifinu.cli.flower import shown
from ifinu.errors import IdReused, InvalidNotification, NotSent, Refused
from ifinu.notification import Kind

TEXT = "Zulmira, a fatura de 77 99861-6740"
LOGIN = "ops:correct-horse"


@pytest.fixture
def ifinu(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return Shell(capsys, monkeypatch)


def event(type_: str, **fields: Any) -> dict[str, Any]:
    return {"type": type_, "hostname": "w@x", "timestamp": 1.0, "clock": 7, "uuid": "inv-42", **fields}


def test_it_does_not_start_without_a_login_and_says_what_to_do(ifinu):
    ended = ifinu("flower")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "error: IFINU_FLOWER_AUTH is not set: it is the user:password for the login; "
        "make one with: echo ops:$(openssl rand -hex 16)\n"
    )


@pytest.mark.parametrize(
    "login", ["hush", "hush:", "ops:hush", ":hush-hush-hush", "ops:hush hush hush", "ops:hush-ao-coração"]
)
def test_a_malformed_or_short_login_is_refused_and_not_shown(ifinu, monkeypatch, login):
    monkeypatch.setenv("IFINU_FLOWER_AUTH", login)
    ended = ifinu("flower")
    assert ended.code == 2
    assert ended.err.startswith("error: IFINU_FLOWER_AUTH: must be user:password")
    assert ended.err.count("\n") == 1
    assert "hush" not in ended.err


@pytest.mark.parametrize(
    "wrong",
    [("--port", "70000"), ("--port", "http"), ("--max-tasks", "0"), ("--url-prefix", "a b"), ("--url-prefix", "a(.*)")],
)
def test_wrong_options_end_with_2(ifinu, monkeypatch, wrong):
    monkeypatch.setenv("IFINU_FLOWER_AUTH", LOGIN)
    ended = ifinu("flower", *wrong)
    assert (ended.code, ended.out) == (2, "")
    assert wrong[0] in ended.err


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setenv("IFINU_FLOWER_AUTH", LOGIN)
    code = "import sys\nsys.modules['flower'] = None\nfrom ifinu.cli import main\nsys.exit(main(['flower']))"
    ended = libraries().run(code)
    assert (ended.code, ended.err) == (2, "error: Flower is not installed: pip install 'ifinu[flower]'\n")


def test_the_login_may_come_from_a_file(ifinu, monkeypatch, tmp_path):
    """
    The error names the file.
    """
    (tmp_path / "login").write_text("ops:short\n")
    monkeypatch.setenv("IFINU_FLOWER_AUTH_FILE", str(tmp_path / "login"))
    assert ifinu("flower").err.startswith("error: IFINU_FLOWER_AUTH_FILE: must be user:password")


@pytest.mark.parametrize("kind", list(Kind))
def test_a_kind_stands_for_the_arguments(kind):
    assert intake.shown(f"<{kind.value}>") == f"<{kind.value}>"


@pytest.mark.parametrize(
    "args", ["", "()", TEXT, f"<{TEXT}>", f"<lembrete> {TEXT}", "<lembrete>\n", "lembrete", "<Lembrete>"]
)
def test_any_other_description_of_arguments_is_not_shown(args):
    assert intake.shown(args) == "<?>"


@pytest.mark.parametrize(
    ("returned", "result"),
    [
        ("'sent 3EB0A1'", "sent 3EB0A1"),
        ("'duplicate'", "duplicate"),
        ("sent 3EB0A1", "sent 3EB0A1"),
        ("'sent 3EB0A1 Maria'", None),
        ("'maria'", None),
        # As older releases return it.
        ('\'sent 3EB0A1 {"id": "inv-42", "data": {"phone": "+55 77 9****-6740"}}\'', "sent 3EB0A1"),
        ('\'duplicate  {"id": "inv-42"}\'', "duplicate"),
        ("sent 3EB0A1 {", "sent 3EB0A1"),
        (f"'{TEXT}'", None),
        (f"'sent {TEXT} {{}}'", None),
        ("None", None),
        ("", None),
    ],
)
def test_a_result_is_the_state_and_the_gateways_id(returned, result):
    assert shown.result(returned) == result


@pytest.mark.parametrize(
    ("written", "exception"),
    [
        (repr(Refused("ifinu: HTTP 400; no such number")), "Refused('ifinu: HTTP 400; no such number')"),
        (repr(NotSent("ifinu: no answer about 77 99861-6740")), "NotSent('ifinu: no answer about +55 77 9****-6740')"),
        (repr(InvalidNotification("nome", f"{TEXT!r} is odd")), "InvalidNotification(…)"),
        (repr(IdReused("", TEXT)), "IdReused(…)"),
        (repr(ValueError(TEXT)), "ValueError(…)"),
        (f"Retry(Retry(...), NotSent({TEXT!r}), 0.2)", "Retry(NotSent)"),
        (TEXT, "Zulmira(…)"),
        ("<Unrepresentable>", "Unrepresentable(…)"),
        ("", "Exception(…)"),
    ],
)  # fmt: skip
def test_a_send_error_keeps_its_message_and_any_other_exception_only_its_name(written, exception):
    assert shown.exception(written) == exception


def test_a_traceback_keeps_only_its_frames():
    def fail() -> None:
        raise ValueError(f"{TEXT}\n  {TEXT}")

    try:
        fail()
    except ValueError:
        written = traceback.format_exc()
    assert "Zulmira" in written
    lines = (shown.traceback(written) or "").splitlines()
    assert [line.rpartition(" in ")[2] for line in lines] == ["test_a_traceback_keeps_only_its_frames", "fail"]
    assert "Zulmira" not in "".join(lines)
    assert shown.traceback(TEXT) is None


def test_an_event_is_rebuilt_from_its_harmless_fields():
    received = event(
        "task-received", name="ifinu.send_notification", args=TEXT, kwargs=TEXT, retries=2, root_id="inv-42",
        shadow=TEXT, headers={"x": TEXT}, client=TEXT,
    )  # fmt: skip
    assert shown.event(received) == {
        "type": "task-received", "hostname": "w@x", "timestamp": 1.0, "clock": 7, "uuid": "inv-42",
        "name": "ifinu.send_notification", "args": "<?>", "kwargs": "{}", "retries": 2, "root_id": "inv-42",
    }  # fmt: skip


@pytest.mark.parametrize(
    "how", ["sent", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected", "cancelled"]
)
def test_a_task_event_has_no_other_field(how):
    received = event(
        f"task-{how}", args=TEXT, kwargs=TEXT, result=TEXT, exception=f"Odd({TEXT!r})", traceback=TEXT, more=TEXT
    )
    kept = shown.event(received)
    assert kept is not None
    assert kept["uuid"] == "inv-42"
    assert "Zulmira" not in str(kept)
    assert "99861" not in str(kept)


def test_an_event_of_a_worker_is_kept_as_it_is():
    received = {
        "type": "worker-heartbeat",
        "hostname": "w@x",
        "timestamp": 1.0,
        "active": 3,
        "loadavg": [0.1, 0.2, 0.3],
    }
    assert shown.event(received) == received


@pytest.mark.parametrize(
    "received",
    [
        {},
        event("task-custom"),
        event("worker-custom"),
        event("else"),
        event("task-sent", uuid=None),
        {"type": "task-sent"},
    ],
)
def test_an_event_that_flower_does_not_know_is_dropped(received):
    assert shown.event(received) is None


def test_the_messages_that_a_worker_holds_are_shown_by_kind():
    held = {"id": "inv-42", "name": "x", "args": [{"telefone": TEXT}], "kwargs": {"nome": TEXT}, "time_start": 1.0}
    assert shown.request(held) == {**held, "args": "<?>", "kwargs": "{}"}
    assert shown.request({"eta": "…", "request": held}) == {
        "eta": "…",
        "request": {**held, "args": "<?>", "kwargs": "{}"},
    }
    assert shown.request({**held, "args": "<atraso>"})["args"] == "<atraso>"
