"""
The manifest of a backup, `manifest.json`: its parts, with their sizes and checksums.

It is written last: a backup with a manifest is complete.
"""

from __future__ import annotations

import enum
import re
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ifinu.errors import BackupFailed

FILE = "manifest.json"
FORMAT = 1  # version of the manifest and of the files beside it
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_TIME = "%Y%m%dT%H%M%SZ"


class Part(enum.StrEnum):
    """The parts of a backup, in the order in which they are copied."""

    REDIS = "redis"  # the queues, claims and opt-outs
    LEDGER = "ledger"  # the history of every notification
    EVOLUTION = "evolution"  # the gateway's database: its WhatsApp sessions and messages

    @property
    def file(self) -> str:
        """Name of its file in the store."""
        return f"{self.value}.{'rdb' if self is Part.REDIS else 'dump'}"


FILES = frozenset({FILE, *(part.file for part in Part)})


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableSummary(_Written):
    """
    The fingerprint of a table.

    Attributes:
        rows: Number of rows.
        hash: Hash of the rows, independent of their order and of the server; see `fingerprints.py`.
    """

    rows: int
    hash: str


class Kept(_Written):
    """
    One part in the store.

    Attributes:
        bytes: Size of its file.
        sha256: Digest of its file, in hex.
        server: The server it was copied from: `PostgreSQL 17.6`, `Valkey 9.1.2`.
        at: A time by the server's clock; the part has every change up to then.
        tables: Of a database: the fingerprint of each table, by schema and name.
        keys: Of Redis: the number of keys by database, as far as the file says so.
    """

    bytes: int
    sha256: str
    server: str
    at: AwareDatetime
    tables: dict[str, TableSummary] | None = None
    keys: dict[int, int] | None = None


class Manifest(_Written):
    """
    A complete backup.

    Attributes:
        format: Version of this file's format.
        name: Name of the backup.
        created_at: When it began.
        finished_at: When its last part was stored.
        ifinu: The version of ifinu that created it.
        parts: Its parts.
    """

    format: int
    name: str
    created_at: AwareDatetime
    finished_at: AwareDatetime
    ifinu: str
    parts: dict[Part, Kept]

    @property
    def size(self) -> int:
        """Size of all parts in bytes."""
        return sum(kept.bytes for kept in self.parts.values())

    def write(self) -> bytes:
        """Encode the manifest as JSON."""
        return self.model_dump_json(indent=1, exclude_none=True).encode() + b"\n"


def read(name: str, content: bytes) -> Manifest:
    """
    Read a manifest.

    Args:
        name: Name of its backup.
        content: Content of the file.

    Raises:
        BackupFailed: It is not a manifest, is another backup's, or has the format of a later version.
    """
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BackupFailed(f"{name}: {FILE} cannot be read ({where}: {first['msg']})") from None
    if manifest.format != FORMAT:
        raise BackupFailed(f"{name}: {FILE} is of format {manifest.format}, this version reads {FORMAT}")
    if manifest.name != name:
        raise BackupFailed(f"{name}: {FILE} is that of {manifest.name}")
    return manifest


def name_of(at: datetime) -> str:
    """Name of a backup that began at `at`."""
    return at.astimezone(UTC).strftime(_TIME)


def is_name(name: str) -> bool:
    """Whether this is the name of a backup."""
    return _NAME.fullmatch(name) is not None and _time(name) is not None


def began(name: str) -> datetime:
    """When a backup began, by its name; ValueError if it is not the name of a backup."""
    at = _time(name)
    if at is None:
        raise ValueError(f"{name!r} is not the name of a backup")
    return at


def _time(name: str) -> datetime | None:
    try:
        return datetime.strptime(name, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
