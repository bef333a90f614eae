"""The options of a pace, and `ifinu instance pace`, `hold` and `release`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ifinu.broker import clock, lanes
from ifinu.broker.events import Event, Name
from ifinu.cli import durations, terminal
from ifinu.cli.instance import access
from ifinu.errors import ConfigurationError
from ifinu.numbers.presets import Pace, Preset, checked, warm_up_start

if TYPE_CHECKING:
    from ifinu.numbers.registry import Number, Portfolio

BY_HAND = "by hand"
_NONE = ("none", "-")


@dataclass(frozen=True)
class Pause:
    """The shortest and the longest pause after a send."""

    least_ms: int
    most_ms: int


@dataclass(frozen=True)
class Limit:
    """A limit a day; None for no limit."""

    most: int | None


@dataclass(frozen=True)
class InPortfolio:
    """The portfolio that a number is to be in; None for none."""

    name: str | None


def _portfolio(text: str) -> InPortfolio:
    name = text.strip()
    return InPortfolio(None if name.lower() in _NONE else name)


def _gap(text: str) -> Pause:
    first, dash, last = text.strip().removesuffix("s").partition("-")
    try:
        least = float(first)
        return Pause(round(least * 1000), round((float(last) if dash else least) * 1000))
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no pause in seconds; write 8-25, or 5 for always 5") from None


def _limit(text: str) -> Limit:
    if text.strip().lower() in _NONE:
        return Limit(None)
    try:
        return Limit(int(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no whole number; write a number, or none for no limit") from None


PresetOption = Annotated[
    Preset | None, typer.Option("--preset", help="The pace: see docs/numbers.md; conservador by default.")
]
Gap = Annotated[
    Pause | None,
    typer.Option("--gap", parser=_gap, metavar="SECONDS", help="Pause after each send, random within: 8-25."),
]
Parallel = Annotated[int | None, typer.Option("--parallel", metavar="N", help="Messages in flight at once.")]
PerDay = Annotated[
    Limit | None,
    typer.Option("--per-day", parser=_limit, metavar="N", help="Most messages a day, or none for no limit."),
]
NewChats = Annotated[
    Limit | None,
    typer.Option(
        "--new-chats", parser=_limit, metavar="N", help="Most people first written to a day, or none for no limit."
    ),
]
PortfolioOption = Annotated[
    InPortfolio | None,
    typer.Option(
        "--portfolio", parser=_portfolio, metavar="NAME", help="Its business portfolio at Meta, or none to leave it."
    ),
]
Tier = Annotated[
    Limit | None,
    typer.Option(
        "--tier",
        parser=_limit,
        metavar="N",
        help="Most people whom the portfolio's numbers may write to in 24 hours, or none; 250 by default.",
    ),
]
WarmUp = Annotated[
    bool | None,
    typer.Option("--warm-up/--no-warm-up", help="Warm it up from today on, or not; by itself if paired lately."),
]


def overrides(
    gap: Pause | None,
    parallel: int | None,
    per_day: Limit | None,
    new_chats: Limit | None,
) -> dict[str, int | None]:
    """The options that were given, by the names of `Pace`."""
    given: dict[str, int | None] = {}
    if gap is not None:
        given |= {"gap_min_ms": gap.least_ms, "gap_max_ms": gap.most_ms}
    if parallel is not None:
        given["parallel"] = parallel
    if per_day is not None:
        given["per_day"] = per_day.most
    if new_chats is not None:
        given["new_chats"] = new_chats.most
    return given


def changes(
    known: Number,
    preset: Preset | None,
    given: dict[str, int | None],
    warm_up: bool | None,
    portfolio: InPortfolio | None,
    now: datetime,
) -> dict[str, Any]:
    """
    The columns of a number that options change. Another preset drops what replaced values of the former one.

    Raises:
        ConfigurationError: The pace makes no sense.
    """
    values: dict[str, Any] = {} if portfolio is None else {"portfolio": portfolio.name}
    if preset is not None:
        values["preset"] = preset
    if preset is not None or given:
        kept = {} if preset is not None else known.overrides
        values["overrides"] = checked(preset or known.preset, {**kept, **given})
    today = known.local(now).date()
    if warm_up is False or (preset is not None and not preset.warms_up):
        values |= {"warm_up": False, "warm_up_from": None}
    elif warm_up or preset is Preset.WARM_UP:
        if not (preset or known.preset).warms_up:
            raise ConfigurationError(f"a number with the preset {(preset or known.preset).value} is not warmed up")
        values |= {"warm_up": True, "warm_up_from": warm_up_start(Preset.WARM_UP, None, today)}
    return values


def pace(
    name: access.Name,
    preset: PresetOption = None,
    gap: Gap = None,
    parallel: Parallel = None,
    per_day: PerDay = None,
    new_chats: NewChats = None,
    warm_up: WarmUp = None,
    portfolio: PortfolioOption = None,
    tier: Tier = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Show the pace of a registered number, or change it.

    Another preset drops what replaced single values of the former one. The change
    counts from the number's next send on.

    [bold]Examples[/bold]

    ifinu instance pace acme
    ifinu instance pace acme --preset moderado --per-day 600
    ifinu instance pace acme --gap 10-40 --new-chats 20
    ifinu instance pace acme --no-warm-up
    ifinu instance pace meta-1 --preset cloud --portfolio acme --tier 1000
    """
    from ifinu.numbers import cache, registry

    with access.registry() as (client, engine):
        now = clock.now(client)
        found = registry.registered(engine, name)
        values = changes(found, preset, overrides(gap, parallel, per_day, new_chats), warm_up, portfolio, now)
        shared = found.portfolio if portfolio is None else portfolio.name
        if tier is not None and shared is None:
            raise ConfigurationError(f"a tier is a portfolio's, and {name} is in none: give --portfolio too")
        if values:
            found = registry.change(engine, name, **values)
        if tier is not None and shared is not None:
            registry.set_tier(engine, shared, tier.most)
        if values or tier is not None:
            cache.load(client, engine)
            lanes.look_at(client, name)
        its = None if found.portfolio is None else registry.portfolio(engine, found.portfolio)
    document = {"name": name, "preset": found.preset.value, **document_of(found.pace(now))}
    document["portfolio"] = found.portfolio
    document["tier"] = None if its is None else its.conversations
    document["warm_up_day"] = found.warm_up_day(now)
    terminal.answer(document, f"{terminal.plain(name)}: {sentence(found, now, its)}", as_json=as_json)


