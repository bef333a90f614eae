"""
As much of Kubernetes' API as Helm asks for before it installs anything: which kinds of things there are, and Secrets.

No Kubernetes can be had here, and whatever else is asked for is not found.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from rendering import NAMESPACE, NEWEST, RELEASE, STORIES, rendered


class _Cluster(http.server.BaseHTTPRequestHandler):
    """As much of Kubernetes' API as Helm needs to look a Secret up, and to see whether it could make the rest."""

    secrets: dict[str, dict[str, str]]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        body = self._answer(path)
        status = 404 if body is None else 200
        text = json.dumps(
            body or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": status}
        ).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _answer(self, path: str) -> dict[str, Any] | None:
        where, _, name = path.rpartition("/")
        if where == f"/api/v1/namespaces/{NAMESPACE}/secrets" and name in self.secrets:
            data = {key: base64.b64encode(value.encode()).decode() for key, value in self.secrets[name].items()}
            release = {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": NAMESPACE}
            labels = {"app.kubernetes.io/managed-by": "Helm"}
            metadata = {"name": name, "namespace": NAMESPACE, "labels": labels, "annotations": release}
            return {"kind": "Secret", "apiVersion": "v1", "metadata": metadata, "data": data}
        return self._discovered(path)

    def _discovered(self, path: str) -> dict[str, Any] | None:
        kinds = _kinds()
        groups = {version for version, _ in kinds if "/" in version}
        match path:
            case "/version":
                return {"major": "1", "minor": NEWEST.partition(".")[2], "gitVersion": f"v{NEWEST}.0"}
            case "/api":
                return {"kind": "APIVersions", "versions": ["v1"]}
            case "/apis":
                return {"kind": "APIGroupList", "groups": [_group(version) for version in sorted(groups)]}
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if version not in {version for version, _ in kinds}:
            return None
        resources = [
            {"name": _plural(kind), "namespaced": True, "kind": kind, "verbs": ["get"]}
            for each, kind in kinds
            if each == version
        ]
        return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@functools.cache
def _kinds() -> set[tuple[str, str]]:
    """All that the chart makes, as API version and kind."""
    return {(document["apiVersion"], kind) for story in STORIES for (kind, _), document in rendered(story).items()}


def _group(version: str) -> dict[str, Any]:
    name, _, number = version.partition("/")
    one = {"groupVersion": version, "version": number}
    return {"name": name, "versions": [one], "preferredVersion": one}


def _plural(kind: str) -> str:
    return re.sub("ys$", "ies", f"{kind.lower()}s")


@contextlib.contextmanager
def cluster(directory: Path, secrets: dict[str, dict[str, str]]) -> Iterator[str]:
    """A cluster with these Secrets; the path of the file with which Helm finds it."""
    handler = type("Handler", (_Cluster,), {"secrets": secrets})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    file = directory / "kubeconfig"
    file.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "it",
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "users": [{"name": "it", "user": {}}],
            }
        )
    )
    try:
        yield str(file)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
