from __future__ import annotations

import json
import re
import stat
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from programs import program

from ifinu import cli, settings
from ifinu.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = PROJECT["project"]["version"]
IMAGE = f"ghcr.io/ifinu/ifinu:{VERSION}"
EXTRAS = ("flower", "otel", "s3", "xlsx")  # that the image installs

COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == IMAGE}
GATEWAYS = {"evolution-api": "whatsapp", "simulator": "simulator"}  # and the profile of each
ONE_SHOT = {"migrate"}

# Variables that Compose substitutes: ${NAME}, ${NAME:-default} or ${NAME:?what to do}; but not $$, a dollar sign.
PUT_IN = re.compile(r"(?<!\$)\$\{(\w+)(?:(:[-?])([^}]*))?\}")
PINNED = re.compile(r"^([\w.-]+)==(\S+)(?: ; .*?)? \\$", re.MULTILINE)


def stages() -> list[list[tuple[str, str]]]:
    """The Dockerfile's instructions with their arguments: first those before any stage, then those of each stage."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: list[list[tuple[str, str]]] = [[]]
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            if name == "FROM":
                found.append([])
            found[-1].append((name, " ".join(arguments.split())))
    return found


def last(name: str) -> str:
    """The arguments of an instruction that the final stage has once."""
    (found,) = (arguments for instruction, arguments in stages()[-1] if instruction == name)
    return found


def texts(node: Any) -> Iterator[str]:
    """Every text below a node of YAML."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)


def example() -> tuple[set[str], set[str]]:
    """The secrets of .env.example, and its other variables."""
    text = (DOCKER / ".env.example").read_text(encoding="utf-8")
    secrets = set(re.findall(r"^(\w+)=$", text, re.MULTILINE))
    return secrets, set(re.findall(r"^#?(\w+)=", text, re.MULTILINE)) - secrets


def pins(name: str) -> dict[str, str]:
    """The name and version of each pin in a requirements file."""
    return {canonicalize_name(key): value for key, value in PINNED.findall((DOCKER / name).read_text())}


def images(node: Any) -> set[str]:
    """Every image that the chart's values name."""
    found: set[str] = set()
    if isinstance(node, Mapping):
        if {"repository", "tag"} <= node.keys():
            found.add(f"{node['repository']}:{node['tag']}")
        for value in node.values():
            found |= images(value)
    return found


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


# The Dockerfile.


def test_hadolint_finds_nothing_in_the_dockerfile():
    done = subprocess.run(
        [program("hadolint", command="make install"), DOCKER / "Dockerfile"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


def test_every_stage_is_of_the_one_base_that_a_release_can_pin():
    assert [name for name, _ in stages()[0]] == ["ARG"]
    assert re.fullmatch(r"BASE=\S+:\S+", stages()[0][0][1])
    assert [stage[0] for stage in stages()[1:]] == [("FROM", "${BASE} AS build"), ("FROM", "${BASE}")]


def test_a_signal_reaches_celery_through_tini_alone():
    assert json.loads(last("ENTRYPOINT")) == ["tini", "--", "ifinu"]
    assert json.loads(last("CMD")) == ["--help"]


def test_the_image_runs_as_an_unprivileged_user_and_writes_no_bytecode():
    assert last("USER") == "10001:10001"
    environment = last("ENV").split()
    assert {"PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"} <= set(environment)


def test_the_image_has_no_healthcheck_because_each_deployment_brings_its_own():
    assert last("HEALTHCHECK") == "NONE"


def test_the_version_is_that_of_the_package_everywhere():
    defaults = [arguments for stage in stages()[1:] for name, arguments in stage if arguments.startswith("VERSION=")]
    assert defaults == [f"VERSION={VERSION}"] * 2
    assert 'org.opencontainers.image.version="${VERSION}"' in last("LABEL")
    assert {service["image"] for service in SERVICES.values() if "build" in service} == {IMAGE}


def test_the_image_has_the_extras_that_its_commands_need():
    assert all(extra in PROJECT["project"]["optional-dependencies"] for extra in EXTRAS)
    assert any(f"ifinu[{','.join(EXTRAS)}] @" in arguments for _, arguments in stages()[1])


def test_the_build_context_has_only_the_files_that_the_image_copies():
    """
    .dockerignore is an allowlist, so neither .env nor a test can get into a layer.
    """
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert rules[-1] == "**/__pycache__"  # of the allowed files
    copied = {
        source
        for stage in stages()[1:]
        for name, arguments in stage
        if name in ("ADD", "COPY") and not arguments.startswith("--from=")
        for source in arguments.split()[:-1]
    }
    assert {rule.removeprefix("!") for rule in rules[1:-1]} == copied
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        (
            "requirements.txt",
            [
                *PROJECT["project"]["dependencies"],
                *(line for extra in EXTRAS for line in PROJECT["project"]["optional-dependencies"].get(extra, [])),
            ],
        ),
        ("build-requirements.txt", PROJECT["build-system"]["requires"]),
    ],
)
def test_every_pin_of_the_image_is_a_version_that_the_package_allows(file: str, wanted: list[str]):
    """
    If it fails, run docker/lock.
    """
    pinned = pins(file)
    outside = {
        str(requirement): pinned.get(canonicalize_name(requirement.name))
        for requirement in map(Requirement, wanted)
        if not requirement.specifier.contains(Version(pinned.get(canonicalize_name(requirement.name), "0")))
    }
    assert wanted
    assert outside == {}


