"""The files that commands read and write. `-` is stdin or stdout."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ifinu.errors import ConfigurationError


def opened(file: Path, flags: int, mode: str) -> IO[bytes]:
    """
    Open one, for its owner alone if it is made: what is written holds phones, names or hashes.

    Raises:
        ConfigurationError: It cannot be opened.
    """
    try:
        return os.fdopen(os.open(file, flags, 0o600), mode)
    except OSError as exc:
        raise ConfigurationError(f"{file}: {exc.strerror}") from exc


@contextlib.contextmanager
def source(file: str) -> Iterator[IO[bytes]]:
    """
    What is read, closed at the end unless it is stdin.

    Raises:
        ConfigurationError: It cannot be opened.
    """
    if file == "-":
        yield sys.stdin.buffer
        return
    with opened(Path(file), os.O_RDONLY, "rb") as content:
        yield content


@contextlib.contextmanager
def created(file: Path) -> Iterator[IO[str]]:
    """
    A new file for text, for its owner alone, or stdout.

    Raises:
        ConfigurationError: It cannot be made, or is there already.
    """
    if str(file) == "-":
        yield sys.stdout
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise ConfigurationError(f"{file}: {exc.strerror}") from exc
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        yield out
