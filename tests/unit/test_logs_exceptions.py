from __future__ import annotations

import json
import sqlite3

import pytest
import redis
from pydantic import TypeAdapter

from ifinu.errors import InvalidNotification, LedgerUnavailable, NotSent
from ifinu.logs import exceptions

NAME, PHONE = "Zulmira Canário", "77 99861-5555"


def raised(call) -> BaseException:
    try:
        call()
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def test_input_that_a_library_repeats_is_not_shown():
    calls = {
        "KeyError": lambda: {}[NAME],
        "ValueError": lambda: int(NAME),
        "UnicodeDecodeError": lambda: (NAME.encode() + b"\xff").decode(),
        "TypeError": lambda: f(**{NAME: 1}),
        "json.decoder.JSONDecodeError": lambda: json.loads(NAME),
        "pydantic_core._pydantic_core.ValidationError": lambda: TypeAdapter(int).validate_python(NAME),
        "sqlite3.OperationalError": lambda: sqlite3.connect(":memory:").execute(f"SELECT [{NAME}]"),
    }
    for name, call in calls.items():
        exc = raised(call)
        assert exceptions.describe(exc) == name
        assert NAME not in exceptions.render(exc)


def f() -> None:
    """Takes nothing."""


@pytest.mark.parametrize(
    ("exc", "described"),
    [
        (NotSent(f"ifinu: HTTP 500: {PHONE}"), "ifinu.errors.NotSent: ifinu: HTTP 500: +55 77 9****-5555"),
        (InvalidNotification("telefone", "is empty"), "ifinu.errors.InvalidNotification: telefone: is empty"),
        (LedgerUnavailable("one\ntwo"), "ifinu.errors.LedgerUnavailable: one two"),
        (redis.ConnectionError("Error 111"), "redis.exceptions.ConnectionError: Error 111"),
        (
            redis.ResponseError(f"unknown command 'LPUSH', with args beginning with: 'q' '{NAME}'"),
            "redis.exceptions.ResponseError: unknown command 'LPUSH'",
        ),
        (ConnectionRefusedError(111, "Connection refused"), "ConnectionRefusedError: Connection refused"),
        (OSError(NAME), "OSError"),
        (AttributeError("it has no attribute 'x'"), "AttributeError: it has no attribute 'x'"),
        (RuntimeError(NotSent("away"), True), "RuntimeError: ifinu.errors.NotSent: away"),
        (RuntimeError(NAME), "RuntimeError"),
    ],
)  # fmt: skip
def test_an_exceptions_words_are_shown_if_known_to_be_harmless(exc: BaseException, described: str):
    assert exceptions.describe(exc) == described


def test_an_exceptions_words_are_cut():
    assert len(exceptions.describe(NotSent("x" * 10_000))) < 400


def test_a_chain_of_exceptions_starts_with_its_cause():
    def first() -> None:
        try:
            {}[NAME]
        except KeyError as exc:
            raise NotSent("away") from exc

    def second() -> None:
        try:
            first()
        except NotSent:
            raise RuntimeError(PHONE)  # noqa: B904 - without a cause, on purpose

    lines = exceptions.render(raised(second)).splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == [
        "Traceback (most recent call last):",
        "KeyError",
        "The above exception was the direct cause of the following exception:",
        "Traceback (most recent call last):",
        "ifinu.errors.NotSent: away",
        "During handling of the above exception, another exception occurred:",
        "Traceback (most recent call last):",
        "RuntimeError",
    ]
    assert "    {}[NAME]" in lines  # the program's own line


def test_a_circular_chain_and_an_endless_one_are_cut():
    one, two = KeyError("a"), ValueError("b")
    one.__cause__, two.__cause__ = two, one
    assert exceptions.render(one).count("KeyError") == 1
    last: BaseException = KeyError()
    for _ in range(100):
        last, before = ValueError(), last
        last.__cause__ = before
    assert exceptions.render(last).count("ValueError") == 5


def test_a_deep_recursion_is_cut_in_the_middle():
    def deeper(level: int) -> None:
        if level:
            deeper(level - 1)
        raise RuntimeError

    lines = exceptions.render(raised(lambda: deeper(200))).splitlines()
    assert sum(line.startswith("  File") for line in lines) == 30
    assert any(line.startswith("  ... ") and line.endswith(" frames") for line in lines)


def test_an_exception_group_is_shown_one_by_one():
    group = ExceptionGroup(NAME, [raised(lambda: int(NAME)), NotSent("away"), *[KeyError(NAME)] * 20])
    text = exceptions.render(group)
    assert "  | ValueError" in text
    assert "  | ifinu.errors.NotSent: away" in text
    assert text.splitlines().count("  | KeyError") == 3
    assert NAME not in text


def test_the_frames_of_a_childs_traceback_are_kept():
    """
    Billiard passes it from a pool's process as text that contains the exception's words.
    """
    from billiard.einfo import RemoteTraceback

    text = f'Traceback (most recent call last):\n  File "/a/b.py", line 3, in run\n    go()\nKeyError: "{NAME}"\n'
    exc = KeyError(NAME)
    exc.__cause__ = RemoteTraceback(text)
    rendered = exceptions.render(exc)
    assert '  File "/a/b.py", line 3, in run' in rendered.splitlines()
    assert NAME not in rendered


@pytest.mark.parametrize(
    ("written", "retold"),
    [
        (f"KeyError('{NAME}')", "KeyError(…)"),
        (f'ValueError("cannot send\\n{PHONE}")', "ValueError(…)"),
        (f"NotSent('ifinu: HTTP 500: {PHONE}')", "NotSent('ifinu: HTTP 500: +55 77 9****-5555')"),
        (f"Retry(None, NotSent('{NAME}'), 5.0)", "Retry(NotSent)"),
        ("Reject(ConnectionError('away'), True)", "Reject(…)"),
        ("", "Exception(…)"),
        ("💥", "Exception(…)"),
    ],
)
def test_a_repr_keeps_the_class_name_and_only_our_classes_keep_their_words(written: str, retold: str):
    assert exceptions.retold(written) == retold


def test_the_frames_of_a_traceback_in_text_are_kept():
    text = (
        f'Traceback (most recent call last):\n  File "/a.py", line 3, in <lambda>\n    x("{NAME}")\nKeyError: "{NAME}"'
    )
    assert exceptions.frames_in(text) == '  File "/a.py", line 3, in <lambda>'
    assert exceptions.frames_in("None") == ""
