"""Who can reach whom, at which port; and nobody else."""

from __future__ import annotations

import copy

import pytest
from network import INTERNET, End, allowed, ends
from rendering import STORIES, Object, Rendered, render, rendered

NEIGHBOUR = End("neighbour", {"app": "shop"})  # another pod in the namespace of the release
PROMETHEUS = End("prometheus", {"app.kubernetes.io/name": "prometheus"}, "monitoring")
PRODUCER = End("producer", {"app": "erp"}, "erp")
OTHERS = (NEIGHBOUR, PROMETHEUS, PRODUCER, INTERNET)

DNS = {53, 5353}
PORTS = (22, 80, 443, 4317, 4318, 5222, 5432, 5433, 5555, 6379, 6380, 8080, 8081, 8090, 9000, 9464, 40000)

Reach = set[tuple[str, str, int]]

GATEWAY = {("evolution", 8080), ("evolution", 8081)}
QUEUE, LEDGER = {("redis", 6379)}, {("postgres", 5432)}
SCRAPED = {"worker", "webhook", "recorder", "metrics"}

# The release's own pods among each other, of the chart as it comes with backups.
INSIDE = {
    "worker": QUEUE | LEDGER | GATEWAY,
    "webhook": QUEUE,
    "recorder": QUEUE | LEDGER,
    "metrics": QUEUE | LEDGER | GATEWAY,
    "flower": QUEUE,
    "evolution": QUEUE | LEDGER | {("webhook", 8090)},
    "redis": {("backup", port) for port in PORTS},  # it takes a restore from the job, which says at which port
    "postgres": set(),
    "backup": QUEUE | LEDGER,
    "drill": set(),
    "test": QUEUE | LEDGER | GATEWAY,
}
TRACED = ("worker", "webhook")
WHATSAPP = {("evolution", "internet", port) for port in (80, 443, 5222)}


def reach(objects: Rendered) -> Reach:
    """All that can be opened: who, to whom, at which port."""
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
    """What of it is between these and the pods of the release."""
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
def test_who_can_reach_whom_within_the_release(story):
    objects = rendered(story)
    assert inside(reach(objects)) == expected(set(ends(objects)))


def test_with_the_simulator_there_is_no_guard_and_it_needs_no_server():
    objects = rendered("simulator")
    wanted = expected(set(ends(objects)))
    wanted -= {("evolution", "redis", 6379), ("evolution", "postgres", 5432)}
    assert inside(reach(objects)) == wanted
    assert among(reach(objects), "internet") == set()


@pytest.mark.parametrize("story", ["default", "large", "replicated"])
def test_of_all_pods_the_gateway_alone_reaches_the_internet(story):
    # It may reach every pod at these ports too, of any namespace.
    assert among(reach(rendered(story)), "internet") == WHATSAPP


@pytest.mark.parametrize("story", STORIES)
def test_every_pod_can_ask_for_names(story):
    policies = rendered(story).of("NetworkPolicy").values()
    for pod in ends(rendered(story)).values():
        assert allowed(policies, pod, INTERNET, 53, "UDP")
        assert allowed(policies, pod, INTERNET, 53)
        assert not allowed(policies, INTERNET, pod, 53, "UDP")


def test_from_elsewhere_there_are_the_figures_to_be_had_and_nothing_else():
    found = reach(rendered("default"))
    for other in (NEIGHBOUR, PROMETHEUS, PRODUCER):
        assert {each for each in found if each[0] == other.name} == {(other.name, pod, 9464) for pod in SCRAPED}
    assert {each for each in found if each[0] == "internet"} == set()


def test_prometheus_may_scrape_and_nobody_else_where_it_is_named():
    found = reach(rendered("observability"))
    assert {each for each in found if each[0] == "prometheus"} == {
        *((PROMETHEUS.name, pod, 9464) for pod in SCRAPED),
        (PROMETHEUS.name, "evolution", 8081),  # a PodMonitor asks the gateway, through its guard
    }
    assert among(found, "neighbour", "producer") - WHATSAPP == {
        *(("evolution", other, port) for other in ("neighbour", "producer") for port in (80, 443, 5222)),
        *((pod, other, port) for pod in TRACED for other in ("neighbour", "producer") for port in (4317, 4318)),
    }


