"""The values: all described, typos refused at every level, contradictions refused naming both keys."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from helm_binaries import MAJORS
from rendering import CHART, STORIES, Object, Rendered, RenderError, render, rendered, set_to

from ifinu.settings import Settings

VALUES: Object = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA: Object = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

Path = tuple[str, ...]

# Keys of Kubernetes, the same in each component.
KUBERNETES = {
    *("image", "repository", "tag", "digest", "pullPolicy"),
    *("resources", "requests", "limits", "nodeSelector", "tolerations", "affinity", "priorityClassName"),
    *("podAnnotations", "podLabels", "annotations", "labels", "namespace"),
    *("extraEnv", "extraVolumes", "extraVolumeMounts"),
    *("persistence", "size", "storageClass", "accessModes"),
    *("behavior", "scaleUp", "scaleDown", "stabilizationWindowSeconds", "selectPolicy", "policies"),
    *("existingSecret", "existingSecretKey", "value"),
    *("enabled", "replicaCount", "schedule", "timeZone", "matchLabels"),
    "podDisruptionBudget",
}


def in_schema(schema: Object, path: Path = ()) -> Iterator[tuple[Path, Object]]:
    """Every key of the schema, with its definition."""
    for key, inner in schema.get("properties", {}).items():
        yield (*path, key), inner
        yield from in_schema(inner, (*path, key))


def levels() -> list[Path]:
    """The paths of the levels whose keys are the chart's, from the top."""
    return [(), *(path for path, inner in in_schema(SCHEMA) if "properties" in inner)]


