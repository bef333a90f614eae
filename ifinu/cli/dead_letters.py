"""`ifinu dlq`: list, show, replay, purge and export dead letters."""

from __future__ import annotations

import heapq
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import redis
import typer

from ifinu import settings
from ifinu.broker import DeadLetter, DeadLetters, Filter
from ifinu.broker.dead_letters import body_of
from ifinu.cli import connection, files, terminal
from ifinu.cli.connection import QueueName
from ifinu.cli.durations import NewerThan, OlderThan, span
from ifinu.cli.outline import outline
from ifinu.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, help="See the messages that will not be sent, and why; replay or purge them.")

_Reason = Annotated[str | None, typer.Option("--reason", help="Only those with this reason.")]
_Kind = Annotated[str | None, typer.Option("--kind", help="Only those of this kind, such as lembrete.")]
_Id = Annotated[str | None, typer.Option("--id", help="Only those of this notification id.")]
_Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Stop after this many.")]
_All = Annotated[bool, typer.Option("--all", help="Select all dead letters, instead of a filter.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count them.")]


@app.command("list")
def list_(
    reason: _Reason = None,
    kind: _Kind = None,
    id: _Id = None,  # noqa: A002 - the option's name
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    queue: connection.Queue = QueueName.ALL,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show this many.")] = 20,
    as_json: terminal.Json = False,
) -> None:
    """
    List the latest dead letters, and count all of them by reason.

    [bold]Examples[/bold]

    ifinu dlq list
    ifinu dlq list --reason number_not_on_whatsapp --newer-than 1d
    ifinu dlq list --json | jq .by_reason
    """
    wanted = Filter(reason, kind, id, older_than, newer_than)
    now = datetime.now(UTC)
    reasons: Counter[str] = Counter()
    with connection.broker() as client:
        latest: list[DeadLetter] = []
        for letter in _find(client, queue, wanted, now):
            reasons[letter.reason] += 1
            latest.append(letter)
            if len(latest) > 2 * limit:  # bounds memory: the oldest are read first, and there may be millions
                latest = _newest(latest)[:limit]
    latest = _newest(latest)[:limit]
    if as_json:
        letters = [_without_content(letter) for letter in latest]
        terminal.print_json({"total": reasons.total(), "by_reason": dict(reasons.most_common()), "letters": letters})
        return
    out = terminal.results()
    if not latest:
        out.print("No dead letters.")
        return
    table = terminal.columns(
        "#", "id", "kind", "reason", "tries", "last error", "age", right=("#", "tries", "age"), whole=("reason",)
    )
    for number, letter in enumerate(latest, 1):
        cells = (letter.id or "–", letter.kind or "–", letter.reason, str(letter.attempts), _short(letter.error))
        table.add_row(str(number), *map(terminal.plain, cells), span(now - letter.last_at))
    out.print(table)
    out.print()
    summary = terminal.columns("", "by reason", right=("",))
    for name, count in reasons.most_common():
        summary.add_row(f"{count:,}", terminal.plain(name))
    out.print(summary)


@app.command()
def show(
    which: Annotated[str, typer.Argument(metavar="ID|#", help="An id, or the number in `ifinu dlq list`.")],
    queue: connection.Queue = QueueName.ALL,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show the message as it was pushed, with phone, name and text.")
    ] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Show one dead letter: its reason, and the fields that its producer pushed.

    Phones are masked; names and texts are hidden unless you add [bold]--reveal[/bold].

    [bold]Examples[/bold]

    ifinu dlq show inv-42:lembrete
    ifinu dlq show 1 --reveal
    """
    now = datetime.now(UTC)
    with connection.broker() as client:
        found = [DeadLetters(client, key).newest(Filter(id=which), now) for key in queue.lists]
        letters = _newest([letter for letter in found if letter is not None])
        if not letters and which.isdecimal():
            # A dead letter without an id can only be named by its number.
            letters = heapq.nlargest(int(which), _find(client, queue, Filter(), now), key=_age)[int(which) - 1 :]
    if not letters:
        terminal.notes().print(f"There is no dead letter {terminal.plain(which)}; `ifinu dlq list` shows them.")
        raise typer.Exit(1)
    letter = letters[0]
    body = letter.as_json()
    if not reveal:
        body = {name: value for name, value in body.items() if name != "raw_b64"} | {"raw": _outline(letter)}
    if as_json:
        terminal.print_json(body)
        return
    out = terminal.results()
    for name, value in body.items():
        out.print(f"[dim]{name:9}[/] {terminal.plain(str('–' if value is None else value))}", soft_wrap=True)


@app.command()
def replay(
    reason: _Reason = None,
    kind: _Kind = None,
    id: _Id = None,  # noqa: A002 - the option's name
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    queue: connection.Queue = QueueName.ALL,
    limit: _Limit = None,
    everything: _All = False,
    rate: Annotated[str | None, typer.Option(metavar="RATE", help="Limit the pace: 20/s, 100/m.")] = None,
    dry_run: _DryRun = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Put dead letters back on their queues, the oldest first.

    They get their full number of tries again.

    [bold]Examples[/bold]

    ifinu dlq replay --reason connection_closed --dry-run
    ifinu dlq replay --reason connection_closed --rate 20/s
    ifinu dlq replay --all
    """
    wanted = _checked(Filter(reason, kind, id, older_than, newer_than), everything=everything)
    pause = _pacer(rate)
    with connection.broker() as client:
        if dry_run:
            done = _count(client, queue, wanted, limit)
        else:
            done = _act(client, queue, wanted, limit, lambda letters: letters.replay, pause)
    _report(done, "would be replayed" if dry_run else "replayed", as_json=as_json)


