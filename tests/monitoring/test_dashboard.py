"""The Grafana dashboard: its file, and its queries against a real Prometheus that scrapes real processes."""

from __future__ import annotations

import collections
import itertools
import json
import math
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dashboard_file
import pytest
from command_line import Shell
from dashboard_stage import HELD, INSTANCES, Stage, every, notification
from processes import Simulated, stopping, wait_until
from programs import program
from prometheus import Prometheus, prometheus
from sqlalchemy import func, select

from ifinu.embedded import Valkey
from ifinu.ledger.engine import connect
from ifinu.ledger.schema import notifications
from ifinu.ledger.states import State

DASHBOARD = dashboard_file.load()
PANELS = dashboard_file.panels(DASHBOARD)
QUERIES = list(dashboard_file.queries(DASHBOARD))
CHOSEN = dashboard_file.variables(DASHBOARD)
OUTAGES = next(a["expr"] for a in DASHBOARD["annotations"]["list"] if not a.get("builtIn"))

UNCONFIRMED_AFTER_S = 2.0

# The client library exports them beside each counter and histogram; no panel uses them.
_CREATED = re.compile(r".*_created$")
_PARTS_OF_HISTOGRAM = re.compile(r"_(bucket|count|sum)$")


def asked(expr: str) -> str:
    return dashboard_file.asked(expr, CHOSEN)


# -- the file


def test_the_dashboard_opens_with_the_expected_settings():
    assert DASHBOARD["uid"] == "ifinu"
    assert DASHBOARD["time"] == {"from": "now-6h", "to": "now"}
    assert DASHBOARD["refresh"] == "30s"
    assert DASHBOARD["schemaVersion"] == 39  # Grafana 11; newer versions migrate it
    assert "id" not in DASHBOARD  # an id belongs to one Grafana's database
    assert [(v["name"], v["type"]) for v in DASHBOARD["templating"]["list"]] == [
        ("datasource", "datasource"),
        ("namespace", "query"),
        ("whatsapp", "query"),
    ]


def test_the_rows_of_the_dashboard():
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        "Overview",
        "Flow",
        "Time",
        "Failures",
        "Queue",
        "Instances",
        "Numbers",
        "Receipts",
        "Charges",
        "Pods",
        "Storage",
    ]


def test_ids_and_titles_are_unique():
    for key in ("id", "title"):
        counts = collections.Counter(panel[key] for panel in DASHBOARD["panels"])
        assert {value for value, count in counts.items() if count > 1} == set()


