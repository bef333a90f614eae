"""Files that commands read and write; `-` is stdin or stdout. One that cannot be opened is a ConfigurationError."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ifinu.errors import ConfigurationError


def opened(file: Path, flags: int, mode: str) -> IO[bytes]:
    """Open a file. A new one is readable by its owner only, since it may hold phones, names or hashes."""
    try:
        return os.fdopen(os.open(file, flags, 0o600), mode)
    except OSError as exc:
        raise ConfigurationError(f"{file}: {exc.strerror}") from exc


@contextlib.contextmanager
def source(file: str) -> Iterator[IO[bytes]]:
    """Open a file to read; the end of the block closes it, unless it is stdin."""
    if file == "-":
        yield sys.stdin.buffer
        return
    with opened(Path(file), os.O_RDONLY, "rb") as content:
        yield content


@contextlib.contextmanager
def created(file: Path) -> Iterator[IO[str]]:
    """
    Create a text file that only its owner can read; `-` is stdout.

    Raises:
        ConfigurationError: The file exists, or cannot be created.
    """
    if str(file) == "-":
        yield sys.stdout
        return
    with io.TextIOWrapper(opened(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, "wb"), encoding="utf-8") as out:
        yield out
