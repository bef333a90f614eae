"""The connections that the network policies allow, and no others."""

from __future__ import annotations

import copy

import pytest
from network import INTERNET, End, allowed, ends
from rendering import STORIES, Object, Rendered, render, rendered

NEIGHBOUR = End("neighbour", {"app": "shop"})  # another pod in the release's namespace
PROMETHEUS = End("prometheus", {"app.kubernetes.io/name": "prometheus"}, "monitoring")
PRODUCER = End("producer", {"app": "erp"}, "erp")
OTHERS = (NEIGHBOUR, PROMETHEUS, PRODUCER, INTERNET)

DNS = {53, 5353}
PORTS = (22, 80, 443, 4317, 4318, 5222, 5432, 5433, 5555, 6379, 6380, 8080, 8081, 8090, 9000, 9464, 40000)

Reach = set[tuple[str, str, int]]

GATEWAY = {("evolution", 8080), ("evolution", 8081)}
QUEUE, LEDGER = {("redis", 6379)}, {("postgres", 5432)}
SCRAPED = {"worker", "webhook", "recorder", "metrics"}

# Connections between pods of the release, with the default values and backups.
INSIDE = {
    "worker": QUEUE | LEDGER | GATEWAY,
    "webhook": QUEUE,
    "recorder": QUEUE | LEDGER,
    "scheduler": QUEUE | LEDGER,
    "metrics": QUEUE | LEDGER | GATEWAY,
    "flower": QUEUE,
    "evolution": QUEUE | LEDGER | {("webhook", 8090)},
    "redis": {
        ("backup", port) for port in PORTS
    },  # Redis replicates from the restore's job at the port that the job states
    "postgres": set(),
    "backup": QUEUE | LEDGER,
    "drill": set(),
    "test": QUEUE | LEDGER | GATEWAY,
}
TRACED = ("worker", "webhook")
WHATSAPP = {("evolution", "internet", port) for port in (80, 443, 5222)}


def reach(objects: Rendered) -> Reach:
    """Every allowed connection: source, target, port."""
    policies = objects.of("NetworkPolicy").values()
    pods = [*ends(objects).values(), *OTHERS]
    return {
        (source.name, target.name, port)
        for source in pods
        for target in pods
        if source is not target and not (source in OTHERS and target in OTHERS)
        for port in PORTS
        if allowed(policies, source, target, port)
    }


def among(found: Reach, *names: str) -> Reach:
    """The connections between these ends and the pods of the release."""
    return {each for each in found if each[0] in names or each[1] in names}


def inside(found: Reach) -> Reach:
    return found - among(found, *(other.name for other in OTHERS))


def expected(only: set[str], without: frozenset[str] = frozenset()) -> Reach:
    return {
        (source, target, port)
        for source, targets in INSIDE.items()
        for target, port in targets
        if {source, target} <= only and not {source, target} & without
    }


@pytest.mark.parametrize("story", ["default", "large", "replicated", "keda", "queue-metric", "observability"])
def test_the_connections_allowed_within_the_release(story):
    objects = rendered(story)
    assert inside(reach(objects)) == expected(set(ends(objects)))


def test_the_simulator_has_no_guard_and_connects_to_no_server():
    objects = rendered("simulator")
    wanted = expected(set(ends(objects)))
    wanted -= {("evolution", "redis", 6379), ("evolution", "postgres", 5432)}
    assert inside(reach(objects)) == wanted
    assert among(reach(objects), "internet") == set()


@pytest.mark.parametrize("story", ["default", "large", "replicated"])
def test_only_the_gateway_reaches_the_internet(story):
    # The rules also allow every pod of any namespace at these ports.
    assert among(reach(rendered(story)), "internet") == WHATSAPP


def test_only_a_webhook_that_receives_payments_reaches_the_database_and_the_providers():
    before, after = (reach(render({"webhook": {"payments": {"existingSecret": name}}})) for name in ("", "payments"))
    assert inside(after) - inside(before) == {("webhook", "postgres", 5432)}
    assert among(after, "internet") - among(before, "internet") == {("webhook", "internet", 443)}
    assert before - after == set()


