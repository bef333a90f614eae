"""Python processes forked from one that has imported their modules: each starts in a hundredth of the time."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

# A child leaves the loop and runs its script on the top level, so that Python ends it as it ends any other process.
_PARENT = """
import gc, json, os, sys
gc.freeze()  # or each child walks all that the parent imported, when it ends
for line in sys.stdin:
    script, out, err = json.loads(line)
    child = os.fork()
    if not child:
        for number, path in enumerate((os.devnull, out, err)):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
            os.close(file)
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    os._exit(0)
exec(compile(script, "<string>", "exec"))
"""


class Ended(NamedTuple):
    """How a script ended: its exit code, or the negative number of the signal, and what it wrote."""

    code: int
    out: str
    err: str


class Forks:
    """
    Runs scripts as `python -c` does, each in a new process.

    Args:
        imports: Statement that the parent runs once, before the first script.
    """

    def __init__(self, imports: str) -> None:
        self._imports = imports
        self._parent: subprocess.Popen[str] | None = None

    def run(self, script: str, folder: Path) -> Ended:
        """Run one script; its output goes through two files in `folder`."""
        if self._parent is None:
            self._parent = subprocess.Popen(
                [sys.executable, "-c", self._imports + _PARENT],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        out, err = folder / "out", folder / "err"
        print(json.dumps([script, str(out), str(err)]), file=self._parent.stdin, flush=True)
        code = int(self._parent.stdout.readline())
        return Ended(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))

    def close(self) -> None:
        """End the parent."""
        if self._parent is not None:
            with contextlib.closing(self._parent.stdout):  # type: ignore[type-var]
                self._parent.communicate(timeout=20)
            self._parent = None
