"""What our containers are told: settings that there are and fit together, and commands that the command line takes."""

from __future__ import annotations

import base64
import re

import pytest
import typer
from commands import refuse_unknown
from rendering import STORIES, Container, Rendered, render, rendered, set_to

from ifinu import settings
from ifinu.settings import Settings

# What other programs read in our containers: boto3, OpenTelemetry; and what `ifinu restore` is told of its pod.
FOREIGN = re.compile(r"(AWS|OTEL)_[A-Z0-9_]+")
POD = {"metadata.name": "ifinu-worker-7d4b9c5f6-x2x9k", "status.podIP": "10.0.0.7"}

# Secrets of somebody else, as long as they have to be.
THEIRS = {"flower-auth": "ops:of-somebody-elses", "webhook-secret": "w" * 40, "phone-key": "p" * 40}
AWKWARD = "p@ss:w/rd#?&%"  # what a Secret of somebody else may hold


def known() -> set[str]:
    names = Settings.names()
    return {name for every in names.values() for name in every} | {
        f"{names[field][0]}_FILE" for field in Settings.secrets()
    }


def ours(objects: Rendered) -> list[Container]:
    return [container for container in objects.containers() if container.ours]


def environment(objects: Rendered, container: Container, theirs: str = "of-somebody-else") -> dict[str, str]:
    """
    The variables as Kubernetes would put them into a container.

    Args:
        objects: The render.
        container: One of its.
        theirs: What is in Secrets that somebody else makes, where nothing longer is asked for.
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
            if reference.get("optional"):  # there for a time only
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
    """The settings as the process in a container reads them."""
    with monkeypatch.context() as patched:
        for name, value in environment(objects, container, theirs).items():
            patched.setenv(name, value)
        return settings.load()


@pytest.mark.parametrize("story", STORIES)
def test_every_variable_is_one_that_is_read(story):
    objects = rendered(story)
    assert objects["ConfigMap", "ifinu-config"]["data"].keys() <= known()
    for container in ours(objects):
        for name in container.env:
            assert name in known() or FOREIGN.fullmatch(name), (container.name, name)


@pytest.mark.parametrize("story", STORIES)
def test_every_process_takes_its_environment_as_it_is(story, monkeypatch):
    objects = rendered(story)
    containers = ours(objects)
    assert len(containers) >= 6
    for container in containers:
        read = loaded(monkeypatch, objects, container)
        assert read.rate_per_s in (50, 100), container.name


def test_a_setting_that_is_none_stops_a_process(monkeypatch):
    """
    As above, with one that the chart passes on.
    """
    objects = render({"settings": {"IFINU_SENDING_WINDWO": "mon-sat 08:00-20:00"}})
    with pytest.raises(settings.ConfigurationError, match="IFINU_SENDING_WINDWO: no such setting"):
        loaded(monkeypatch, objects, objects.container("Deployment", "ifinu-worker"))


def test_what_a_worker_reads(monkeypatch):
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


def test_a_password_of_somebody_else_may_have_any_characters(monkeypatch):
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


def test_the_simulator_fills_in_what_a_test_message_lacks(monkeypatch):
    objects = rendered("simulator")
    read = loaded(monkeypatch, objects, objects.container("Deployment", "ifinu-worker"))
    assert read.sandbox_number == "+5577998616740"


def test_what_each_process_can_open():
    """
    A process has the keys of what it talks to: the webhook, which strangers reach, none to the ledger or the gateway.
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


def test_the_same_key_for_whoever_hashes_phones_and_the_same_secret_for_both_ends_of_the_webhook():
    """
    The worker asks the opt-outs by a hash that the webhook made, and registers the webhook with the secret it asks for.
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
def test_every_command_is_one_that_the_command_line_takes(story):
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
def test_so_is_every_one_that_values_add_to(settings_):
    for container in ours(set_to(*settings_)):
        refuse_unknown(container.spec["args"])


@pytest.mark.parametrize("arguments", [["wroker"], ["metrics", "--prot=1"], ["metrics", "--port=x"], ["dlq"]])
def test_one_that_it_does_not_take_is_seen(arguments):
    with pytest.raises((typer.BadParameter.__base__, AssertionError)):
        refuse_unknown(arguments)


def test_ports_are_those_that_processes_listen_on():
    """
    Where they are told, by argument or variable, it is the port of the container.
    """
    for story in STORIES:
        for container in ours(rendered(story)):
            ports = {p["name"]: p["containerPort"] for p in container.spec.get("ports", [])}
            told = {int(a.partition("=")[2]) for a in container.spec["args"] if a.startswith("--port=")}
            if "IFINU_METRICS_PORT" in container.env:
                told.add(int(container.env["IFINU_METRICS_PORT"]["value"]))
            assert told == set(ports.values()), container.name
