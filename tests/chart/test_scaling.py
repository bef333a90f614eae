"""The number of pods, the autoscalers and their metrics."""

from __future__ import annotations

import re

import pytest
import redis
from prometheus_client import CollectorRegistry
from rendering import STORIES, Object, Rendered, RenderError, render, rendered, set_to

from ifinu.broker import QUEUES, Keys, lanes
from ifinu.broker.keys import GENERATION, NUMBERS, number_key, script
from ifinu.metrics.redis_series import RedisCollector
from ifinu.settings import Settings

SCALE_UP = {
    "stabilizationWindowSeconds": 60,
    "selectPolicy": "Max",
    "policies": [
        {"type": "Percent", "value": 50, "periodSeconds": 60},
        {"type": "Pods", "value": 2, "periodSeconds": 60},
    ],
}
SCALE_DOWN = {
    "stabilizationWindowSeconds": 300,
    "selectPolicy": "Min",
    "policies": [
        {"type": "Percent", "value": 10, "periodSeconds": 60},
        {"type": "Pods", "value": 1, "periodSeconds": 60},
    ],
}


def utilization(resource: str, percent: int) -> Object:
    return {
        "type": "Resource",
        "resource": {"name": resource, "target": {"type": "Utilization", "averageUtilization": percent}},
    }


def keda(rate: str = "50/s", **more: str) -> Rendered:
    return set_to(
        "worker.autoscaling.enabled=false",
        "worker.keda.enabled=true",
        f"worker.rateLimit={rate}",
        *(f"{key}={value}" for key, value in more.items()),
    )


def replicas(objects: Rendered, kind: str, name: str) -> int | None:
    """The object's replicas, or None if unset."""
    found: int | None = objects[kind, name]["spec"].get("replicas")
    return found


# -- CPU and memory


@pytest.mark.parametrize(
    ("story", "name", "target"),
    [
        ("default", "ifinu-worker-hpa", ("Deployment", "ifinu-worker")),
        ("default", "evolution-api-hpa", ("StatefulSet", "evolution-api")),
        ("replicated", "evolution-api-hpa", ("Deployment", "evolution-api")),
    ],
)
def test_the_figures_of_the_autoscalers(story, name, target):
    spec = rendered(story)["HorizontalPodAutoscaler", name]["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": target[0], "name": target[1]}
    assert target in rendered(story)
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 20)
    assert spec["metrics"] == [utilization("cpu", 70), utilization("memory", 80)]
    assert spec["behavior"]["scaleUp"] == SCALE_UP
    if target[0] == "Deployment":
        assert spec["behavior"]["scaleDown"] == SCALE_DOWN


def test_a_gateway_with_sessions_is_not_scaled_down():
    behavior = rendered("default")["HorizontalPodAutoscaler", "evolution-api-hpa"]["spec"]["behavior"]
    assert behavior["scaleDown"] == {"selectPolicy": "Disabled"}


@pytest.mark.parametrize("story", STORIES)
def test_every_container_of_an_autoscaled_pod_requests_the_scaling_resource(story):
    """
    If one requests none, the autoscaler cannot compute a utilization and does nothing.
    """
    objects = rendered(story)
    for name, hpa in objects.of("HorizontalPodAutoscaler").items():
        spec = hpa["spec"]
        wanted = {m["resource"]["name"] for m in spec["metrics"] if m["type"] == "Resource"}
        target = spec["scaleTargetRef"]
        for container in objects.pod(target["kind"], target["name"])["containers"]:
            assert wanted <= container["resources"]["requests"].keys(), (name, container["name"])


# -- the number of replicas


