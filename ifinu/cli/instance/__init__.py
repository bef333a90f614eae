"""`ifinu instance`: the gateway's instances, and the registry of those that are numbers with a pace."""

from __future__ import annotations

import typer

from ifinu.cli.instance import lifecycle, overview, paces, registration, removal, webhooks

app = typer.Typer(
    no_args_is_help=True,
    help="Create, pair and inspect WhatsApp instances, and register them as numbers with a pace and a tenant.",
)
app.command()(lifecycle.create)
app.command()(lifecycle.connect)
app.command("qr")(lifecycle.qr_code)
app.command("list")(overview.show_all)
app.command()(overview.state)
app.command()(overview.show)
app.command("test")(overview.ask)
app.command()(registration.assign)
app.command()(paces.pace)
app.command()(paces.hold)
app.command()(paces.release)
app.command()(lifecycle.restart)
app.command()(webhooks.webhook)
app.command()(removal.move)
app.command()(lifecycle.logout)
app.command()(removal.delete)
app.command()(removal.orphans)
app.command()(registration.sync)
