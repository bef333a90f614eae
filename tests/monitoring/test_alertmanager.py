"""From a long queue to a page: real Prometheus and Alertmanager with the shipped files."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml
from alert_rules import ALERTMANAGER, RULES, alerts, parsed
from alert_sink import PAGERDUTY, SLACK, SLACK_QUIET, Sink
from ledgers import migrated
from processes import API_KEY, Queue, Simulated, raw, start, wait_until
from programs import program
from prometheus import Alertmanager, alertmanager, prometheus

from ifinu.embedded import Valkey

PHONE, NAME = "77998610042", "Severina Canário"
ROUTING_KEY = "a-routing-key-of-the-tests"


def local_config(directory: Path, sink: Sink) -> dict[str, Any]:
    """Alertmanager's configuration, changed only in addresses, secrets and intervals."""
    config = parsed(ALERTMANAGER)
    config["global"]["pagerduty_url"] = sink.url + PAGERDUTY
    secrets = {
        "slack-alerts-url": sink.url + SLACK,
        "slack-info-url": sink.url + SLACK_QUIET,
        "pagerduty-routing-key": ROUTING_KEY,
    }
    for receiver in config["receivers"]:
        for name, one in ((n, one) for n, ones in receiver.items() if n.endswith("_configs") for one in ones):
            field = {"slack_configs": "api_url_file", "pagerduty_configs": "routing_key_file"}[name]
            file = directory / Path(one[field]).name
            file.write_text(secrets[file.name])
            one[field] = str(file)
    for route in (config["route"], *config["route"]["routes"]):
        for interval in {"group_wait", "group_interval"} & route.keys():
            route[interval] = "1s"
    return config


