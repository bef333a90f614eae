"""
`ifinu`, the command line: one file a command group.

Every command that prints takes `--json`. Only `main` turns errors into one line on stderr and an exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import redis
import typer

from ifinu import __version__
from ifinu.cli import (
    backup,
    billing_view,
    cancel,
    charge,
    customer,
    dead_letters,
    demo,
    doctor,
    enqueue,
    erase,
    flower,
    guard,
    instance,
    load,
    metrics,
    optout,
    pay,
    plan,
    queues,
    recorder,
    regua,
    report,
    restore,
    rules,
    scheduler,
    send,
    show,
    simulator,
    status,
    templates,
    tenant,
    top,
    unknown,
    webhook,
    worker,
)
from ifinu.errors import (
    BrokerUnavailable,
    ConfigurationError,
    GatewayError,
    IfinuError,
    InvalidBilling,
    InvalidNotification,
    LedgerUnavailable,
    NotFound,
    ProviderError,
)

FAILED, WRONG_USAGE, UNREACHABLE = 1, 2, 3
_INTERRUPTED = 130  # as a shell reports SIGINT

_EXIT_CODES = """[bold]Exit codes[/bold]

0 success.
1 a problem: a check failed, lines were refused, or nothing was found.
2 wrong arguments or settings.
3 Redis, the ledger, the gateway or a payment provider could not be reached, or refused.

Settings are [bold]IFINU_*[/bold] environment variables; docs/settings.md lists them."""

app = typer.Typer(
    name="ifinu",
    epilog=_EXIT_CODES,
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.command()(worker.worker)
app.command()(send.send)
app.command()(enqueue.enqueue)
app.command()(cancel.cancel)
app.command()(status.status)
app.command()(top.top)
app.command()(show.show)
app.add_typer(queues.app, name="queue")
app.add_typer(dead_letters.app, name="dlq")
app.add_typer(unknown.app, name="unknown")
app.add_typer(optout.app, name="optout")
app.add_typer(tenant.app, name="tenant")
app.add_typer(customer.app, name="customer")
app.add_typer(charge.app, name="charge")
app.add_typer(rules.app, name="rules")
app.add_typer(regua.app, name="regua")
app.add_typer(templates.app, name="template")
app.add_typer(pay.app, name="pay")
app.command()(webhook.webhook)
app.command()(flower.flower)
app.add_typer(instance.app, name="instance")
app.command()(guard.guard)
app.command()(plan.plan)
app.command()(load.load)
app.command()(doctor.doctor)
app.command()(recorder.migrate)
app.command()(recorder.recorder)
app.command()(scheduler.scheduler)
app.command()(metrics.metrics)
app.add_typer(report.app, name="report")
app.command()(erase.erase)
app.add_typer(backup.app, name="backup")
app.command()(restore.restore)
app.command()(simulator.simulator)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ifinu {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Billing notifications over WhatsApp: never lost, at an exact pace."""


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command.

    Args:
        arguments: The command line without `ifinu`; this process's by default.

    Returns:
        The exit code; `ifinu --help` lists them.
    """
    try:
        app(arguments, prog_name="ifinu")
        sys.stdout.flush()
    except SystemExit as exc:  # Typer always ends with one
        return exc.code if isinstance(exc.code, int) else 0 if exc.code is None else FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader closed the pipe; without this, the interpreter's final flush would fail with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (IfinuError, redis.RedisError) as exc:
        typer.echo(f"error: {_message(exc)}", err=True)
        return exit_code(exc)
    return 0


def exit_code(exc: IfinuError | redis.RedisError) -> int:
    match exc:
        case NotFound():
            return FAILED
        case ConfigurationError() | InvalidNotification() | InvalidBilling():
            return WRONG_USAGE
        case BrokerUnavailable() | LedgerUnavailable() | redis.RedisError():
            return UNREACHABLE
        case GatewayError() | ProviderError():
            return UNREACHABLE if exc.status is None else FAILED
    return FAILED


def _message(exc: IfinuError | redis.RedisError) -> str:
    match exc:
        case redis.AuthenticationError():
            return f"Redis refused the login ({exc}); correct the user and password in IFINU_REDIS_URL"
        case redis.ConnectionError() | redis.TimeoutError():
            return f"Redis cannot be reached ({exc}); check IFINU_REDIS_URL, or run `ifinu doctor`"
        case redis.RedisError():
            return f"Redis refused the command ({exc}); run `ifinu doctor`"
        case InvalidBilling() if exc.field in billing_view.OPTIONS:
            return f"{billing_view.OPTIONS[exc.field]}: {exc.reason}"
    return str(exc)
