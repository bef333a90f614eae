"""
The stream `ifinu:eventos` -> the ledger, batch by batch.

A batch is read, written in one transaction, and only then acknowledged and deleted from the stream. A batch that fails
on the way is read again, and writing one twice is the same as writing it once. While the database or Redis is away the
events stay in the stream.

The stream itself can be lost: Redis is flushed, or restored from a snapshot. The ledger stores up to which entry it was
recorded, so the loss is noticed: the consumer group is gone, or has read less than was recorded. The loss is logged,
and written to `gaps`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic

import redis
import sqlalchemy.exc
import structlog
from sqlalchemy import Engine, insert

from ifinu import phone
from ifinu.errors import LedgerUnavailable
from ifinu.ledger import upserts
from ifinu.ledger.engine import writing
from ifinu.ledger.entries import Entry
from ifinu.ledger.fold import fold
from ifinu.ledger.migrate import HEAD, is_current, migrate
from ifinu.ledger.progress import Progress
from ifinu.ledger.schema import gaps
from ifinu.ledger.stream import Fields, Stream

log = structlog.get_logger(__name__)

_BATCH = 1000  # Redis needs 2 ms to hand them over
_WAIT_S = 1.0  # for the next event, and so the longest time until a stop is noticed
_GATHER_S = 0.25  # pause after a small batch, so that the next one is larger and the database has less to do
_BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
_KEEP_EVERY_S = 3.0
_MIGRATED_EVERY_S = 5.0
_DEAD_AFTER_S = 15.0
_CAUGHT_UP_EVERY_S = 0.5
_UPKEEP_EVERY_S = 3600.0
_LONGEST_REASON = 200
# Errors for which the data are at fault; drivers raise ValueError before they send.
_REFUSED = (sqlalchemy.exc.DataError, sqlalchemy.exc.IntegrityError, ValueError, OverflowError)


class Recorder:
    """
    Records until it is stopped. Several recorders at once do no harm.

    Args:
        client: A Redis client that nothing else uses, which returns bytes, with a read timeout well above a second.
        engine: The ledger. The recorder migrates SQLite itself, and waits until PostgreSQL is migrated.
        batch: The most entries per transaction.
        dead_after_s: Seconds after which entries that another recorder read and did not record are taken over.
        upkeep: Called between two batches, about once an hour, to purge the ledger; True to be called again at once.
        caught_up: Called about twice a second while the stream is recorded to its end.
        progress: Updated as it records.
    """

    def __init__(
        self,
        client: redis.Redis,
        engine: Engine,
        *,
        batch: int = _BATCH,
        dead_after_s: float = _DEAD_AFTER_S,
        upkeep: Callable[[], bool] = lambda: False,
        caught_up: Callable[[], None] = lambda: None,
        progress: Progress | None = None,
    ) -> None:
        self.progress = progress or Progress()
        self._stream = Stream(client)
        self._engine = engine
        self._batch = batch
        self._dead_after_s = dead_after_s
        self._upkeep = upkeep
        self._caught_up = caught_up
        self._caught_up_at = 0.0
        self._upkeep_at = 0.0
        self._recorded_to = (0, 0)  # the ledger is recorded at least up to this entry
        self._failures = 0

    def run(self, stop: threading.Event, keep: Callable[[], bool] = lambda: True) -> None:
        """
        Record until `stop` is set or another process leads. Wait while Redis or the database is away.

        Args:
            stop: Ends it, after one more batch.
            keep: Renews the leadership; called every few seconds at least. False ends it at once.
        """
        while True:
            try:
                if self._ready(stop, keep):
                    self._record_until(stop, keep)
                return
            except (LedgerUnavailable, redis.RedisError) as exc:
                self._failed(exc)
            if not _pause(_BACKOFF_S[min(self._failures, len(_BACKOFF_S)) - 1], stop, keep):
                return

    def _failed(self, exc: Exception) -> None:
        self._failures += 1
        if self._failures == 1:  # an outage is logged once
            log.warning("ifinu.recorder.waiting", error=str(exc), events="stay in the stream")

    def _succeeded(self) -> None:
        if self._failures:
            log.info("ifinu.recorder.resumed", failures=self._failures)
            self._failures = 0

    def _ready(self, stop: threading.Event, keep: Callable[[], bool]) -> bool:
        """Wait until the tables are migrated; False if it has to end before."""
        is_logged = False
        while not is_current(self._engine):
            if self._engine.dialect.name == "sqlite":
                migrate(self._engine)
                continue
            if not is_logged:
                log.error(
                    "ifinu.recorder.not_migrated", needs=HEAD, hint="run `ifinu migrate`; events stay in the stream"
                )
                is_logged = True
            if not _pause(_MIGRATED_EVERY_S, stop, keep):
                return False
        return True

    def _record_until(self, stop: threading.Event, keep: Callable[[], bool]) -> None:
        with self._engine.connect() as connection:
            self._recorded_to = upserts.position(connection)
        again = True  # first the entries that were read before and not recorded
        look_at = 0.0  # when to look next for entries of dead recorders
        while True:
            last_round = stop.is_set()
            taken = self._stream.take(self._batch, again=again, recorded_to=self._recorded_to)
            if taken is None:
                self._begin_anew()
                continue
            if taken.before < self._recorded_to:
                self._lost("went_back", read_to=taken.before)
                continue
            self.progress.lag = taken.length
            entries = taken.entries
            if not entries and not again and taken.pending and monotonic() >= look_at:
                look_at = monotonic() + self._dead_after_s / 3
                entries = self._stream.take_over(self._batch, int(self._dead_after_s * 1000))
            if entries:
                self._record(entries)
            if monotonic() >= self._upkeep_at and not self._upkeep():
                self._upkeep_at = monotonic() + _UPKEEP_EVERY_S
            if not again and len(entries) < self._batch and monotonic() >= self._caught_up_at:
                self._caught_up_at = monotonic() + _CAUGHT_UP_EVERY_S
                self._caught_up()
            self._succeeded()
            if last_round or not keep():
                return
            if again:
                again = bool(entries)
            elif not entries:
                self._stream.wait(taken.before, _WAIT_S)
            elif len(entries) < self._batch:
                stop.wait(_GATHER_S)

    # -- a batch

    def _record(self, raw: Mapping[bytes, Fields]) -> None:
        entries = []
        for id_, fields in raw.items():
            try:
                entries.append(Entry.read(id_, fields))
            except ValueError as exc:
                self._refuse(id_, phone.mask_in(str(exc))[:_LONGEST_REASON])
        self._write(entries)
        self._stream.acknowledge(raw)
        self.progress.lag = max(0, self.progress.lag - len(raw))

    def _write(self, entries: list[Entry]) -> None:
        """Write entries in one transaction; if the database refuses an entry, find it by halving, and leave it out."""
        if not entries:
            return
        try:
            rows = fold(entries)
            with writing(self._engine) as connection:
                upserts.write(connection, rows, datetime.now(UTC))
        except _REFUSED as exc:
            if len(entries) == 1:
                self._refuse(f"{entries[0].ms}-{entries[0].seq}".encode(), type(exc).__name__)
                return
            half = len(entries) // 2
            self._write(entries[:half])
            self._write(entries[half:])
            return
        self._recorded_to = max(self._recorded_to, rows.last)
        self.progress.recorded += len(entries)

    def _refuse(self, id_: bytes, reason: str) -> None:
        self.progress.refused += 1
        log.warning("ifinu.recorder.refused", entry=id_.decode(), error=reason)

    # -- a stream that was lost

    def _begin_anew(self) -> None:
        if self._stream.make_group() and self._recorded_to > (0, 0):
            self._lost("group_gone", read_to=(0, 0))

    def _lost(self, cause: str, *, read_to: tuple[int, int]) -> None:
        """
        Log the loss and write it to `gaps`, unless another recorder did.

        If this fails, the next round notices the loss again: the group will have read less than was recorded.
        """
        now = datetime.now(UTC)
        with writing(self._engine) as connection:
            known = upserts.position(connection)
            if known > read_to:
                connection.execute(insert(gaps).values(found_at=now, ms=known[0], seq=known[1], cause=cause))
                upserts.move(connection, read_to, now)
        self._recorded_to = read_to
        if known > read_to:
            self.progress.gaps += 1
            log.error(
                "ifinu.recorder.stream_lost",
                cause=cause,
                recorded_to=f"{known[0]}-{known[1]}",
                hint="events after that may be missing in the ledger",
            )


def _pause(seconds: float, stop: threading.Event, keep: Callable[[], bool]) -> bool:
    """Wait; False if `stop` was set or the leadership lost meanwhile."""
    until = monotonic() + seconds
    while (left := until - monotonic()) > 0:
        if stop.wait(min(left, _KEEP_EVERY_S)) or not keep():
            return False
    return True
