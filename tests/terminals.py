"""A pseudo-terminal: the screen that a command draws, and keys to press."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import sys
import termios
import threading

import pyte
from processes import wait_until

ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"
_BELL = b"\a"
_HIDE, _SHOW = b"\x1b[?25l", b"\x1b[?25h"


class Terminal:
    """
    A pseudo-terminal that runs a command.

    Args:
        arguments: The command's arguments.
        size: Columns and lines of the terminal.
        program: Python statements that run with the arguments.
        environment: Variables added to those of this process.

    Attributes:
        raw: All bytes that the command wrote.
        screen: The emulated screen.
        before: The terminal's attributes before the command started.
    """

    def __init__(
        self,
        *arguments: str,
        size: tuple[int, int] = (100, 30),
        program: tuple[str, ...] = ("-m", "ifinu"),
        **environment: str,
    ) -> None:
        self._lock = threading.Lock()
        self.raw = b""
        self._main, self._side = os.openpty()
        self.screen = pyte.Screen(*size)
        self._stream = pyte.ByteStream(self.screen)
        self._resize(*size)
        self.before = termios.tcgetattr(self._side)
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            env={**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", **environment},
            stdin=self._side, stdout=self._side, stderr=self._side, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that it has a Ctrl-C
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while data := os.read(self._main, 65_536):
                with self._lock:
                    self.raw += data
                    self._stream.feed(data)

    def _resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._side, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        with self._lock:
            self.screen.resize(lines, columns)
            self.screen.reset()
        self._resize(columns, lines)  # the kernel then sends SIGWINCH

    def press(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def lines(self) -> list[str]:
        with self._lock:
            return [line.rstrip() for line in self.screen.display]

    def text(self) -> str:
        return "\n".join(self.lines())

    def shows(self, *words: str, deadline_s: float = 60) -> None:
        """Wait until the screen shows all of these texts."""
        wait_until(lambda: all(word in self.text() for word in words), deadline_s, self.text)

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self._side) == self.before

    def ended(self) -> int:
        """Wait for the end, check that the terminal was restored, and return the exit code."""
        code = self.process.wait(60)
        os.write(self._side, _BELL)  # comes after the command's last output
        wait_until(lambda: self.raw.endswith(_BELL), seen=lambda: self.raw[-500:])
        assert self.raw.count(LEAVE) == self.raw.count(ENTER)
        assert self.is_as_before()
        assert self.raw.rindex(_SHOW) > self.raw.rindex(_HIDE)  # the cursor is visible again
        return code

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
        os.close(self._side)
        self._reader.join(20)
        os.close(self._main)
