"""Every command in the runbook, the manuals and the chart's README is valid and names existing objects."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import refuse_unknown, root
from pages import (
    CODE,
    COMMENT,
    FENCE,
    Call,
    blocks,
    call_of,
    flat,
    inline,
    links,
    prose,
    simple_commands,
    tables,
    text_of,
    uses,
)
from rendering import CHART, NAMESPACE, RELEASE, ROOT, Rendered, render, set_to

PAGES = ("runbook", "operations", "disaster-recovery")
ENGLISH = {name: ROOT / f"docs/{name}.md" for name in PAGES}
PORTUGUESE = {name: ROOT / f"docs/{name}.pt-BR.md" for name in PAGES if name != "operations"}
README = CHART / "README.md"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

# Kinds by the words that kubectl accepts, and objects of the cluster that are not the chart's.
KINDS = {
    "pod": "Pod", "pods": "Pod", "deployment": "Deployment", "statefulset": "StatefulSet", "service": "Service",
    "services": "Service", "hpa": "HorizontalPodAutoscaler", "secret": "Secret", "secrets": "Secret",
    "pvc": "PersistentVolumeClaim", "cronjob": "CronJob", "cronjobs": "CronJob", "job": "Job", "jobs": "Job",
    "scaledobject": "ScaledObject", "podmonitors": "PodMonitor", "prometheusrules": "PrometheusRule",
    "networkpolicies": "NetworkPolicy", "namespace": "Namespace", "apiservice": "APIService", "quota": "ResourceQuota",
    "events": "Event", "nodes": "Node", "storageclass": "StorageClass", "configmap": "ConfigMap",
}  # fmt: skip
FOREIGN = {
    ("Namespace", NAMESPACE),
    ("APIService", "v1beta1.metrics.k8s.io"),
    ("APIService", "v1beta1.external.metrics.k8s.io"),
}
OF_NO_NAMESPACE = {"namespace", "apiservice", "storageclass"}

_PASSWORD = re.compile(r"password|secret|_KEY|api-key|phone-key", re.IGNORECASE)
_PHONE = re.compile(r"\+?\d[\d ()-]{9,}\d")

document = pytest.mark.parametrize(
    "page", [*ENGLISH.values(), *PORTUGUESE.values(), README], ids=lambda page: str(page.relative_to(ROOT))
)
manual = pytest.mark.parametrize("page", [ENGLISH["operations"]], ids=lambda page: str(page.relative_to(ROOT)))


@functools.cache
def everything() -> Rendered:
    """Every object that the chart makes with any values of `ci/`, by kind and name."""
    out = Rendered()
    for values in (
        {},
        {"simulator": {"enabled": True}},
        {"evolution": {"topology": "replicated"}},
        {"backup": {"enabled": True}},
        {
            "webhook": {"payments": {"existingSecret": "payments"}},
            "reconciliation": {"enabled": True, "providers": ["asaas", "stripe", "woovi", "mercado_pago"]},
        },
        {"worker": {"autoscaling": {"enabled": False}, "keda": {"enabled": True}}},
        {"monitoring": {name: {"enabled": True} for name in ("podMonitor", "prometheusRule", "dashboard")}},
    ):
        for name, made in render(values).items():
            out.setdefault(name, made)
    return out


def names_of(kind: str) -> set[str]:
    made = everything()
    sets = made.of("StatefulSet")
    if kind == "Pod":  # the pods of a StatefulSet have predictable names
        return {f"{name}-{n}" for name in sets for n in range(4)} | {*made.of("Pod")}
    claims = {
        f"{claim['metadata']['name']}-{name}-0"
        for name, each in sets.items()
        for claim in each["spec"].get("volumeClaimTemplates", [])
    }
    return {*made.of(kind)} | (claims if kind == "PersistentVolumeClaim" else set())


def labels() -> set[tuple[str, str]]:
    """Every label of a pod or another object."""
    pods = [template["metadata"] for _, template in everything().templates()]
    objects = [made["metadata"] for made in everything().values()]
    return {label for metadata in (*pods, *objects) for label in metadata.get("labels", {}).items()}


def check_objects(call: Call, made_before: set[tuple[str, str]]) -> None:
    """Check that each object named by `kubectl` is the chart's or was created earlier on the page."""

    def check(kind: str, name: str) -> None:
        full = KINDS[kind]
        assert name in names_of(full) or (full, name) in FOREIGN | made_before, f"{kind}/{name} is not there"

    places: list[str] = []
    match call.verb:
        case "create" if not call.arguments:  # input from a pipe
            pass
        case "create":
            for source in call.values("--from"):
                check(*source.split("/"))
            made_before.add((KINDS[call.arguments[0]], call.arguments[-1]))
        case "label":
            check(*call.arguments[:2])
        case "exec" | "logs" | "port-forward":
            places = [place if "/" in place else f"pod/{place}" for place in call.arguments[:1]]
        case "top":
            assert {*call.arguments} <= {*KINDS}
        case "rollout":
            places = call.arguments[1:]
        case "wait" | "scale":
            places = call.arguments
        case "get" | "describe" | "delete" | "patch":
            if call.arguments and "/" in call.arguments[0]:
                places = call.arguments
            elif call.arguments and call.arguments != ["SUBSTITUTED"]:  # another command finds the name
                kinds, *names = call.arguments
                assert {*kinds.split(",")} <= {*KINDS}, kinds
                for name in names:
                    check(kinds, name)
        case "config" | "version" | "auth" | "":
            pass
        case _:
            pytest.fail(f"kubectl {call.verb} is not known here")
    for place in places:
        check(*place.split("/"))


