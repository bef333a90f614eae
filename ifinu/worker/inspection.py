"""
A worker's answer to `ifinu top` and `ifinu status`, over Celery's remote control.

    version, pid, up_s            its identity; `up_s` is its uptime, so that two answers give a rate
    limit_per_s                   messages that it may start in a second; null without a limit
    waiting, slots, busy          messages that wait for their turn, sends it can do at the same time, those it does
    breaker_open                  the gateway is away
    owed, reaped, lost            see `metrics.sending.Now` and `broker.leases.Tally`
    ended                         messages by outcome, since its start; likewise:
    retried, deferred, in_doubt   tries that are followed by another, messages put off, sends with unknown outcome
    answers                       POSTs to the gateway by their answer
    instances                     {label: {sent, failed, held}}, as in the metrics
    records                       it writes the ledger

It holds nothing personal, and no more than a hundred instances.
"""

from __future__ import annotations

import os
from typing import Any

from celery.worker.control import inspect_command

from ifinu import __version__


@inspect_command()
def ifinu_snapshot(state: Any, **_: Any) -> dict[str, Any]:
    """Pace, slots, breaker, and the outcomes of messages since the worker started."""
    app = state.app
    return {"version": __version__, "pid": os.getpid(), **app.sending.snapshot(), "records": app.progress.active}