def test_panels_fill_the_grid_without_overlaps():
    taken = collections.Counter(
        (x, y)
        for panel in DASHBOARD["panels"]
        for at in [panel["gridPos"]]
        for x, y in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
    )
    height = max(y for _, y in taken) + 1
    assert set(taken) == set(itertools.product(range(24), range(height)))
    assert set(taken.values()) == {1}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_each_panel_describes_what_it_shows(panel):
    """Each description says what is normal and what to do otherwise, for the person on call."""
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert "**Normal:**" in panel["description"]
    assert "**If not:**" in panel["description"]
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert target["legendFormat"]
        assert 'namespace=~"$namespace"' in target["expr"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_each_override_of_a_panel_matches_one_of_its_series(panel):
    """An override whose name no query gives would be left over by a rename."""
    fixed = {target["legendFormat"] for target in panel["targets"] if "{{" not in target["legendFormat"]}
    if len(fixed) == len(panel["targets"]):
        assert {one["matcher"]["options"] for one in panel["fieldConfig"]["overrides"]} <= fixed


def test_panels_and_rows_named_in_a_description_exist():
    """They are found by their titles, which start with a capital; names of series do not."""
    titles = {panel["title"] for panel in DASHBOARD["panels"]}
    named = set(itertools.chain(*(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", p["description"]) for p in PANELS)))
    assert named
    assert named - titles == set()


def test_commands_named_in_a_description_exist(capsys, monkeypatch):
    ifinu = Shell(capsys, monkeypatch)
    commands = set(itertools.chain(*(re.findall(r"`ifinu ([a-z ]+)`", p["description"]) for p in PANELS)))
    assert commands
    for command in commands:
        assert ifinu(*command.split(), "--help").code == 0, command


def test_promtool_takes_every_query(tmp_path: Path):
    named = [*((str(query), query.expr) for query in QUERIES), ("outages", OUTAGES)]
    rules = [{"record": f"dashboard:query_{n}", "expr": asked(expr)} for n, (_, expr) in enumerate(named)]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is valid YAML
    ended = subprocess.run([program("promtool"), "check", "rules", file], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{len(named)} rules found" in ended.stdout


def test_variables_are_all_replaced():
    assert [
        query for query in QUERIES if re.search(r"\$(?!1\b)", asked(query.expr))
    ] == []  # $1 belongs to a regular expression
    assert asked('x{a=~"$namespace",b="${namespace}"}[$__rate_interval]') == 'x{a=~".*",b=".*"}[10s]'
    assert asked("$namespaces") == "$namespaces"


# -- its queries


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Simulated]:
    instances = itertools.chain(*(("--instance", name) for name in INSTANCES))
    with stopping(Simulated(tmp_path, *instances)) as server:
        yield server


@pytest.fixture
def stage(tmp_path: Path, valkey: Valkey, ledger_url: str, gateway: Simulated) -> Iterator[Stage]:
    # A test cannot wait six hours for a receipt.
    with Stage(
        tmp_path, valkey.url, ledger_url, gateway, IFINU_UNCONFIRMED_AFTER_S=str(UNCONFIRMED_AFTER_S)
    ) as running:
        yield running


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
def test_every_query_returns_data(stage: Stage, ledger_url: str, tmp_path: Path):
    """
    Two workers, a webhook, a recorder and the exporter are scraped every second while messages of every kind reach
    every outcome, the gateway is unreachable for some seconds and one instance is disconnected.

    One of the workers is scraped by the shortest possible configuration, without the labels of a cluster. The series
    of the autoscalers and the backup come from a stand-in for kube-state-metrics.
    """
    with prometheus(tmp_path / "prometheus", stage.scrape_config(bare="ifinu-worker-1")) as server:
        stage.register_a_held_number()
        stage.push_of_each_sort()
        stage.leave_by_sair()
        stage.lose_instance(INSTANCES[2], 20)
        wait_until(lambda: has_data(server, "max(ifinu_instance_held) == 1"), 60.0)
        stage.find_instance(INSTANCES[2])
        wait_until(lambda: are_silent(ledger_url), 60.0)
        stage.restart("recorder", "metrics")  # each counts unconfirmed messages at its start, then every hour or minute

        missing = list(QUERIES)

        def all_found() -> bool:
            missing[:] = [query for query in missing if not has_data(server, asked(query.expr))]
            return not missing

        with every(
            0.5, lambda: stage.push(notification() for _ in range(5))
        ):  # the ratio of two zero rates is not a number
            stage.simulator.control.set_fault(gateway="unavailable")
            wait_until(lambda: has_data(server, asked(OUTAGES)), 60.0)
            stage.simulator.control.set_fault(gateway="up")
            wait_until(all_found, 120.0, lambda: [str(query) for query in missing])
            wait_until(lambda: 0 < value(server, "Success ratio") <= 1, 60.0)
        assert_true_of(stage, server)
        assert_known(server)


def are_silent(ledger_url: str) -> bool:
    """Whether the ledger has sent messages without a receipt that are old enough for it to be missed."""
    engine = connect(ledger_url)
    old = notifications.c.sent_at < datetime.now(UTC) - timedelta(seconds=UNCONFIRMED_AFTER_S)
    query = select(func.count()).where(notifications.c.state == State.SENT, old)
    try:
        with engine.connect() as connection:
            return connection.execute(query).scalar_one() > 0
    finally:
        engine.dispose()


def has_data(server: Prometheus, expr: str) -> bool:
    return any(not math.isnan(float(sample["value"][1])) for sample in server.query(expr))


def result(server: Prometheus, panel: str, ref: str = "A") -> list[dict[str, Any]]:
    (query,) = (query for query in QUERIES if (query.panel, query.ref) == (panel, ref))
    return server.query(asked(query.expr))


def labels(server: Prometheus, panel: str, name: str) -> set[str]:
    return {sample["metric"][name] for sample in result(server, panel)}


def value(server: Prometheus, panel: str, ref: str = "A") -> float:
    (sample,) = result(server, panel, ref)
    return float(sample["value"][1])


def assert_true_of(stage: Stage, server: Prometheus) -> None:
    """Wait until the dashboard shows the facts, once every message has its outcome."""

    def becomes(seen: Callable[[], object], expected: object) -> None:
        wait_until(lambda: seen() == expected, 90.0, seen)

    def label_values(series: str, name: str) -> set[str]:
        return {sample["metric"][name] for sample in server.query(series)}

    becomes(stage.backlog, 0)
    becomes(lambda: value(server, "Backlog"), 0)
    becomes(lambda: value(server, "Active pods"), 2)
    becomes(lambda: value(server, "Gateway"), 1)
    becomes(lambda: value(server, "Sends against the pace limit", "B"), 100)
    ends = {"sent", "duplicate", "expired", "suppressed", "cancelled", "dead", "held"}
    becomes(lambda: label_values("ifinu_messages_total", "outcome"), ends)
    kinds = {"lembrete", "vencimento", "atraso", "pagamento", "cobranca_criada"}
    becomes(lambda: label_values('ifinu_messages_total{outcome="sent"}', "kind"), kinds)
    becomes(lambda: labels(server, "Instances connected", "whatsapp"), set(INSTANCES))
    becomes(lambda: labels(server, "Sends per second, by instance", "whatsapp") >= set(INSTANCES[:3]), True)
    becomes(lambda: labels(server, "Longest lanes", "whatsapp"), {HELD})
    becomes(lambda: labels(server, "Risk, by number", "whatsapp"), {HELD})
    becomes(lambda: value(server, "Registry", "B"), 1)
    pods = {
        "ifinu-webhook",
        "ifinu-recorder",
        "ifinu-scheduler",
        "ifinu-metrics",
        "ifinu-worker-0",
        stage.address("ifinu-worker-1"),
    }
    becomes(lambda: labels(server, "Memory by pod", "pod"), pods)
    assert stage.dead() > 0
    becomes(lambda: value(server, "Dead letters") - stage.dead(), 0)


def assert_known(server: Prometheus) -> None:
    """Every series in a query is exported, and every exported series of ifinu is in a query."""
    exported = {name for name in server.json("/api/v1/label/__name__/values")["data"] if not _CREATED.match(name)}
    wanted = set(itertools.chain(*(dashboard_file.metrics(query.expr) for query in QUERIES)))
    assert wanted - exported == set()
    ours = {_PARTS_OF_HISTOGRAM.sub("", name) for name in exported if name.startswith("ifinu_")}
    assert ours - {_PARTS_OF_HISTOGRAM.sub("", name) for name in wanted} == set()