@pytest.mark.parametrize("story", STORIES)
def test_a_new_autoscaled_deployment_starts_with_the_minimum(story):
    """
    An existing one keeps the autoscaler's number: `test_no_upgrade_and_no_rollback_…`.
    """
    objects = rendered(story)
    scaled = {
        (hpa["spec"]["scaleTargetRef"]["kind"], hpa["spec"]["scaleTargetRef"]["name"]): hpa["spec"]["minReplicas"]
        for hpa in objects.of("HorizontalPodAutoscaler").values()
    }
    for keda in objects.of("ScaledObject").values():
        scaled["Deployment", keda["spec"]["scaleTargetRef"]["name"]] = keda["spec"]["minReplicaCount"]
    assert ("Deployment", "ifinu-worker") in scaled
    for (kind, name), least in scaled.items():
        assert replicas(objects, kind, name) == least


@pytest.mark.parametrize(("topology", "kind"), [("sharded", "StatefulSet"), ("replicated", "Deployment")])
def test_without_autoscalers_the_values_set_the_replicas(topology, kind):
    objects = set_to(
        f"evolution.topology={topology}",
        *("worker.autoscaling.enabled=false", "worker.replicaCount=7"),
        *("evolution.autoscaling.enabled=false", "evolution.replicaCount=3"),
    )
    assert replicas(objects, "Deployment", "ifinu-worker") == 7
    assert replicas(objects, kind, "evolution-api") == 3
    assert objects.of("HorizontalPodAutoscaler") == {}


def test_zero_replicas_are_possible():
    assert replicas(set_to("webhook.replicaCount=0"), "Deployment", "ifinu-webhook") == 0


# -- the backlog


@pytest.mark.parametrize(
    ("rate", "messages"),
    [("50/s", "1000"), ("3000/m", "1000"), ("100/h", "1"), ("90/m", "30"), ("100/s", "2000"), ("0.5/s", "10")],
)
def test_the_backlog_target_of_a_pod_is_twenty_seconds_of_its_pace(rate, messages):
    """
    At a pace of 100/h that is less than a message, so the target is one.
    """
    for trigger in keda(rate)["ScaledObject", "ifinu-worker"]["spec"]["triggers"]:
        assert trigger["metadata"]["listLength"] == messages
    objects = set_to("worker.autoscaling.queue.enabled=true", f"worker.rateLimit={rate}")
    (metric,) = objects["HorizontalPodAutoscaler", "ifinu-worker-hpa"]["spec"]["metrics"]
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": messages}


def test_the_backlog_target_can_be_set():
    objects = set_to("worker.autoscaling.queue.enabled=true", "worker.autoscaling.queue.backlogSeconds=60")
    (metric,) = objects["HorizontalPodAutoscaler", "ifinu-worker-hpa"]["spec"]["metrics"]
    assert metric["external"]["target"]["averageValue"] == "3000"


def test_keda_counts_the_lists_that_the_workers_consume():
    objects = rendered("keda")
    scaled = objects["ScaledObject", "ifinu-worker"]
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    spec = scaled["spec"]
    assert spec.keys() == {
        *(
            "scaleTargetRef",
            "pollingInterval",
            "minReplicaCount",
            "maxReplicaCount",
            "fallback",
            "advanced",
            "triggers",
        ),
    }
    assert spec["scaleTargetRef"] == {"name": "ifinu-worker"}
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 20)
    assert spec["fallback"] == {"failureThreshold": 3, "replicas": 4}
    hpa = spec["advanced"]["horizontalPodAutoscalerConfig"]
    assert hpa == {"name": "ifinu-worker-hpa", "behavior": {"scaleUp": SCALE_UP, "scaleDown": SCALE_DOWN}}
    assert "ifinu-worker-hpa" not in objects.of("HorizontalPodAutoscaler")  # KEDA makes it
    assert [trigger["metadata"]["listName"] for trigger in spec["triggers"]] == list(QUEUES)
    for trigger in spec["triggers"]:
        assert trigger["type"] == "redis"
        metadata = {name: value for name, value in trigger["metadata"].items() if name != "listName"}
        assert metadata == {
            "address": "redis-queue-service:6379",
            "passwordFromEnv": "IFINU_REDIS_PASSWORD",
            "databaseIndex": "0",
            "enableTLS": "false",
            "listLength": "1000",
        }
        assert metadata["passwordFromEnv"] in objects.container("Deployment", "ifinu-worker").env


