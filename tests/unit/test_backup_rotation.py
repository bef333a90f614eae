from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ifinu.backup import manifest, rotation
from ifinu.backup.folder import Folder
from ifinu.errors import BackupFailed

NOW = datetime(2026, 12, 31, 12, 0, 0, tzinfo=UTC)
ALIEN = "20260101T000000Z-copy"


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    (tmp_path / ALIEN).mkdir()
    return Folder(tmp_path)


def named(age: timedelta) -> str:
    return manifest.name_of(NOW - age)


def add(store: Folder, *ages: timedelta, complete: bool = True) -> None:
    for age in ages:
        store.begin(named(age))
        for file in ("redis.rdb", *(["manifest.json"] if complete else [])):
            with store.writing(named(age), file) as sink:
                sink.write(b"{}")


@pytest.mark.parametrize(
    ("complete", "unfinished", "kept_complete", "kept_unfinished"),
    [
        ([0, 1, 13, 14, 15, 40], [], [0, 1, 13, 14], []),
        ([20, 30, 40], [], [20], []),  # the newest complete one stays at any age
        ([20], [0.5, 1.5, 30], [20], [0.5]),  # an unfinished backup is deleted and does not count as the newest
        ([], [0.1, 2], [], [0.1]),
        ([-0.1, 3], [], [-0.1, 3], []),  # a clock was set back
    ],
)
def test_the_backups_that_rotation_keeps(store: Folder, complete, unfinished, kept_complete, kept_unfinished):
    add(store, *(timedelta(days=age) for age in complete))
    add(store, *(timedelta(days=age) for age in unfinished), complete=False)
    gone = rotation.prune(store, NOW, 14)
    left = {named(timedelta(days=age)) for age in (*kept_complete, *kept_unfinished)}
    assert set(store.names()) == left
    assert set(gone) == {named(timedelta(days=age)) for age in (*complete, *unfinished)} - left
    assert (Path(store.place) / ALIEN).is_dir()
    assert rotation.prune(store, NOW, 14) == []


def test_the_latest_backup_is_the_newest_complete_one(store: Folder):
    add(store, timedelta(days=2))
    add(store, timedelta(days=1), complete=False)
    assert rotation.complete(store) == [named(timedelta(days=2))]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("latest", "there is no complete backup in"),
        ("20260101T000000Z", "there is no backup '20260101T000000Z' in"),
        ("../etc", "there is no backup '../etc' in"),
        ("20261231T120000Z", "20261231T120000Z is incomplete"),
    ],
)
def test_an_incomplete_backup_is_not_chosen(store: Folder, name: str, message: str):
    add(store, timedelta(0), complete=False)
    with pytest.raises(BackupFailed, match=message):
        rotation.find(store, name)
