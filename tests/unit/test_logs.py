from __future__ import annotations

import json
from typing import Any

import pytest
from forks import programs

PRELUDE = """
import logging, structlog
from ifinu import logs
from ifinu.settings import LogFormat
logs.configure({level!r}, LogFormat.{style}, {limit}, name="pod-1")
ours, celery = structlog.get_logger("ifinu.a"), logging.getLogger("celery.worker")
def fail():
    secret = "in a local variable"
    raise ValueError("one\\ntwo")
"""
NAME, PHONE, TEXT = "Zulmira Canário", "(77) 99861-5555", "a fatura do Zé"


def lines_of(script: str, level: str = "info", style: str = "JSON", limit: int = 0, code: int = 0) -> list[str]:
    """The lines on stderr of a process that configures logging and runs `script`."""
    source = PRELUDE.format(level=level, style=style, limit=limit) + script
    ended = programs().run(source)
    assert (ended.code, ended.out) == (code, ""), ended.err
    return ended.err.splitlines()


def written(script: str, level: str = "info", **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(script, level, **options)]


@pytest.mark.parametrize(
    ("script", "fields"),
    [
        ('ours.info("ifinu.a.b", took_s=0.5)', {"event": "ifinu.a.b", "took_s": 0.5, "level": "info"}),
        (
            'ours.warning("ifinu.a", name="João\\nSilva")',
            {"event": "ifinu.a", "name": "João\nSilva", "level": "warning"},
        ),
        ('ours.critical("ifinu.a")', {"event": "ifinu.a", "level": "critical"}),
        (
            'celery.info("%s is %d\\nready", "w", 1)',
            {"event": "w is 1\nready", "level": "info", "logger": "celery.worker"},
        ),
        ('celery.error("no")', {"event": "no", "level": "error", "logger": "celery.worker"}),
    ],
)
def test_every_event_is_one_line_of_json_from_libraries_too(script: str, fields: dict[str, Any]):
    (line,) = written(script)
    timestamp = line.pop("timestamp")
    assert timestamp.endswith("Z")
    assert line == fields | {"host": "pod-1"}


def test_a_line_names_its_host_unless_another_name_is_set():
    (line,) = written(
        'import socket\nlogs.configure("info", LogFormat.JSON)\nours.info("x", real=socket.gethostname())'
    )
    assert line["host"] == line["real"]


def test_a_value_that_json_does_not_know_is_written_and_an_exception_without_quoted_input():
    script = 'import decimal\nours.info("x", amount=decimal.Decimal("9.90"), error=KeyError("Maria"))'
    (line,) = written(script)
    assert (line["amount"], line["error"]) == ("9.90", "KeyError")


@pytest.mark.parametrize("style", ["JSON", "CONSOLE"])
@pytest.mark.parametrize("logger", ["ours", "celery"])
def test_a_traceback_has_frames_and_neither_words_nor_local_variables(logger: str, style: str):
    text = "\n".join(lines_of(f"try: fail()\nexcept ValueError: {logger}.exception('broken')", style=style))
    assert "broken" in text
    assert "in fail" in text
    assert "ValueError" in text
    assert not any(secret in text for secret in ("one", "two", "local variable"))


@pytest.mark.parametrize("logger", ["ours", "celery"])
def test_a_traceback_stays_on_the_line_of_its_event(logger: str):
    (line,) = written(f"try: fail()\nexcept ValueError: {logger}.exception('broken')")
    assert (line["event"], line["level"]) == ("broken", "error")
    first, *frames, last = line["exception"].splitlines()
    assert (first, last) == ("Traceback (most recent call last):", "ValueError")
    assert [frame.split(", in ")[1] for frame in frames if "File" in frame] == ["<module>", "fail"]


def test_celerys_line_about_a_failed_task_does_not_repeat_the_exceptions_words():
    """
    The line is that of `celery.app.trace`: the repr of the exception, and of the arguments unless `argsrepr` is set.
    """
    script = f"""
from celery.app import trace
context = {{"id": "t1", "name": "task", "description": "raised", "args": {PHONE!r}, "kwargs": "", "internal": False}}
try:
    raise KeyError({NAME!r})
except KeyError as exc:
    trace.logger.error(trace.LOG_FAILURE.strip(), {{**context, "exc": repr(exc), "traceback": "…"}}, exc_info=True)
trace.logger.error(trace.LOG_REJECTED.strip(), {{**context, "exc": repr(KeyError({NAME!r}))}})
"""
    first, second = written(script)
    assert first["event"] == "Task task[t1] raised: KeyError"
    assert first["exception"].endswith("KeyError")
    assert second["event"] == "Task task[t1] KeyError"
    assert not any(secret in str((first, second)) for secret in (NAME, PHONE))


@pytest.mark.parametrize(
    ("template", "arguments", "event"),
    [
        ("INVALID_TASK_ERROR", 2, "Received invalid task message"),
        ("MESSAGE_DECODE_ERROR", 5, "Can't decode message body"),
        ("UNKNOWN_FORMAT", 1, "Received and deleted unknown message.  Wrong destination?!?"),
        ("UNKNOWN_TASK_ERROR", 4, "Received unregistered task of type"),
    ],
)
def test_celerys_line_about_an_unreadable_message_leaves_out_the_message(template: str, arguments: int, event: str):
    script = f"""
from celery.worker.consumer import consumer
consumer.logger.error(consumer.{template}, *[{TEXT!r}] * {arguments})
"""
    (line,) = written(script)
    assert line["event"] == event