def test_of_nobody_who_may_scrape_nobody_is_let_in():
    found = reach(render({"networkPolicy": {"monitoring": []}}))
    assert {each for each in found if each[0] in {other.name for other in OTHERS}} == set()
    assert inside(found) == expected(set(ends(rendered("default"))))


@pytest.mark.parametrize(
    ("key", "target", "port"),
    [("producers", "redis", 6379), ("databaseClients", "postgres", 5432), ("flowerClients", "flower", 5555)],
)
def test_who_else_is_let_in(key, target, port):
    before = reach(rendered("default"))
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "erp"}}}]
    assert reach(render({"networkPolicy": {key: peers}})) - before == {("producer", target, port)}


@pytest.mark.parametrize(
    ("more", "port"),
    [({}, 8081), ({"evolution": {"guard": {"enabled": False}}}, 8080), ({"simulator": {"enabled": True}}, 8080)],
    ids=["guarded", "without guard", "simulator"],
)
def test_who_else_may_use_the_gateway_reaches_its_guard_if_there_is_one(more, port):
    """
    The port is that of the pods that the Service leads to.
    """
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "erp"}}}]
    before, objects = reach(render(more)), render({**more, "networkPolicy": {"gatewayClients": peers}})
    assert reach(objects) - before == {("producer", "evolution", port)}
    (service,) = objects["Service", "evolution-api-service"]["spec"]["ports"]
    ports = {p["name"]: p["containerPort"] for c in objects.containers() for p in c.spec.get("ports", [])}
    assert ports[service["targetPort"]] == port


def test_without_its_guard_prometheus_asks_the_gateway_itself():
    objects = render({"evolution": {"guard": {"enabled": False}}}, story="observability")
    assert ("prometheus", "evolution", 8080) in reach(objects)
    (endpoint,) = objects["PodMonitor", "evolution-api"]["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "gateway"


def test_what_is_outside_is_reached_at_its_port():
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


def test_with_a_gateway_outside_the_webhook_lets_in_whom_the_values_name_and_nobody_else():
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
    # A policy knows the port of a pod, which need not be that of its Service.
    found = reach(render(closed))
    assert {("worker", "internet", 80), ("worker", "internet", 8080)} <= found


def test_traces_reach_their_collector():
    before, after = reach(rendered("default")), reach(render({"tracing": {"enabled": True}}))
    assert {each for each in after - before if each[1] == "internet"} == {
        (pod, "internet", port) for pod in TRACED for port in (4317, 4318)
    }


def test_a_pod_that_starts_is_looked_at_each_second():
    for name in ("ifinu-worker", "ifinu-webhook"):
        assert rendered("default").container("Deployment", name).spec["startupProbe"]["periodSeconds"] == 1


def test_a_store_of_ones_own_is_reached_at_its_port():
    values = {"enabled": True, "persistence": {"enabled": False}}
    objects = render({"backup": {**values, "s3": {"url": "s3://example", "endpoint": "http://minio.example.com:9000"}}})
    found = reach(objects)
    assert {each for each in found if each[1] == "internet"} - WHATSAPP == {
        (pod, "internet", 9000) for pod in ("backup", "drill")
    }


def test_where_else_our_pods_may_go():
    rule = {"ports": [{"port": 4318}]}
    before = reach(rendered("default"))
    after = reach(render({"networkPolicy": {"extraEgress": [rule]}}))
    assert {each for each in after - before if each[1] == "internet"} == {
        (pod, "internet", 4318) for pod in ("worker", "webhook", "recorder")
    }
    assert inside(after) == inside(before)


@pytest.mark.parametrize("story", STORIES)
def test_every_port_that_a_service_leads_to_is_reached_by_somebody(story):
    """
    But Flower's, which people reach by a port-forward, and a webhook's whose gateway is outside.
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
        ([policy(ingress=[{"from": [{"podSelector": {}}]}])], False),  # of the namespace of the policy alone
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
def test_the_rules_of_kubernetes(policies, open_):
    assert allowed(copy.deepcopy(policies), PROMETHEUS, NEIGHBOUR, 8080) is open_
