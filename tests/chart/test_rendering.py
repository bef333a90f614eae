"""Helm and Kubernetes accept the chart with every story of `ci/`, in both Helms, on the oldest and newest cluster."""

from __future__ import annotations

import copy
import functools
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate.utils
import pytest
import yaml
from helm_binaries import MAJORS
from rendering import (
    CHART,
    NAMESPACE,
    NEWEST,
    OLDEST,
    RELEASE,
    ROOT,
    STORIES,
    Object,
    Rendered,
    RenderError,
    documents,
    render,
    rendered,
    run,
)

import ifinu

# Kinds of custom resource definitions: test_monitoring.py and test_scaling.py check their fields one by one.
WITHOUT_SCHEMA = {
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
}


@pytest.fixture(autouse=True, scope="module")
def _schemas_are_read_once() -> Iterator[None]:
    """Without the cache all schemas would be parsed again for each object, which takes most of the time."""
    with pytest.MonkeyPatch.context() as patched:
        read = functools.cache(kubernetes_validate.utils.schema_contents)
        patched.setattr(kubernetes_validate.utils, "schema_contents", read)
        yield


@functools.cache
def valid(document: str, kube: str) -> bool:
    """Whether Kubernetes has a schema for an object. Raises ValidationError if the object does not fit it."""
    try:
        kubernetes_validate.validate(json.loads(document), kube, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return False
    return True


def settled(objects: Rendered) -> Rendered:
    """The objects without the values that are random in each render."""
    out = copy.deepcopy(objects)
    for secret in out.of("Secret").values():
        secret["data"] = sorted(secret.get("data", {}))
    return out


@pytest.mark.parametrize("major", MAJORS)
def test_helm_has_the_tested_major_version(major):
    assert run("version", "--template", "{{.Version}}", major=major).startswith(f"v{major}.")


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("story", STORIES)
def test_helm_lint_finds_nothing(story, major):
    run("lint", "--strict", str(CHART), "--values", str(STORIES[story]), major=major)


@pytest.mark.parametrize("story", STORIES)
def test_both_majors_of_helm_render_the_same(story):
    assert settled(rendered(story, major=3)) == settled(rendered(story, major=4))


@pytest.mark.parametrize("story", STORIES)
def test_the_version_of_kubernetes_changes_nothing(story):
    assert settled(rendered(story, kube=OLDEST)) == settled(rendered(story, kube=NEWEST))


@pytest.mark.parametrize("kube", [OLDEST, NEWEST])
@pytest.mark.parametrize("story", STORIES)
def test_kubernetes_knows_every_field(story, kube):
    for (kind, name), document in rendered(story).items():
        try:
            known = valid(json.dumps(document, sort_keys=True), kube)
        except kubernetes_validate.ValidationError as exc:
            pytest.fail(f"{kind} {name}: {'.'.join(map(str, exc.path))}: {exc.message}")
        assert known != ((document["apiVersion"], kind) in WITHOUT_SCHEMA), (kind, name)


def test_an_unknown_field_is_found():
    """
    A field with one letter too many is found.
    """
    document = copy.deepcopy(rendered("default")["Deployment", "ifinu-worker"])
    valid(json.dumps(document), NEWEST)
    document["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(json.dumps(document), NEWEST)


@pytest.mark.parametrize("major", MAJORS)
def test_a_kubernetes_that_is_too_old_is_refused(major):
    with pytest.raises(RenderError, match=r"kubeVersion: >=1\.29"):
        render(kube="1.28", major=major)


def test_every_definition_without_a_schema_is_rendered_by_a_story():
    found = {(document["apiVersion"], kind) for story in STORIES for (kind, _), document in rendered(story).items()}
    assert found >= WITHOUT_SCHEMA


@pytest.mark.parametrize("story", STORIES)
def test_no_list_that_kubernetes_merges_by_name_has_a_duplicate(story):
    """
    Server-side apply, which Helm 4 uses, refuses duplicates.
    """
    for container in rendered(story).containers():
        for field, key in (("env", "name"), ("ports", "containerPort"), ("volumeMounts", "mountPath")):
            names = [each[key] for each in container.spec.get(field, [])]
            assert len(set(names)) == len(names), (container.name, field)
    for owner, template in rendered(story).templates():
        for field in ("containers", "initContainers", "volumes"):
            names = [each["name"] for each in template["spec"].get(field, [])]
            assert len(set(names)) == len(names), (owner, field)


@pytest.mark.parametrize("story", STORIES)
def test_names_stay_within_their_maximum_length(story):
    """
    Pod names derive from their object's: a CronJob adds 11 characters, a Deployment 17.
    """
    for (kind, name), document in rendered(story).items():
        assert len(name) <= {"CronJob": 52, "Deployment": 46, "Service": 63}.get(kind, 63)
        assert all(len(value) <= 63 for value in document["metadata"]["labels"].values()), (kind, name)


def test_all_objects_are_in_the_namespace_of_the_release_or_a_configured_one():
    elsewhere = {
        name: document["metadata"]["namespace"]
        for name, document in rendered("observability").items()
        if document["metadata"].get("namespace", NAMESPACE) != NAMESPACE
    }
    assert elsewhere == {
        ("ConfigMap", "ifinu-dashboard"): "monitoring",
        ("Secret", "ifinu-alertmanager-config"): "monitoring",
    }


# -- the package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart packaged by `helm package`."""
    out = tmp_path_factory.mktemp("package")
    run("package", str(CHART), "--destination", str(out))
    (archive,) = out.glob("*.tgz")
    return archive


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("story", ["default", "observability"])
def test_the_package_renders_as_the_directory_does(package, story, major):
    arguments = ("--namespace", NAMESPACE, "--kube-version", f"{NEWEST}.0", "--values", str(STORIES[story]))
    packed = documents(run("template", RELEASE, str(package), *arguments, major=major))
    assert settled(packed) == settled(rendered(story))


def test_the_files_of_the_package(package):
    with tarfile.open(package) as archive:
        files = {name.removeprefix("ifinu/") for name in archive.getnames()}
    assert package.name == f"ifinu-{ifinu.__version__}.tgz"
    assert {"Chart.yaml", "values.yaml", "values.schema.json", "templates/NOTES.txt"} <= files
    assert {"alerts/ifinu.rules.yaml", "alerts/alertmanager.yaml", "dashboards/ifinu.json"} <= files
    assert {f"files/{file.name}" for file in (CHART / "files").iterdir()} <= files
    assert {name for name in files if name.startswith("ci/") or Path(name).name.startswith(".git")} == set()


# -- the files


def test_versions_are_the_same_everywhere():
    chart: Object = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == ifinu.__version__
    assert f'version = "{ifinu.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"


@pytest.mark.parametrize("file", [CHART / "values.yaml", CHART / "Chart.yaml", *STORIES.values()], ids=lambda f: f.name)
def test_yamllint_finds_nothing(file):
    rules = {
        "extends": "default",
        "rules": {
            "braces": {"max-spaces-inside": 0},
            "comments": {"min-spaces-from-content": 1},
            "document-start": "disable",
            "line-length": {"max": 120},
            "truthy": {"check-keys": False},
        },
    }
    done = subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", "--config-data", json.dumps(rules), str(file)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
