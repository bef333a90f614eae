"""`docs/costs.py` counts pods, disks and nodes, and the manual has its current output."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
from helm_binaries import helm
from pages import script
from rendering import ROOT

_PRINTED = re.compile(r"<!-- python docs/costs\.py -->\n(.*?)<!-- end -->", re.DOTALL)


@pytest.fixture(scope="module")
def costs() -> ModuleType:
    return script(ROOT / "docs/costs.py")


def test_the_manual_has_the_costs_of_this_chart(costs: ModuleType):
    (found,) = _PRINTED.findall((ROOT / "docs/operations.md").read_text(encoding="utf-8"))
    lines = [*costs.table(helm(4), costs.LISTED)]
    assert found.splitlines() == lines, "the table must be:\n" + "\n".join(lines)


def test_pods_disks_and_nodes_are_counted(costs: ModuleType):
    """
    A deployment scaled from two to ten pods, a set of three pods with a claim each, and a single claim.
    """
    container = {"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}}
    spec = {
        "initContainers": [
            {**container, "restartPolicy": "Always"},  # a sidecar, which counts beside the containers
            {
                "resources": {"requests": {"cpu": "250m", "memory": "3Gi"}}
            },  # needs more memory than all containers together
        ],
        "containers": [container],
    }
    claim = {"kind": "PersistentVolumeClaim", "spec": {"resources": {"requests": {"storage": "512Mi"}}}}
    scaler = {"scaleTargetRef": {"kind": "Deployment", "name": "a"}, "minReplicas": 2, "maxReplicas": 10}
    chart = [
        claim,
        {"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": {"spec": spec}}},
        {"kind": "HorizontalPodAutoscaler", "spec": scaler},
        {
            "kind": "StatefulSet",
            "metadata": {"name": "b"},
            "spec": {"replicas": 3, "template": {"spec": {"containers": [{}]}}, "volumeClaimTemplates": [claim]},
        },
    ]
    assert costs.bill(chart, most=False) == ([(1.0, 4.0)] * 2 + [(0.0, 0.0)] * 3, 2.0)
    assert costs.bill(chart, most=True).pods.count((1.0, 4.0)) == 10
    assert (
        costs.nodes([costs.Pod(1.0, 4.0)] * 10, cpu=4, gib=16) == 4
    )  # three pods fit onto a node of 3.5 CPUs and 13 GiB
    assert costs.monthly(costs.Prices("x", 0.1, 0.2, 0.5, 20), 2, 10) == pytest.approx(365 + 25)


def test_a_pod_too_large_for_every_node_is_refused(costs: ModuleType):
    with pytest.raises(ValueError, match="fits onto no such node"):
        costs.nodes([costs.Pod(4.0, 1.0)], cpu=4, gib=16)


@pytest.mark.parametrize("text", ["12Q", "Mi", ""])
def test_a_quantity_of_another_unit_is_refused(costs: ModuleType, text: str):
    with pytest.raises(ValueError, match="is not a number with one of"):
        costs.quantity(text, {"Mi": 1.0})
