"""The terminal: alternate screen, keys and signals. At the end it is restored to its state before."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType
from typing import Self

from rich.console import Console
from rich.text import Text

from ifinu.cli.top.frame import in_ascii

END = "q"  # the key that quits; returned as well when stdin is closed

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[0m\x1b[?25h\x1b[?1049l"
_CLEAR, _REST, _LINE = "\x1b[2J", "\x1b[J", "\x1b[K"
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)  # arrows and the like, which are ignored
_QUITTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_WAKE = 0  # no signal has this number
_WIDER_THAN_ANY = 10_000
_DEFAULT_SIZE = (80, 24)  # if the terminal does not report its size


class Ended(Exception):  # noqa: N818 - not an error
    """Signal `number` asks the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Screen:
    """
    The alternate screen as a context manager, which restores the terminal however the block ends.

    Only lines that changed are written, in one write: that saves traffic over ssh and avoids flicker.
    """

    def __init__(self) -> None:
        self._out, self._in = sys.stdout.fileno(), sys.stdin.fileno()
        self._has_keys = sys.stdin.isatty()
        # Prints nothing; renders with the colours of this terminal.
        self._console = Console(width=_WIDER_THAN_ANY, highlight=False, markup=False, emoji=False)
        self._is_ascii = not self._console.encoding.startswith("utf")
        self._shown: list[str] = []
        self._size = (0, 0)
        self._before: list[object] | None = None
        self._handlers: dict[int, object] = {}
        self._waking, self._woken = os.pipe()  # its two ends, to read and to write

    def __enter__(self) -> Self:
        for end in (self._waking, self._woken):
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        for number in (*_QUITTING, signal.SIGWINCH, signal.SIGTSTP):
            self._handlers[number] = signal.signal(number, _ignore)
        try:
            self._enter()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as it was
        # The pipe stays open: a thread may still call `wake`, and must not write to another file of the same number.

    def wake(self) -> None:
        """End a `wait` now; callable from any thread."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so that it ends anyway
            os.write(self._woken, bytes((_WAKE,)))

    def wait(self, seconds: float) -> list[str]:
        """
        Wait for a key, a signal or `wake`.

        Returns:
            The keys pressed meanwhile.

        Raises:
            Ended: A signal asks the program to end.
        """
        wanted = [self._waking, *([self._in] if self._has_keys else [])]
        ready, _, _ = select.select(wanted, [], [], seconds)
        if self._waking in ready:
            for number in os.read(self._waking, 512):
                self._signalled(number)
        return self._keys() if self._in in ready else []

    def draw(self, lines: Sequence[Text]) -> None:
        """Show these lines from the top; none may be wider than the screen."""
        width, height = self.size()
        rendered = [self._rendered(line) for line in lines[:height]]
        out = []
        if (width, height) != self._size:
            self._size, self._shown = (width, height), []
            out.append(_CLEAR)
        for number, line in enumerate(rendered):
            if number < len(self._shown) and self._shown[number] == line:
                continue
            # After a full line, erasing the rest of it would erase its last cell.
            rest = _LINE if lines[number].cell_len < width else ""
            out.append(f"\x1b[{number + 1};1H{line}{rest}")
        if len(rendered) < len(self._shown):
            out.append(f"\x1b[{len(rendered) + 1};1H{_REST}")
        self._shown = rendered
        self._write("".join(out))

    def size(self) -> tuple[int, int]:
        """Width and height in cells."""
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self._out)
            if size.columns and size.lines:
                return size.columns, size.lines
        return _DEFAULT_SIZE

    def _rendered(self, line: Text) -> str:
        with self._console.capture() as captured:
            self._console.print(line, end="", no_wrap=True, overflow="ignore", crop=False)
        return in_ascii(captured.get()) if self._is_ascii else captured.get()

    def _keys(self) -> list[str]:
        pressed = b""
        with contextlib.suppress(OSError):  # the terminal is gone
            pressed = os.read(self._in, 64)
        return list(_SEQUENCE.sub(b"", pressed).decode(errors="ignore")) if pressed else [END]

    def _signalled(self, number: int) -> None:
        if number in _QUITTING:
            raise Ended(number)
        if number == signal.SIGTSTP:  # Ctrl-Z
            self._leave()
            os.kill(os.getpid(), signal.SIGSTOP)
            self._enter()

    def _enter(self) -> None:
        if self._has_keys:
            self._before = termios.tcgetattr(self._in)
            tty.setcbreak(self._in, termios.TCSANOW)  # keys arrive at once and without echo; Ctrl-C remains a signal
        self._shown, self._size = [], (0, 0)
        self._write(_ENTER)

    def _leave(self) -> None:
        self._write(_LEAVE)
        if self._before is not None:
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._in, termios.TCSAFLUSH, self._before)  # type: ignore[arg-type]  # as it was

    def _write(self, text: str) -> None:
        left = text.encode(errors="replace")
        with contextlib.suppress(OSError):  # the terminal is gone: stdin ends, or SIGHUP follows
            while left:
                left = left[os.write(self._out, left) :]


def _ignore(number: int, frame: FrameType | None) -> None:
    """A handler, so that `set_wakeup_fd` writes the number; `wait` acts on it."""
