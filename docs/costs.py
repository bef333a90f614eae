"""
What the chart costs a month on EKS and GKE: the table in docs/operations.md.

    python docs/costs.py                                     the table, at the prices below
    python docs/costs.py --set worker.autoscaling.maxReplicas=50
    python docs/costs.py --node-price 0.30 --node-cpu 4 --node-memory 16 --disk-price 0.15     at prices of yours

It renders the chart (`helm` has to be there, or name it with `--helm`), adds up what its pods request and its claims
hold, puts the pods onto nodes, the largest first, and multiplies. Needs PyYAML.
"""

from __future__ import annotations

import argparse
import math
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CHART = Path(__file__).parents[1] / "deploy" / "helm"
HOURS = 730  # a month

# Of a node: what kubelet, system and daemons take. GKE withholds 2.7 GiB of 16, EKS about 1; a rest for daemons.
WITHHELD_CPU, WITHHELD_GIB = 0.5, 3.0

_REPLICAS = {
    "HorizontalPodAutoscaler": ("minReplicas", "maxReplicas"),
    "ScaledObject": ("minReplicaCount", "maxReplicaCount"),  # KEDA's
}
_CPU = {"m": 1e-3, "": 1.0}
_GIB = {"Ki": 2**-20, "Mi": 2**-10, "Gi": 1.0, "Ti": 2.0**10}


class Prices(NamedTuple):
    """In USD, without taxes; a node has 4 CPUs and 16 GiB."""

    where: str
    cluster_hour: float
    node_hour: float
    disk_month: float  # a GiB
    boot_gib: float  # disk of a node, as the provider makes it


# Where each comes from, and of when it is: "Costs" in docs/operations.md.
LISTED = (
    Prices("EKS, us-east-1", 0.10, 0.192, 0.08, 20),
    Prices("GKE, us-central1", 0.10, 0.13402284, 0.10, 100),
    Prices("GKE, southamerica-east1", 0.10, 0.2127408, 0.15, 100),
)


class Case(NamedTuple):
    """
    One row: values of the chart, at the least or the most pods, on so many nodes or more; memory by what is requested,
    or by the limits.
    """

    name: str
    values: tuple[str, ...]
    most: bool
    nodes: int
    limits: bool = False


CASES = (
    Case(
        "trial, with the simulator",
        ("simulator.enabled=true", "worker.autoscaling.minReplicas=1", "webhook.replicaCount=1"),
        most=False,
        nodes=1,
    ),
    Case("default, at the least", (), most=False, nodes=2),
    Case("default, at the most", (), most=True, nodes=2),
    Case(
        "the same, with all memory used up to its limits",
        (),
        most=True,
        nodes=2,
        limits=True,
    ),
)


class Pod(NamedTuple):
    """What one requests."""

    cpu: float
    gib: float


NODE = Pod(4.0, 16.0)  # of the prices above


class Bill(NamedTuple):
    """What a release requests: its pods, and the GiB of its claims."""

    pods: list[Pod]
    disk_gib: float


def quantity(text: str | int | float, units: dict[str, float]) -> float:
    """
    Read `250m` or `512Mi`.

    Raises:
        ValueError: Its unit is another.
    """
    written = str(text)
    unit = written.lstrip("0123456789.")
    number = written[: len(written) - len(unit)]
    if not number or unit not in units:
        raise ValueError(f"{written!r} is not a number with one of {sorted(units)}")
    return float(number) * units[unit]


def of_pod(spec: dict[str, Any], *, limits: bool = False) -> Pod:
    """
    What the scheduler reserves: all that run at once, or an init container that wants more.

    Args:
        spec: Of the pod.
        limits: Memory by the limits, as if all of it was used.
    """

    def requests(container: dict[str, Any]) -> Pod:
        resources = container.get("resources", {})
        memory = resources.get("limits" if limits else "requests", {}).get("memory", "0Mi")
        return Pod(quantity(resources.get("requests", {}).get("cpu", 0), _CPU), quantity(memory, _GIB))

    beside = Pod(0.0, 0.0)
    most = Pod(0.0, 0.0)
    for container in spec.get("initContainers", []):
        one = requests(container)
        starting = Pod(beside.cpu + one.cpu, beside.gib + one.gib)
        most = Pod(max(most.cpu, starting.cpu), max(most.gib, starting.gib))
        if container.get("restartPolicy") == "Always":
            beside = starting
    running = [requests(container) for container in spec["containers"]]
    cpu, gib = sum(one.cpu for one in running), sum(one.gib for one in running)
    return Pod(max(most.cpu, beside.cpu + cpu), max(most.gib, beside.gib + gib))


