"""
The check at the send: a worker looks at a charge once more before it sends a message about it.

    still to be paid              the message, written anew with what is due today; or its payment code as it is now
    paid, cancelled, held, …      `notification.Stop`: it ends as cancelled, with that reason
    nobody knows                  None: the message goes as it is

PostgreSQL is not to stop a send. If it is away, or answers too late, the message goes as it is; its cancellation in
Redis holds all the same. Then a breaker keeps the messages that follow from waiting for it: one of them asks again
every few seconds, and waits less.

Nothing is loaded and nothing connects before the first message about a charge.
"""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import structlog

from ifinu import loop
from ifinu.errors import IfinuError, LedgerUnavailable
from ifinu.notification import Notification, Stop
from ifinu.render import Renderer

if TYPE_CHECKING:  # they load SQLAlchemy, which most workers do without
    from sqlalchemy import Engine

    from ifinu.billing.texts import Texts

log = structlog.get_logger(__name__)

_FIRST_PATIENCE_S = 3.0  # SQLAlchemy is loaded, and the first connection made
_PATIENCE_S = 1.0  # while it answers; a message that does not wait may go to somebody who has paid
_PATIENCE_OF_A_PROBE_S = 0.2
_STATEMENT_S = 1
_THREADS = 2  # and so connections


class Breaker(Protocol):
    """The part of a breaker that the check uses; the gateway's has it."""

    def wait_s(self) -> float: ...

    def started(self) -> None: ...

    def failed(self) -> bool: ...

    def answered(self) -> bool: ...


class ChargeCheck:
    """
    The check of one worker.

    Args:
        url: As `Settings.database_url`, of a PostgreSQL.
        renderer: As the worker has it.
        breaker: Opens at the first failure.

    Attributes:
        results: Counts of looks by their result: `fresh`, the reason of a `Stop`, `unknown` (the database does not have
            the charge or the step), or `unchecked` (it is away, or too slow).
    """

    def __init__(self, url: str, renderer: Renderer, breaker: Breaker) -> None:
        self._url = url
        self._renderer = renderer
        self._breaker = breaker
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="ifinu-charges")
        self._known: tuple[Engine, Texts] | None = None
        self._patience_s = _FIRST_PATIENCE_S
        self.results: Counter[str] = Counter(dict.fromkeys(("fresh", "unknown", "unchecked", *Stop), 0))

    def __call__(self, notification: Notification, now: datetime) -> Notification | Stop | None:
        """
        Look at a message's charge.

        Args:
            notification: A message with `charge_ref`.
            now: The time.

        Returns:
            As above. The message keeps its id, phone, instance, priority and validity.
        """
        if self._breaker.wait_s() > 0:
            self.results["unchecked"] += 1
            return None
        self._breaker.started()
        looking = self._threads.submit(self._look, notification, now)
        try:
            found = loop.result_of(looking, self._patience_s)
        except (LedgerUnavailable, TimeoutError) as exc:
            looking.cancel()
            if self._patience_s == _PATIENCE_S:
                self._patience_s = _PATIENCE_OF_A_PROBE_S
            self.results["unchecked"] += 1
            if self._breaker.failed():
                log.warning("ifinu.charges.unchecked", error=str(exc))
            return None
        self._patience_s = _PATIENCE_S
        if self._breaker.answered():
            log.info("ifinu.charges.checked")
        self.results["unknown" if found is None else found.value if isinstance(found, Stop) else "fresh"] += 1
        return found

    def _look(self, notification: Notification, now: datetime) -> Notification | Stop | None:
        """
        Look at a charge, in a thread of the check.

        Raises:
            LedgerUnavailable: The database does not answer, or lacks the tables.
        """
        import psycopg2
        from sqlalchemy.exc import SQLAlchemyError

        from ifinu.billing.messages import compose

        message, _, is_code = notification.id.partition("#")  # `c42.atraso.261205#pix` has the code alone
        try:
            engine, texts = self._connected()
            with engine.connect() as connection:
                found = compose(connection, [(int(notification.charge_ref or 0), message)], now, texts).get(message)
        except (SQLAlchemyError, psycopg2.Error, IfinuError) as exc:  # the driver's own, of a connection just lost
            raise exc if isinstance(exc, LedgerUnavailable) else LedgerUnavailable(type(exc).__name__) from exc
        match found:
            case None | Stop.INVALID:  # what it says was right when it was queued
                return None
            case Stop():
                return found
        if found.phone != notification.phone:  # its claim asked whether another person had opted out
            return Stop.CANCELLED
        if is_code:
            codes = {code.id: code.text for code in found.code_messages(notification.instance or "-")}
            text = codes.get(notification.id)
            return Stop.CANCELLED if text is None else notification.model_copy(update={"text": text})
        kept = ("instance", "priority", "valid_until")
        return found.model_copy(update={name: getattr(notification, name) for name in kept})

    def _connected(self) -> tuple[Engine, Texts]:
        if self._known is None:
            from ifinu.billing.texts import Texts
            from ifinu.ledger.engine import connect

            engine = connect(self._url, statement_s=_STATEMENT_S, autocommit=True)
            self._known = engine, Texts(self._renderer)
        return self._known