@pytest.mark.parametrize("story", STORIES)
def test_every_pod_can_use_dns(story):
    policies = rendered(story).of("NetworkPolicy").values()
    for pod in ends(rendered(story)).values():
        assert allowed(policies, pod, INTERNET, 53, "UDP")
        assert allowed(policies, pod, INTERNET, 53)
        assert not allowed(policies, INTERNET, pod, 53, "UDP")


def test_pods_outside_the_release_reach_only_the_metrics():
    found = reach(rendered("default"))
    for other in (NEIGHBOUR, PROMETHEUS, PRODUCER):
        assert {each for each in found if each[0] == other.name} == {(other.name, pod, 9464) for pod in SCRAPED}
    assert {each for each in found if each[0] == "internet"} == set()


def test_only_prometheus_may_scrape_if_it_is_named():
    found = reach(rendered("observability"))
    assert {each for each in found if each[0] == "prometheus"} == {
        *((PROMETHEUS.name, pod, 9464) for pod in (*SCRAPED, "scheduler")),
        (PROMETHEUS.name, "evolution", 8081),  # a PodMonitor scrapes the gateway through its guard
    }
    assert among(found, "neighbour", "producer") - WHATSAPP == {
        *(("evolution", other, port) for other in ("neighbour", "producer") for port in (80, 443, 5222)),
        *((pod, other, port) for pod in TRACED for other in ("neighbour", "producer") for port in (4317, 4318)),
    }


def test_an_empty_list_of_scrapers_lets_in_no_pod():
    found = reach(render({"networkPolicy": {"monitoring": []}}))
    assert {each for each in found if each[0] in {other.name for other in OTHERS}} == set()
    assert inside(found) == expected(set(ends(rendered("default"))))


@pytest.mark.parametrize(
    ("key", "target", "port"),
    [("producers", "redis", 6379), ("databaseClients", "postgres", 5432), ("flowerClients", "flower", 5555)],
)
def test_the_other_pods_that_values_let_in(key, target, port):
    before = reach(rendered("default"))
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "erp"}}}]
    assert reach(render({"networkPolicy": {key: peers}})) - before == {("producer", target, port)}


@pytest.mark.parametrize(
    ("more", "port"),
    [({}, 8081), ({"evolution": {"guard": {"enabled": False}}}, 8080), ({"simulator": {"enabled": True}}, 8080)],
    ids=["guarded", "without guard", "simulator"],
)
def test_other_users_of_the_gateway_reach_its_guard_if_there_is_one(more, port):
    """
    The policy names the pods' port, not that of the Service.
    """
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "erp"}}}]
    before, objects = reach(render(more)), render({**more, "networkPolicy": {"gatewayClients": peers}})
    assert reach(objects) - before == {("producer", "evolution", port)}
    (service,) = objects["Service", "evolution-api-service"]["spec"]["ports"]
    ports = {p["name"]: p["containerPort"] for c in objects.containers() for p in c.spec.get("ports", [])}
    assert ports[service["targetPort"]] == port


def test_without_the_guard_prometheus_scrapes_the_gateway_directly():
    objects = render({"evolution": {"guard": {"enabled": False}}}, story="observability")
    assert ("prometheus", "evolution", 8080) in reach(objects)
    (endpoint,) = objects["PodMonitor", "evolution-api"]["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "gateway"


def test_external_servers_are_reached_at_their_ports():
    found = reach(rendered("external"))
    outside = {each for each in found if each[1] == "internet"}
    queue = {
        (pod, "internet", 6380) for pod in ("worker", "webhook", "recorder", "metrics", "flower", "backup", "test")
    }
    ledger = {(pod, "internet", 5432) for pod in ("worker", "recorder", "metrics", "backup", "test")}
    gateway = {(pod, "internet", 443) for pod in ("worker", "metrics", "test")}
    store = {(pod, "internet", 443) for pod in ("backup", "drill")}
    assert outside == queue | ledger | gateway | store
    assert {each for each in found if each[0] == "internet"} == set()


def test_with_an_external_gateway_the_webhook_lets_in_only_the_peers_of_the_values():
    external = {"enabled": True, "url": "http://evolution.gateways:80", "targetPort": 8080}
    closed = {"evolution": {"external": external, "apiKey": {"existingSecret": "gateway"}}}
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}

    def rules(values: Object) -> list[Object]:
        ingress = render(values)["NetworkPolicy", "ifinu-webhook"]["spec"]["ingress"]
        return [rule for rule in ingress if {"port": 8090} in rule["ports"]]

    assert rules(closed) == []
    assert rules(closed | {"networkPolicy": {"webhookClients": [peer]}}) == [
        {"from": [peer], "ports": [{"port": 8090}]}
    ]
    (own,) = rules({"networkPolicy": {"webhookClients": [peer]}})
    assert own["from"][1:] == [peer]
    # A policy uses the port of a pod, which may differ from that of its Service.
    found = reach(render(closed))
    assert {("worker", "internet", 80), ("worker", "internet", 8080)} <= found