def in_values(values: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every value whose key is the chart's."""
    for key, inner in values.items():
        yield (*path, key)
        if isinstance(inner, dict) and (*path, key) in levels():
            yield from in_values(inner, (*path, key))


def described() -> dict[Path, bool]:
    """For each key of values.yaml, whether it has a comment above or behind it."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    out = {}

    def walk(node: yaml.Node, path: Path) -> None:
        assert isinstance(node, yaml.MappingNode)
        for key, value in node.value:
            line = key.start_mark.line
            above = line > 0 and lines[line - 1].lstrip().startswith("#")
            out[*path, key.value] = above or " #" in lines[line]
            if isinstance(value, yaml.MappingNode):
                walk(value, (*path, key.value))

    walk(yaml.compose(text, yaml.SafeLoader), ())
    return out


# -- keys


def test_values_and_schema_have_the_same_keys():
    # Helm passes `global` to every chart. The others are Kubernetes objects that a user may extend.
    expected = {path for path, _ in in_schema(SCHEMA)} - {("global",)}
    kubernetes = {path for path in expected if path[-1] in ("requests", "limits", "claims") and path[-2] == "resources"}
    assert set(in_values(VALUES)) - kubernetes == expected - kubernetes


def test_every_level_of_the_schema_refuses_unknown_keys():
    for path, inner in in_schema(SCHEMA):
        if inner.get("type") == "object" and path not in {("global",)} and path[-1] != "affinity":
            assert "additionalProperties" in inner, path
        if "properties" in inner:
            assert inner["additionalProperties"] is False, path


def test_every_key_is_described_or_its_block_is():
    known = described()
    bare = {
        path
        for path in in_values(VALUES)
        if not known[path] and path[-1] not in KUBERNETES and not known.get(path[:-1])
    }
    assert bare == set()


@pytest.mark.parametrize("major", MAJORS)
def test_a_typo_is_refused_at_every_level(major):
    typos: Object = {}
    for path in levels():
        at = typos
        for key in path:
            at = at.setdefault(key, {})
        at["tpyo"] = 1
    with pytest.raises(RenderError) as refused:
        render(typos, major=major)
    # Helm 3 says `- worker.image: Additional property tpyo …`, Helm 4 `- at '/worker/image': additional properties …`.
    places = re.findall(r"- (?:at '/?)?([\w./()]*)'?: [Aa]dditional propert", str(refused.value))
    found = {tuple(re.split(r"[./]", where)) if where not in ("", "(root)") else () for where in places}
    assert found == set(levels())


# -- types


@pytest.mark.parametrize(
    "setting",
    [
        "worker.concurrency=0",
        "evolution.instance=",
        "flower.maxTasks=2000000",
        "worker.concurrency=ten",
        "worker.rateLimit=fast",
        "worker.rateLimit=0/s",
        "worker.rateLimit=50/d",
        "worker.readTimeoutSeconds=5",  # the gateway needs more, and its sends would then end as unknown
        "worker.autoscaling.minReplicas=0",
        "evolution.topology=both",
        "evolution.image.tag=latest",
        "evolution.guard.image.tag=",  # the chart would use its version
        "redis.image.tag=latest",
        "postgres.image.tag=",
        "redis.maxmemory=1Gi",  # a size in Kubernetes' notation, not Redis'
        "redis.auth.value=with/slash",  # in a URL
        "postgres.auth.evolutionPassword=with@sign",  # in a URL
        "postgres.persistence.size=20",
        "webhook.secret.value=short",
        "phoneKey.value=short",
        "flower.auth.value=ops:short",
        "image.digest=sha256:1",
        "logLevel=verbose",
        "backup.s3.url=https://bucket",
        "backup.keepDays=0",
        "reconciliation.providers={paypal}",
        "reconciliation.since=3w",
        "reconciliation.deadlineSeconds=0",
        "redis.external.url=localhost:6379",
        "postgres.external.url=mysql://localhost/x",
        "evolution.external.url=evolution:8080",
        "evolution.service.port=70000",
        "monitoring.podMonitor.interval=15",
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(setting):
    key = setting.partition("=")[0]
    with pytest.raises(RenderError, match=re.escape(key.replace(".", "/"))):
        set_to(setting)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (("worker", "concurrency"), "concurrency"),
        (("recorder", "retentionDays"), "retention_days"),
        (("backup", "keepDays"), "backup_keep_days"),
    ],
)
def test_bounds_equal_those_of_the_setting(path, field):
    """
    Otherwise Helm would accept a value with which no process starts.
    """
    bounds = {type(bound).__name__: bound for bound in Settings.model_fields[field].metadata}
    schema = dict(in_schema(SCHEMA))[path]
    assert schema["minimum"] == bounds["Ge"].ge
    assert schema.get("maximum") == (bounds["Le"].le if "Le" in bounds else None)


def test_a_number_that_is_a_phone_stays_whole():
    assert set_to("sandboxNumber=77998616740")["ConfigMap", "ifinu-config"]["data"]["IFINU_SANDBOX_NUMBER"] == (
        "77998616740"
    )
    for major in MAJORS:
        config = render({"sandboxNumber": 77998616740}, major=major)["ConfigMap", "ifinu-config"]
        assert config["data"]["IFINU_SANDBOX_NUMBER"] == "77998616740"


def test_settings_reach_every_process():
    settings = {"IFINU_SENDING_WINDOW": "mon-sat 08:00-20:00", "IFINU_MAX_RETRIES": "5"}
    data = render({"settings": settings})["ConfigMap", "ifinu-config"]["data"]
    assert {name: data[name] for name in settings} == settings


def test_holidays_are_closed_by_default_except_with_the_simulator():
    for given, expected in [((), "BR"), (("sendingHolidays=",), ""), (("simulator.enabled=true",), "")]:
        assert set_to(*given)["ConfigMap", "ifinu-config"]["data"]["IFINU_SENDING_HOLIDAYS"] == expected


def test_each_setting_of_the_chart_has_a_value():
    """
    `settings` refuses each setting of the ConfigMap, and the error names the value to use instead.
    """
    data = rendered("default")["ConfigMap", "ifinu-config"]["data"]
    for name in data:
        with pytest.raises(
            RenderError, match=rf"settings\.{name} is set by the chart: use the value for it \((.+)\)"
        ) as e:
            render({"settings": {name: "x"}})
        hint = re.search(r"use the value for it \((.+?)\)", str(e.value))
        assert hint
        if not hint[1].startswith("none"):
            assert tuple(hint[1].split(".")) in set(in_values(VALUES)), hint[1]


# -- contradictions

OUTSIDE_EVOLUTION = {"enabled": True, "url": "https://evolution.example.com"}
OUTSIDE_REDIS = {"enabled": True, "url": "redis://queue.example.com:6379/0"}
OUTSIDE_POSTGRES = {
    "enabled": True,
    "url": "postgresql://ifinu@db.example.com/ifinu",
    "evolutionUrl": "postgresql://evolution@db.example.com/evolution",
}
WITH_KEY = {"apiKey": {"existingSecret": "gateway"}}

CONTRADICTIONS: dict[str, tuple[Object, tuple[str, ...]]] = {
    "two autoscalers": (
        {"worker": {"keda": {"enabled": True}}},
        ("worker.autoscaling.enabled", "worker.keda.enabled"),
    ),
    "a metric of no autoscaler": (
        {"worker": {"autoscaling": {"enabled": False, "queue": {"enabled": True}}}},
        ("worker.autoscaling.queue.enabled", "worker.autoscaling.enabled"),
    ),
    "fewer workers than the least": (
        {"worker": {"autoscaling": {"minReplicas": 9, "maxReplicas": 3}}},
        ("worker.autoscaling.minReplicas (9)", "worker.autoscaling.maxReplicas (3)"),
    ),
    "fewer gateways than the least": (
        {"evolution": {"autoscaling": {"minReplicas": 9, "maxReplicas": 3}}},
        ("evolution.autoscaling.minReplicas (9)", "evolution.autoscaling.maxReplicas (3)"),
    ),
    "an autoscaler without a metric": (
        {
            "worker": {
                "autoscaling": {"targetCPUUtilizationPercentage": 0, "targetMemoryUtilizationPercentage": 0},
            }
        },
        ("worker.autoscaling.targetCPUUtilizationPercentage", "worker.autoscaling.targetMemoryUtilizationPercentage"),
    ),
    "a share of no CPU": (
        {"worker": {"resources": {"requests": {"cpu": None, "memory": "256Mi"}}}},
        ("worker.autoscaling.targetCPUUtilizationPercentage", "worker.resources.requests.cpu"),
    ),
    "a share of no memory": (
        {"evolution": {"resources": {"requests": {"cpu": "250m", "memory": None}}}},
        ("evolution.autoscaling.targetMemoryUtilizationPercentage", "evolution.resources.requests.memory"),
    ),
    "two stand-ins for the gateway": (
        {"simulator": {"enabled": True}, "evolution": {"external": OUTSIDE_EVOLUTION, **WITH_KEY}},
        ("simulator.enabled", "evolution.external.enabled"),
    ),
    "a gateway nowhere": (
        {"evolution": {"external": {"enabled": True}, **WITH_KEY}},
        ("evolution.external.enabled", "evolution.external.url"),
    ),
    "a gateway without its key": (
        {"evolution": {"external": OUTSIDE_EVOLUTION}},
        ("evolution.external.enabled", "evolution.apiKey.existingSecret", "evolution.apiKey.value"),
    ),
    "a Redis nowhere": (
        {"redis": {"external": {"enabled": True}}},
        ("redis.external.enabled", "redis.external.url"),
    ),
    "a PostgreSQL nowhere": (
        {"postgres": {"external": {"enabled": True}, "auth": {"existingSecret": "db"}}},
        ("postgres.external.enabled", "postgres.external.url"),
    ),
    "a PostgreSQL without its password": (
        {"postgres": {"external": OUTSIDE_POSTGRES}},
        ("postgres.external.enabled", "postgres.auth.existingSecret", "postgres.auth.ifinuPassword"),
    ),
    "a PostgreSQL without the gateway's database": (
        {"postgres": {"external": {**OUTSIDE_POSTGRES, "evolutionUrl": ""}, "auth": {"existingSecret": "db"}}},
        ("postgres.external.enabled", "postgres.external.evolutionUrl"),
    ),
    "a PostgreSQL without the gateway's password": (
        {"postgres": {"external": OUTSIDE_POSTGRES, "auth": {"ifinuPassword": "secret"}}},
        ("postgres.external.enabled", "postgres.auth.evolutionPassword"),
    ),
    "a password in Redis' URL": (
        {"redis": {"external": {**OUTSIDE_REDIS, "url": "redis://:secret@queue.example.com:6379/0"}}},
        ("redis.external.url has a password in it", "redis.auth"),
    ),
    "a password in the URL of the gateway's Redis": (
        {"redis": {"external": {**OUTSIDE_REDIS, "evolutionUrl": "redis://a:secret@queue.example.com:6379/6"}}},
        ("redis.external.evolutionUrl has a password in it", "redis.auth"),
    ),
    "a password in PostgreSQL's URL": (
        {
            "postgres": {
                "external": {**OUTSIDE_POSTGRES, "url": "postgresql://ifinu:se/cret@db.example.com/ifinu"},
                "auth": {"existingSecret": "db"},
            }
        },
        ("postgres.external.url has a password in it", "postgres.auth"),
    ),
    "a password behind PostgreSQL's URL": (
        {
            "postgres": {
                "external": {
                    **OUTSIDE_POSTGRES,
                    "evolutionUrl": "postgresql://db.example.com/evolution?user=evolution&password=secret",
                },
                "auth": {"existingSecret": "db"},
            }
        },
        ("postgres.external.evolutionUrl has a password in it", "postgres.auth"),
    ),
    "a password in the gateway's URL": (
        {"evolution": {"external": {"enabled": True, "url": "https://a:secret@evolution.example.com"}, **WITH_KEY}},
        ("evolution.external.url has a password in it", "evolution.apiKey"),
    ),
    "more connections than the database takes": (
        {"evolution": {"connectionLimit": 20}},
        ("evolution.connectionLimit (20) x 20 pods", "postgres.maxConnections (200)"),
    ),
    "backups in two places": (
        {"backup": {"enabled": True, "s3": {"url": "s3://example-backups"}}},
        ("backup.persistence.enabled", "backup.s3.url"),
    ),
    "backups nowhere": (
        {"backup": {"enabled": True, "persistence": {"enabled": False}}},
        ("backup.enabled", "backup.persistence.enabled", "backup.s3.url"),
    ),
    "payments asked for without keys": (
        {"reconciliation": {"enabled": True, "providers": ["asaas"]}},
        ("reconciliation.enabled", "webhook.payments.existingSecret"),
    ),
    "payments asked for of nobody": (
        {"reconciliation": {"enabled": True}, "webhook": {"payments": {"existingSecret": "payments"}}},
        ("reconciliation.providers", "asaas", "mercado_pago"),
    ),
    "a setting that is not ours": (
        {"settings": {"OTEL_SERVICE_NAME": "x"}},
        ("settings.OTEL_SERVICE_NAME", "extraEnv"),
    ),
    "a setting that the chart has a value for": (
        {"settings": {"IFINU_RATE_LIMIT": "1/s"}},
        ("settings.IFINU_RATE_LIMIT", "worker.rateLimit"),
    ),
    "a secret among the settings": (
        {"settings": {"IFINU_PHONE_KEY": "k" * 32}},
        ("settings.IFINU_PHONE_KEY", "phoneKey"),
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_refused_and_both_keys_are_named(name):
    values, words = CONTRADICTIONS[name]
    with pytest.raises(RenderError) as refused:
        render(values)
    for word in words:
        assert word in str(refused.value)


def test_every_refusal_has_a_row_above():
    """
    The rows cover each `fail` of the templates.
    """
    templates = "".join(file.read_text(encoding="utf-8") for file in (CHART / "templates").rglob("*.*"))
    refusals = re.findall(r'\bfail (?:\(printf )?"([^"]+)"', templates)
    assert len(refusals) == len(re.findall(r"\bfail\b[ (]", templates)) > 15
    met = set()
    for values, _ in CONTRADICTIONS.values():
        with pytest.raises(RenderError) as refused:
            render(values)
        for text in refusals:
            if re.search(re.sub(r"%[sd]", r"\\S+", re.escape(text)), str(refused.value)):
                met.add(text)
    assert [text for text in refusals if text not in met] == []


def test_each_half_of_a_contradiction_alone_is_accepted():
    """
    For some of the rows, each half alone is valid.
    """
    for values in (
        {"worker": {"keda": {"enabled": True}, "autoscaling": {"enabled": False}}},
        {"worker": {"autoscaling": {"targetCPUUtilizationPercentage": 0}}},
        {"evolution": {"external": OUTSIDE_EVOLUTION, **WITH_KEY}},
        {"redis": {"external": OUTSIDE_REDIS}},
        {"postgres": {"external": OUTSIDE_POSTGRES, "auth": {"existingSecret": "db"}}},
        {"postgres": {"external": OUTSIDE_POSTGRES, "auth": {"ifinuPassword": "a", "evolutionPassword": "b"}}},
        {"evolution": {"connectionLimit": 20}, "postgres": {"maxConnections": 430}},
        {"simulator": {"enabled": True}, "evolution": {"connectionLimit": 20}},
        {"backup": {"enabled": True, "persistence": {"enabled": False}, "s3": {"url": "s3://example-backups"}}},
    ):
        assert isinstance(render(values), Rendered)


def test_volumes_are_read_write_once_unless_read_write_once_pod_is_set():
    def modes(persistence: Object) -> list[str]:
        volume = {"persistence": persistence}
        of_gateway = {"persistence": {"enabled": True, **persistence}}
        objects = render({"redis": volume, "postgres": volume, "evolution": of_gateway})
        claims = [objects["PersistentVolumeClaim", "redis-queue"]]
        for name in ("evolution-api", "evolution-postgres"):
            claims += objects["StatefulSet", name]["spec"]["volumeClaimTemplates"]
        return [mode for claim in claims for mode in claim["spec"]["accessModes"]]

    assert modes({}) == ["ReadWriteOnce"] * 3
    assert modes({"accessModes": ["ReadWriteOncePod"]}) == ["ReadWriteOncePod"] * 3


# -- the stories


def test_the_ci_values_are_described():
    for file in STORIES.values():
        assert file.read_text(encoding="utf-8").startswith("# ")


def test_user_labels_are_on_every_object_and_never_override_the_charts():
    mine = {"team": "billing", "app": "mine", "app.kubernetes.io/component": "mine"}
    objects = render({"commonLabels": mine, "worker": {"podLabels": {**mine, "shift": "late"}}})
    before = rendered("default")
    for key, document in objects.items():
        labels = document["metadata"]["labels"]
        assert labels["team"] == "billing", key
        ours = copy.deepcopy(before[key]["metadata"]["labels"])
        assert {name: labels[name] for name in ours} == ours, key
    pod = objects["Deployment", "ifinu-worker"]["spec"]["template"]["metadata"]["labels"]
    assert (pod["app"], pod["team"], pod["shift"]) == ("ifinu-worker", "billing", "late")
