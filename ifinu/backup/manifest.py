"""
The manifest of a backup: its parts, their sizes and checksums.

`manifest.json` is written last, so where it exists, every file that it names is complete.
"""

from __future__ import annotations

import enum
import re
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ifinu.errors import BackupFailed

FILE = "manifest.json"
FORMAT = 1  # of the manifest and of the files beside it
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_TIME = "%Y%m%dT%H%M%SZ"


class Part(enum.StrEnum):
    """The parts of a backup, in the order in which they are copied."""

    REDIS = "redis"  # the queues, claims and opt-outs
    LEDGER = "ledger"  # the outcome of every notification
    EVOLUTION = "evolution"  # the gateway's database: its WhatsApp sessions and messages

    @property
    def file(self) -> str:
        return f"{self.value}.{'rdb' if self is Part.REDIS else 'dump'}"


FILES = frozenset({FILE, *(part.file for part in Part)})


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableSummary(_Entry):
    """
    The content of a table, in two figures.

    Attributes:
        hash: Equal for the same rows in any order, on any server; see `fingerprints.py`.
    """

    rows: int
    hash: str


class StoredPart(_Entry):
    """
    One part of a backup, as stored.

    Attributes:
        sha256: Digest of its file, in hex.
        server: The server it was copied from: `PostgreSQL 17.6`, `Valkey 9.1.2`.
        at: The copy holds every change up to this time, by the server's clock.
        tables: For a database, its tables by `schema.name`.
        keys: For Redis, the number of keys by database number, for the databases that the file counts at its start.
    """

    bytes: int
    sha256: str
    server: str
    at: AwareDatetime
    tables: dict[str, TableSummary] | None = None
    keys: dict[int, int] | None = None


class Manifest(_Entry):
    """
    A complete backup.

    Attributes:
        format: Version of the manifest's format.
        created_at: Start of the backup.
        finished_at: Time at which its last part was stored.
        ifinu: Version of ifinu that created it.
    """

    format: int
    name: str
    created_at: AwareDatetime
    finished_at: AwareDatetime
    ifinu: str
    parts: dict[Part, StoredPart]

    @property
    def size(self) -> int:
        """Size of all parts together, in bytes."""
        return sum(stored.bytes for stored in self.parts.values())

    def write(self) -> bytes:
        return self.model_dump_json(indent=1, exclude_none=True).encode() + b"\n"


def read(name: str, content: bytes) -> Manifest:
    """
    Read a manifest.

    Args:
        name: Name of the folder it was read from.

    Raises:
        BackupFailed: The content is not a manifest, is that of another backup, or has a format of another version.
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
    return at.astimezone(UTC).strftime(_TIME)


def is_name(name: str) -> bool:
    try:
        return _NAME.fullmatch(name) is not None and began(name) is not None
    except ValueError:
        return False


def began(name: str) -> datetime:
    """Start of a backup, from its name; ValueError if the name is not one of a backup."""
    return datetime.strptime(name, _TIME).replace(tzinfo=UTC)
