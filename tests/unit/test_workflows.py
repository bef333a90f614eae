"""The GitHub workflows, and the files, targets and versions that they name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from programs import program

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
FILES = sorted((GITHUB / "workflows").glob("*.yml"))
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in FILES}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(name: str, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program(name, command="make install"), *arguments], cwd=cwd, capture_output=True, text=True, timeout=60
    )


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for file, workflow in WORKFLOWS.items():
        for name, job in workflow["jobs"].items():
            yield f"{file}: {name}", job


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in jobs():
        for step in job.get("steps", []):
            yield name, step


def used() -> Iterator[str]:
    """The actions, and the workflows of this repository."""
    for _, job in jobs():
        yield from [job["uses"]] if "uses" in job else []
    for _, step in steps():
        yield from [step["uses"]] if "uses" in step else []


def commands() -> str:
    return "\n".join(step["run"] for _, step in steps() if "run" in step)


# -- Linters


def test_actionlint_finds_nothing():
    """
    With shellcheck for what they run.
    """
    ended = run("actionlint", "-no-color", "-shellcheck", program("shellcheck", command="make install"), *FILES)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_actionlint_finds_an_unquoted_variable_and_a_job_that_is_not_there(tmp_path: Path):
    broken = tmp_path / "broken.yml"
    broken.write_text(
        "on: push\njobs:\n  one:\n    needs: other\n    runs-on: ubuntu-24.04\n    steps: [{run: rm -r $HOME/$1}]\n"
    )
    ended = run("actionlint", "-no-color", "-shellcheck", program("shellcheck", command="make install"), broken)
    assert ended.returncode == 1
    assert "SC2086" in ended.stdout
    assert '"other"' in ended.stdout


def test_zizmor_finds_no_vulnerability():
    ended = run("zizmor", "--offline", "--no-progress", "--color=never", GITHUB)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", FILES),
        ("custom.github-workflows-require-timeout", [path for path in FILES if path.name == "ci.yml"]),
        ("vendor.dependabot", [GITHUB / "dependabot.yml"]),
        ("vendor.github-issue-forms", [GITHUB / "ISSUE_TEMPLATE/bug.yml"]),
        ("vendor.github-issue-config", [GITHUB / "ISSUE_TEMPLATE/config.yml"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_workflow_fits_its_schema(schema: str, files: list[Path]):
    from check_jsonschema import main as check_jsonschema  # 0.2 s

    ended = CliRunner().invoke(check_jsonschema, ["--builtin-schema", schema, *map(str, files)])
    assert ended.exit_code == 0, ended.output


# -- Permissions


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_workflow_has_no_permissions_and_each_job_lists_its_own(workflow: str):
    assert WORKFLOWS[workflow]["permissions"] == {}
    assert "pull_request_target" not in WORKFLOWS[workflow][True]  # YAML 1.1 reads `on` as a boolean
    for name, job in WORKFLOWS[workflow]["jobs"].items():
        assert "permissions" in job, name
        assert "uses" in job or "timeout-minutes" in job, name


def test_only_a_release_may_write_and_only_where_it_publishes():
    writing = {name: {k for k, v in job["permissions"].items() if v == "write"} for name, job in jobs()}
    assert {name: scopes for name, scopes in writing.items() if scopes} == {
        "release.yml: package": {"id-token", "attestations"},
        "release.yml: image": {"packages", "id-token", "attestations"},
        "release.yml: chart": {"packages", "id-token", "attestations"},
        "release.yml: pypi": {"id-token"},
        "release.yml: page": {"contents"},
    }


def test_nothing_is_published_before_all_has_passed():
    needs = {name: job.get("needs", []) for name, job in WORKFLOWS["release.yml"]["jobs"].items()}

    def before(name: str) -> set[str]:
        direct = [needs[name]] if isinstance(needs[name], str) else needs[name]
        return set(direct).union(*map(before, direct))

    assert all({"version", "ci"} <= before(name) for name in ("package", "image", "chart", "pypi", "page"))
    assert before("pypi") >= {"package", "image", "chart"}


def test_passed_waits_for_every_other_job():
    every = set(WORKFLOWS["ci.yml"]["jobs"])
    assert set(WORKFLOWS["ci.yml"]["jobs"]["passed"]["needs"]) == every - {"passed"}


# -- Names


@pytest.mark.parametrize("action", sorted(set(used())))
def test_an_action_is_pinned_by_its_commit_with_its_version_beside_it(action: str):
    if action.startswith("./"):
        assert (ROOT / action).is_file()
        return
    assert re.fullmatch(r"[\w-]+/[\w./-]+@[0-9a-f]{40}", action)
    lines = [line for path in FILES for line in path.read_text().splitlines() if action in line]
    assert all(re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line) for line in lines)
    assert len({line.partition("#")[2] for line in lines}) == 1


def test_an_action_has_one_version_everywhere():
    actions = {action for action in used() if not action.startswith("./")}
    assert len({action.partition("@")[0] for action in actions}) == len(actions)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z]+)", commands()))))
def test_a_target_is_in_the_makefile(target: str):
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"(?<![\w./$-])(?:\.ci|\.github|docker|deploy)/[\w./-]+", commands())))
)
def test_every_path_named_exists(path: str):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("script", [".ci/run", "docker/test-image"])
def test_a_script_that_is_started_by_its_path_can_be(script: str):
    assert f"{script}\n" in f"{commands()}\n"
    assert os.access(ROOT / script, os.X_OK)


def test_the_tests_run_on_each_python_that_the_package_names():
    named = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: Python :: 3\.\d+$", c)}
    images = [cell["image"] for cell in WORKFLOWS["ci.yml"]["jobs"]["test"]["strategy"]["matrix"]["include"]]
    images.append(WORKFLOWS["ci.yml"]["jobs"]["all"]["container"]["image"])
    assert sorted(re.findall(r"python:(3\.\d+)-", " ".join(images))) == sorted(named)
    oldest = min(named, key=lambda version: int(version.partition(".")[2]))
    assert PROJECT["requires-python"] == f">={oldest}"
    assert images[0].startswith(f"python:{oldest}-")


def test_the_oldest_cell_has_the_oldest_celery_and_kombu_that_the_package_allows():
    pinned = dict(
        re.findall(r"^([a-z]+)==(\d+\.\d+)\.\*$", (GITHUB / "constraints/oldest.txt").read_text(), re.MULTILINE)
    )
    allowed = dict(re.match(r"(celery|kombu)\[redis\]>=([\d.]+)", d).groups() for d in PROJECT["dependencies"]
                   if re.match(r"(celery|kombu)\[", d))  # type: ignore[union-attr]  # fmt: skip
    assert pinned == allowed
    assert set(pinned) == {"celery", "kombu"}


# -- Releases


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The release script in a temporary tree that is ready for v1.2.0."""
    for path, text in {
        "pyproject.toml": '[project]\nname = "ifinu"\nversion = "1.2.0"\n',
        "deploy/helm/Chart.yaml": 'name: ifinu\nversion: 1.2.0\nappVersion: "1.2.0"\nkubeVersion: ">=1.29.0-0"\n',
        "CHANGELOG.md": (
            "# Changelog\n\n## [Unreleased]\n\n- Not yet.\n\n## [1.2.0] - 2027-01-31\n\n"
            "Good.\n\n### Fixed\n\n- A [link](x).\n\n## [1.1.0] - 2027-01-01\n\n- Before.\n\n[1.2.0]: https://example.org/1.2.0\n"
        ),
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    shutil.copytree(GITHUB / "scripts", tmp_path / ".github/scripts")
    return tmp_path


def release(tree: Path, tag: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, tree / ".github/scripts/release.py", tag], capture_output=True, text=True, timeout=60
    )