@pytest.mark.parametrize(
    ("call", "event"),
    [
        ('celery.error("lost: %r", ValueError("Maria"))', "lost: ValueError"),
        ('celery.error("lost: %s, %s", ValueError("Maria"), 3)', "lost: ValueError, 3"),
        ('celery.error("lost: %s", ConnectionRefusedError(111, "Connection refused"))', None),
        ('logging.getLogger("asyncio").error("Task failed\\nfuture: <Task ValueError(\'Maria\')>")', "Task failed"),
    ],
)  # fmt: skip
def test_an_exception_among_the_arguments_of_a_librarys_line_is_described(call: str, event: str | None):
    (line,) = written(call)
    assert line["event"] == (event or "lost: ConnectionRefusedError: Connection refused")


@pytest.mark.parametrize(
    ("level", "ours", "theirs"),
    [
        # Debug lines of libraries contain the arguments of tasks.
        ("debug", ["debug", "info", "warning", "error"], ["info", "warning", "error"]),
        ("info", ["info", "warning", "error"], ["info", "warning", "error"]),
        ("WARNING", ["warning", "error"], ["warning", "error"]),
        ("error", ["error"], ["error"]),
    ],
)
def test_the_level_holds_for_ours_and_for_libraries(level: str, ours: list[str], theirs: list[str]):
    script = "\n".join(
        f'{logger}.{word}("x")' for logger in ("ours", "celery") for word in ("debug", "info", "warning", "error")
    )
    assert [line["level"] for line in written(script, level)] == ours + theirs


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("celery.worker.strategy", ["warning", "error"]),  # a line for each message received
        ("celery.app.trace", ["error"]),  # and for each one done or returned
        ("kombu.transport", ["warning", "error"]),
        ("urllib3.connectionpool", ["error"]),  # its warnings name the path, which may contain a phone
        ("celery.worker.consumer", ["info", "warning", "error"]),
    ],
)
def test_library_lines_that_are_too_frequent_or_personal_are_left_out(name: str, seen: list[str]):
    script = f'for w in ("info", "warning", "error"): getattr(logging.getLogger({name!r}), w)("x")'
    assert [line["level"] for line in written(script)] == seen


def test_a_higher_log_level_makes_no_quiet_logger_louder():
    assert written('logging.getLogger("kombu").warning("x")', "error") == []


def test_the_console_has_a_line_for_people():
    (line,) = lines_of('ours.info("ifinu.a", took_s=0.5)', style="CONSOLE")
    assert "ifinu.a" in line
    assert "took_s=0.5" in line
    assert "\x1b" not in line  # stderr is no terminal


def test_without_a_terminal_the_automatic_style_is_json():
    assert json.loads(lines_of('ours.info("x")', style="AUTO")[0])["event"] == "x"


def test_configuring_twice_writes_each_line_once():
    assert len(written('logs.configure("info", LogFormat.JSON)\nours.info("x")')) == 1


# -- exceptions and warnings that Python would print


@pytest.mark.parametrize(
    ("script", "event", "level", "code"),
    [
        (f"raise ValueError({NAME!r})", "ifinu.process.died", "critical", 1),
        (
            f"import threading\ndef run(): raise ValueError({NAME!r})\nthreading.Thread(target=run).start()",
            "ifinu.thread.died", "error", 0,
        ),
        (f"class A:\n def __del__(self): raise ValueError({NAME!r})\nA()", "ifinu.python.unraisable", "error", 0),
    ],
)  # fmt: skip
def test_an_uncaught_exception_is_one_line_without_its_words(script: str, event: str, level: str, code: int):
    (line,) = written(script, code=code)
    assert (line["event"], line["level"]) == (event, level)
    assert line["exception"].endswith("ValueError")
    assert NAME not in str(line)


def test_a_warning_is_one_line_with_its_phones_masked():
    (line,) = written(f"import warnings\nwarnings.warn('old\\nway of {PHONE}', UserWarning)")
    assert (line["event"], line["category"], line["level"]) == ("ifinu.python.warning", "UserWarning", "warning")
    assert line["words"] == "old way of +55 77 9****-5555"


def test_an_interrupt_from_the_keyboard_is_no_death():
    lines = lines_of("raise KeyboardInterrupt", code=-2)
    assert "ifinu.process.died" not in str(lines)


# -- floods


@pytest.mark.parametrize("logger", ["ours", "celery"])
def test_a_flood_is_cut_and_its_size_logged_at_the_end_of_the_process(logger: str):
    *lines, last = written(f"for _ in range(75):\n {logger}.info('x')", limit=5)
    assert [line["event"] for line in lines] == ["x"] * 50
    assert (last["event"], last["level"], last["count"]) == ("ifinu.logs.dropped", "warning", 25)
    assert last["of"] == ("x" if logger == "ours" else f"celery.worker:{PRELUDE.count(chr(10)) + 2}")


def test_dropped_errors_are_reported_as_errors():
    *lines, last = written("for _ in range(75):\n ours.error('x', reason='a')", level="error", limit=5)
    assert [line["event"] for line in lines] == ["x"] * 5
    assert [last[name] for name in ("event", "level", "of_level", "reason", "count")] == [
        "ifinu.logs.dropped", "error", "error", "a", 70,
    ]  # fmt: skip


def test_a_forked_child_reports_only_the_lines_that_it_dropped():
    script = """
import os
for _ in range(60): ours.info("x")
if os.fork():
    os.wait()
else:
    for _ in range(53): ours.info("y")
    logs.flush()
    os._exit(0)
"""
    lines = written(script, limit=5)
    dropped = [(line["of"], line["count"]) for line in lines if line["event"] == "ifinu.logs.dropped"]
    assert dropped == [("y", 3), ("x", 10)]


def test_without_a_limit_nothing_is_dropped():
    assert len(written("for _ in range(3000): ours.info('x')", limit=0)) == 3000
