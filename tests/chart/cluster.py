"""
As much of Kubernetes' API as Helm needs to look up, install, upgrade and roll back: a store of objects by path.

It stands in for a cluster, which the tests do not need. It runs nothing, validates nothing, and merges patches.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import json
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from rendering import NAMESPACE, NEWEST, RELEASE, STORIES, rendered

Objects = dict[str, dict[str, Any]]

_PROTOBUF = b"k8s\0"


def secret_path(name: str) -> str:
    """The API path of a Secret."""
    return f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}"


def path_of(kind: str, name: str) -> str:
    """The API path of a Deployment or a StatefulSet."""
    return f"/apis/apps/v1/namespaces/{NAMESPACE}/{_plural(kind)}/{name}"


def secret(name: str, values: Mapping[str, str]) -> dict[str, Any]:
    """A Secret of the release with these texts."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    release = {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": NAMESPACE}
    labels = {"app.kubernetes.io/managed-by": "Helm"}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels, "annotations": release}
    return {"kind": "Secret", "apiVersion": "v1", "metadata": metadata, "data": data}


class _Cluster(http.server.BaseHTTPRequestHandler):
    """The API's server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    objects: Objects

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if "watch" in query:
            self._send(200, None)  # no events, and the stream ends
            return
        found = self.objects.get(parts.path) or self._discovered(parts.path)
        if found is None and (kind := self._kind(parts.path)):
            wanted = dict(pair.split("=", 1) for pair in query.get("labelSelector", [""])[0].split(",") if "=" in pair)
            items = [
                each
                for path, each in self.objects.items()
                if path.rpartition("/")[0] == parts.path
                and wanted.items() <= each["metadata"].get("labels", {}).items()
            ]
            found = {
                "kind": f"{kind[1]}List",
                "apiVersion": kind[0],
                "metadata": {"resourceVersion": "1"},
                "items": items,
            }
        self._send(404 if found is None else 200, found)

    def do_POST(self) -> None:
        body = self._body()
        path = f"{urlsplit(self.path).path}/{body['metadata']['name']}"
        if path in self.objects:
            self._send(409, {"kind": "Status", "status": "Failure", "reason": "AlreadyExists", "code": 409})
            return
        self._send(201, self.objects.setdefault(path, body))

    def do_PUT(self) -> None:
        self._send(200, self.objects.update({urlsplit(self.path).path: (body := self._body())}) or body)

    def do_PATCH(self) -> None:
        path = urlsplit(self.path).path
        applied = "apply-patch" in self.headers["Content-Type"]
        if path not in self.objects and not applied:
            self._send(404, None)
            return
        self.objects[path] = _merged(self.objects.get(path, {}), self._body())
        self._send(200, self.objects[path])

    def do_DELETE(self) -> None:
        self._body()
        gone = self.objects.pop(urlsplit(self.path).path, None)
        self._send(404 if gone is None else 200, gone)

    def _body(self) -> Any:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return _secret_of(body) if body.startswith(_PROTOBUF) else yaml.safe_load(body)

    def _send(self, status: int, body: Any) -> None:
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        text = json.dumps(missing if status == 404 else body).encode() if body or status == 404 else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _kind(self, path: str) -> tuple[str, str] | None:
        """API version and kind of the objects listed at a path."""
        return next(
            (
                (version, kind)
                for version, kind in _kinds()
                if path == f"/{_root(version)}/namespaces/{NAMESPACE}/{_plural(kind)}"
            ),
            None,
        )

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
            case "/openapi/v3":
                return {
                    "paths": {
                        each: {"serverRelativeURL": f"/openapi/v3/{each}"} for each in map(_root, groups | {"v1"})
                    }
                }
        if path.startswith("/openapi/v3/"):
            return _verbs(path.removeprefix("/openapi/v3/"))
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if version not in {version for version, _ in kinds}:
            return None
        resources = [
            {"name": _plural(kind), "namespaced": True, "kind": kind, "verbs": ["get", "list", "watch"]}
            for each, kind in kinds
            if each == version
        ]
        return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@functools.cache
def _kinds() -> set[tuple[str, str]]:
    """API version and kind of every object that the chart makes."""
    return {(document["apiVersion"], kind) for story in STORIES for (kind, _), document in rendered(story).items()}


def _group(version: str) -> dict[str, Any]:
    name, _, number = version.partition("/")
    one = {"groupVersion": version, "version": number}
    return {"name": name, "versions": [one], "preferredVersion": one}


def _root(version: str) -> str:
    return f"{'apis' if '/' in version else 'api'}/{version}"


def _verbs(root: str) -> dict[str, Any]:
    """The least OpenAPI description with which Helm leaves validation to the server."""
    paths = {}
    for version, kind in _kinds():
        if _root(version) == root:
            group, _, number = version.rpartition("/")
            patch = {
                "parameters": [{"name": "fieldValidation", "in": "query"}],
                "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
            }
            paths[f"/{root}/namespaces/{{namespace}}/{_plural(kind)}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "it", "version": "1"}, "paths": paths}


def _plural(kind: str) -> str:
    return re.sub("ys$", "ies", f"{kind.lower()}s")


def _secret_of(protobuf: bytes) -> dict[str, Any]:
    """The Secret in a message in Kubernetes' Protocol Buffers encoding, in which Helm stores its releases."""
    outer = _fields(dict(_fields(protobuf.removeprefix(_PROTOBUF)))[2])
    inner = dict(outer)
    metadata = _fields(inner[1])
    labels = (dict(_fields(value)) for number, value in metadata if number == 11)
    data = (dict(_fields(value)) for number, value in outer if number == 2)
    return {
        "kind": "Secret",
        "apiVersion": "v1",
        "type": inner[3].decode(),
        "metadata": {
            "name": dict(metadata)[1].decode(),
            "labels": {label[1].decode(): label[2].decode() for label in labels},
        },
        "data": {each[1].decode(): base64.b64encode(each[2]).decode() for each in data},
    }


def _fields(message: bytes) -> list[tuple[int, bytes]]:
    """Field numbers and contents of a Protocol Buffers message, without its integer fields."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte, at = message[at], at + 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        length = varint()
        if key & 7 == 2:
            found.append((key >> 3, message[at : at + length]))
            at += length
    return found


def _merged(before: Any, patch: Any) -> Any:
    if not isinstance(before, dict) or not isinstance(patch, dict):
        return patch
    out = {**before, **{key: _merged(before.get(key), value) for key, value in patch.items()}}
    return {key: value for key, value in out.items() if value is not None}


@contextlib.contextmanager
def cluster(directory: Path, objects: Objects) -> Iterator[str]:
    """Serve a cluster with these objects by path; yields the path of its kubeconfig."""
    handler = type("Handler", (_Cluster,), {"objects": objects})
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
