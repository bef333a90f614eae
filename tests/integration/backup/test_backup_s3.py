"""Backups in S3, on moto, a real server of its protocol."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from backups import digest
from command_line import Shell
from processes import Queue, numbered, wait_until

from ifinu.backup.s3 import Bucket
from ifinu.backup.store import open_store
from ifinu.embedded import Valkey, free_port
from ifinu.errors import BackupFailed

NAME = "20261201T030000Z"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty server."""
    pytest.importorskip("moto")
    port = free_port()
    log = (tmp_path_factory.mktemp("s3") / "log").open("wb")
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/moto-api/", timeout=1) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    wait_until(answers, 60)
    yield url
    process.terminate()
    process.wait(20)
    log.close()


@pytest.fixture
def client(s3: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An S3 client, as an operator uses it."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": s3, "AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    urllib.request.urlopen(urllib.request.Request(f"{s3}/moto-api/reset", method="POST"), timeout=10).close()
    made = boto3.client("s3")
    made.create_bucket(Bucket="backups")
    yield made
    made.close()


@pytest.fixture
def bucket(client: Any) -> Bucket:
    found = open_store("s3://backups/ifinu/production")
    assert isinstance(found, Bucket)
    return found


def keys(client: Any) -> list[str]:
    return [one["Key"] for one in client.list_objects_v2(Bucket="backups").get("Contents", ())]


def read(bucket: Bucket, name: str, file: str) -> bytes:
    content = b""
    with bucket.reading(name, file) as source:
        while chunk := source.read(100_000):
            content += chunk
    return content


@pytest.mark.parametrize("size", [0, 1, 16 * 2**20, 16 * 2**20 + 17, 33 * 2**20])
def test_a_file_of_any_size_appears_only_once_complete(bucket: Bucket, client: Any, size: int):
    """
    The larger files are uploaded in parts.
    """
    content = os.urandom(size)
    assert bucket.begin(NAME)
    with bucket.writing(NAME, "redis.rdb") as sink:
        for start in range(0, size, 300_000):
            sink.write(content[start : start + 300_000])
        assert bucket.files(NAME) == {}
    assert bucket.files(NAME) == {"redis.rdb": size}
    assert hashlib.sha256(read(bucket, NAME, "redis.rdb")).digest() == hashlib.sha256(content).digest()


@pytest.mark.parametrize("size", [1_000, 17 * 2**20])
def test_a_failed_upload_leaves_nothing(bucket: Bucket, client: Any, size: int):
    bucket.begin(NAME)

    def half() -> None:
        with bucket.writing(NAME, "redis.rdb") as sink:
            sink.write(b"x" * size)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert bucket.files(NAME) == {}
    assert "Uploads" not in client.list_multipart_uploads(Bucket="backups")


def test_two_backups_do_not_share_a_folder(bucket: Bucket):
    assert [bucket.begin(NAME), bucket.begin(NAME)] == [True, False]


def test_only_ifinus_own_files_are_listed_and_deleted(bucket: Bucket, client: Any):
    others = [
        f"ifinu/production/{NAME}/mine.txt", "ifinu/production/notes", "ifinu/staging/20261201T030000Z/manifest.json",
        "ifinu/production/notes/manifest.json",
    ]  # fmt: skip
    for key in others:
        client.put_object(Bucket="backups", Key=key, Body=b"")
    for name in (NAME, "20261202T030000Z"):
        bucket.begin(name)
        with bucket.writing(name, "manifest.json") as sink:
            sink.write(b"{}")
    assert bucket.names() == [NAME, "20261202T030000Z"]
    for name in (*bucket.names(), *bucket.names()):
        bucket.delete(name)
    assert keys(client) == sorted(others)


def test_unfinished_uploads_are_dropped(bucket: Bucket, client: Any):
    ours = f"ifinu/production/{NAME}/ledger.dump"
    for key in (ours, "ifinu/production/theirs", "elsewhere"):
        client.create_multipart_upload(Bucket="backups", Key=key)
    (began,) = {one["Initiated"] for one in client.list_multipart_uploads(Bucket="backups")["Uploads"]}
    bucket.abandon(began)
    assert len(client.list_multipart_uploads(Bucket="backups")["Uploads"]) == 3
    bucket.abandon(began + timedelta(seconds=1))
    left = {one["Key"] for one in client.list_multipart_uploads(Bucket="backups")["Uploads"]}
    assert left == {"ifinu/production/theirs", "elsewhere"}


def test_the_stores_error_is_passed_on(client: Any):
    with pytest.raises(BackupFailed, match=r"the store s3://nowhere/x: .*NoSuchBucket"):
        open_store("s3://nowhere/x").names()


@pytest.mark.timeout(180)
def test_a_backup_in_s3_is_created_verified_and_restored(
    client: Any, ifinu: Shell, valkey: Valkey, target: Valkey, fresh_urls: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """
    The backup is created, listed, verified, damaged and restored there.
    """
    monkeypatch.setenv("IFINU_BACKUP_STORE", "s3://backups/production")
    with redis.Redis.from_url(valkey.url) as source, redis.Redis.from_url(target.url) as fresh:
        Queue(source).push(*numbered(2_000))
        taken = ifinu("backup", "--json")
        assert taken.code == 0, taken.err
        name = taken.json["name"]
        files = ("begun", "evolution.dump", "ledger.dump", "manifest.json", "redis.rdb")
        assert keys(client) == [f"production/{name}/{file}" for file in files]
        assert (ifinu("backup", "list").code, ifinu("backup", "verify").code) == (0, 0)
        drill = (
            "--into-redis",
            target.url,
            "--into-database",
            fresh_urls[0],
            "--into-evolution-database",
            fresh_urls[1],
        )
        ended = ifinu("backup", "verify", *drill)
        assert ended.code == 0, ended.out
        assert digest(fresh) == digest(source)
        key = f"production/{name}/ledger.dump"
        body = bytearray(client.get_object(Bucket="backups", Key=key)["Body"].read())
        body[len(body) // 2] ^= 1
        client.put_object(Bucket="backups", Key=key, Body=bytes(body))
        ended = ifinu("backup", "verify")
        assert (ended.code, "ledger.dump is damaged" in " ".join(ended.out.split())) == (1, True)


@pytest.mark.timeout(180)
def test_a_backup_killed_during_its_upload_never_looks_complete(
    client: Any, ifinu: Shell, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("IFINU_BACKUP_STORE", "s3://backups/production")
    with redis.Redis.from_url(valkey.url) as source:
        source.set("large", os.urandom(60 * 2**20))
        command = [sys.executable, "-m", "ifinu", "backup"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: client.list_multipart_uploads(Bucket="backups").get("Uploads"), 60)
        process.kill()
        process.wait(20)
    ended = ifinu("backup", "list")
    assert (ended.code, "incomplete" in ended.out) == (1, True)
    assert ifinu("backup", "verify").code == 1
