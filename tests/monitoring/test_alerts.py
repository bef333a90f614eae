"""The alerts: each fires at its condition and not before, says what to do, and uses exported series."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis
import typer.main
import yaml
from alert_rules import ALERTMANAGER, ROOT, RULES, UNIT_TESTS, Alert, alerts, parsed, rules, series_in
from ledgers import migrated
from processes import API_KEY, Simulated, wait_until
from programs import program
from prometheus_client import CollectorRegistry

from ifinu import cli
from ifinu.billing.scheduler import Figures
from ifinu.errors import Reason
from ifinu.gateway import Management
from ifinu.ledger.engine import connect
from ifinu.ledger.progress import Progress
from ifinu.metrics import endpoint, polls
from ifinu.metrics.recorder_series import RecorderSeries
from ifinu.metrics.redis_series import RedisCollector
from ifinu.metrics.scheduler_series import SchedulerSeries
from ifinu.metrics.webhook_series import WebhookSeries
from ifinu.metrics.worker_series import WorkerSeries

ALERTS = alerts()
GROUPS = parsed(RULES)["groups"]
RUNBOOK, PORTUGUESE = ROOT / "docs/runbook.md", ROOT / "docs/runbook.pt-BR.md"
LINK = "https://github.com/ifinu/ifinu/blob/main/docs/runbook.md#"
KUBE_STATE_METRICS = "kube_"  # exported by other programs
PROMETHEUS = {"up"}

_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def headings(page: Path) -> list[str]:
    return _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The anchors of a page by GitHub's rules; the second of two equal headings gets a number."""
    found: set[str] = set()
    for heading in headings(page):
        anchor = re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        numbers = itertools.count(1)
        unique = anchor
        while unique in found:
            unique = f"{anchor}-{next(numbers)}"
        found.add(unique)
    return found


