"""`ifinu top`: observes Redis and the workers in a thread, and shows the figures on a screen, as text or as JSON."""

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
    from ifinu.cli.top.bottlenecks import WaitingRow
    from ifinu.cli.top.frame import DisplayOptions
    from ifinu.cli.top.model import Model
    from ifinu.cli.top.rates import Observation
    from ifinu.cli.top.screen import Screen

    Observations = queue.SimpleQueue[Observation | Exception]

_DRAW_S = 1.0  # between two frames at most, since a frame shows the age of its figures
_LATE_S = 5.0  # beyond the time that an observation takes
_BETWEEN_S = 1.0  # between the two observations of --once
_ANY_HEIGHT = 1_000
_STOPPED_S = 1.5
_REDIS = 6379
_SIGNALLED = 128  # a shell adds the number of the signal that ended a process


def top(
    every_s: Annotated[
        float, typer.Option("--every", min=1, max=60, metavar="SECONDS", help="Time between two updates.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame as text; needs no terminal.")] = False,
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after this many updates.", show_default=False)] = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Watch the queues and the workers on one screen.

    The second line shows the workers' sends per second, their limit, and when
    the backlog will be empty at this rate. Below it: each queue with its
    trend, each worker with its rate, messages by outcome, the WhatsApp
    instances, and the dead letters by reason; once numbers are registered, also
    what waits for its number, and why. On a small terminal the least
    important columns and rows are left out.

    [bold]q[/bold] quits, [bold]p[/bold] pauses the display, [bold]s[/bold] sorts the workers, [bold]?[/bold] explains
    the columns. [bold]--json[/bold] prints one object a line, one for each update.

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
    if not is_text and not (sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")):
        raise ConfigurationError(
            "`ifinu top` needs a terminal and stdout is not one; use --once for one frame as text, --json, "
            "or `ifinu status`"
        )
    url = config.redis_url.get_secret_value()
    options = DisplayOptions(server=_server(url), every_s=every_s)
    if not is_text:
        _watch(url, options, frames)
        return
    with _observing(url) as observe:
        _print(observe, options, 1 if once else frames, as_json=as_json, once=once)


def _server(url: str) -> str:
    """Host, port and database of a Redis URL, without its password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    return f"{parts.hostname or 'localhost'}:{parts.port or _REDIS}/{parts.path.strip('/') or 0}"


@contextlib.contextmanager
def _observing(url: str) -> Iterator[Callable[[], Observation]]:
    """A function that observes Redis and the workers; it takes a second longer if a worker does not answer."""
    from ifinu.broker.redis_state import StateReader
    from ifinu.cli.top.bottlenecks import waiting
    from ifinu.cli.top.rates import Observation
    from ifinu.cli.top.workers import AWAY, Workers

    with connection.broker() as client, Workers(url) as workers:
        reader = StateReader(client)

        def observe() -> Observation:
            snapshot = answers = None
            lanes: list[WaitingRow] = []
            error = ""
            try:
                snapshot = reader.read()
                lanes = waiting(client) if any(one.in_lanes for one in snapshot.queues) else []
                answers = workers.ask()
            except (redis.ConnectionError, redis.TimeoutError, *AWAY):
                error = "Redis cannot be reached"
            except redis.RedisError as exc:
                error = f"Redis refused ({exc})"
            return Observation(datetime.now(UTC), time.monotonic(), snapshot, answers, error, lanes)

        yield observe


def _print(
    observe: Callable[[], Observation], options: DisplayOptions, frames: int | None, *, as_json: bool, once: bool
) -> None:
    """Print text or JSON for each observation after the first, which only serves to compute rates."""
    from ifinu.cli.top.rates import RateHistory

    history = RateHistory(options.every_s)
    history.add(observe())
    due_s = time.monotonic() + _BETWEEN_S
    while frames is None or frames > 0:
        time.sleep(max(0.0, due_s - time.monotonic()))
        due_s = time.monotonic() + options.every_s
        model = history.add(observe())
        if as_json:
            terminal.print_json(model.as_json())
        else:
            _print_text(model, options)
        if once and model.error:
            raise BrokerUnavailable(f"{model.error}; try `ifinu doctor`")
        frames = None if frames is None else frames - 1


def _print_text(model: Model, options: DisplayOptions) -> None:
    from ifinu.cli.top.frame import frame, in_ascii

    console = terminal.results()
    for line in frame(model, options, console.width, _ANY_HEIGHT):
        if not console.encoding.startswith("utf"):
            line.plain = in_ascii(line.plain)
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def _watch(url: str, options: DisplayOptions, frames: int | None) -> None:
    """Show the figures on the screen until the user quits."""
    from ifinu.cli.top.screen import Ended, Screen

    observations: Observations = queue.SimpleQueue()
    stop = threading.Event()
    thread: threading.Thread | None = None
    try:
        with Screen() as screen:
            thread = threading.Thread(
                target=_keep_observing,
                args=(url, options.every_s, stop, observations, screen.wake),
                name="observer",
                daemon=True,
            )
            thread.start()
            _show(screen, observations, options, frames)
    except Ended as exc:
        raise typer.Exit(_SIGNALLED + exc.number) from None
    finally:
        stop.set()
        if thread is not None:  # a question cut short would leave its answers in Redis
            thread.join(_STOPPED_S)


def _keep_observing(
    url: str, every_s: float, stop: threading.Event, observations: Observations, wake: Callable[[], None]
) -> None:
    """Observe until `stop` is set; an unexpected exception goes to the thread that draws."""
    try:
        with _observing(url) as observe:
            while not stop.is_set():
                due_s = time.monotonic() + every_s
                observations.put(observe())
                wake()
                stop.wait(max(0.0, due_s - time.monotonic()))
    except Exception as exc:
        observations.put(exc)
        wake()


def _show(screen: Screen, observations: Observations, options: DisplayOptions, frames: int | None) -> None:
    """
    Draw each observation and obey the keys.

    Raises:
        Ended: A signal asks the program to end.
    """
    from ifinu.cli.top.frame import frame
    from ifinu.cli.top.rates import RateHistory

    history = RateHistory(options.every_s)
    newest: Model | None = None
    shown: Model | None = None
    observed_s = time.monotonic()
    while True:
        late_s = time.monotonic() - observed_s
        options = replace(options, late_s=late_s if late_s > options.every_s + _LATE_S else 0)
        screen.draw(frame(shown, options, *screen.size()))
        if frames is not None and frames <= 0:
            return
        for key in screen.wait(_DRAW_S):
            match key:
                case "q":
                    return
                case "p" | " ":
                    options = replace(options, paused=not options.paused)
                case "s":
                    options = replace(options, order=options.order.after())
                case "?" | "h":
                    options = replace(options, help=not options.help)
        while not observations.empty():
            observation = observations.get()
            if isinstance(observation, Exception):
                raise observation
            newest, observed_s = history.add(observation), time.monotonic()
            frames = None if frames is None else frames - 1
        if not options.paused:
            shown = newest
