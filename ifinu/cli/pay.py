"""`ifinu pay`: what payment providers reported, what waits for its charge, and asking them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from ifinu import phone, settings
from ifinu.cli import billing_database, durations, terminal
from ifinu.cli.billing_view import brl
from ifinu.cli.sentences import clock
from ifinu.errors import ConfigurationError, IfinuError, ProviderError

if TYPE_CHECKING:
    from sqlalchemy import Engine, Row

    from ifinu.billing.payments.provider_events import PaymentEvent
    from ifinu.billing.payments.settlement import Settled

app = typer.Typer(no_args_is_help=True, help="Payments: the providers' events, and asking the providers again.")

_PROVIDERS = "asaas, stripe, woovi or mercado_pago"
_SINCE = timedelta(days=3)


@app.command()
def reconcile(
    provider: Annotated[str, typer.Option("--provider", metavar="NAME", help=f"{_PROVIDERS}.")],
    since: Annotated[
        timedelta | None,
        typer.Option("--since", parser=durations.parse, metavar="AGE", help="How far back: 12h, 3d; 3d by default."),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", metavar="ID", help="Only this tenant; otherwise all that have a key of the provider."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")] = False,
    as_json: terminal.Json = False,
) -> None:
    """
    Ask a provider what was paid, and record what its webhooks did not bring.

    Providers give up on a webhook that is not answered: Woovi after 42 minutes, Asaas after
    15 failures. After an outage, run this for the time of it; what is recorded already
    changes nothing. It needs [bold]api_key[/bold] in [bold]IFINU_PAYMENT_SECRETS_FILE[/bold].

    The exit code is 1 or 3 if a tenant's provider refused or did not answer; the other
    tenants are done all the same.

    [bold]Examples[/bold]

    ifinu pay reconcile --provider woovi --since 3d --dry-run
    ifinu pay reconcile --provider asaas --since 12h --tenant academia-fit
    ifinu pay reconcile --provider stripe --json | jq '.tenants[].unmatched'
    """
    from ifinu.billing.payments import providers
    from ifinu.billing.payments.provider_secrets import SecretsFile

    path = settings.load().payment_secrets_file
    if path is None:
        raise ConfigurationError("IFINU_PAYMENT_SECRETS_FILE is not set: the providers' keys stand in that file")
    known = [name for name, one in providers.PROVIDERS.items() if one.reported is not None]
    if provider not in known:
        raise ConfigurationError(f"--provider: {provider!r} has no API to ask; known: {', '.join(known)}")
    file = SecretsFile(path, providers.MODELS)
    tenants = file.tenants(provider) if tenant is None else [tenant]
    keys = {one: file.of(provider, one) for one in tenants}
    if not any(keys.values()):
        raise ConfigurationError(f"{path}: no tenant has secrets of {provider}" if tenant is None else
                                 f"{path}: {tenant} has no secrets of {provider}")  # fmt: skip
    now = datetime.now(UTC)
    failed: list[IfinuError] = []
    documents = []
    with billing_database.database() as engine:
        for one, secrets in keys.items():
            assert secrets is not None  # noqa: S101 - `tenants` lists those that have some
            try:
                events = providers.reported(provider, secrets, now - (since or _SINCE), now)
            except (ProviderError, ConfigurationError) as exc:
                failed.append(exc)
                documents.append({"tenant": one, "error": str(exc)})
                continue
            documents.append(_recorded(engine, one, events, now, dry_run=dry_run))
        if not dry_run:
            billing_database.cancel_in_redis(engine)
    if as_json:
        terminal.print_json({"provider": provider, "dry_run": dry_run, "tenants": documents})
    else:
        _print_reconciled(documents, dry_run=dry_run)
    if failed:
        raise failed[0]


@app.command()
def events(
    tenant: billing_database.TenantId = None,
    state: Annotated[
        str | None, typer.Option("--state", metavar="STATE", help="Only applied, ignored or unmatched ones.")
    ] = None,
    provider: Annotated[str | None, typer.Option("--provider", metavar="NAME", help="Only of this provider.")] = None,
    charge: Annotated[str | None, typer.Option("--charge", metavar="ID", help="Only about this charge.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="The most events.")] = 50,
    as_json: terminal.Json = False,
) -> None:
    """
    List what payment providers reported, the newest first.

    [bold]Examples[/bold]

    ifinu pay events
    ifinu pay events --charge inv-42
    ifinu pay events --tenant academia-fit --provider asaas --state ignored --json
    """
    from ifinu.billing.payments import settlement

    if state is not None and state not in settlement.STATES:
        raise ConfigurationError(f"--state must be {', '.join(settlement.STATES[:-1])} or {settlement.STATES[-1]}")
    with billing_database.database() as engine, engine.connect() as database:
        owner = billing_database.tenant_of(database, tenant)
        states = () if state is None else (state,)
        rows = settlement.recent(database, owner.id, states=states, provider=provider, charge=charge, limit=limit)
    _print_events(rows, owner.zone, as_json=as_json, nothing="No event.")


@app.command()
def unmatched(
    match: Annotated[
        tuple[str, str] | None,
        typer.Option("--match", metavar="EVENT CHARGE", help="Give an event to a charge, as if it named it."),
    ] = None,
    dismiss: Annotated[
        str | None, typer.Option("--dismiss", metavar="EVENT", help="Let an event wait no longer; nothing is paid.")
    ] = None,
    tenant: billing_database.TenantId = None,
    provider: Annotated[str | None, typer.Option("--provider", metavar="NAME", help="Only of this provider.")] = None,
    as_json: terminal.Json = False,
) -> None:
    """
    List the events whose charge is not known, or give one to its charge.

    An event waits until a charge with its reference is added or imported. If the provider has
    another reference than the charge, find the charge by amount and day, and name it. Dismiss
    an event about something that you do not bill here.

    [bold]Examples[/bold]

    ifinu pay unmatched
    ifinu pay unmatched --match 'evt_05b7&368604920' inv-42
    ifinu pay unmatched --dismiss 'evt_05b7&368604920'
    """
    from ifinu.billing.payments import settlement

    if match is not None and dismiss is not None:
        raise ConfigurationError("give --match or --dismiss, not both")
    with billing_database.database() as engine:
        if dismiss is not None:
            with engine.begin() as database:
                settlement.dismiss(
                    database, billing_database.tenant_of(database, tenant).id, dismiss, provider=provider
                )
            terminal.answer(
                {"event": dismiss, "state": settlement.IGNORED, "note": "dismissed"},
                terminal.plain(f"{dismiss}: dismissed"), as_json=as_json,
            )  # fmt: skip
            return
        if match is None:
            with engine.connect() as database:
                whose = billing_database.tenant_of(database, tenant)
                rows = settlement.recent(
                    database,
                    whose.id,
                    states=[settlement.UNMATCHED],
                    provider=provider,
                    limit=10_000,
                )
            _print_events(rows, whose.zone, as_json=as_json, nothing="Every event has its charge.")
            return
        event_id, charge = match
        now = datetime.now(UTC)
        with engine.begin() as database:
            owner = billing_database.tenant_of(database, tenant).id
            settled, *others = settlement.match_one(database, owner, event_id, charge, now, provider=provider)
        billing_database.cancel_in_redis(engine)
    document = {"event": event_id, **_as_json(settled), "others": [_as_json(one) for one in others]}
    also = f"; {len(others)} more of the same" if others else ""
    terminal.answer(document, terminal.plain(f"{event_id}: {_words(settled)}{also}"), as_json=as_json)


def _recorded(
    engine: Engine, tenant: str, found: Sequence[PaymentEvent], now: datetime, *, dry_run: bool
) -> dict[str, Any]:
    """Record a provider's events, each in a transaction; of a dry run, all in one that is undone."""
    from ifinu.billing.payments import settlement

    counts: Counter[str] = Counter()
    changes = []

    def note(event: PaymentEvent, settled: Settled) -> None:
        counts[settled.state] += 1
        if settled.state in (settlement.APPLIED, settlement.UNMATCHED):
            changes.append(
                {"event": event.event_id, "name": event.event, "effect": event.effect.value,
                 "amount": None if event.amount is None else str(event.amount), **_as_json(settled)}
            )  # fmt: skip

    if dry_run:
        with engine.connect() as database:
            for event in found:
                note(event, settlement.apply(database, tenant, event, now))
            database.rollback()
    else:
        for event in found:
            with engine.begin() as database:
                note(event, settlement.apply(database, tenant, event, now))
    return {"tenant": tenant, "asked": len(found), **{state: counts[state] for state in _STATES}, "changes": changes}