@pytest.mark.parametrize("file", ["requirements.txt", "build-requirements.txt"])
def test_every_pin_has_its_hashes(file: str):
    text = (DOCKER / file).read_text(encoding="utf-8")
    blocks = [block for block in re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE) if not block.startswith("#")]
    assert len(blocks) == len(pins(file))
    assert [block for block in blocks if "--hash=sha256:" not in block] == []


# The compose file.


def test_every_setting_of_the_compose_file_is_one_that_ifinu_reads():
    known = {name for names in Settings.names().values() for name in names}
    known |= {f"{Settings.names()[field][0]}_FILE" for field in Settings.secrets()}
    given = {name for service in OURS.values() for name in service["environment"]}
    assert given
    assert given - known == set()


def test_every_command_of_the_compose_file_is_one_of_ifinu():
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert {service["command"][0] for service in OURS.values()} - commands.keys() == set()


def test_no_secret_has_a_default_and_each_says_how_it_is_made():
    secrets, others = example()
    found = {name: (kind, text) for value in texts(COMPOSE) for name, kind, text in PUT_IN.findall(value)}
    assert {
        name: default for name, default in found.items() if default == (":?", "run docker/make-env")
    }.keys() == secrets
    assert found.keys() - secrets <= others
    assert all(kind == ":-" and text.isdecimal() for name, (kind, text) in found.items() if name not in secrets)


def test_variables_passed_through_are_not_secret_and_are_in_the_example():
    passed = {name for service in OURS.values() for name, value in service["environment"].items() if value is None}
    _, others = example()
    assert passed
    assert passed <= others
    assert passed.isdisjoint(Settings.names()[field][0] for field in Settings.secrets())


def test_no_password_is_written_into_the_compose_file():
    secret = {Settings.names()[field][0] for field in Settings.secrets() if not field.endswith("_url")}
    secret |= {"AUTHENTICATION_API_KEY", "REDISCLI_AUTH"}
    given = {
        f"{service}.{name}": value
        for service, fields in SERVICES.items()
        for name, value in fields.get("environment", {}).items()
        if name in secret or name.endswith("PASSWORD")
    }
    assert given
    assert {name: value for name, value in given.items() if not PUT_IN.fullmatch(value)} == {}
    in_urls = re.findall(r"://\w*:([^@/\s]+)@", "\n".join(PUT_IN.sub("<\\1>", value) for value in texts(COMPOSE)))
    assert sorted(in_urls) == ["<EVOLUTION_DATABASE_PASSWORD>", "<IFINU_REDIS_PASSWORD>"]


def test_nothing_listens_outside_of_this_machine():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert [name for name, service in SERVICES.items() if "network_mode" in service] == []


def test_the_images_are_those_of_the_chart():
    values = yaml.safe_load((ROOT / "deploy/helm/values.yaml").read_text(encoding="utf-8"))
    chart = yaml.safe_load((ROOT / "deploy/helm/Chart.yaml").read_text(encoding="utf-8"))
    assert f"{values['image']['repository']}:{values['image']['tag'] or chart['appVersion']}" == IMAGE
    foreign = {service["image"] for name, service in SERVICES.items() if name not in OURS}
    assert len(foreign) == 3
    assert foreign - images(values) == set()


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_the_fewest_privileges(name: str):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["pids_limit"] > 0
    assert service.get("read_only", False) is (name != "evolution-api")  # which writes into folders of the image
    assert "privileged" not in service


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - ONE_SHOT))
def test_every_service_that_stays_has_a_probe(name: str):
    assert len(SERVICES[name]["healthcheck"]["test"]) > 1