def commands(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The commands of the command line, by the words that name them."""
    if not hasattr(command, "commands"):
        return {path: command}
    return {k: v for name, inner in command.commands.items() for k, v in commands(inner, (*path, name)).items()}


def command_lines(text: str) -> list[list[str]]:
    """Every `ifinu …` command in a text, in a code block or inline."""
    code = [line for block in _FENCE.findall(text) for line in block.splitlines()]
    code += _CODE.findall(_FENCE.sub("", text))
    return [shlex.split(line.split("|")[0], comments=True)[1:] for line in code if line.startswith("ifinu ")]


def refuse_unknown(lines: list[list[str]]) -> None:
    """Raise UsageError or AssertionError for an unknown command or option; a command's name alone is valid."""
    known = commands(typer.main.get_command(cli.app))
    for line in lines:
        path = next((path for path in known if line[: len(path)] == list(path)), None)
        assert path is not None, line
        if rest := line[len(path) :]:
            known[path].make_context("ifinu", rest).close()


def names(series: CollectorRegistry) -> set[str]:
    """The names that the series of a registry have in Prometheus."""
    return {metric.name + suffix for metric in series.collect() for suffix in _SUFFIXES[metric.type]}


@pytest.fixture
def exported(client: redis.Redis, simulator: Simulated, tmp_path: Path) -> set[str]:
    """Every series that ifinu's processes export."""
    series = endpoint.registry()
    WorkerSeries(series)
    RecorderSeries(series, Progress())
    SchedulerSeries(series, Figures(counted=True))
    WebhookSeries(series, lambda: (0, 0))
    RedisCollector(series, client)
    engine = connect(migrated(f"sqlite:///{tmp_path}/ledger.db"))
    management = Management(simulator.url, API_KEY)
    with (
        polls.numbers(series, client, every_s=60.0) as numbers,
        polls.ledger(series, engine, every_s=60.0) as ledger,
        polls.gateway(series, management, every_s=60.0) as gateway,
    ):
        wait_until(lambda: all(list(asked.collect()) for asked in (numbers, ledger, gateway)))
        found = names(series)
    management.close()
    engine.dispose()
    return found


def test_prometheus_takes_the_rules():
    done = subprocess.run([program("promtool"), "check", "rules", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules())} rules found" in done.stdout


@pytest.mark.parametrize("file", sorted(UNIT_TESTS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_alerts_fire_when_they_should_and_not_before(file, tmp_path):
    """
    Prometheus evaluates only the groups with the alerts that the file names; all of them take five times as long.
    """
    (path,) = parsed(file)["rule_files"]
    assert (file.parent / path).resolve() == RULES
    tested = {check["alertname"] for story in parsed(file)["tests"] for check in story["alert_rule_test"]}
    groups = [group for group in GROUPS if tested & {rule.get("alert") for rule in group["rules"]}]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    stories = tmp_path / "stories.yaml"
    stories.write_text(file.read_text(encoding="utf-8").replace(path, "rules.yaml"), encoding="utf-8")
    done = subprocess.run([program("promtool"), "test", "rules", str(stories)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_group_reads_what_only_itself_records():
    """
    So that a group can be tested without the others.
    """
    recorded = {rule["record"]: group["name"] for group in GROUPS for rule in group["rules"] if "record" in rule}
    assert recorded
    for group in GROUPS:
        text = " ".join(rule["expr"] for rule in group["rules"])
        assert {recorded[name] for name in recorded if name in text} <= {group["name"]}


def test_each_alert_is_tested_firing_and_not_firing():
    """
    A case of not firing expects another severity of the alert, or none.
    """
    fires, silent = set(), set()
    stories = [story for file in UNIT_TESTS.glob("*.yaml") for story in parsed(file)["tests"]]
    for check in itertools.chain.from_iterable(story["alert_rule_test"] for story in stories):
        expected = {Alert(check["alertname"], one["exp_labels"]["severity"]) for one in check["exp_alerts"]}
        fires |= expected
        silent |= {alert for alert in ALERTS if alert.name == check["alertname"]} - expected
    assert fires == set(ALERTS)
    assert silent == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS, ids="-".join)
def test_each_alert_has_a_summary_a_first_step_and_a_runbook_link(alert):
    rule = ALERTS[alert]
    assert alert.severity in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert all(text.strip() for text in rule["annotations"].values())
    assert rule["annotations"]["runbook_url"] == LINK + alert.name.lower()


@pytest.mark.parametrize("page", [RUNBOOK, PORTUGUESE], ids=lambda page: page.name)
def test_the_runbook_has_a_section_for_each_alert_and_for_no_other(page):
    sections = [heading for heading in headings(page) if heading.startswith("Ifinu")]
    assert sorted(sections) == sorted({alert.name for alert in ALERTS})
    assert {name.lower() for name, _ in ALERTS} <= anchors(page)


@pytest.mark.parametrize("page", [RUNBOOK, PORTUGUESE], ids=lambda page: page.name)
def test_the_runbook_names_commands_that_ifinu_takes(page):
    """
    The command exists, and so does each option.
    """
    lines = command_lines(page.read_text(encoding="utf-8"))
    assert len(lines) > 30
    refuse_unknown(lines)


def test_the_alerts_name_commands_that_ifinu_takes():
    descriptions = "\n".join(rule["annotations"]["description"] for rule in ALERTS.values())
    lines = command_lines(
        re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda m: {"queue": "baixa"}.get(m[1], "x"), descriptions)
    )
    assert len(lines) > 20
    refuse_unknown(lines)


def test_both_runbooks_have_the_same_sections_and_commands():
    """
    The same sections in the same order, and the same commands in each.
    """
    english, portuguese = (
        re.split(r"^### ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:] for page in (RUNBOOK, PORTUGUESE)
    )
    assert [section.splitlines()[0] for section in portuguese] == [section.splitlines()[0] for section in english]
    for ours, theirs in zip(portuguese, english, strict=True):
        assert sorted(map(" ".join, command_lines(ours))) == sorted(map(" ".join, command_lines(theirs)))


def test_each_series_in_an_alert_is_exported(exported):
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = set().union(*(series_in(rule["expr"]) for rule in rules()))
    assert recorded <= asked
    ours = {name for name in asked - recorded - PROMETHEUS if not name.startswith(KUBE_STATE_METRICS)}
    assert len(ours) > 20
    assert ours - exported == set()


def test_the_series_of_an_expression_are_all_found():
    expr = """
      sum by (namespace, up) (rate(a_total{x="b",y=~"c|d"}[5m] offset 6h)) / on (e) group_left (f) g:h:i > bool 0.1
      unless min_over_time(max by (j) (k)[1h:1m]) or 0 * absent(up{job="l"} == 1e3)
    """
    assert series_in(expr) == {"a_total", "g:h:i", "k", "up"}


def test_the_outcomes_in_an_alert_are_those_of_a_gateway():
    (expr,) = [rule["expr"] for (name, _), rule in ALERTS.items() if name == "IfinuGatewayMisconfigured"]
    (asked,) = re.findall(r'answer=~"([^"]+)"', expr)
    assert set(asked.split("|")) < {reason.value for reason in Reason}


def test_alertmanager_inhibits_only_existing_alerts():
    """
    An inhibition rule with a name that no alert has would have no effect.
    """
    known = {alert.name for alert in ALERTS}
    for rule in parsed(ALERTMANAGER)["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            if (found := re.fullmatch(r'alertname=~?"(.*)"', matcher)) is not None:
                pattern = re.compile(found[1])
                named = set(re.split(r"[|()]", found[1].removeprefix("Ifinu").removeprefix("("))) - {""}
                assert {f"Ifinu{name.removeprefix('Ifinu')}" for name in named} == set(filter(pattern.fullmatch, known))
