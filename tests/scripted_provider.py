"""A payment provider's API that answers as a test says."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, Any]


class ScriptedProvider:
    """
    Answers GETs.

    Attributes:
        asked: Each request's path, parameters and headers.
        answer: Returns the status and the body; bytes go out as they are, a float is a delay in seconds before 200.
        may_answer: While it is cleared, requests wait.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[tuple[str, dict[str, list[str]], dict[str, str]]] = []
        self.answer: Callable[[str, dict[str, list[str]]], Answer] = lambda *_: (404, {})
        self.may_answer = threading.Event()
        self.may_answer.set()

    def says(self, *answers: Answer) -> None:
        """Give these answers one after the other, the last one for ever."""
        left = list(answers)
        self.answer = lambda *_: left.pop(0) if len(left) > 1 else left[0]


@contextlib.contextmanager
def scripted_provider() -> Iterator[ScriptedProvider]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            parameters = parse_qs(parts.query)
            provider.asked.append((parts.path, parameters, dict(self.headers)))
            provider.may_answer.wait(60)
            status, body = provider.answer(parts.path, parameters)
            if isinstance(body, float):
                time.sleep(body)
                body = {}
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            with contextlib.suppress(OSError):  # the client did not wait
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                if status in (301, 302):
                    self.send_header("Location", "/elsewhere")
                if status == 429:
                    self.send_header("Retry-After", "2")
                self.end_headers()
                self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    provider = ScriptedProvider(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
