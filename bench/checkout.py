"""The package of another commit, for a bench that runs it in turns with this one's."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parent.parent


@contextlib.contextmanager
def package_of(revision: str) -> Iterator[Path]:
    """
    Put the `ifinu` of a commit into a temporary folder, which a process imports by `PYTHONPATH`.

    What it depends on comes from this environment.

    Raises:
        SystemExit: No such commit, or its package cannot be imported.
    """
    packed = subprocess.run(
        ["git", "-C", str(_ROOT), "archive", "--format=tar", revision, "ifinu"], capture_output=True, check=False
    )
    if packed.returncode:
        raise SystemExit(f"--against {revision}: {packed.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory(prefix="ifinu-bench-") as folder:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        imported = subprocess.run(
            [sys.executable, "-c", "import ifinu; print(ifinu.__file__)"],
            env={**os.environ, "PYTHONPATH": folder}, cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not imported.stdout.startswith(folder):
            raise SystemExit(f"--against {revision}: its package is not the one imported\n{imported.stderr}")
        yield Path(folder)
