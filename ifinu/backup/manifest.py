"""
What a backup consists of, as its `manifest.json` says.

It is written last, so that its being there says that all that it names is.
"""

from __future__ import annotations

import enum
import re
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ifinu.errors import BackupFailed

FILE = "manifest.json"
FORMAT = 1  # of the manifest and of what lies beside it
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_TIME = "%Y%m%dT%H%M%SZ"


class Part(enum.StrEnum):
    """What is backed up, in the order in which it is."""

    REDIS = "redis"  # the queues, claims and opt-outs
    LEDGER = "ledger"  # what became of every notification
    EVOLUTION = "evolution"  # the gateway's database: its WhatsApp sessions and messages

    @property
    def file(self) -> str:
        """What it is called in the store."""
        return f"{self.value}.{'rdb' if self is Part.REDIS else 'dump'}"


FILES = frozenset({FILE, *(part.file for part in Part)})


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableSummary(_Written):
    """
    What a table held.

    Attributes:
        rows: How many.
        hash: The same for the same rows in any order, on any server; see `fingerprints.py`.
    """

    rows: int
    hash: str


class Kept(_Written):
    """
    One part, as it is in the store.

    Attributes:
        bytes: Its size.
        sha256: Its digest, in hex.
        server: Where it came from: `PostgreSQL 17.6`, `Valkey 9.1.2`.
        at: A time, by the server's clock, up to which all that happened there is in it.
        tables: Of a database: what it held, by schema and name.
        keys: Of Redis: how many keys it held, by database, as far as the file says so.
    """

    bytes: int
    sha256: str
    server: str
    at: AwareDatetime
    tables: dict[str, TableSummary] | None = None
    keys: dict[int, int] | None = None


class Manifest(_Written):
    """
    A whole backup.

    Attributes:
        format: Of this file.
        name: Of the backup.
        created_at: When it was begun.
        finished_at: When its last part was stored.
        ifinu: The version that took it.
        parts: What it consists of.
    """

    format: int
    name: str
    created_at: AwareDatetime
    finished_at: AwareDatetime
    ifinu: str
    parts: dict[Part, Kept]

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(kept.bytes for kept in self.parts.values())

    def write(self) -> bytes:
        """As JSON."""
        return self.model_dump_json(indent=1, exclude_none=True).encode() + b"\n"


def read(name: str, content: bytes) -> Manifest:
    """
    Read a manifest.

    Args:
        name: Of the backup that it is of.
        content: Of the file.

    Raises:
        BackupFailed: It is none, of another backup, or of a later version's form.
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
    """What a backup that was begun at `at` is called."""
    return at.astimezone(UTC).strftime(_TIME)


def is_name(name: str) -> bool:
    """Whether a folder of this name may be a backup of ours."""
    return _NAME.fullmatch(name) is not None and _time(name) is not None


def began(name: str) -> datetime:
    """When a backup was begun, by its name."""
    at = _time(name)
    if at is None:
        raise ValueError(f"{name!r} is not the name of a backup")
    return at


def _time(name: str) -> datetime | None:
    try:
        return datetime.strptime(name, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
