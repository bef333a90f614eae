"""`ifinu instance`: the gateway's instances, and the registry of those that are numbers with a pace."""

from __future__ import annotations

import typer

from ifinu.cli.instance import overview, paces, pairing, registration, removal, webhooks

app = typer.Typer(
    no_args_is_help=True,
    help="Create, pair and inspect WhatsApp instances, and register them as numbers with a pace and a tenant.",
)
app.command()(pairing.create)
app.command()(pairing.connect)
app.command("qr")(pairing.qr_code)
app.command("list")(overview.show_all)
app.command()(overview.state)
app.command()(overview.show)
app.command("test")(overview.ask)
app.command()(registration.assign)
app.command()(paces.pace)
app.command()(paces.hold)
app.command()(paces.release)
app.command()(pairing.restart)
app.command()(webhooks.webhook)
app.command()(removal.move)
app.command()(pairing.logout)
app.command()(removal.delete)
app.command()(removal.orphans)
app.command()(registration.sync)