@document
def test_every_kubectl_names_objects_labels_and_namespaces_that_exist(page: Path):
    lines = uses(page, "kubectl")
    assert len(lines) > 2
    made_before: set[tuple[str, str]] = set()
    containers = {each.spec["name"] for each in everything().containers()}
    for words in lines:
        call = call_of(words)
        assert call.namespace in {None, NAMESPACE, "monitoring"}, words
        check_objects(call, made_before)
        for selector in call.values("-l", "--selector"):
            assert tuple(selector.split("=")) in labels(), words
        assert {*call.values("-c", "--container")} <= containers, words


@manual
def test_every_kubectl_of_the_manual_says_in_which_namespace(page: Path):
    """
    The manual's commands are pasted into any terminal; the runbook sets an alias first.
    """
    for block in blocks(page, "sh"):
        for program, *words in simple_commands(block):
            call = call_of(words)
            if program != "kubectl" or call.namespace is not None or call.values("--raw"):
                continue
            nodes = call.verb in ("config", "version") or call.arguments == ["nodes"]
            assert nodes or OF_NO_NAMESPACE & {*call.arguments}, words


@document
def test_no_block_deletes_more_than_one_pod_or_a_namespace(page: Path):
    for block in blocks(page, "sh"):
        for program, *words in simple_commands(block):
            call = call_of(words)
            if program == "kubectl" and call.verb == "delete":
                kind = call.arguments[0].split("/")[0]
                assert KINDS.get(kind) != "Namespace", words
                assert KINDS.get(kind) != "Pod" or (len(call.arguments) == 2 and not call.values("-l", "--selector"))


@document
def test_every_documented_ifinu_command_is_valid(page: Path):
    """
    The command, its options and their values, unless the text only names the command.
    """

    lines = [words for words in uses(page, "ifinu") if words and words != ["…"]]
    assert len(lines) > 2
    for words in lines:
        command = root()
        rest = [*words]
        while rest and rest[0] in (inner := getattr(command, "commands", {})):
            command = inner[rest.pop(0)]
        assert command.name is not None, words
        if rest and "…" not in rest:
            refuse_unknown(words)


@document
def test_every_helm_command_is_of_this_release_and_its_values_render(page: Path):
    lines = [words for words in uses(page, "helm") if len(words) > 1 and "…" not in words]
    assert lines or page.stem.startswith("disaster-recovery")
    for words in lines:
        places = [word for word in words[1:] if word != "--install"]
        assert places[0] == RELEASE, words
        assert [words[n + 1] for n, word in enumerate(words) if word in ("-n", "--namespace")] == [NAMESPACE], words
        if words[0] in ("install", "upgrade", "template"):
            assert places[1] in ("deploy/helm", "oci://ghcr.io/ifinu/charts/ifinu"), words
        set_to(*(words[n + 1] for n, word in enumerate(words) if word == "--set"))


def keys_of(values: Any, path: str = "") -> set[str]:
    if not isinstance(values, dict):
        return {path}
    return {path} | {key for name, inner in values.items() for key in keys_of(inner, f"{path}.{name}".lstrip("."))}


@document
def test_every_value_named_in_a_text_exists(page: Path):
    """
    Keys such as `worker.rateLimit`, and `worker.rateLimit=100/s`, also several with commas; those with a value render.
    """
    pattern = re.compile(
        rf"(?:{'|'.join(VALUES)})(?:\.(?!(?:rdb|dump)$)\w+)+(?:=\S*)?"
    )  # redis.rdb and evolution.dump are files
    named = [code for code in inline(page) if pattern.fullmatch(code)]
    assert len(named) > 1
    for code in named:
        for setting in code.split(","):
            assert setting.partition("=")[0] in keys_of(VALUES), setting
        if "=" in code:
            set_to(code)


@document
def test_every_file_of_values_renders(page: Path):
    shown = [block for block in blocks(page, "yaml") if block.startswith("# production.yaml\n")]
    assert shown or not page.stem.startswith("operations")
    for block in shown:
        render(yaml.safe_load(block))


