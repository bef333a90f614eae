"""The terminal: its alternate screen, its keys and its signals, and everything as it was before at the end."""

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
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from ifinu.cli.top.frame import in_ascii

RESIZED, STOPPED, WOKEN = "resized", "stopped", "woken"  # what may happen beside a key
END = "q"  # the key that ends it; so does the end of all keys

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[0m\x1b[?25h\x1b[?1049l"
_CLEAR, _REST, _LINE = "\x1b[2J", "\x1b[J", "\x1b[K"
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)  # an arrow or the like: no key of ours
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_WAKE = 0  # no signal has this number
_WIDER_THAN_ANY = 10_000
_SMALLEST = (80, 24)  # for a terminal that does not know how large it is


class Ended(Exception):  # noqa: N818 - not an error
    """A signal asks to end; `number` is its."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Screen:
    """
    The alternate screen, from the beginning of the block to its end, however it ends.

    Only lines that changed are written, in one go: little for a slow connection, and nothing flickers.
    """

    def __init__(self) -> None:
        self._out, self._in = sys.stdout.fileno(), sys.stdin.fileno()
        self._has_keys = sys.stdin.isatty()
        # It prints nothing, and knows which colours there are.
        self._console = Console(width=_WIDER_THAN_ANY, highlight=False, markup=False, emoji=False)
        self._is_ascii = not self._console.encoding.startswith("utf")
        self._shown: list[str] = []
        self._size = (0, 0)
        self._before: list[object] | None = None
        self._handlers: dict[int, object] = {}
        self._waking, self._woken = os.pipe()

    def __enter__(self) -> Self:
        for end in (self._waking, self._woken):
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        for number in (*_ENDING, signal.SIGWINCH, signal.SIGTSTP):
            self._handlers[number] = signal.signal(number, _ignore)
        try:
            self._enter()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as it was
        # The pipe stays: a thread may still wake us, and must not write into another file.

    def wake(self) -> None:
        """End the wait that is under way; from any thread."""
        with contextlib.suppress(BlockingIOError):  # it is awake already
            os.write(self._woken, bytes((_WAKE,)))

    def wait(self, seconds: float) -> list[str]:
        """
        What happens until something does.

        Args:
            seconds: How long at most.

        Returns:
            Keys that were pressed, and RESIZED, STOPPED or WOKEN.

        Raises:
            Ended: A signal came that ends it.
        """
        wanted = [self._waking, *([self._in] if self._has_keys else [])]
        ready, _, _ = select.select(wanted, [], [], seconds)
        happened: list[str] = []
        if self._waking in ready:
            for number in os.read(self._waking, 512):
                happened.append(self._signalled(number))
        if self._in in ready:
            happened += self._keys()
        return happened

    def draw(self, lines: Sequence[Text]) -> None:
        """Show these lines, from the top; none is wider than the screen."""
        width, height = self.size()
        rendered = [self._rendered(line) for line in lines[:height]]
        out = []
        if (width, height) != self._size:
            self._size, self._shown = (width, height), []
            out.append(_CLEAR)
        for number, line in enumerate(rendered):
            if number < len(self._shown) and self._shown[number] == line:
                continue
            # At the last cell of a line, erasing the rest of it would erase that cell.
            rest = _LINE if lines[number].cell_len < width else ""
            out.append(f"\x1b[{number + 1};1H{line}{rest}")
        if len(rendered) < len(self._shown):
            out.append(f"\x1b[{len(rendered) + 1};1H{_REST}")
        self._shown = rendered
        self._write("".join(out))

    def size(self) -> tuple[int, int]:
        """Its width and height, in cells."""
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self._out)
            if size.columns and size.lines:
                return size.columns, size.lines
        return _SMALLEST

    def _rendered(self, line: Text) -> str:
        with self._console.capture() as captured:
            self._console.print(line, end="", no_wrap=True, overflow="ignore", crop=False)
        return in_ascii(captured.get()) if self._is_ascii else captured.get()

    def _keys(self) -> list[str]:
        try:
            pressed = os.read(self._in, 64)
        except OSError:  # the terminal is gone
            return [END]
        if not pressed:
            return [END]
        return list(_SEQUENCE.sub(b"", pressed).decode(errors="ignore"))

    def _signalled(self, number: int) -> str:
        if number in _ENDING:
            raise Ended(number)
        if number == signal.SIGTSTP:  # Ctrl-Z
            self._leave()
            os.kill(os.getpid(), signal.SIGSTOP)
            self._enter()
            return STOPPED
        return RESIZED if number == signal.SIGWINCH else WOKEN

    def _enter(self) -> None:
        if self._has_keys:
            self._before = termios.tcgetattr(self._in)
            tty.setcbreak(self._in, termios.TCSANOW)  # keys come at once and unseen; Ctrl-C is still a signal
        self._shown, self._size = [], (0, 0)
        self._write(_ENTER)

    def _leave(self) -> None:
        self._write(_LEAVE)
        if self._before is not None:
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._in, termios.TCSAFLUSH, self._before)  # type: ignore[arg-type]  # as it was

    def _write(self, text: str) -> None:
        left = text.encode(errors="replace")
        with contextlib.suppress(OSError):  # the terminal is gone: its keys end, or a SIGHUP comes
            while left:
                left = left[os.write(self._out, left) :]


def _ignore(number: int, frame: FrameType | None) -> None:
    """Nothing: `set_wakeup_fd` has told it already."""
