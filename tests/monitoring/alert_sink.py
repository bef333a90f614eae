"""A local server in place of Slack and PagerDuty that records Alertmanager's notifications."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

SLACK, SLACK_QUIET, PAGERDUTY = "/slack/alerts", "/slack/info", "/v2/enqueue"


class Received(NamedTuple):
    """A received request: its path and the JSON of its body."""

    path: str
    body: dict[str, Any]


class Sink:
    """Answers like Slack and PagerDuty and records each request."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def slack(self, start: str, path: str = SLACK) -> list[dict[str, Any]]:
        """The attachments received at a Slack webhook whose title starts with `start`."""
        bodies = [request.body for request in list(self.received) if request.path == path]
        return [one for body in bodies for one in body["attachments"] if one["title"].startswith(start)]

    def pages(self, action: str, alert: str) -> list[dict[str, Any]]:
        """The PagerDuty events with this action for the alert of this name."""
        bodies = [request.body for request in list(self.received) if request.path == PAGERDUTY]
        return [body for body in bodies if body["event_action"] == action and body["payload"]["class"] == alert]

    def text(self) -> str:
        """The bodies of all requests, as JSON."""
        return json.dumps([request.body for request in self.received], ensure_ascii=False)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append(Received(self.path, json.loads(body)))
                pagerduty = self.path == PAGERDUTY
                answer = b'{"status":"success"}' if pagerduty else b"ok"
                self.send_response(202 if pagerduty else 200)
                self.send_header("Content-Length", str(len(answer)))
                with contextlib.suppress(ConnectionError):  # Alertmanager is being stopped
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Log nothing; the requests are recorded."""

        return Handler
