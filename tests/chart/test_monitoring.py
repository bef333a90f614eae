"""The monitoring objects contain the files of alerts and dashboards, whose names match the chart's objects."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring.alert_rules import ALERTMANAGER, RULES, alerts
from monitoring.dashboard_file import load
from programs import program
from rendering import NAMESPACE, STORIES, Object, Rendered, render, rendered

EXPRESSIONS = [rule["expr"] for rule in alerts().values()]


def named(label: str) -> set[str]:
    """All values of a label in the alerts' selectors."""
    found = re.findall(rf'\b{label}=~?"([^"]+)"', " ".join(EXPRESSIONS))
    return {name for names in found for name in names.split("|")}


def selected(monitor: Object, objects: Rendered) -> dict[str, Object]:
    """Templates of the pods that a PodMonitor selects."""
    selector = monitor["spec"]["selector"]
    chosen = selector.get("matchExpressions", [])
    return {
        owner: template
        for owner, template in objects.templates()
        for labels in [template["metadata"]["labels"]]
        if selector["matchLabels"].items() <= labels.items()
        and all(each["operator"] == "In" and labels[each["key"]] in each["values"] for each in chosen)
    }


def test_objects_that_need_a_custom_resource_definition_are_off_by_default():
    standard = {"v1", "apps/v1", "batch/v1", "policy/v1", "autoscaling/v2", "networking.k8s.io/v1"}
    for story in set(STORIES) - {"keda", "observability"}:
        assert {document["apiVersion"] for document in rendered(story).values()} <= standard


def test_the_rules_are_those_of_the_file():
    rule = rendered("observability")["PrometheusRule", "ifinu"]
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    assert rule["spec"] == yaml.safe_load(RULES.read_text(encoding="utf-8"))


def test_prometheus_takes_the_rules_as_they_are_rendered(tmp_path: Path):
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rendered("observability")["PrometheusRule", "ifinu"]["spec"]))
    done = subprocess.run([program("promtool"), "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_that_of_the_file():
    config = rendered("observability")["ConfigMap", "ifinu-dashboard"]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"  # by which Grafana's sidecar finds it
    assert json.loads(config["data"]["ifinu.json"]) == load()


def test_alertmanagers_configuration_is_that_of_the_file_and_has_no_secret_in_it():
    secret = rendered("observability")["Secret", "ifinu-alertmanager-config"]
    text = secret["stringData"]["alertmanager.yaml"]
    parsed: dict[str, Any] = yaml.safe_load(text)
    assert parsed == yaml.safe_load(ALERTMANAGER.read_text(encoding="utf-8"))
    assert "https://hooks.slack.com" not in text
    assert set(re.findall(r"^\s*-?\s*(\w*(?:url|key)\w*):", text, re.MULTILINE)) <= {
        *("api_url_file", "routing_key_file", "runbook_url"),
    }


def test_alertmanager_takes_its_configuration_as_it_is_rendered(tmp_path: Path):
    file = tmp_path / "alertmanager.yaml"
    file.write_text(rendered("observability")["Secret", "ifinu-alertmanager-config"]["stringData"]["alertmanager.yaml"])
    done = subprocess.run([program("amtool"), "check-config", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scrape_jobs_have_the_names_that_the_alerts_use():
    objects = rendered("observability")
    monitor = objects["PodMonitor", "ifinu"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    spec = monitor["spec"]
    assert spec.keys() == {"jobLabel", "namespaceSelector", "selector", "podMetricsEndpoints"}
    assert spec["namespaceSelector"] == {"matchNames": [NAMESPACE]}
    (endpoint,) = spec["podMetricsEndpoints"]
    assert endpoint == {"port": "metrics", "interval": "15s"}
    pods = selected(monitor, objects)
    jobs = {template["metadata"]["labels"][spec["jobLabel"]] for template in pods.values()}
    assert jobs == named("job") == {
        "ifinu-worker", "ifinu-webhook", "ifinu-recorder", "ifinu-scheduler", "ifinu-metrics",
    }  # fmt: skip
    for owner, template in pods.items():
        ports = {p["name"]: p["containerPort"] for c in template["spec"]["containers"] for p in c.get("ports", [])}
        assert ports[endpoint["port"]] == 9464, owner


def test_the_gateways_metrics_are_scraped_through_its_guard():
    objects = rendered("observability")
    monitor = objects["PodMonitor", "evolution-api"]
    assert list(selected(monitor, objects)) == ["StatefulSet/evolution-api"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "guard"
    env = objects.container("StatefulSet", "evolution-api", "evolution-api").env
    assert env["PROMETHEUS_METRICS"]["value"] == "true"
    assert env["METRICS_ALLOWED_IPS"]["value"] == ""
    simulated = render({"simulator": {"enabled": True}}, story="observability")
    assert ("PodMonitor", "evolution-api") not in simulated


def test_objects_have_the_names_that_the_alerts_use():
    objects = rendered("large")
    assert named("horizontalpodautoscaler") == objects.of("HorizontalPodAutoscaler").keys()
    assert named("cronjob") == {"ifinu-backup"}
    assert named("cronjob") <= objects.of("CronJob").keys()
    # KEDA would choose another name for its autoscaler unless configured.
    advanced = rendered("keda")["ScaledObject", "ifinu-worker"]["spec"]["advanced"]
    assert advanced["horizontalPodAutoscalerConfig"]["name"] in named("horizontalpodautoscaler")


@pytest.mark.parametrize(
    ("what", "kind", "name"),
    [
        ("podMonitor", "PodMonitor", "ifinu"),
        ("prometheusRule", "PrometheusRule", "ifinu"),
        ("dashboard", "ConfigMap", "ifinu-dashboard"),
        ("alertmanager", "Secret", "ifinu-alertmanager-config"),
    ],
)
def test_each_monitoring_object_has_the_configured_namespace_and_labels(what, kind, name):
    values = {"enabled": True, "namespace": "watchers", "labels": {"watch": "me", "app.kubernetes.io/name": "mine"}}
    metadata = render({"monitoring": {what: values}})[kind, name]["metadata"]
    assert metadata["namespace"] == "watchers"
    assert metadata["labels"]["watch"] == "me"
    assert metadata["labels"]["app.kubernetes.io/name"] == "ifinu"
    assert render({"monitoring": {what: {"enabled": True}}})[kind, name]["metadata"]["namespace"] == NAMESPACE
    assert (kind, name) not in rendered("default")
