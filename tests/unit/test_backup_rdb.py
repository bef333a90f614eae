from __future__ import annotations

import pytest

from ifinu.backup.rdb import Outline
from ifinu.errors import BackupFailed

# RDB files of real servers without the keys: magic number, two auxiliary fields, one database and its key count.
REDIS_7_0 = (
    b"REDIS0010\xfa\tredis-ver\x067.0.15\xfa\nredis-bits\xc0@\xfa\x05ctime\xc2_\x90\x07k"
    b"\xfe\x00\xfb\x43\xe8\x00"
)  # fmt: skip
VALKEY_9 = b"REDIS0011\xfa\nvalkey-ver\x059.1.2\xfa\x05ctime\xc2_\x90\x07k\xfe\x03\xfb\x80\x00\x01\x86\xa0\x05"
VALKEY_80 = b"VALKEY080\xfa\x01a\xc1\x01\x02\xf5\xc3\x04\x0aabcd\xfe\x00\xf4\x00\x01\x00\xfb\x05\x00"
EMPTY = b"REDIS0011\xfa\nvalkey-ver\x059.1.2"
END = b"\xff\x01\x02\x03\x04\x05\x06\x07\x08"


def outlined(content: bytes, size: int = 7) -> Outline:
    outline = Outline()
    for start in range(0, len(content), size):
        outline.feed(content[start : start + size])
    return outline


@pytest.mark.parametrize(
    ("head", "keys"),
    [
        (REDIS_7_0, {0: 1000}),
        (VALKEY_9, {3: 100_000}),
        (VALKEY_80, {0: 5}),
        (EMPTY, {}),
        (b"REDIS0011\xfa\x80\xff\xff\xff\xff", {}),  # a string longer than the part of the file that is kept
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
def test_the_key_count_of_the_first_database_is_read(head: bytes, keys: dict[int, int], size: int):
    outline = outlined(head + END, size)
    outline.check()
    assert outline.keys() == keys


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a Redis snapshot"),
        (b"PGDMP" + REDIS_7_0 + END, "not a Redis snapshot"),
        (REDIS_7_0, "has no end"),
        ((REDIS_7_0 + END)[:-1], "has no end"),
        (REDIS_7_0 + END + b"\n", "has no end"),
    ],
)
def test_a_file_that_is_not_a_complete_rdb_is_refused(content: bytes, message: str):
    with pytest.raises(BackupFailed, match=message):
        outlined(content).check()
