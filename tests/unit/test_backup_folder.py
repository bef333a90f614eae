from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from ifinu.backup.folder import Folder
from ifinu.errors import BackupFailed

NAME = "20261201T030000Z"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def written(store: Folder, name: str, file: str, content: bytes) -> None:
    with store.writing(name, file) as sink:
        sink.write(content)


def read(store: Folder, name: str, file: str) -> bytes:
    with store.reading(name, file) as source:
        return source.read(1000)


def test_a_file_appears_when_it_is_complete_and_only_its_owner_can_read_it(root: Path):
    before = os.umask(0)
    try:
        store = Folder(root)
        assert store.begin(NAME)
        with store.writing(NAME, "redis.rdb") as sink:
            sink.write(b"one ")
            assert store.files(NAME) == {}
            sink.write(b"two")
    finally:
        os.umask(before)
    assert store.files(NAME) == {"redis.rdb": 7}
    assert read(store, NAME, "redis.rdb") == b"one two"
    assert [mode(root), mode(root / NAME), mode(root / NAME / "redis.rdb")] == [0o700, 0o700, 0o600]


def test_a_write_that_fails_leaves_no_file(root: Path):
    store = Folder(root)
    store.begin(NAME)

    def half() -> None:
        with store.writing(NAME, "redis.rdb") as sink:
            sink.write(b"half" * 100_000)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert os.listdir(root / NAME) == []


def test_a_full_disk_is_reported_and_leaves_no_file(root: Path, monkeypatch: pytest.MonkeyPatch):
    store = Folder(root)
    store.begin(NAME)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BackupFailed, match="No space left on device"):
            written(store, NAME, "redis.rdb", b"content")
    assert os.listdir(root / NAME) == []


def test_two_backups_do_not_share_a_folder(root: Path):
    store = Folder(root)
    assert [store.begin(NAME), Folder(root).begin(NAME)] == [True, False]


def test_only_files_named_like_backups_are_listed_and_deleted(root: Path):
    store = Folder(root)
    assert store.names() == []
    for name in ("20261202T030000Z", NAME):
        store.begin(name)
        written(store, name, "ledger.dump", b"x")
    (root / "notes").mkdir()
    (root / "20261203T030000Z").write_text("a file")
    (root / NAME / "mine.txt").write_text("kept")
    (root / NAME / ".redis.rdb.part").write_text("what a backup left that was killed")
    assert store.names() == [NAME, "20261202T030000Z"]
    store.delete(NAME)
    store.delete("20261202T030000Z")
    store.delete("20261202T030000Z")  # somebody else was quicker
    assert sorted(os.listdir(root)) == [NAME, "20261203T030000Z", "notes"]
    assert os.listdir(root / NAME) == ["mine.txt"]


def test_a_symbolic_link_is_not_taken_for_a_backup(root: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    root.mkdir()
    (root / NAME).symlink_to(tmp_path / "elsewhere")
    assert Folder(root).names() == []


def test_a_store_that_cannot_be_written_is_reported(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupFailed, match=f"the store {tmp_path}/file/x: Not a directory"):
        Folder(tmp_path / "file" / "x").begin(NAME)