@app.command()
def purge(
    reason: _Reason = None,
    kind: _Kind = None,
    id: _Id = None,  # noqa: A002 - the option's name
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    queue: connection.Queue = QueueName.ALL,
    limit: _Limit = None,
    everything: _All = False,
    dry_run: _DryRun = False,
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Delete dead letters for good, the oldest first.

    [bold]Examples[/bold]

    ifinu dlq purge --older-than 30d
    ifinu dlq purge --reason invalid --yes
    """
    wanted = _checked(Filter(reason, kind, id, older_than, newer_than), everything=everything)
    with connection.broker() as client:
        done = _count(client, queue, wanted, limit)
        if not dry_run and done:
            terminal.confirm(f"{done:,} dead letters will be deleted.", "purge", yes=yes)
            done = _act(client, queue, wanted, limit, lambda letters: letters.purge, lambda: None)
    _report(done, "would be deleted" if dry_run else "deleted", as_json=as_json)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE|-", help="New file to write; `-` writes to stdout.")],
    reason: _Reason = None,
    kind: _Kind = None,
    id: _Id = None,  # noqa: A002 - the option's name
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    queue: connection.Queue = QueueName.ALL,
    limit: _Limit = None,
) -> None:
    """
    Write dead letters as JSON lines, the oldest first.

    Each has the message as it was pushed, with phone, name and text. Only the
    file's owner can read it.

    [bold]Examples[/bold]

    ifinu dlq export dead.jsonl
    ifinu dlq export - --reason invalid | jq -r .raw
    """
    wanted = Filter(reason, kind, id, older_than, newer_than)
    now = datetime.now(UTC)
    count = 0
    with connection.broker() as client, files.created(file) as out:
        for letter in itertools.islice(_find(client, queue, wanted, now), limit):
            out.write(json.dumps(letter.as_json(), ensure_ascii=False) + "\n")
            count += 1
    terminal.notes().print(f"{count:,} dead letters written, with personal data (phones, names, texts)", style="yellow")


def _outline(letter: DeadLetter) -> str:
    fields = body_of(letter.raw)
    if fields:
        return json.dumps(outline(fields), ensure_ascii=False)
    return f"({len(letter.original()):,} bytes without readable fields; --reveal shows them)"


def _find(client: redis.Redis, queue: QueueName, wanted: Filter, now: datetime) -> Iterator[DeadLetter]:
    for key in queue.lists:
        yield from DeadLetters(client, key).find(wanted, now)


def _newest(letters: list[DeadLetter]) -> list[DeadLetter]:
    return sorted(letters, key=_age, reverse=True)


def _age(letter: DeadLetter) -> datetime:
    return letter.last_at


def _count(client: redis.Redis, queue: QueueName, wanted: Filter, limit: int | None) -> int:
    return sum(1 for _ in itertools.islice(_find(client, queue, wanted, datetime.now(UTC)), limit))


def _act(
    client: redis.Redis,
    queue: QueueName,
    wanted: Filter,
    limit: int | None,
    act_of: Callable[[DeadLetters], Callable[[DeadLetter], bool]],
    pause: Callable[[], None],
) -> int:
    """Replay or purge dead letters, the oldest first; return their number."""
    now = datetime.now(UTC)
    done = 0
    for key in queue.lists:
        letters = DeadLetters(client, key)
        done += letters.clear(wanted, now, act_of(letters), pause, None if limit is None else limit - done)
    return done


def _pacer(rate: str | None) -> Callable[[], None]:
    """A function that waits, so that it returns no faster than `rate`; its first call returns at once."""
    if rate is None:
        return lambda: None
    try:
        gap_s = 1 / settings.rate_per_s(rate)
    except ValueError as exc:
        raise ConfigurationError(f"--rate: {exc}") from None
    due = time.monotonic()

    def wait() -> None:
        nonlocal due
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due, time.monotonic() - gap_s) + gap_s

    return wait


def _checked(wanted: Filter, *, everything: bool) -> Filter:
    if wanted == Filter() and not everything:
        raise ConfigurationError("give a filter (--reason, --kind, --id, --older-than, --newer-than) or --all")
    if wanted != Filter() and everything:
        raise ConfigurationError("give either filters or --all, not both")
    return wanted


def _report(count: int, verb: str, *, as_json: bool) -> None:
    terminal.answer({verb.replace(" ", "_"): count}, f"{count:,} {verb}", as_json=as_json)


def _without_content(letter: DeadLetter) -> dict[str, Any]:
    return {name: value for name, value in letter.as_json().items() if name not in ("raw", "raw_b64")}


def _short(error: str) -> str:
    return error if len(error) <= 60 else f"{error[:59]}…"