def hold(
    name: access.Name,
    lasting: Annotated[
        timedelta | None,
        typer.Option(
            "--for", parser=durations.parse, metavar="TIME", help="How long; until it is released by default."
        ),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for those who look.")] = BY_HAND,
    as_json: terminal.Json = False,
) -> None:
    """
    Stop sending from a number; its messages wait in their order.

    What is being sent at this moment ends. A longer hold for another reason stays.

    [bold]Examples[/bold]

    ifinu instance hold acme
    ifinu instance hold acme --for 2h --reason "phone is being replaced"
    """
    from ifinu.numbers import cache, directory, registry

    if reason == directory.BANNED:
        raise ConfigurationError(f"{reason} is the reason of a number that WhatsApp banned: name another")
    with access.registry() as (client, engine):
        until = registry.UNTIL_RELEASED if lasting is None else clock.now(client) + lasting
        known = registry.registered(engine, name)
        in_force = lanes.hold(client, name, until.timestamp() * 1000, reason)
        if in_force is None or in_force.reason == reason:
            known = registry.hold(engine, name, until, reason)
        if in_force is None:  # Redis has lost the copy
            cache.load(client, engine)
        if known.held_reason == reason:
            until_ = until.isoformat(timespec="seconds")
            Event(Name.NUMBER, data={"number": name, "step": "held", "until": until_, "reason": reason}).write(client)
    if in_force is not None and in_force.reason != reason:
        document = {"name": name, "held_until": None, "held_reason": in_force.reason}
        words = f"{terminal.plain(name)} is held longer already ({terminal.plain(in_force.reason)})"
        terminal.answer(document, words, as_json=as_json)
        return
    terminal.answer({"name": name, **held(known)}, f"{terminal.plain(name)} {held_sentence(known)}", as_json=as_json)


def release(name: access.Name, as_json: terminal.Json = False) -> None:
    """
    End a number's hold, its ban and its time without new chats, whoever set them.

    [bold]Examples[/bold]

    ifinu instance release acme
    """
    from ifinu.numbers import cache, registry

    with access.registry() as (client, engine):
        before = registry.registered(engine, name)
        now_free = registry.release(engine, name)
        cache.load(client, engine)
        was_held = lanes.release(client, name) or before.held_until is not None or before.banned_at is not None
        if was_held:
            Event(Name.NUMBER, data={"number": name, "step": "released", "reason": BY_HAND}).write(client)
    words = "is released" if was_held else "was not held"
    terminal.answer(
        {"name": name, "released": was_held, **held(now_free)}, f"{terminal.plain(name)} {words}", as_json=as_json
    )


def document_of(found: Pace) -> dict[str, int | None]:
    return asdict(found)


def sentence(number: Number, now: datetime, portfolio: Portfolio | None = None) -> str:
    """A number's pace in words."""
    found = number.pace(now)
    least, most = found.gap_min_ms / 1000, found.gap_max_ms / 1000
    gap = "no pause" if most == 0 else f"a pause of {least:g} s" if least == most else f"pauses of {least:g}–{most:g} s"
    limits = [
        f"{found.per_day:,} messages" if found.per_day is not None else "any number of messages",
        f"{found.new_chats:,} new chats" if found.new_chats is not None else "any number of new chats",
    ]
    day = number.warm_up_day(now)
    warming = "" if day is None else f"; day {day} of its warm-up"
    shared = "" if number.portfolio is None else f"; in the portfolio {terminal.plain(number.portfolio)}"
    if portfolio is not None:
        people = "any number of people" if portfolio.conversations is None else f"{portfolio.conversations:,} people"
        shared += f", {people} in 24 hours"
    return f"{number.preset.value}: {found.parallel} at a time, {gap}, {' and '.join(limits)} a day{warming}{shared}"


def held(number: Number) -> dict[str, Any]:
    """A number's hold as JSON."""
    until = number.held_until
    return {"held_until": until and until.isoformat(timespec="seconds"), "held_reason": number.held_reason}


def held_sentence(number: Number) -> str:
    """A number's hold in words."""
    from ifinu.cli.sentences import clock as written
    from ifinu.numbers.registry import UNTIL_RELEASED

    if number.held_until is None:
        return "is not held"
    until = "until it is released" if number.held_until >= UNTIL_RELEASED else f"until {written(number.held_until)}"
    return f"is held {until} ({terminal.plain(number.held_reason or '')})"