@pytest.mark.parametrize("auth", [{}, {"existingSecret": "queue"}])
def test_keda_can_use_an_external_redis(auth):
    objects = render(
        {
            "worker": {"keda": {"enabled": True}, "autoscaling": {"enabled": False}},
            "redis": {"external": {"enabled": True, "url": "rediss://ifinu@queue.example.com:6380/1"}, "auth": auth},
        }
    )
    for trigger in objects["ScaledObject", "ifinu-worker"]["spec"]["triggers"]:
        metadata = trigger["metadata"]
        assert metadata["address"] == "queue.example.com:6380"
        assert metadata["username"] == "ifinu"
        assert (metadata["databaseIndex"], metadata["enableTLS"]) == ("1", "true")
        assert ("passwordFromEnv" in metadata) == bool(auth)


def test_the_backlog_metric_is_exported_by_ifinu(client: redis.Redis):
    (metric,) = rendered("queue-metric")["HorizontalPodAutoscaler", "ifinu-worker-hpa"]["spec"]["metrics"]
    assert metric["type"] == "External"
    external = metric["external"]["metric"]
    assert external["selector"] == {"matchLabels": {"namespace": "ifinu-production"}}
    series = CollectorRegistry()
    RedisCollector(series, client)
    assert external["name"] in {family.name for family in series.collect()}


def test_no_autoscaler_counts_messages_that_wait_for_their_number(client: redis.Redis):
    """More pods would not help: the number sets the pace."""
    client.set(GENERATION, "g")
    client.sadd(NUMBERS, "n1")
    client.hset(number_key("n1"), mapping={"par": 1, "presa": 32_000_000_000_000, "motivo": "by hand"})
    for queue in QUEUES:
        client.lpush(queue, '{"id": "a", "instancia": "n1"}', '{"id": "b", "instancia": "n1"}')
    keys = [key for queue in QUEUES for key in Keys.of(queue)]
    assert script("fetch")(client, keys, (10, 30_000, "t.", "g", 0.5, 100, ""))[2:] == []
    assert sum(lanes.total(client, queue) for queue in QUEUES) == 6
    for trigger in rendered("keda")["ScaledObject", "ifinu-worker"]["spec"]["triggers"]:
        assert client.llen(trigger["metadata"]["listName"]) == 0
    (metric,) = rendered("queue-metric")["HorizontalPodAutoscaler", "ifinu-worker-hpa"]["spec"]["metrics"]
    series = CollectorRegistry()
    RedisCollector(series, client)
    found = {family.name: sum(sample.value for sample in family.samples) for family in series.collect()}
    assert found[metric["external"]["metric"]["name"]] == 0
    assert found["ifinu_queue_in_lanes"] == 6


def test_scaling_by_backlog_replaces_cpu_and_memory_and_changes_nothing_else():
    spec = rendered("queue-metric")["HorizontalPodAutoscaler", "ifinu-worker-hpa"]["spec"]
    assert len(spec["metrics"]) == 1
    assert spec["behavior"] == {"scaleUp": SCALE_UP, "scaleDown": SCALE_DOWN}