def bill(documents: Iterable[dict[str, Any]], *, most: bool, limits: bool = False) -> Bill:
    """
    Add up a rendered chart. What runs now and then (jobs) is left out.

    Args:
        documents: Its objects.
        most: At the most pods of each autoscaler; else at the least.
        limits: As for `of_pod`.
    """
    found = list(documents)
    scaled = {
        (one["spec"]["scaleTargetRef"].get("kind", "Deployment"), one["spec"]["scaleTargetRef"]["name"]): one["spec"][
            _REPLICAS[one["kind"]][most]
        ]
        for one in found
        if one["kind"] in _REPLICAS
    }
    pods: list[Pod] = []
    disk_gib = 0.0
    for one in found:
        if one["kind"] == "PersistentVolumeClaim":
            disk_gib += _size(one)
        if one["kind"] in ("Deployment", "StatefulSet"):
            count = scaled.get((one["kind"], one["metadata"]["name"]), one["spec"].get("replicas", 1))
            pods += [of_pod(one["spec"]["template"]["spec"], limits=limits)] * count
            disk_gib += count * sum(map(_size, one["spec"].get("volumeClaimTemplates", [])))
    return Bill(pods, disk_gib)


def _size(claim: dict[str, Any]) -> float:
    return quantity(claim["spec"]["resources"]["requests"]["storage"], _GIB)


def nodes(pods: Sequence[Pod], *, cpu: float, gib: float) -> int:
    """
    How many nodes they take, the largest put first where it fits first.

    Args:
        pods: They.
        cpu: CPUs of a node.
        gib: Memory of a node.

    Raises:
        ValueError: One fits onto none.
    """
    whole = Pod(cpu - WITHHELD_CPU, gib - WITHHELD_GIB)
    free: list[Pod] = []
    for pod in sorted(pods, key=lambda one: max(one.cpu / whole.cpu, one.gib / whole.gib), reverse=True):
        if pod.cpu > whole.cpu or pod.gib > whole.gib:
            raise ValueError(f"a pod with {pod.cpu:g} CPUs and {pod.gib:g} GiB fits onto no such node")
        at = next((n for n, one in enumerate(free) if pod.cpu <= one.cpu and pod.gib <= one.gib), None)
        if at is None:
            at = len(free)
            free.append(whole)
        free[at] = Pod(free[at].cpu - pod.cpu, free[at].gib - pod.gib)
    return len(free)


def monthly(prices: Prices, count: int, disk_gib: float) -> float:
    """USD a month of a cluster with so many nodes and so large claims."""
    return (
        HOURS * (prices.cluster_hour + count * prices.node_hour)
        + (disk_gib + count * prices.boot_gib) * prices.disk_month
    )


def rendered(helm: str, values: Iterable[str]) -> list[dict[str, Any]]:
    """
    The chart's objects.

    Raises:
        subprocess.CalledProcessError: Helm refuses; it has said why.
    """
    arguments = [argument for value in values for argument in ("--set", value)]
    done = subprocess.run(
        [helm, "template", "ifinu", str(CHART), "--namespace", "ifinu-production", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def table(
    helm: str,
    prices: Sequence[Prices],
    *,
    values: Sequence[str] = (),
    node: Pod = NODE,
) -> Iterator[str]:
    """
    The lines of the table.

    Raises:
        subprocess.CalledProcessError: As `rendered`.
    """
    head = ("USD a month", "pods", "CPU", "GiB", "disk, GiB", "nodes", *(one.where for one in prices))
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    for case in CASES:
        wanted = bill(rendered(helm, (*case.values, *values)), most=case.most, limits=case.limits)
        count = max(case.nodes, nodes(wanted.pods, cpu=node.cpu, gib=node.gib))
        cells = (
            case.name,
            str(len(wanted.pods)),
            f"{sum(pod.cpu for pod in wanted.pods):.2f}",
            f"{sum(pod.gib for pod in wanted.pods):.1f}",
            f"{wanted.disk_gib:g}",
            str(count),
            *(str(math.ceil(monthly(one, count, wanted.disk_gib))) for one in prices),
        )
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helm", default="helm", help="the program")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a value of the chart")
    parser.add_argument("--node-price", type=float, metavar="USD", help="of a node, an hour")
    parser.add_argument("--cluster-price", type=float, default=0.10, metavar="USD", help="of the cluster, an hour")
    parser.add_argument("--disk-price", type=float, default=0.10, metavar="USD", help="of a GiB, a month")
    parser.add_argument("--boot-disk", type=float, default=20, metavar="GIB", help="of a node")
    parser.add_argument("--node-cpu", type=float, default=4, metavar="CPUS")
    parser.add_argument("--node-memory", type=float, default=16, metavar="GIB")
    chosen = parser.parse_args()
    node = Pod(chosen.node_cpu, chosen.node_memory)
    prices: Sequence[Prices] = LISTED
    if chosen.node_price is not None:
        mine = chosen.cluster_price, chosen.node_price, chosen.disk_price, chosen.boot_disk
        prices = (Prices("at your prices", *mine),)
    elif node != NODE:
        parser.error("the prices here are of nodes with 4 CPUs and 16 GiB: say yours with --node-price")
    print(  # noqa: T201 - what it is for
        *table(chosen.helm, prices, values=chosen.set, node=node), sep="\n"
    )


if __name__ == "__main__":
    main()
