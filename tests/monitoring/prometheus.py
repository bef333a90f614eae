"""Prometheus and Alertmanager as processes, on free ports of this machine."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import urllib3
from processes import wait_until
from programs import program

from ifinu.embedded import free_port

_STARTS = 3  # another process may take the free port before the server binds it


class Server:
    """A running server; `url` is its base URL."""

    def __init__(self, url: str, http: urllib3.PoolManager) -> None:
        self.url = url
        self._http = http

    def json(self, path: str, **fields: str) -> Any:
        """The JSON answer to a GET. Raises AssertionError with the answer's text unless it succeeds."""
        answer = self._http.request("GET", self.url + path, fields=fields)
        assert answer.status == 200, answer.data
        return answer.json()

    def ready(self) -> bool:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            return self._http.request("GET", f"{self.url}/-/ready").status == 200
        return False


class Prometheus(Server):
    """A Prometheus."""

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The current samples of an instant vector, each with `metric` (labels) and `value` (time, text)."""
        return self.json("/api/v1/query", query=expr)["data"]["result"]  # type: ignore[no-any-return]

    def targets(self) -> list[dict[str, Any]]:
        """Each active target, with `health` and `lastError`."""
        return self.json("/api/v1/targets")["data"]["activeTargets"]  # type: ignore[no-any-return]

    def alerts(self) -> list[dict[str, Any]]:
        """Each alert that is pending or firing."""
        return self.json("/api/v1/alerts")["data"]["alerts"]  # type: ignore[no-any-return]


class Alertmanager(Server):
    """An Alertmanager."""

    def alerts(self) -> list[dict[str, Any]]:
        """Each current alert, with `labels` and `status`."""
        return self.json("/api/v2/alerts")  # type: ignore[no-any-return]


@contextlib.contextmanager
def prometheus(directory: Path, config: Mapping[str, Any], *, flags: Sequence[str] = ()) -> Iterator[Prometheus]:
    """
    Run a Prometheus with this configuration and wait until it answers.

    Args:
        directory: Folder for configuration, data and log.
        config: The content of `prometheus.yml`, with absolute paths.
        flags: Further command-line arguments.
    """
    with _server("prometheus", directory, config, "--storage.tsdb.path", *flags) as (url, http):
        yield Prometheus(url, http)


@contextlib.contextmanager
def alertmanager(directory: Path, config: Mapping[str, Any]) -> Iterator[Alertmanager]:
    """Run an Alertmanager with this configuration and wait until it answers; arguments as for `prometheus`."""
    # Without clustering it does not wait for peers before it notifies.
    options = ("--storage.path", "--cluster.listen-address=")
    with _server("prometheus-alertmanager", directory, config, *options) as (url, http):
        yield Alertmanager(url, http)


@contextlib.contextmanager
def _server(
    name: str, directory: Path, config: Mapping[str, Any], data: str, *flags: str
) -> Iterator[tuple[str, urllib3.PoolManager]]:
    binary = program(name)
    directory.mkdir(parents=True, exist_ok=True)
    file, log = directory / f"{name}.json", directory / f"{name}.log"
    file.write_text(json.dumps(config))  # JSON is valid YAML
    arguments = [binary, f"--config.file={file}", f"{data}={directory / f'{name}-data'}", *flags]
    with urllib3.PoolManager(timeout=5.0, retries=False) as http:
        for _ in range(_STARTS):
            address = f"127.0.0.1:{free_port()}"
            server = Server(f"http://{address}", http)
            with log.open("wb") as out:
                process = subprocess.Popen(
                    [*arguments, f"--web.listen-address={address}"], stdout=out, stderr=out, start_new_session=True
                )
            try:
                wait_until(lambda: server.ready() or process.poll() is not None, 30.0, log.read_text)  # noqa: B023
                if process.poll() is None:
                    yield server.url, http
                    return
                if "address already in use" not in log.read_text():
                    break
            finally:
                _end(process)
    raise AssertionError(f"{name} did not start:\n{log.read_text()[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