# -- settings recommended by the documents


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        ("worker.autoscaling.minReplicas=5", lambda o: hpa(o)["minReplicas"] == 5),
        ("worker.autoscaling.maxReplicas=50", lambda o: hpa(o)["maxReplicas"] == 50),
        (
            "worker.autoscaling.targetCPUUtilizationPercentage=60",
            lambda o: utilization("cpu", 60) in hpa(o)["metrics"],
        ),
        (
            "worker.autoscaling.targetMemoryUtilizationPercentage=0",
            lambda o: hpa(o)["metrics"] == [utilization("cpu", 70)],
        ),
        ("worker.concurrency=20", lambda o: config(o)["IFINU_CONCURRENCY"] == "20"),
        ("worker.rateLimit=100/s", lambda o: config(o)["IFINU_RATE_LIMIT"] == "100/s"),
        (
            "worker.resources.limits.memory=1Gi",
            lambda o: o.container("Deployment", "ifinu-worker").spec["resources"]["limits"] == {"memory": "1Gi"},
        ),
        ("worker.readTimeoutSeconds=120", lambda o: config(o)["IFINU_EVOLUTION_READ_TIMEOUT_S"] == "120"),
        (
            "worker.autoscaling.behavior.scaleDown.stabilizationWindowSeconds=600",
            lambda o: hpa(o)["behavior"]["scaleDown"] == SCALE_DOWN | {"stabilizationWindowSeconds": 600},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_documented_tuning_is_one_set(setting, seen):
    assert not seen(rendered("default"))
    assert seen(set_to(setting))


def hpa(objects: Rendered) -> Object:
    spec: Object = objects["HorizontalPodAutoscaler", "ifinu-worker-hpa"]["spec"]
    return spec


def config(objects: Rendered) -> dict[str, str]:
    data: dict[str, str] = objects["ConfigMap", "ifinu-config"]["data"]
    return data


def test_the_resources_of_a_large_installation():
    objects = rendered("large")
    assert (hpa(objects)["minReplicas"], hpa(objects)["maxReplicas"]) == (5, 50)
    assert utilization("cpu", 60) in hpa(objects)["metrics"]
    assert (config(objects)["IFINU_CONCURRENCY"], config(objects)["IFINU_RATE_LIMIT"]) == ("20", "100/s")
    pod = objects.pod("Deployment", "ifinu-worker")
    assert pod["nodeSelector"] == {"pool": "billing"}
    assert pod["tolerations"] == [{"key": "dedicated", "operator": "Equal", "value": "billing", "effect": "NoSchedule"}]


# -- stopping and draining


@pytest.mark.parametrize("seconds", [30, 75, 600])
def test_a_stopping_worker_has_time_for_its_longest_send_and_to_return_the_rest(seconds):
    """
    A send under way may need its connect and read timeouts; held messages are then returned within a lease.
    """
    pod = set_to(f"worker.readTimeoutSeconds={seconds}").pod("Deployment", "ifinu-worker")
    fields = Settings.model_fields
    longest = seconds + fields["evolution_connect_timeout_s"].default + fields["lease_s"].default
    assert pod["terminationGracePeriodSeconds"] > longest


@pytest.mark.parametrize("story", [s for s in STORIES if s != "external"])
def test_a_drain_of_a_node_takes_one_pod_at_a_time(story):
    """
    `minAvailable` equal to the replicas would block the drain for ever.
    """
    objects = rendered(story)
    budgets = objects.of("PodDisruptionBudget")
    assert budgets.keys() >= {"ifinu-worker", "ifinu-webhook"}
    for name, budget in budgets.items():
        assert budget["spec"]["maxUnavailable"] == 1
        (matched,) = (
            owner
            for owner, template in objects.templates()
            if budget["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        )
        assert matched.partition("/")[2] == name


def test_the_connections_of_all_gateway_pods_fit_into_the_database():
    for story in ("default", "large", "replicated"):
        objects = rendered(story)
        most = objects["HorizontalPodAutoscaler", "evolution-api-hpa"]["spec"]["maxReplicas"]
        database = objects.container("StatefulSet", "evolution-postgres").spec["args"]
        (server,) = (int(a.partition("=")[2]) for a in database if a.startswith("max_connections="))
        for container in objects.containers():
            if uri := container.env.get("DATABASE_CONNECTION_URI", {}).get("value"):
                (each,) = re.findall(r"connection_limit=(\d+)", uri)
                assert int(each) * most + 30 <= server
    with pytest.raises(RenderError):
        set_to("evolution.autoscaling.maxReplicas=30")
