"""`ifinu` as a person runs it, in this process."""

from __future__ import annotations

import functools
import io
import json
import re
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import typer.main

from ifinu.cli import main

# Built once: Typer would build all fifty commands at each call, which takes longer than most of them run.
_command = functools.cache(typer.main.get_command)


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Runs commands; `stdin` is passed as a file, as in a pipe."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(typer.main, "get_command", _command)

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Ended:
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._capsys.readouterr()
        code = main(arguments)
        out, err = self._capsys.readouterr()
        return Ended(code, re.sub(r"\x1b\[[0-9;]*m", "", out), re.sub(r"\x1b\[[0-9;]*m", "", err))
