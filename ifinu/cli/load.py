"""`ifinu load`: a load test."""

from __future__ import annotations

import itertools
import json
import math
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import redis
import typer
from rich.live import Live

from ifinu import settings
from ifinu.broker import NORMAL, backlog
from ifinu.cli import connection, terminal
from ifinu.cli.durations import span
from ifinu.errors import ConfigurationError, IfinuError

_CHUNK = 500  # messages a trip
_POLL_S = 0.1
_LINE_EVERY_S = 2.0
_RATE_OVER_S = 5.0
_SHORTEST_S = 1.0  # of a pace that means something
_STALLED_S = 60.0


class Stalled(IfinuError):  # noqa: N818 - this program did not fail
    """The backlog no longer shrinks."""


class Drain:
    """What was seen of a backlog that shrinks, look by look."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()  # of the last five seconds: time, messages left
        self._still: tuple[float, int] | None = None  # the last look before it moved
        self.moved_at = -math.inf
        self.fastest_per_s: float | None = None  # over any five seconds; None for a shorter drain

    def saw(self, now: float, left: int) -> None:
        if self._looks and left != self._looks[-1][1]:
            self._still = self._still or self._looks[-1]
            self.moved_at = now
        elif not self._looks:
            self.moved_at = now
        while self._looks and now - self._looks[0][0] > _RATE_OVER_S:
            self.fastest_per_s = max(self.fastest_per_s or 0.0, self.rate_per_s)
            self._looks.popleft()
        self._looks.append((now, left))

    @property
    def left(self) -> int:
        return self._looks[-1][1]

    @property
    def rate_per_s(self) -> float:
        """Messages that left it a second, over the last five seconds."""
        return _falling_per_s(self._looks[0], self._looks[-1])

    @property
    def pace_per_s(self) -> float | None:
        """The same, from its first move to the last one; None if that took less than a second."""
        if self._still is None or self.moved_at - self._still[0] < _SHORTEST_S:
            return None
        return _falling_per_s(self._still, (self.moved_at, self.left))


def load(
    count: Annotated[int, typer.Argument(metavar="N", min=1, max=10_000_000, help="Number of messages.")],
    envelope: Annotated[
        bool, typer.Option("--envelope/--raw", help="Publish Celery envelopes, or LPUSH bare JSON.")
    ] = False,
    rate: Annotated[
        str | None, typer.Option(metavar="RATE", help="Push at this pace, such as 500/s; by default all at once.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Watch until all messages are processed.")] = True,
    as_json: terminal.Json = False,
) -> None:
    """
    Push N test messages, watch the workers process them, and report the time and the pace.

    Each is [bold]{"id":"test_<run>_<i>","tipo_notificacao":"lembrete"}[/bold] and has no phone:
    workers send it to their [bold]IFINU_SANDBOX_NUMBER[/bold]. Use the simulator, or set
    that to your own number.

    [bold]Examples[/bold]

    ifinu load 1000
    ifinu load 100000 --rate 500/s --no-wait
    """
    config = settings.load()
    notes = terminal.notes()
    if config.sandbox_number is None:
        if envelope:
            raise ConfigurationError("IFINU_SANDBOX_NUMBER is not set: --envelope needs it to fill in the phone")
        notes.print(
            "IFINU_SANDBOX_NUMBER is not set here; workers without it dead-letter these messages.", style="yellow"
        )
    run = secrets.token_hex(3)
    bodies = ({"id": f"test_{run}_{i}", "tipo_notificacao": "lembrete"} for i in range(1, count + 1))
    with connection.broker() as client:
        dead_before = _dead(client)
        started = time.monotonic()
        for batch in _paced(bodies, rate):
            _publish(client, batch, envelope=envelope)
        document: dict[str, Any] = {"run": run, "pushed": count, "push_s": round(time.monotonic() - started, 3)}
        notes.print(f"{count:,} pushed in {span(document['push_s'])}: ids test_{run}_1 to test_{run}_{count}")
        if wait:
            drain, dead = _watch(client, dead_before, count, show=not as_json)
            took_s = time.monotonic() - started
            document |= {"drained_s": round(took_s, 3), "per_s": round(count / took_s, 2), "dead": dead}
            document |= {"pace_per_s": _rounded(drain.pace_per_s), "fastest_per_s": _rounded(drain.fastest_per_s)}
    if as_json:
        terminal.print_json(document)
    elif wait:
        terminal.results().print(f"{count:,} messages in {span(took_s)}: {_paces(document)}; {dead:,} dead letters")


def _paced(bodies: Iterable[dict[str, str]], rate: str | None) -> Iterator[list[dict[str, str]]]:
    """Yield the bodies in batches, each when the pace allows it."""
    try:
        per_s = None if rate is None else settings.rate_per_s(rate)
    except ValueError as exc:
        raise ConfigurationError(f"--rate: {exc}") from None
    # Ten batches a second, so that a paced run has no bursts.
    size = _CHUNK if per_s is None else max(1, min(_CHUNK, int(per_s / 10)))
    started, pushed, left = time.monotonic(), 0, iter(bodies)
    while batch := list(itertools.islice(left, size)):
        if per_s is not None:
            time.sleep(max(0.0, started + pushed / per_s - time.monotonic()))
        yield batch
        pushed += len(batch)


def _publish(client: redis.Redis, batch: list[dict[str, str]], *, envelope: bool) -> None:
    if not envelope:
        client.lpush(NORMAL, *(json.dumps(body, separators=(",", ":")) for body in batch))
        return
    from ifinu.worker.tasks import send_notification

    for body in batch:
        send_notification.enqueue(body)


def _dead(client: redis.Redis) -> int:
    return sum(queue.dead for queue in backlog.survey(client))


def _watch(client: redis.Redis, dead_before: int, pushed: int, *, show: bool) -> tuple[Drain, int]:
    """
    Show the backlog until every message has ended.

    Returns:
        What was seen, and the dead letters since the run began.

    Raises:
        Stalled: The backlog has not changed for a minute.
    """
    notes = terminal.notes()
    drain, line_at = Drain(), time.monotonic()
    live = Live(console=notes, auto_refresh=False) if show and notes.is_terminal else None
    if live:
        live.start()
    try:
        while True:
            queues = backlog.survey(client)
            now, dead = time.monotonic(), sum(queue.dead for queue in queues) - dead_before
            drain.saw(now, sum(queue.unsettled for queue in queues))
            if live:
                live.update(_line(drain, dead, pushed), refresh=True)
            elif show and now - line_at >= _LINE_EVERY_S:
                line_at = now
                notes.print(_line(drain, dead, pushed))
            if drain.left == 0:
                return drain, dead
            if now - drain.moved_at > _STALLED_S:
                raise Stalled(
                    f"{drain.left:,} messages are left, and their number has not changed for {_STALLED_S:.0f} s: check "
                    "with `ifinu status --workers` that a worker runs and no queue is paused"
                )
            time.sleep(_POLL_S)
    finally:
        if live:
            live.stop()


def _falling_per_s(first: tuple[float, int], last: tuple[float, int]) -> float:
    (then, before), (now, after) = first, last
    return max(0.0, (before - after) / (now - then)) if now > then else 0.0


def _line(drain: Drain, dead: int, pushed: int) -> str:
    done = max(0, pushed - drain.left - dead)
    eta = f"{span(drain.left / drain.rate_per_s)} to go" if drain.rate_per_s else "–"
    return f"{drain.rate_per_s:.0f}/s   {drain.left:,} left   {done:,} sent   {dead:,} dead   {eta}"


def _paces(document: dict[str, Any]) -> str:
    """Say how fast: of the whole run, or, once it lasted long enough to tell, of the workers alone."""
    if document["pace_per_s"] is None:
        return f"{document['per_s']:g} per second"
    fastest = document["fastest_per_s"]
    return f"pace {document['pace_per_s']:g} per second" + (f", {fastest:g} at its fastest" if fastest else "")


def _rounded(per_s: float | None) -> float | None:
    return None if per_s is None else round(per_s, 2)