def test_a_service_that_runs_once_is_waited_for():
    """
    Otherwise `up --wait` takes its end for a failure.
    """
    assert {
        name: [
            other
            for other, service in SERVICES.items()
            if service.get("depends_on", {}).get(name, {}).get("condition") == "service_completed_successfully"
        ]
        for name in ONE_SHOT
    } == {"migrate": ["worker", "recorder", "metrics"]}


def test_a_worker_has_the_time_to_finish_what_it_sends_and_goes_before_its_gateway():
    limits = Settings.model_fields
    longest_s = limits["evolution_connect_timeout_s"].default + limits["evolution_read_timeout_s"].default
    assert seconds(SERVICES["worker"]["stop_grace_period"]) >= longest_s + 15
    for gateway in GATEWAYS:
        assert SERVICES["worker"]["depends_on"][gateway] == {"condition": "service_started", "required": False}


def test_one_gateway_runs_and_each_has_the_same_name():
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        name: [profile] for name, profile in GATEWAYS.items()
    }
    assert SERVICES["simulator"]["networks"] == {"default": {"aliases": ["evolution-api"]}}
    assert SERVICES["simulator"]["ports"] == SERVICES["evolution-api"]["ports"]
    assert {s["environment"]["IFINU_EVOLUTION_URL"] for n, s in OURS.items() if n != "simulator"} == {
        "http://evolution-api:8080"
    }


def test_data_that_must_last_is_on_a_volume():
    mounted = {name: service["volumes"][0].partition(":") for name, service in SERVICES.items() if "volumes" in service}
    assert {name: path for name, (_, _, path) in mounted.items()} == {
        "evolution-api": "/evolution/instances",
        "redis": "/data",
        "postgres": "/var/lib/postgresql/data",
    }
    assert {volume for volume, _, _ in mounted.values()} == COMPOSE["volumes"].keys()


def test_files_mounted_from_the_repository_exist_and_are_read_only():
    mounts = [m.split(":") for s in SERVICES.values() for m in s.get("volumes", []) if m.startswith(".")]
    assert mounts
    assert {mode for _, _, mode in mounts} == {"ro"}
    assert [source for source, _, _ in mounts if not (DOCKER / source).is_file()] == []


# The .env that Compose needs.


def made(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program("openssl")
    return subprocess.run([DOCKER / "make-env", *arguments], capture_output=True, text=True, check=False)


def read(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


@pytest.mark.parametrize("gateway", GATEWAYS.values())
def test_make_env_makes_secrets_that_ifinu_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gateway: str):
    assert made(gateway, tmp_path / "env").returncode == 0
    assert stat.S_IMODE((tmp_path / "env").stat().st_mode) == 0o600
    environment = read(tmp_path / "env")
    assert environment.pop("COMPOSE_PROFILES") == gateway
    assert environment.keys() == example()[0]
    assert len(set(environment.values())) == len(environment)
    assert all(len(value) >= 32 for value in environment.values())
    # They stand in URLs unescaped.
    assert [n for n, v in environment.items() if n != "IFINU_FLOWER_AUTH" and not re.fullmatch(r"[0-9a-f]+", v)] == []
    for name, value in environment.items():
        if name.startswith("IFINU_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("IFINU_DATABASE_URL", SERVICES["worker"]["environment"]["IFINU_DATABASE_URL"])
    settings.load()


def test_make_env_makes_others_each_time(tmp_path: Path):
    made("simulator", tmp_path / "one")
    made("simulator", tmp_path / "two")
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert [name for name in example()[0] if one[name] == two[name]] == []


def test_make_env_does_not_overwrite_a_file(tmp_path: Path):
    (tmp_path / "env").write_text("the passwords of volumes")
    done = made("simulator", tmp_path / "env")
    assert (done.returncode, (tmp_path / "env").read_text()) == (1, "the passwords of volumes")
    assert str(tmp_path / "env") in done.stderr


def test_make_env_refuses_an_unknown_gateway(tmp_path: Path):
    done = made("telegram", tmp_path / "env")
    assert (done.returncode, (tmp_path / "env").exists()) == (2, False)


def test_git_ignores_the_files_that_make_env_writes():
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