def test_a_tag_releases_its_section_of_the_changelog(tree: Path):
    ended = release(tree, "v1.2.0")
    assert (ended.returncode, ended.stdout) == (0, "Good.\n\n### Fixed\n\n- A [link](x).\n")


@pytest.mark.parametrize(
    ("file", "there", "instead", "said"),
    [
        ("pyproject.toml", "1.2.0", "1.3.0", "pyproject.toml is 1.3.0, the tag v1.2.0"),
        ("deploy/helm/Chart.yaml", "\nversion: 1.2", "\nversion: 1.1", "Chart.yaml, version is 1.1.0, the tag v1.2.0"),
        ("deploy/helm/Chart.yaml", '"1.2.0"', '"1.2.0-rc1"', "Chart.yaml, appVersion is 1.2.0-rc1, the tag v1.2.0"),
        ("deploy/helm/Chart.yaml", "appVersion", "appversion", "Chart.yaml, appVersion is None, the tag v1.2.0"),
        ("CHANGELOG.md", "[1.2.0] -", "[1x2y0] -", "CHANGELOG.md says nothing below ## [1.2.0]"),
        ("CHANGELOG.md", "\nGood.\n\n### Fixed\n\n- A [link](x).\n", "", "CHANGELOG.md says nothing below ## [1.2.0]"),
    ],
)  # fmt: skip
def test_a_tag_that_does_not_fit_releases_nothing(tree: Path, file: str, there: str, instead: str, said: str):
    text = (tree / file).read_text()
    assert text.count(there) == 1
    (tree / file).write_text(text.replace(there, instead))
    ended = release(tree, "v1.2.0")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_package_and_chart_have_the_same_version():
    """
    The release workflow compares them with the tag.
    """
    ended = release(ROOT, f"v{PROJECT['version']}")
    assert "Chart.yaml" not in ended.stderr
    assert "pyproject.toml" not in ended.stderr


# -- Secrets


def test_the_tree_holds_no_secret():
    ended = run("gitleaks", "dir", ".", "--no-banner", "--no-color", "--redact", "--verbose")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_secret_is_found_even_beside_a_lookalike(tmp_path: Path):
    shutil.copy(ROOT / ".gitleaks.toml", tmp_path)
    (tmp_path / "tests/unit").mkdir(parents=True)
    file = Path(shutil.copy(ROOT / "tests/unit/test_receipts_webhook_events.py", tmp_path / "tests/unit"))
    with file.open("a") as out:
        out.write("github_token = " + '"ghp_' + "k3Zq8Lw1Xv9Rb5Tn2Yc7Hd4Mf6Js0Pg8Qa1E" + '"\n')
    ended = run("gitleaks", "dir", ".", "--no-banner", "--no-color", "--redact", cwd=tmp_path)
    assert ended.returncode == 1
    assert "leaks found: 1\n" in ended.stderr
