"""`ifinu instance assign` and `sync`, and the registration of an instance as a number."""

from __future__ import annotations

import dataclasses
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import redis
import typer

from ifinu import phone as phones
from ifinu import settings, window
from ifinu.broker import clock, lanes
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.cli import terminal
from ifinu.cli.instance import access, paces, webhooks
from ifinu.errors import ConfigurationError, GatewayError
from ifinu.numbers.presets import Preset, checked, warm_up_start

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ifinu.gateway import Instance, Management, Webhook
    from ifinu.numbers.registry import Number, Policy

ALL_TENANTS = "*"


def tenant_name(text: str) -> str:
    if not (name := text.strip()):
        raise typer.BadParameter(f"a tenant needs a name; {ALL_TENANTS} is for all tenants")
    return name


def _policy(text: str) -> Policy:
    from ifinu.numbers.registry import Policy

    try:
        return Policy(text.strip().lower())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no policy: write {' or '.join(Policy)}") from None


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date; write 2026-12-01") from None


PairedOn = Annotated[
    date | None,
    typer.Option(
        "--paired-on", parser=_day, metavar="DATE",
        help="When it was paired, as 2026-12-01; by default the day of its first message in the ledger, or today.",
    ),
]  # fmt: skip


def assign(
    tenant: Annotated[
        str,
        typer.Argument(parser=tenant_name, metavar="TENANT", help="The tenant (usuario_id); '*' is for all tenants."),
    ],
    names: access.Names,
    preset: paces.PresetOption = None,
    gap: paces.Gap = None,
    parallel: paces.Parallel = None,
    per_day: paces.PerDay = None,
    new_chats: paces.NewChats = None,
    warm_up: paces.WarmUp = None,
    portfolio: paces.PortfolioOption = None,
    tier: paces.Tier = None,
    paired_on: PairedOn = None,
    weight: Annotated[
        int | None,
        typer.Option("--weight", min=1, max=100, metavar="N", help="The tenant's turns where it shares a number."),
    ] = None,
    policy: Annotated[
        Any,
        typer.Option(
            "--policy",
            parser=_policy,
            metavar="POLICY",
            help="fixo: one number for a person (the default); rodizio: the tenant's numbers in turns.",
        ),
    ] = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Register instances as numbers with a pace, and give them to a tenant.

    From then on a message of another tenant is not sent from them, and each keeps its
    pace. The instances must exist at the gateway. One that is registered already
    changes its tenant, and its pace if one is given; while messages of the former
    tenant wait for it, that is refused.

    A number paired in the last 14 days is warmed up, unless [bold]--no-warm-up[/bold] is given.

    [bold]Examples[/bold]

    ifinu instance assign u1 acme
    ifinu instance assign u1 acme acme-2 --preset moderado --policy rodizio
    ifinu instance assign u1 acme --paired-on 2025-03-01
    ifinu instance assign u1 meta-1 meta-2 --preset cloud --portfolio acme --tier 1000
    """
    from ifinu.numbers import cache, registry

    owner = None if tenant == ALL_TENANTS else tenant
    if owner is None and (weight is not None or policy is not None):
        raise ConfigurationError("a weight and a policy are a tenant's: name one instead of '*'")
    shared = None if portfolio is None else portfolio.name
    if tier is not None and shared is None:
        raise ConfigurationError("a tier is a portfolio's: give --portfolio too")
    given = paces.overrides(gap, parallel, per_day, new_chats)
    with access.registry() as (client, engine):
        now = clock.now(client)
        known = {name: registry.number(engine, name) for name in names}
        missing = [name for name, found in known.items() if found is None]
        for name in missing:
            registry.check_name(name)
        there = _instances(missing) if missing else {}
        for name, found in known.items():
            if found is not None and found.tenant != owner:
                refuse_waiting(client, name, owner)
        for name, found in known.items():
            if found is None:
                new = numbered(client, engine, there[name][0], owner, preset, given, warm_up, paired_on, now)
                registry.register(engine, dataclasses.replace(new, portfolio=shared))
            else:
                values = paces.changes(found, preset, given, warm_up, portfolio, now)
                if paired_on is not None:
                    values["paired_at"] = _noon(paired_on, found.zone)
                registry.change(engine, name, tenant=owner, **values)
        if owner is not None and (weight is not None or policy is not None):
            registry.set_tenant(engine, owner, policy=policy, weight=weight)
        if tier is not None and shared is not None:
            registry.set_tier(engine, shared, tier.most)
        cache.load(client, engine)
        lanes.look_at(client, *names)
        for name in missing:
            webhooks.note(name, there[name][1])
        now_known = [registry.registered(engine, name) for name in names]
        portfolios = {one.name: one for one in registry.read(engine).portfolios}
    if as_json:
        terminal.print_json({"tenant": owner, "numbers": [access.number_document(one) for one in now_known]})
        return
    whose = "all tenants" if owner is None else f"tenant {terminal.plain(owner)}"
    for one in now_known:
        verb = "is registered for" if known[one.name] is None else "is of"
        words = paces.sentence(one, now, portfolios.get(one.portfolio or ""))
        terminal.results().print(f"{terminal.plain(one.name)} {verb} {whose}; {words}", soft_wrap=True)
    guessed = [one.name for one in now_known if known[one.name] is None and one.paired_at == now]
    if guessed and warm_up is None and paired_on is None:
        terminal.notes().print(
            f"The ledger has no message of {terminal.plain(', '.join(guessed))}, so the age counts from today. If that "
            "is wrong, run it again with --paired-on",
            soft_wrap=True,
        )


def sync(as_json: terminal.Json = False) -> None:
    """
    Write the registry's copy in Redis again, and count in the ledger what was sent today.

    Every change does so by itself; use it after the database was restored, or changed
    by other means.

    [bold]Examples[/bold]

    ifinu instance sync
    """
    from ifinu.numbers import cache, registry

    with access.registry() as (client, engine):
        generation = cache.load(client, engine, recount=True)
        found = registry.read(engine)
    count = len(found.numbers)
    document = {"generation": generation, "numbers": count, "tenants": len(found.tenants)}
    words = f"{count} number{'' if count == 1 else 's'} in Redis" if count else "nothing is registered"
    terminal.answer(document, words, as_json=as_json)


def numbered(
    client: redis.Redis,
    engine: Engine,
    instance: Instance,
    owner: str | None,
    preset: Preset | None,
    given: dict[str, int | None],
    warm_up: bool | None,
    paired_on: date | None,
    now: datetime,
) -> Number:
    """
    The number that an instance is registered as.

    Args:
        owner: Its tenant; None for all.
        given: Values instead of the preset's.
        warm_up: As `--warm-up`; None: by itself.
        paired_on: As `--paired-on`.
    """
    from ifinu.numbers import registry

    preset = preset or Preset.CONSERVATIVE
    if warm_up and not preset.warms_up:
        raise ConfigurationError(f"a number with the preset {preset.value} is not warmed up")
    phone = access.phone_of(instance)
    zone = window.BRASILIA if phone is None else window.zone_of(phone)
    paired_at = _noon(paired_on, zone) if paired_on else registry.first_sent(engine, instance.name)
    if paired_at is None and instance.owner_jid is not None:
        paired_at = now
    today = now.astimezone(ZoneInfo(zone)).date()
    paired = None if paired_at is None else paired_at.astimezone(ZoneInfo(zone)).date()
    begins = None
    if warm_up is not False:
        begins = today if warm_up else warm_up_start(preset, paired, today)
    return registry.Number(
        instance.name,
        now,
        tenant=owner,
        channel=registry.Channel(instance.channel.removeprefix("WHATSAPP-")),
        zone=zone,
        preset=preset,
        overrides=checked(preset, given),
        paired_at=paired_at,
        warm_up=warm_up is not False and preset.warms_up,
        warm_up_from=begins,
        **phone_columns(client, phone),
    )


def phone_columns(client: redis.Redis, phone: str | None) -> dict[str, Any]:
    """A number's columns of its phone, masked and as a pseudonym."""
    if phone is None:
        return {"phone": None, "phone_hash": None}
    key = settings.load().phone_key
    pseudonyms = Pseudonyms.load(client, None if key is None else key.get_secret_value())
    return {"phone": phones.mask(phone), "phone_hash": pseudonyms.of(phone)}


def refuse_waiting(client: redis.Redis, name: str, owner: str | None) -> None:
    """
    Refuse to take a number from tenants whose messages wait for it.

    Raises:
        ConfigurationError: They do.
    """
    others = sorted({lane.tenant for lane in lanes.counts(client, number=name) if lane.length} - {owner})
    if owner is not None and others:
        raise ConfigurationError(
            f"messages of {', '.join(other or 'no tenant' for other in others)} wait for {name}, and could not be sent "
            f"from it any more: let it send them, or move them with `ifinu instance move`"
        )


def _instances(names: list[str]) -> dict[str, tuple[Instance, Webhook | None]]:
    """The gateway's instances of these names, each with its webhook; GatewayError if one is not there."""
    with access.gateway() as gateway:
        found, quiet = access.listed(gateway)
        there = {one.name: one for one, _ in found if one.name in names}
        for name in names:
            if name not in there:
                unsure = f"; these processes do not answer: {', '.join(quiet)}" if quiet else ""
                raise GatewayError(
                    f"the gateway has no instance {name}{unsure}: see `ifinu instance list`, or create it with `ifinu "
                    "instance create`",
                    instance=name,
                    status=404,
                )
        return {name: (one, _webhook(gateway, name)) for name, one in there.items()}


def _webhook(gateway: Management, name: str) -> Webhook | None:
    """The webhook of an instance; None also if the gateway does not say."""
    try:
        return gateway.find_webhook(name)
    except GatewayError:
        return None


def _noon(day: date, zone: str) -> datetime:
    return datetime.combine(day, time(12), ZoneInfo(zone))
