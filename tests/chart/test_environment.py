"""The environment and commands of ifinu's containers: known, consistent settings and valid command lines."""

from __future__ import annotations

import base64
import re

import pytest
import typer
from commands import refuse_unknown
from rendering import STORIES, Container, Rendered, render, rendered, set_to

from ifinu import settings
from ifinu.settings import Settings

# Variables that boto3 and OpenTelemetry read in our containers, and that describe its pod to `ifinu restore`.
FOREIGN = re.compile(r"(AWS|OTEL)_[A-Z0-9_]+")
POD = {"metadata.name": "ifinu-worker-7d4b9c5f6-x2x9k", "status.podIP": "10.0.0.7"}

# Existing secrets of the required length.
THEIRS = {"flower-auth": "ops:of-somebody-elses", "webhook-secret": "w" * 40, "phone-key": "p" * 40}
AWKWARD = "p@ss:w/rd#?&%"  # possible content of an existing Secret


def known() -> set[str]:
    names = Settings.names()
    return {name for every in names.values() for name in every} | {
        f"{names[field][0]}_FILE" for field in Settings.secrets()
    }


def ours(objects: Rendered) -> list[Container]:
    return [container for container in objects.containers() if container.ours]


def environment(objects: Rendered, container: Container, theirs: str = "of-somebody-else") -> dict[str, str]:
    """
    The variables that Kubernetes would set in a container.

    Args:
        objects: The rendered chart.
        container: A container of the chart.
        theirs: The value of keys in existing Secrets, unless a longer one is required.
    """
    secrets = objects.of("Secret")
    out: dict[str, str] = {}
    for source in container.spec.get("envFrom", []):
        out |= objects["ConfigMap", source["configMapRef"]["name"]]["data"]
    for variable in container.spec.get("env", []):
        if "value" in variable:
            value = re.sub(r"\$\(([A-Z_]+)\)", lambda found: out.get(found[1], found[0]), variable["value"])
        elif "fieldRef" in variable["valueFrom"]:
            value = POD[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        else:
            reference = variable["valueFrom"]["secretKeyRef"]
            if reference.get("optional"):  # present only for a time
                continue
            if reference["name"] in secrets:
                value = base64.b64decode(secrets[reference["name"]]["data"][reference["key"]]).decode()
            else:
                value = THEIRS.get(reference["key"], theirs)
        out[variable["name"]] = value
    return out


def loaded(
    monkeypatch: pytest.MonkeyPatch, objects: Rendered, container: Container, theirs: str = "of-somebody-else"
) -> Settings:
    """The settings that the process in a container reads."""
    with monkeypatch.context() as patched:
        for name, value in environment(objects, container, theirs).items():
            patched.setenv(name, value)
        return settings.load()


@pytest.mark.parametrize("story", STORIES)
def test_every_variable_of_a_container_is_read_by_its_process(story):
    objects = rendered(story)
    assert objects["ConfigMap", "ifinu-config"]["data"].keys() <= known()
    for container in ours(objects):
        for name in container.env:
            assert name in known() or FOREIGN.fullmatch(name), (container.name, name)


@pytest.mark.parametrize("story", STORIES)
def test_every_process_accepts_its_environment(story, monkeypatch):
    objects = rendered(story)
    containers = ours(objects)
    assert len(containers) >= 6
    for container in containers:
        read = loaded(monkeypatch, objects, container)
        assert read.rate_per_s in (50, 100), container.name


def test_an_unknown_setting_stops_a_process(monkeypatch):
    """
    An unknown variable that the chart passes on raises ConfigurationError.
    """
    objects = render({"settings": {"IFINU_SENDING_WINDWO": "mon-sat 08:00-20:00"}})
    with pytest.raises(settings.ConfigurationError, match="IFINU_SENDING_WINDWO: no such setting"):
        loaded(monkeypatch, objects, objects.container("Deployment", "ifinu-worker"))


def test_the_settings_of_registered_numbers_reach_every_process(monkeypatch):
    objects = render({"settings": {"IFINU_NUMBERS": "registered", "IFINU_REMINDERS_PER_PERSON": "2"}})
    for container in ours(objects):
        read = loaded(monkeypatch, objects, container)
        assert (read.numbers, read.reminders_per_person) == ("registered", 2), container.name


def test_the_settings_of_a_worker(monkeypatch):
    objects = rendered("default")
    read = loaded(monkeypatch, objects, objects.container("Deployment", "ifinu-worker"))
    redis = base64.b64decode(objects["Secret", "redis-queue"]["data"]["redis-password"]).decode()
    ledger = base64.b64decode(objects["Secret", "evolution-postgres"]["data"]["ifinu-password"]).decode()
    assert read.redis_url.get_secret_value() == f"redis://:{redis}@redis-queue-service:6379/0"
    assert read.database_url.get_secret_value() == (
        f"postgresql+psycopg2://ifinu:{ledger}@evolution-postgres-service:5432/ifinu"
    )
    assert read.evolution_url == "http://evolution-api-headless:8080"
    assert read.evolution_sharded is True
    assert (read.rate_per_s, read.concurrency, read.evolution_read_timeout_s) == (50.0, 10, 75.0)
    assert read.recorder is False
    assert read.worker_name == POD["metadata.name"]
    assert str(read.heartbeat_file) == "/tmp/heartbeat"
    assert read.metrics_port == 9464
    assert read.sandbox_number is None
    for secret in (read.evolution_api_key, read.phone_key, read.webhook_secret):
        assert secret is not None
        assert len(secret.get_secret_value()) == 40


def test_a_password_from_an_existing_secret_may_have_any_characters(monkeypatch):
    objects = rendered("external")
    for container in ours(objects):
        read = loaded(monkeypatch, objects, container, AWKWARD)
        if "IFINU_REDIS_PASSWORD" in container.env:
            assert read.redis_url.get_secret_value() == (
                "rediss://ifinu:p%40ss%3Aw%2Frd%23%3F%26%25@queue.example.com:6380/1"
            )
        if "IFINU_DATABASE_PASSWORD" in container.env:
            assert read.database_url.get_secret_value() == (
                "postgresql+psycopg2://ifinu:p%40ss%3Aw%2Frd%23%3F%26%25@db.example.com:5432/ifinu?sslmode=require"
            )


def test_the_simulator_fills_in_the_fields_that_a_test_message_lacks(monkeypatch):
    objects = rendered("simulator")
    read = loaded(monkeypatch, objects, objects.container("Deployment", "ifinu-worker"))
    assert read.sandbox_number == "+5577998616740"


def test_each_process_has_only_the_secrets_that_it_needs():
    """
    A process has the keys of its servers only. The webhook, which strangers can reach, has none to ledger or gateway.
    """
    passwords = {
        "IFINU_REDIS_PASSWORD": "redis",
        "IFINU_DATABASE_PASSWORD": "ledger",
        "IFINU_EVOLUTION_API_KEY": "gateway",
        "IFINU_EVOLUTION_DATABASE_PASSWORD": "sessions",
    }
    objects = rendered("large")
    found = {
        container.name: {passwords[name] for name in container.env if name in passwords} for container in ours(objects)
    }
    assert found == {
        "Deployment/ifinu-worker/worker": {"redis", "ledger", "gateway"},
        "Deployment/ifinu-webhook/webhook": {"redis"},
        "Deployment/ifinu-recorder/migrate": {"ledger"},
        "Deployment/ifinu-recorder/recorder": {"redis", "ledger"},
        "Deployment/ifinu-metrics/metrics": {"redis", "ledger", "gateway"},
        "Deployment/ifinu-flower/flower": {"redis"},
        "CronJob/ifinu-backup/backup": {"redis", "ledger", "sessions"},
        "CronJob/ifinu-restore/restore": {"redis", "ledger", "sessions"},
        "CronJob/ifinu-restore-drill/drill": set(),
        "Pod/ifinu-test-doctor/doctor": {"redis", "ledger", "gateway"},
    }


def test_phones_are_hashed_with_one_key_and_both_ends_of_the_webhook_share_a_secret():
    """
    The worker finds opt-outs by the webhook's hash and registers the webhook with the secret that it requires.
    """
    for story in ("default", "external", "simulator"):
        objects = rendered(story)
        worker = objects.container("Deployment", "ifinu-worker").env
        webhook = objects.container("Deployment", "ifinu-webhook").env
        for name in ("IFINU_PHONE_KEY", "IFINU_WEBHOOK_SECRET"):
            assert worker[name] == webhook[name]
        present = webhook["IFINU_WEBHOOK_SECRET"]["valueFrom"]["secretKeyRef"]
        before = webhook["IFINU_WEBHOOK_SECRET_PREVIOUS"]["valueFrom"]["secretKeyRef"]
        assert before == {"name": present["name"], "key": f"{present['key']}-previous", "optional": True}
    simulator = rendered("simulator").container("Deployment", "evolution-api")
    worker = rendered("simulator").container("Deployment", "ifinu-worker").env
    for name in ("IFINU_EVOLUTION_API_KEY", "IFINU_WEBHOOK_SECRET"):
        assert simulator.env[name] == worker[name]


# -- commands


@pytest.mark.parametrize("story", STORIES)
def test_every_command_of_a_container_is_valid(story):
    for container in ours(rendered(story)):
        assert "command" not in container.spec, container.name  # the image's entrypoint takes signals
        refuse_unknown(container.spec["args"])


@pytest.mark.parametrize(
    "settings_",
    [
        ("flower.allowControl=true", "flower.urlPrefix=flower"),
        ("backup.enabled=true", "backup.restore.replace=true", "backup.restore.name=20260101T031700Z"),
        ("simulator.enabled=true", "simulator.latencyMs=200"),
        ("flower.maxTasks=1000000",),  # not 1e+06
    ],
)
def test_every_command_extended_by_values_is_valid(settings_):
    for container in ours(set_to(*settings_)):
        refuse_unknown(container.spec["args"])


@pytest.mark.parametrize("arguments", [["wroker"], ["metrics", "--prot=1"], ["metrics", "--port=x"], ["dlq"]])
def test_an_invalid_command_is_found(arguments):
    with pytest.raises((typer.BadParameter.__base__, AssertionError)):
        refuse_unknown(arguments)


def test_every_container_port_is_one_that_its_process_listens_on():
    """
    Ports given by argument or variable are the container's ports.
    """
    for story in STORIES:
        for container in ours(rendered(story)):
            ports = {p["name"]: p["containerPort"] for p in container.spec.get("ports", [])}
            listening = {int(a.partition("=")[2]) for a in container.spec["args"] if a.startswith("--port=")}
            if "IFINU_METRICS_PORT" in container.env:
                listening.add(int(container.env["IFINU_METRICS_PORT"]["value"]))
            assert listening == set(ports.values()), container.name


def test_the_providers_secrets_are_a_file_that_only_the_webhook_has(monkeypatch):
    objects = render({"webhook": {"payments": {"existingSecret": "payments", "existingSecretKey": "of-providers"}}})
    read = {each.name: loaded(monkeypatch, objects, each).payment_secrets_file for each in ours(objects)}
    assert {name for name, path in read.items() if path} == {"Deployment/ifinu-webhook/webhook"}
    pod = objects["Deployment", "ifinu-webhook"]["spec"]["template"]["spec"]
    (mount,) = (one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "payments")
    (volume,) = (one["secret"] for one in pod["volumes"] if one["name"] == "payments")
    assert (mount["readOnly"], volume["secretName"], volume["defaultMode"]) == (True, "payments", 0o440)
    assert [f"{mount['mountPath']}/{one['path']}" for one in volume["items"] if one["key"] == "of-providers"] == [
        str(read["Deployment/ifinu-webhook/webhook"])
    ]
