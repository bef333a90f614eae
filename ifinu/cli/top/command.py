"""`ifinu top`: looks in a thread of its own, and shows what was last seen; once, as JSON, or on a screen."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import redis
import typer

from ifinu import settings
from ifinu.cli import connection, terminal
from ifinu.errors import BrokerUnavailable, ConfigurationError

if TYPE_CHECKING:
    from ifinu.cli.top.frame import DisplayOptions
    from ifinu.cli.top.model import Model
    from ifinu.cli.top.rates import Sight
    from ifinu.cli.top.screen import Screen

    Sights = queue.SimpleQueue[Sight | Exception]

_DRAW_S = 1.0  # how long the picture stands at most, so that it says how old it is
_LATE_S = 5.0  # beyond the time that a look takes
_BETWEEN_S = 1.0  # between the two looks of --once
_ANY_HEIGHT = 1_000
_STOPPED_S = 1.5
_REDIS = 6379
_SIGNALLED = 128  # as a shell reports a process that a signal ended


def top(
    every_s: Annotated[
        float, typer.Option("--every", min=1, max=60, metavar="SECONDS", help="How often it looks.")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print it once as text, also where there is no terminal.")
    ] = False,
    frames: Annotated[int | None, typer.Option(min=1, help="End after so many looks.", show_default=False)] = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Watch the queues and the workers on one screen.

    The second line tells how many sends a second the workers do, of those that
    they may, and when the backlog is empty if it goes on like that. Below it:
    each queue with its trend, each worker with its pace, what becomes of
    messages, the WhatsApp instances, and the dead letters by reason. What does
    not fit is left out, the least important first.

    [bold]q[/bold] ends it, [bold]p[/bold] pauses the picture, [bold]s[/bold] sorts the workers, [bold]?[/bold] explains
    the columns. With [bold]--json[/bold], one object a line for each look.

    [bold]Examples[/bold]

    ifinu top
    ifinu top --every 5
    ifinu top --once
    ssh -t bastion ifinu top
    ifinu top --json --frames 10 | jq .rate_per_s
    """
    from ifinu.cli.top.frame import DisplayOptions

    config = settings.load()
    is_text = once or as_json
    if not is_text and not _is_screen():
        raise ConfigurationError(
            "ifinu top needs a terminal to draw on, and this is none; add --once for one picture as text, or --json, "
            "or use `ifinu status`"
        )
    url = config.redis_url.get_secret_value()
    view = DisplayOptions(where=_where(url), every_s=every_s)
    if not is_text:
        _watch(url, view, frames)
        return
    with _looking(url) as look:
        _print(look, view, 1 if once else frames, as_json=as_json, once=once)


def _is_screen() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def _where(url: str) -> str:
    """The server in few letters, without its password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    return f"{parts.hostname or 'localhost'}:{parts.port or _REDIS}/{parts.path.strip('/') or 0}"


@contextlib.contextmanager
def _looking(url: str) -> Iterator[Callable[[], Sight]]:
    """What looks, with connections of its own; a look takes a second where a worker does not answer."""
    from ifinu.cli.top.rates import Sight
    from ifinu.cli.top.snapshot import SnapshotReader
    from ifinu.cli.top.workers import AWAY, Workers

    with connection.broker() as client, Workers(url) as workers:
        eye = SnapshotReader(client)

        def look() -> Sight:
            found = answers = None
            error = ""
            try:
                found = eye.look()
                answers = workers.ask()
            except (redis.ConnectionError, redis.TimeoutError, *AWAY):
                error = "Redis cannot be reached"
            except redis.RedisError as exc:
                error = f"Redis refused ({exc})"
            return Sight(datetime.now(UTC), time.monotonic(), found, answers, error)

        yield look


def _print(look: Callable[[], Sight], view: DisplayOptions, frames: int | None, *, as_json: bool, once: bool) -> None:
    """Text or JSON, one for each look; a look before the first, without which there would be no rates."""
    from ifinu.cli.top.rates import RateHistory

    memory = RateHistory(view.every_s)
    memory.take(look())
    due_s = time.monotonic() + _BETWEEN_S
    while frames is None or frames > 0:
        time.sleep(max(0.0, due_s - time.monotonic()))
        due_s = time.monotonic() + view.every_s
        figures = memory.take(look())
        if as_json:
            terminal.print_json(figures.as_json())
        else:
            _print_text(figures, view)
        if once and figures.error:
            raise BrokerUnavailable(f"{figures.error}; try `ifinu doctor`")
        frames = None if frames is None else frames - 1


def _print_text(figures: Model, view: DisplayOptions) -> None:
    from ifinu.cli.top.frame import frame, in_ascii

    console = terminal.results()
    for line in frame(figures, view, console.width, _ANY_HEIGHT):
        if not console.encoding.startswith("utf"):
            line.plain = in_ascii(line.plain)
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def _watch(url: str, view: DisplayOptions, frames: int | None) -> None:
    """On the screen, until somebody ends it."""
    from ifinu.cli.top.screen import Ended, Screen

    seen: Sights = queue.SimpleQueue()
    stop = threading.Event()
    thread: threading.Thread | None = None
    try:
        with Screen() as screen:
            thread = threading.Thread(
                target=_keep_looking, args=(url, view.every_s, stop, seen, screen.wake), name="looks", daemon=True
            )
            thread.start()
            _show(screen, seen, view, frames)
    except Ended as exc:
        raise typer.Exit(_SIGNALLED + exc.number) from None
    finally:
        stop.set()
        if thread is not None:  # a question that nobody waits for leaves its answers in Redis
            thread.join(_STOPPED_S)


def _keep_looking(url: str, every_s: float, stop: threading.Event, seen: Sights, wake: Callable[[], None]) -> None:
    """The thread that looks; the one that draws is told of what it must not survive."""
    try:
        with _looking(url) as look:
            while not stop.is_set():
                due_s = time.monotonic() + every_s
                seen.put(look())
                wake()
                stop.wait(max(0.0, due_s - time.monotonic()))
    except Exception as exc:
        seen.put(exc)
        wake()


def _show(screen: Screen, seen: Sights, view: DisplayOptions, frames: int | None) -> None:
    """
    Draw what is seen, and do as the keys say.

    Raises:
        Ended: A signal says to end.
    """
    from ifinu.cli.top.frame import frame
    from ifinu.cli.top.rates import RateHistory

    memory = RateHistory(view.every_s)
    newest: Model | None = None
    shown: Model | None = None
    heard_s = time.monotonic()
    while True:
        late_s = time.monotonic() - heard_s
        screen.draw(
            frame(shown, replace(view, late_s=late_s if late_s > view.every_s + _LATE_S else 0), *screen.size())
        )
        if frames is not None and frames <= 0:
            return
        for key in screen.wait(_DRAW_S):
            match key:
                case "q":
                    return
                case "p" | " ":
                    view = replace(view, paused=not view.paused)
                case "s":
                    view = replace(view, order=view.order.after())
                case "?" | "h":
                    view = replace(view, help=not view.help)
        while not seen.empty():
            sight = seen.get()
            if isinstance(sight, Exception):
                raise sight
            newest, heard_s = memory.take(sight), time.monotonic()
            frames = None if frames is None else frames - 1
        if not view.paused:
            shown = newest