_STATES = ("applied", "unmatched", "ignored", "repeated")


def _print_reconciled(documents: Iterable[dict[str, Any]], *, dry_run: bool) -> None:
    out = terminal.results()
    would = "would be " if dry_run else ""
    for one in documents:
        if "error" in one:
            out.print(terminal.plain(f"{one['tenant']}: {one['error']}"), style="red", soft_wrap=True)
            continue
        for change in one["changes"]:
            where = f"charge {change['charge']}" if change["charge"] else "no charge"
            amount = brl(Decimal(change["amount"])) if change["amount"] else "all"
            words = f"  {change['name']}  {amount}  {where}  {change['state']} {change['note'] or ''}"
            out.print(terminal.plain(phone.mask_in(words.rstrip())), soft_wrap=True)
        out.print(
            terminal.plain(
                f"{one['tenant']}: {one['asked']:,} reported; {one['applied']:,} {would}recorded, "
                f"{one['unmatched']:,} without a charge, {one['ignored'] + one['repeated']:,} known or without effect"
            ),
            soft_wrap=True,
        )


def _print_events(rows: Sequence[Row[Any]], zone: ZoneInfo, *, as_json: bool, nothing: str) -> None:
    documents = [_event_as_json(row) for row in rows]
    if as_json:
        terminal.print_json({"total": len(documents), "events": documents})
        return
    out = terminal.results()
    if not documents:
        out.print(nothing)
        return
    table = terminal.columns("received", "provider", "event", "references", "amount", "charge", "state", "id",
                             right=("amount",))  # fmt: skip
    for row, one in zip(rows, documents, strict=True):
        state = f"{one['state']}: {one['note']}" if one["note"] else one["state"]
        cells = (clock(row.received_at, zone), one["provider"], one["event"], ", ".join(one["references"]),
                 "–" if row.amount is None else brl(row.amount), one["charge"] or "–", state, one["id"])  # fmt: skip
        table.add_row(*map(terminal.plain, cells))
    out.print(table)


def _event_as_json(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.event_id,
        "provider": row.provider,
        "event": row.event,
        "effect": row.effect,
        "state": row.state,
        "note": row.note,
        "charge": row.charge,
        "references": [phone.mask_in(one) for one in row.references],
        "amount": None if row.amount is None else str(row.amount),
        "paid_at": row.paid_at and row.paid_at.isoformat(),
        "received_at": row.received_at.isoformat(timespec="seconds"),
    }


def _as_json(settled: Settled) -> dict[str, Any]:
    return {
        "state": settled.state, "note": settled.note, "charge": settled.charge, "withdrawn": list(settled.cancelled),
    }  # fmt: skip


def _words(settled: Settled) -> str:
    if settled.state == "applied":
        return f"recorded for charge {settled.charge}" + (f" ({settled.note})" if settled.note else "")
    return f"{settled.state} ({settled.note})" if settled.note else settled.state
