"""
The chart as Helm renders it, with look-ups that all tests use.

    render({"worker": {…}}) -> Rendered: its objects by (kind, name)
    rendered("large")       -> the same, of ci/large-values.yaml

Results are cached and must not be changed.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from helm_binaries import helm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm"
STORIES = {file.name.removesuffix("-values.yaml"): file for file in sorted((CHART / "ci").glob("*-values.yaml"))}
OLDEST, NEWEST = "1.29", "1.37"  # the supported Kubernetes versions
RELEASE, NAMESPACE = "ifinu", "ifinu-production"

Object = dict[str, Any]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Refuses a duplicate key, of which PyYAML would take the last while a cluster refuses the object."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(set(keys)) == len(keys), f"twice: {keys} at {node.start_mark}"
        out: dict[Any, Any] = super().construct_mapping(node, deep)
        return out


class RenderError(Exception):
    """Helm's error message."""


class Container(NamedTuple):
    """A container of a pod; `kind` is containers or initContainers."""

    owner: str
    kind: str
    spec: Object

    @property
    def name(self) -> str:
        return f"{self.owner}/{self.spec['name']}"

    @property
    def ours(self) -> bool:
        return "ifinu/ifinu" in self.spec["image"]

    @property
    def env(self) -> dict[str, Object]:
        return {variable["name"]: variable for variable in self.spec.get("env", [])}


class Rendered(dict[tuple[str, str], Object]):
    """Objects of a render by kind and name."""

    def of(self, kind: str) -> dict[str, Object]:
        """The objects of a kind, by name."""
        return {name: document for (each, name), document in self.items() if each == kind}

    def templates(self) -> Iterator[tuple[str, Object]]:
        """Every pod template with the object that contains it."""
        for (kind, name), document in self.items():
            if (template := template_of(document)) is not None:
                yield f"{kind}/{name}", template

    def pod(self, kind: str, name: str) -> Object:
        """The spec of an object's pods."""
        template = template_of(self[kind, name])
        assert template is not None
        spec: Object = template["spec"]
        return spec

    def container(self, kind: str, name: str, container: str | None = None) -> Container:
        """One container of an object's pods; the first if unnamed."""
        return next(
            each
            for each in self.containers()
            if each.owner == f"{kind}/{name}"
            and (each.spec["name"] == container if container else each.kind == "containers")
        )

    def containers(self) -> Iterator[Container]:
        """Every container of every pod."""
        for owner, template in self.templates():
            for kind in ("initContainers", "containers"):
                for container in template["spec"].get(kind, []):
                    yield Container(owner, kind, container)


def template_of(document: Object) -> Object | None:
    """The template of the pods that an object makes: metadata and spec. That of a Pod is the object itself."""
    match document["kind"]:
        case "Pod":
            return document
        case "CronJob":
            template: Object = document["spec"]["jobTemplate"]["spec"]["template"]
            return template
        case "Deployment" | "StatefulSet" | "Job":
            return document["spec"]["template"]
    return None


def run(*arguments: str, major: int = 4, values: str = "", kubeconfig: str = os.devnull) -> str:
    """
    The output of a `helm …` command, isolated from the user's clusters and settings.

    Raises:
        RenderError: The exit code is not 0.
    """
    with tempfile.TemporaryDirectory() as home:
        env = {"PATH": os.environ["PATH"], "HOME": home, "KUBECONFIG": kubeconfig}
        done = subprocess.run(
            [helm(major), *arguments], input=values, text=True, capture_output=True, env=env, timeout=60
        )
    if done.returncode:
        raise RenderError(done.stderr + done.stdout)
    return done.stdout


def documents(text: str) -> Rendered:
    """The objects in Helm's output."""
    out = Rendered()
    for document in yaml.load_all(text, _Loader):
        if document:
            name = document["kind"], document["metadata"]["name"]
            assert name not in out, name
            out[name] = document
    return out


def render(
    values: Mapping[str, Any] | None = None, *, story: str | None = None, kube: str = NEWEST, major: int = 4
) -> Rendered:
    """
    Render the chart.

    Args:
        values: The content for `--values`.
        story: A file of `ci/` that the values override.
        kube: The version of Kubernetes.
        major: The major version of Helm.

    Raises:
        RenderError: Helm refuses.
    """
    return _render(json.dumps(values or {}), (), story, kube, major)


def rendered(story: str, *, kube: str = NEWEST, major: int = 4) -> Rendered:
    """Render the chart with a file of `ci/`."""
    return _render("{}", (), story, kube, major)


def set_to(*settings: str, kube: str = NEWEST, major: int = 4) -> Rendered:
    """Render with `--set` arguments as typed."""
    return _render("{}", settings, None, kube, major)


def _render(values: str, settings: tuple[str, ...], story: str | None, kube: str, major: int) -> Rendered:
    outcome = _outcome(values, settings, story, kube, major)
    if isinstance(outcome, str):
        raise RenderError(outcome)
    return outcome


@functools.cache
def _outcome(values: str, settings: tuple[str, ...], story: str | None, kube: str, major: int) -> Rendered | str:
    """The objects, or Helm's error."""
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    if story:
        arguments += ["--values", str(STORIES[story])]
    try:
        text = run(
            *("template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", f"{kube}.0"),
            *(*arguments, "--values", "-"),
            major=major,
            values=values,
        )
    except RenderError as exc:
        return str(exc)
    return documents(text)
