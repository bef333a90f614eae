"""
The chart's containers as local processes: commands, files and environment as rendered, with local paths and
addresses.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rendering import Container, Rendered

_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


def file(chart: Rendered, config_map: str, name: str, replacing: Mapping[str, str]) -> str:
    """A file that the chart mounts, with replacements, each of which must apply."""
    return replaced(str(chart["ConfigMap", config_map]["data"][name]), replacing)


def replaced(text: str, replacing: Mapping[str, str]) -> str:
    """A text with replacements, each of which must apply."""
    for one, other in replacing.items():
        assert one in text, one
        text = text.replace(one, other)
    return text


def command(container: Container, probe: str | None = None, replacing: Mapping[str, str] | None = None) -> list[str]:
    """The command of a container or of one of its probes, with replacements."""
    spec = container.spec
    words = spec[probe]["exec"]["command"] if probe else [*spec.get("command", []), *spec.get("args", [])]
    line = replaced("\0".join(map(str, words)), replacing or {})
    return line.split("\0")


def environment(
    chart: Rendered, container: Container, replacing: Mapping[str, str] | None = None, pod: str = "pod-0"
) -> dict[str, str]:
    """
    The environment that Kubernetes gives a container, without PATH, which comes from its image.

    Args:
        chart: The rendered chart.
        container: A container of the chart.
        replacing: Addresses to replace in every value.
        pod: The name of the container's pod.
    """
    out: dict[str, str] = {}
    for source in container.spec.get("envFrom", []):
        out |= chart["ConfigMap", source["configMapRef"]["name"]]["data"]
    for variable in container.spec.get("env", []):
        value = _value(chart, variable, pod)
        if value is not None:
            out[variable["name"]] = _VARIABLE.sub(lambda found: out.get(found[1], found[0]), value)
    for name, value in out.items():
        assert isinstance(value, str), name  # Kubernetes refuses other characters
        for one, other in (replacing or {}).items():
            out[name] = out[name].replace(one, other)
    return out


def _value(chart: Rendered, variable: dict[str, Any], pod: str) -> str | None:
    source = variable.get("valueFrom")
    if source is None:
        return str(variable.get("value", ""))
    if "fieldRef" in source:
        assert source["fieldRef"]["fieldPath"] == "metadata.name"
        return pod
    wanted = source["secretKeyRef"]
    secret = chart.get(("Secret", wanted["name"]), {"data": {}})["data"]
    if wanted["key"] not in secret:
        assert wanted.get("optional"), f"{wanted['name']} has no {wanted['key']}"
        return None
    return base64.b64decode(secret[wanted["key"]]).decode()


def unprivileged() -> dict[str, Any]:
    """Popen's arguments to run a program as the user `nobody`; empty unless the tests run as root."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@functools.cache
def ifinu() -> tuple[str, ...]:
    """
    The command that starts `ifinu` as an unprivileged user.

    If `nobody` cannot reach Python or the sources, such as below /root, the process gets CAP_DAC_READ_SEARCH.
    """
    plain = (sys.executable, "-m", "ifinu")
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        return plain
    account = pwd.getpwnam("nobody")
    dropping = (setpriv, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups")
    reading = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
    for options in ((), reading):
        line = (*dropping, *options, *plain)
        if subprocess.run([*line, "--version"], capture_output=True, cwd="/").returncode == 0:
            return line
    return plain


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder that the unprivileged programs may write to, deleted at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="ifinu-chart-") as name:
        if run_as := unprivileged():
            os.chown(name, run_as["user"], run_as["group"])
        yield Path(name)
