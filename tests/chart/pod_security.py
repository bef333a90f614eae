"""
The requirements of the Pod Security Standard `restricted`, and the stricter ones of this chart.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/ (all of `baseline` and of `restricted`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Pod = dict[str, Any]

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_SECCOMP = {"RuntimeDefault", "Localhost"}
_WRITABLE = {"emptyDir", "persistentVolumeClaim", "ephemeral"}


def violations(pod: Pod) -> Iterator[str]:
    """The reasons for which a namespace that enforces `restricted` would refuse a pod's spec."""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield field
    whole = pod.get("securityContext", {})
    if whole.get("sysctls"):
        yield "sysctls"
    if whole.get("runAsUser") == 0:
        yield "runAsUser 0"
    for volume in pod.get("volumes", []):
        if kinds := set(volume) - {"name"} - _VOLUMES:
            yield f"volume {volume['name']}: {', '.join(kinds)}"
    for container in containers(pod):
        for reason in _of_container(whole, container):
            yield f"{container['name']}: {reason}"


def _of_container(pod: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    if not own.get("runAsNonRoot", pod.get("runAsNonRoot", False)):
        yield "runAsNonRoot"
    if own.get("runAsUser") == 0:
        yield "runAsUser 0"
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities.drop"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities.add"
    if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in _SECCOMP:
        yield "seccompProfile"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPort"


def containers(pod: Pod) -> list[dict[str, Any]]:
    """All containers of a pod, including init containers."""
    return [*pod.get("initContainers", []), *pod["containers"], *pod.get("ephemeralContainers", [])]


def writable(pod: Pod, container: dict[str, Any], claims: set[str]) -> set[str]:
    """
    The directories that a container can write to.

    Args:
        pod: The pod's spec.
        container: A container of that pod with a read-only root.
        claims: Names of the volumes of claim templates.
    """
    kinds = {volume["name"]: set(volume) - {"name"} for volume in pod.get("volumes", [])}
    return {
        mount["mountPath"]
        for mount in container.get("volumeMounts", [])
        if not mount.get("readOnly") and (mount["name"] in claims or kinds[mount["name"]] & _WRITABLE)
    }