def test_traces_reach_their_collector():
    before, after = reach(rendered("default")), reach(render({"tracing": {"enabled": True}}))
    assert {each for each in after - before if each[1] == "internet"} == {
        (pod, "internet", port) for pod in TRACED for port in (4317, 4318)
    }


def test_a_starting_pod_is_probed_every_second():
    for name in ("ifinu-worker", "ifinu-webhook"):
        assert rendered("default").container("Deployment", name).spec["startupProbe"]["periodSeconds"] == 1


def test_the_jobs_that_ask_payment_providers_reach_them_and_both_stores():
    values = {"webhook": {"payments": {"existingSecret": "payments"}}}
    before = reach(render(values))
    after = reach(render({**values, "reconciliation": {"enabled": True, "providers": ["asaas", "stripe"]}}))
    assert inside(after) - inside(before) == {("reconciliation", "redis", 6379), ("reconciliation", "postgres", 5432)}
    assert {each for each in after - before if each[1] == "internet"} == {("reconciliation", "internet", 443)}


def test_a_private_object_store_is_reached_at_its_port():
    values = {"enabled": True, "persistence": {"enabled": False}}
    objects = render({"backup": {**values, "s3": {"url": "s3://example", "endpoint": "http://minio.example.com:9000"}}})
    found = reach(objects)
    assert {each for each in found if each[1] == "internet"} - WHATSAPP == {
        (pod, "internet", 9000) for pod in ("backup", "drill")
    }


def test_the_further_destinations_that_values_allow():
    rule = {"ports": [{"port": 4318}]}
    before = reach(rendered("default"))
    after = reach(render({"networkPolicy": {"extraEgress": [rule]}}))
    assert {each for each in after - before if each[1] == "internet"} == {
        (pod, "internet", 4318) for pod in ("worker", "webhook", "recorder")
    }
    assert inside(after) == inside(before)


@pytest.mark.parametrize("story", STORIES)
def test_every_port_of_a_service_is_reachable_from_some_pod(story):
    """
    Except Flower's, which people reach by port-forward, and the webhook's if the gateway is external.
    """
    objects = rendered(story)
    found = reach(objects)
    for name, pod in ends(objects).items():
        if name not in ("flower", "evolution", "webhook" if story == "external" else ""):
            for port in pod.ports:
                assert any(each[1:] == (name, port) for each in found), (name, port)


# -- the function itself


def policy(**spec: object) -> Object:
    return {"metadata": {}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"], **spec}}


@pytest.mark.parametrize(
    ("policies", "open_"),
    [
        ([], True),
        ([policy()], False),
        ([policy(ingress=[])], False),
        ([policy(ingress=[{}])], True),
        ([policy(ingress=[{"from": []}])], True),
        ([policy(ingress=[{"from": [{"podSelector": {}}]}])], False),  # in the policy's namespace only
        ([policy(ingress=[{"from": [{"namespaceSelector": {}}]}])], True),
        ([policy(ingress=[{"ports": [{"port": 1}]}])], False),
        ([policy(ingress=[{"ports": [{"port": 1, "endPort": 9000}]}])], True),
        ([policy(ingress=[{"ports": [{"port": 8080, "protocol": "UDP"}]}])], False),
        ([policy(), policy(ingress=[{}])], True),
        ([policy(policyTypes=["Egress"])], True),
        ([policy(podSelector={"matchLabels": {"app": "other"}})], True),
        (
            [
                policy(
                    ingress=[
                        {"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "not there"}}}]},
                    ]
                )
            ],
            False,
        ),
    ],
)
def test_allowed_follows_the_rules_of_kubernetes(policies, open_):
    assert allowed(copy.deepcopy(policies), PROMETHEUS, NEIGHBOUR, 8080) is open_
