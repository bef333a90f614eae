from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ifinu.backup import manifest
from ifinu.backup.manifest import Manifest, Part, StoredPart, TableSummary
from ifinu.errors import BackupFailed

AT = datetime(2026, 12, 1, 3, 0, 0, tzinfo=UTC)
NAME = "20261201T030000Z"


def whole(**changes: object) -> Manifest:
    ledger = StoredPart(
        bytes=10,
        sha256="ab",
        server="PostgreSQL 17.6",
        at=AT,
        tables={"public.events": TableSummary(rows=2, hash="-5")},
    )
    redis = StoredPart(bytes=30, sha256="cd", server="Valkey 9.1.2", at=AT, keys={0: 7})
    given = {
        "format": 1, "name": NAME, "created_at": AT, "finished_at": AT, "ifinu": "0.1.0",
        "parts": {Part.REDIS: redis, Part.LEDGER: ledger},
    }  # fmt: skip
    return Manifest.model_validate(given | changes)


def test_a_manifest_survives_writing_and_reading():
    assert manifest.read(NAME, whole().write()) == whole()
    assert whole().size == 40


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"[]", "cannot be read"),
        (whole().write()[:-30], "cannot be read"),
        (whole(format=2).write(), "is of format 2, this version reads 1"),
        (whole(name="20261201T030001Z").write(), "is that of 20261201T030001Z"),
        (whole().write().replace(b'"bytes": 10', b'"bytes": "ten"'), "parts.ledger.bytes"),
        (whole().write().replace(b'"ifinu"', b'"ifinu_"'), "ifinu: Field required"),
    ],
)
def test_anything_but_the_manifest_of_this_backup_is_refused(content: bytes, message: str):
    with pytest.raises(BackupFailed, match=message):
        manifest.read(NAME, content)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        (NAME, True), ("20261201T030000", False), ("20261301T030000Z", False), ("latest", False),
        ("20261201T030000Z.old", False), (".20261201T030000Z", False), ("２０２６1201T030000Z", False),
    ],
)  # fmt: skip
def test_only_a_timestamp_is_a_backup_name(name: str, is_one: bool):
    assert manifest.is_name(name) == is_one


def test_a_backup_is_named_after_its_start_time():
    assert manifest.name_of(AT) == NAME
    assert manifest.began(NAME) == AT