def application(page: Path) -> dict[str, Any]:
    """The values in the page's Argo CD Application."""
    (found,) = [yaml.safe_load(block) for block in blocks(page, "yaml") if block.startswith("# application.yaml\n")]
    assert found["spec"]["destination"]["namespace"] == NAMESPACE
    values: dict[str, Any] = found["spec"]["source"]["helm"]["valuesObject"]
    return values


@manual
def test_argo_cd_makes_no_secret_and_the_manual_one_has_every_key(page: Path):
    made = render(application(page))
    assert made.of("Secret") == {}
    (by_hand,) = [words for words in uses(page, "kubectl") if "ifinu-own" in words]
    given = {value.partition("=")[0] for value in call_of(by_hand).values("--from-literal")}
    asked = {
        reference["key"]
        for each in made.containers()
        for variable in each.env.values()
        if (reference := variable.get("valueFrom", {}).get("secretKeyRef")) and "optional" not in reference
    }
    assert given == asked


def readers_by_the_page(page: Path) -> dict[tuple[str, str], set[str]]:
    """The containers that read each key of each Secret, by the page."""
    (rows,) = [table for table in tables(page) if table and table[0][:2] == ["`redis-queue`", "`redis-password`"]]
    return {(row[0].strip("`"), row[1].strip("`")): {*CODE.findall(row[2])} for row in rows}


@manual
def test_the_table_of_secrets_lists_the_readers_of_each_key(page: Path):
    readers: dict[tuple[str, str], set[str]] = {}
    for each in render().containers():
        kind, name = each.owner.split("/")
        for variable in each.env.values():
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference and "optional" not in reference and kind in ("Deployment", "StatefulSet"):
                readers.setdefault((reference["name"], reference["key"]), set()).add(name)
    assert readers_by_the_page(page) == readers


@manual
def test_each_recipe_restarts_every_reader_of_the_key(page: Path):
    """
    PostgreSQL is the exception: it reads its passwords once, for a new volume, and ALTER ROLE changes them.
    """
    readers = readers_by_the_page(page)
    changed: set[tuple[str, str]] = set()
    for block in blocks(page, "sh"):
        for key, secret in re.findall(r'\{"stringData":\{"([\w-]+)":.*(?:\|\n.*)? patch secret ([\w-]+) ', block):
            restarted = {
                place.split("/")[1]
                for program, *words in simple_commands(block)
                if program == "kubectl" and "restart" in words
                for place in call_of(words).arguments[1:]
            }
            assert restarted == readers[secret, key] - {"evolution-postgres"}, key
            changed.add((secret, key))
    assert {*readers} - changed == {("ifinu-secrets", "phone-key")}  # never changed


@manual
def test_the_adapters_rule_offers_the_series_that_the_autoscaler_uses(page: Path):
    (rules,) = [
        yaml.safe_load(block)["rules"]["external"]
        for block in blocks(page, "yaml")
        if block.startswith("# prometheus-adapter.yaml\n")
    ]
    (rule,) = rules
    name = VALUES["worker"]["autoscaling"]["queue"]["metricName"]
    assert f"| `{name}{{queue}}` | gauge |" in (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert rule["seriesQuery"] == f'{name}{{namespace!="",queue!=""}}'
    assert rule["name"]["as"] == name
    assert rule["resources"]["overrides"] == {"namespace": {"resource": "namespace"}}
    assert "<<.Series>>{<<.LabelMatchers>>}" in rule["metricsQuery"]


@pytest.mark.parametrize("name", PORTUGUESE)
def test_both_languages_have_the_same_commands_tables_and_links(name: str):
    """
    The same code blocks without comments, heading depths, code in each cell, and links.
    """
    ours, theirs = PORTUGUESE[name], ENGLISH[name]
    shown, depths, codes, targets = (
        [[(kind, COMMENT.sub("", body)) for kind, body in FENCE.findall(text_of(page))] for page in (ours, theirs)],
        [re.findall(r"^(#+) ", prose(page), re.MULTILINE) for page in (ours, theirs)],
        [[[sorted(CODE.findall("|".join(row))) for row in table] for table in tables(page)] for page in (ours, theirs)],
        [sorted(path.replace(".pt-BR.", ".") for path, _ in links(page)) for page in (ours, theirs)],
    )
    for found, expected in (shown, depths, codes, targets):
        assert found == expected


@document
def test_no_page_has_a_password_or_a_persons_phone(page: Path):
    for block in blocks(page, "yaml"):
        for key, value in flat(yaml.safe_load(block)):
            if _PASSWORD.search(key) and not key.endswith(("existingSecret", "existingSecretKey", "configSecret")):
                assert not isinstance(value, str), key
    phones = [phone for phone in _PHONE.findall(text_of(page)) if len(re.sub(r"\D", "", phone)) in (11, 13)]
    assert {re.sub(r"\D", "", phone)[-11:] for phone in phones} <= {"77998616740"}  # the number of all examples
