"""
What the chart's containers run, run here: their commands, files and environment as rendered, with the paths and the
addresses of this machine.
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
    """A file that the chart mounts, with some of it replaced; each has to be in it."""
    return replaced(str(chart["ConfigMap", config_map]["data"][name]), replacing)


def replaced(text: str, replacing: Mapping[str, str]) -> str:
    """A text with some of it replaced; each has to be in it."""
    for one, other in replacing.items():
        assert one in text, one
        text = text.replace(one, other)
    return text


def command(container: Container, probe: str | None = None, replacing: Mapping[str, str] | None = None) -> list[str]:
    """What a container starts, or one of its probes does, with some of it replaced."""
    spec = container.spec
    words = spec[probe]["exec"]["command"] if probe else [*spec.get("command", []), *spec.get("args", [])]
    line = replaced("\0".join(map(str, words)), replacing or {})
    return line.split("\0")


def environment(
    chart: Rendered, container: Container, replacing: Mapping[str, str] | None = None, pod: str = "pod-0"
) -> dict[str, str]:
    """
    All that a container gets, as Kubernetes puts it together, but for PATH, which comes from its image.

    Args:
        chart: As rendered.
        container: One of its.
        replacing: Addresses, wherever they stand.
        pod: Its pod's name.
    """
    out: dict[str, str] = {}
    for source in container.spec.get("envFrom", []):
        out |= chart["ConfigMap", source["configMapRef"]["name"]]["data"]
    for variable in container.spec.get("env", []):
        value = _value(chart, variable, pod)
        if value is not None:
            out[variable["name"]] = _VARIABLE.sub(lambda found: out.get(found[1], found[0]), value)
    for name, value in out.items():
        assert isinstance(value, str), name  # the API refuses others
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


def nobody() -> dict[str, Any]:
    """What Popen takes to run a program as one who owns nothing, where whoever runs the tests may do that."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@functools.cache
def ifinu() -> tuple[str, ...]:
    """
    What starts `ifinu` as one who owns nothing.

    Python and the sources may be where nobody can go, such as below /root: then as nobody who may read everything.
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
    """A folder that the programs of `nobody` may write to; it goes with the block."""
    with tempfile.TemporaryDirectory(prefix="ifinu-chart-") as name:
        if run_as := nobody():
            os.chown(name, run_as["user"], run_as["group"])
        yield Path(name)