def watched(port: int, rules: Path, alertmanager_url: str) -> dict[str, Any]:
    """A Prometheus configuration that scrapes the exporter every second."""
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [alertmanager_url.removeprefix("http://")]}]}],
        },
        "scrape_configs": [{"job_name": "ifinu-metrics", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
    }


def hurried(directory: Path) -> Path:
    """The shipped rules with each wait of minutes and hours reduced to a second."""
    document = parsed(RULES)
    for rule in (rule for group in document["groups"] for rule in group["rules"] if "for" in rule):
        rule["for"] = "1s"
    file = directory / "rules.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@contextlib.contextmanager
def exporter(directory: Path, valkey: Valkey, simulator: Simulated) -> Iterator[int]:
    """Run `ifinu metrics` and yield its port."""
    log = directory / "metrics.log"
    environment = {
        "IFINU_REDIS_URL": valkey.url,
        "IFINU_DATABASE_URL": migrated(f"sqlite:///{directory}/ledger.db"),
        "IFINU_EVOLUTION_URL": simulator.url,
        "IFINU_EVOLUTION_API_KEY": API_KEY,
        "IFINU_LOG_FORMAT": "json",
    }
    process = start("ifinu", ["metrics", "--host", "127.0.0.1", "--port", "0"], {**os.environ, **environment}, log)
    try:
        serving = wait_until(
            lambda: process.poll() is not None or re.search(r'"port": ?(\d+)', log.read_text()), 40.0, log.read_text
        )
        assert process.poll() is None, log.read_text()
        yield int(serving[1])
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as taking:
        yield taking


@pytest.fixture
def manager(tmp_path: Path, sink: Sink) -> Iterator[Alertmanager]:
    with alertmanager(tmp_path / "alertmanager", local_config(tmp_path, sink)) as running:
        yield running


@pytest.fixture
def post_alerts(manager: Alertmanager) -> Callable[..., None]:
    """Posts alerts to Alertmanager, as Prometheus does."""

    def post(*labels: dict[str, str], over: bool = False) -> None:
        now = datetime.now(UTC)
        times = {
            "startsAt": (now - timedelta(minutes=1)).isoformat(),
            "endsAt": (now + timedelta(minutes=0 if over else 10)).isoformat(),
        }
        alerts_sent = [
            {"labels": each, "annotations": _annotations(each["alertname"], each["severity"]), **times}
            for each in labels
        ]
        with urllib3.PoolManager() as http:
            assert http.request("POST", f"{manager.url}/api/v2/alerts", json=alerts_sent).status == 200

    return post


def _annotations(name: str, severity: str) -> dict[str, str]:
    annotations: dict[str, str] = alerts()[(name, severity)]["annotations"]  # type: ignore[index]
    return annotations


def states(manager: Alertmanager) -> dict[tuple[str, str, str], str]:
    """The state of each alert, `active` or `suppressed`, by name, severity and namespace."""
    return {
        (one["labels"]["alertname"], one["labels"]["severity"], one["labels"]["namespace"]): one["status"]["state"]
        for one in manager.alerts()
    }


def test_a_queue_over_its_limit_reaches_slack_and_wakes_somebody_until_it_is_empty(
    tmp_path, valkey, queue: Queue, simulator, sink, manager
):
    """
    10,001 messages and no worker: Slack hears of the queue, PagerDuty of the stopped sending, and both of the end.
    """
    queue.push(*(raw(n, telefone=PHONE, nome=NAME) for n in range(10_001)))
    with (
        exporter(tmp_path, valkey, simulator) as port,
        prometheus(tmp_path / "prometheus", watched(port, hurried(tmp_path), manager.url)),
    ):
        wait_until(lambda: sink.slack("WARNING: IfinuQueueBacklog"), 30.0, sink.text)
        wait_until(lambda: sink.slack("CRITICAL: IfinuNothingSent"), 30.0, sink.text)
        wait_until(lambda: sink.pages("trigger", "IfinuNothingSent"), 30.0, sink.text)
        queue.client.delete(queue.keys.ready)
        wait_until(lambda: sink.slack("RESOLVED: IfinuQueueBacklog"), 30.0, sink.text)
        wait_until(lambda: sink.slack("RESOLVED: IfinuNothingSent"), 30.0, sink.text)
        wait_until(lambda: sink.pages("resolve", "IfinuNothingSent"), 30.0, sink.text)

    backlog = sink.slack("WARNING: IfinuQueueBacklog")[0]
    annotations = _annotations("IfinuQueueBacklog", "warning")
    assert "10001 messages wait on whatsapp" in backlog["text"]
    assert annotations["description"] in backlog["text"]
    assert f"<{annotations['runbook_url']}|Runbook>" in backlog["text"]
    assert backlog["title_link"] == annotations["runbook_url"]
    assert backlog["color"] == "warning"
    assert sink.slack("CRITICAL: IfinuNothingSent")[0]["color"] == "danger"
    assert sink.slack("RESOLVED: IfinuQueueBacklog")[0]["color"] == "good"

    page, end = sink.pages("trigger", "IfinuNothingSent")[0], sink.pages("resolve", "IfinuNothingSent")[0]
    annotations = _annotations("IfinuNothingSent", "critical")
    assert page["routing_key"] == ROUTING_KEY
    assert page["dedup_key"] == end["dedup_key"]
    assert page["payload"]["severity"] == "critical"
    assert page["payload"]["summary"] == "Nothing is sent; waiting messages: 10001"
    assert page["payload"]["custom_details"]["description"] == annotations["description"]
    assert page["links"] == [{"href": annotations["runbook_url"], "text": "Runbook"}]
    assert not sink.pages("trigger", "IfinuQueueBacklog")
    assert not [secret for secret in (PHONE, PHONE[2:], NAME, "test_") if secret in sink.text()]


def test_each_severity_reaches_its_receiver(sink, post_alerts):
    post_alerts(
        {"alertname": "IfinuRedisDown", "severity": "critical", "namespace": "a"},
        {"alertname": "IfinuThrottled", "severity": "warning", "namespace": "b"},
        {"alertname": "IfinuRedisRestarted", "severity": "info", "namespace": "c"},
    )
    wait_until(lambda: len(sink.received) >= 4, 20.0, sink.text)
    assert sorted((request.path, alert_of(request.body)) for request in sink.received) == [
        (SLACK, "IfinuRedisDown in a"),
        (SLACK, "IfinuThrottled in b"),
        (SLACK_QUIET, "IfinuRedisRestarted in c"),
        (PAGERDUTY, "IfinuRedisDown in a"),
    ]


def alert_of(body: dict[str, Any]) -> str:
    if "payload" in body:
        return f"{body['payload']['class']} in {body['payload']['group']}"
    return str(body["attachments"][0]["title"].split(": ")[1])


def test_the_end_of_an_info_alert_is_not_notified(sink, post_alerts):
    quiet = {"alertname": "IfinuRedisRestarted", "severity": "info", "namespace": "a"}
    loud = {"alertname": "IfinuThrottled", "severity": "warning", "namespace": "a"}
    post_alerts(quiet, loud)
    wait_until(lambda: len(sink.received) >= 2, 20.0, sink.text)
    post_alerts(quiet, loud, over=True)
    wait_until(lambda: sink.slack("RESOLVED: IfinuThrottled"), 20.0, sink.text)
    # A resolution would come with the other alert's, or with the next of its group.
    post_alerts({**quiet, "queue": "whatsapp"})
    wait_until(lambda: len(sink.slack("INFO", SLACK_QUIET)) == 2, 20.0, sink.text)
    assert not sink.slack("RESOLVED", SLACK_QUIET)
    assert not [one for one in sink.slack("INFO", SLACK_QUIET) if "Over:" in one["text"]]


def test_a_group_of_alerts_lists_the_first_ten(sink, post_alerts):
    post_alerts(
        *(
            {"alertname": "IfinuInstanceDown", "severity": "warning", "namespace": "a", "whatsapp": f"i{n}"}
            for n in range(12)
        )
    )

    def complete() -> list[str]:
        texts = [one["text"] for one in sink.slack("WARNING: IfinuInstanceDown")]
        return [text for text in texts if "and more: 12 in all" in text]

    wait_until(complete, 20.0, sink.text)  # the first notification may list only some of the alerts
    assert complete()[0].count("|Runbook>") == 10


@pytest.mark.parametrize(
    ("cause", "follows", "stays"),
    [
        (("IfinuRedisDown", "critical"), ("IfinuNothingSent", "critical"), ("IfinuBackupTooOld", "warning")),
        (("IfinuRedisDown", "critical"), ("IfinuFailureRatio", "critical"), ("IfinuGatewayAway", "critical")),
        (("IfinuGatewayAway", "critical"), ("IfinuNothingSent", "critical"), ("IfinuRedisMemory", "warning")),
        (("IfinuGatewayMisconfigured", "critical"), ("IfinuInstanceDown", "warning"), ("IfinuLedgerDown", "warning")),
        (("IfinuAllInstancesDown", "critical"), ("IfinuInstanceDown", "warning"), ("IfinuRedisEvicts", "critical")),
        (("IfinuLedgerDown", "warning"), ("IfinuRecorderLag", "warning"), ("IfinuRecorderLag", "critical")),
        (("IfinuRedisMemory", "critical"), ("IfinuRedisMemory", "warning"), ("IfinuRecorderLag", "warning")),
    ],
)
def test_a_consequence_of_another_alert_is_not_notified(manager, post_alerts, cause, follows, stays):
    """
    It is suppressed only in the installation that has the cause.
    """
    labels = [
        {"alertname": name, "severity": severity, "namespace": namespace}
        for name, severity, namespace in ((*cause, "a"), (*follows, "a"), (*stays, "a"), (*follows, "b"))
    ]
    post_alerts(*labels)
    expected = {(*cause, "a"): "active", (*follows, "a"): "suppressed", (*stays, "a"): "active"}
    expected[(*follows, "b")] = "active"
    wait_until(lambda: states(manager) == expected, 20.0, lambda: states(manager))


def test_alertmanager_takes_its_configuration():
    done = subprocess.run([program("amtool"), "check-config", str(ALERTMANAGER)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("severity", "receiver"),
    [
        ("critical", "pagerduty-and-slack"),
        ("warning", "slack"),
        ("info", "slack-quiet"),
        ("of-somebody-else", "slack"),
    ],
)
def test_each_severity_is_routed(severity, receiver):
    done = subprocess.run(
        [
            program("amtool"), "config", "routes", "test", f"--config.file={ALERTMANAGER}",
            f"--verify.receivers={receiver}", f"severity={severity}",
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
