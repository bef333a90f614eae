"""
Backups in an S3-compatible store; keys, region and endpoint come from the `AWS_*` variables, as botocore reads them.

A small file is one PutObject, a larger one a multipart upload, which becomes an object only when it is completed. So
nothing is buffered on a disk, and an incomplete file does not appear.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from ifinu.backup import manifest
from ifinu.backup.store import Sink, Source
from ifinu.errors import BackupFailed, ConfigurationError

_PIECE_BYTES = 16 * 2**20  # S3 allows 10,000 pieces, so 156 GiB per file
_BEGUN = "begun"  # an empty object that reserves a folder for one backup


class Bucket:
    """
    A store in a bucket; `Store` documents the methods.

    Args:
        prefix: Prefix of all keys, without slashes at its ends; may be empty.

    Raises:
        ConfigurationError: boto3 is not installed, or cannot be configured, for example for lack of a region.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as exc:
            raise ConfigurationError("backups in S3 need boto3: pip install 'ifinu[s3]'") from exc
        self.place = f"s3://{bucket}/{prefix}"
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client_error: type[Exception] = ClientError
        self._failed = (BotoCoreError, ClientError)
        config = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "max_attempts": 5})
        try:
            self._client: Any = boto3.client("s3", config=config)
        except (BotoCoreError, ValueError) as exc:
            raise ConfigurationError(f"{self.place}: {exc}") from exc

    def begin(self, name: str) -> bool:
        with self._errors():
            try:
                self._client.put_object(**self._at(name, _BEGUN), Body=b"", IfNoneMatch="*")
            except self._client_error as exc:
                if _status(exc) in (409, 412):
                    return False
                if _status(exc) != 501:  # the store supports no conditional writes
                    raise
                if self._sizes(f"{name}/"):
                    return False
                self._client.put_object(**self._at(name, _BEGUN), Body=b"")
        return True

    @contextlib.contextmanager
    def writing(self, name: str, file: str) -> Iterator[Sink]:
        with self._errors():
            upload = _Upload(self._client, self._at(name, file))
            try:
                yield upload
                upload.finish()
            except BaseException:
                with contextlib.suppress(*self._failed):  # `abandon` aborts the upload later
                    upload.abort()
                raise

    @contextlib.contextmanager
    def reading(self, name: str, file: str) -> Iterator[Source]:
        with self._errors():
            body = self._client.get_object(**self._at(name, file))["Body"]
            try:
                yield body
            finally:
                body.close()

    def names(self) -> list[str]:
        with self._errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
            )
            found = [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", ())]
        return sorted(
            name for one in found if manifest.is_name(name := one.removeprefix(self._prefix).removesuffix("/"))
        )  # fmt: skip

    def files(self, name: str) -> dict[str, int]:
        with self._errors():
            return {file: size for file, size in self._sizes(f"{name}/").items() if file in manifest.FILES}

    def delete(self, name: str) -> None:
        with self._errors():
            for file in (manifest.FILE, *sorted(manifest.FILES - {manifest.FILE}), _BEGUN):
                self._client.delete_object(**self._at(name, file))

    def abandon(self, before: datetime) -> None:
        """Abort uploads that were begun before this time and never finished: they cost, and no listing shows them."""
        with self._errors():
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            for one in (one for page in pages for one in page.get("Uploads", ())):
                name, _, file = one["Key"].removeprefix(self._prefix).partition("/")
                if manifest.is_name(name) and file in manifest.FILES and one["Initiated"] < before:
                    self._client.abort_multipart_upload(**self._at(name, file), UploadId=one["UploadId"])

    def _at(self, name: str, file: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{name}/{file}"}

    def _sizes(self, folder: str) -> dict[str, int]:
        prefix = self._prefix + folder
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        return {one["Key"].removeprefix(prefix): one["Size"] for page in pages for one in page.get("Contents", ())}

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (*self._failed, OSError) as exc:
            raise BackupFailed(f"the store {self.place}: {exc}") from exc


class _Upload:
    def __init__(self, client: Any, at: dict[str, str]) -> None:
        self._client = client
        self._at = at
        self._buffer = bytearray()
        self._id = ""
        self._pieces: list[dict[str, Any]] = []

    def write(self, data: bytes, /) -> None:
        self._buffer += data
        while len(self._buffer) >= _PIECE_BYTES:
            self._send(bytes(self._buffer[:_PIECE_BYTES]))
            del self._buffer[:_PIECE_BYTES]

    def finish(self) -> None:
        if not self._id:
            self._client.put_object(**self._at, Body=bytes(self._buffer))
            return
        if self._buffer:
            self._send(bytes(self._buffer))
        self._client.complete_multipart_upload(
            **self._at, UploadId=self._id, MultipartUpload={"Parts": self._pieces}
        )  # fmt: skip

    def abort(self) -> None:
        if self._id:
            self._client.abort_multipart_upload(**self._at, UploadId=self._id)

    def _send(self, piece: bytes) -> None:
        if not self._id:
            self._id = self._client.create_multipart_upload(**self._at)["UploadId"]
        number = len(self._pieces) + 1
        sent = self._client.upload_part(**self._at, UploadId=self._id, PartNumber=number, Body=piece)
        self._pieces.append({"PartNumber": number, "ETag": sent["ETag"]})


def _status(exc: Exception) -> int:
    return int(getattr(exc, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
