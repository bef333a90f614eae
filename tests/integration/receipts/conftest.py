"""The webhook application on a real port, and a client that posts to it."""

import contextlib
import http.client
import json
import threading
import time
from typing import Any

import jwt
import pytest
from processes import stopping, wait_until

from ifinu import sockets
from ifinu.broker import events
from ifinu.broker.keys import EVENTS
from ifinu.receipts.http_server import server
from ifinu.receipts.webhook_app import application

SECRET = "a-secret-of-the-tests-that-is-long-enough"
PHONE_KEY = "a key of phones of the tests"


def token(secret: str = SECRET, **changes: Any) -> str:
    """A JWT as the gateway makes it."""
    now = int(time.time())
    claims = {"iat": now, "exp": now + 600, "app": "evolution", "action": "webhook"} | changes
    return jwt.encode(claims, secret, "HS256")


class Receiver:
    """Serves the webhook on a thread; a test can post to it."""

    def __init__(self, redis_url: str, phone_key: str | None = PHONE_KEY) -> None:
        listener = sockets.listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = server(application(secrets=[SECRET], redis_url=redis_url, phone_key=phone_key))
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> int:
        """Send one request on a new connection. Returns its status, which must arrive within ten seconds."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as line:
            line.request(method, path, body, headers or {})
            return line.getresponse().status

    def post(self, body: Any, path: str = "/", **headers: str) -> int:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", path, raw, headers or {"Authorization": f"Bearer {token()}"})


@pytest.fixture(scope="session")
def _receiver_of_the_session(_valkey_of_the_session):
    with stopping(Receiver(_valkey_of_the_session.url)) as running:
        yield running


@pytest.fixture
def receiver(valkey, _receiver_of_the_session):
    """A receiver that records in the shared server, which is empty."""
    return _receiver_of_the_session


def events_of(client: Any, name: str) -> list[dict[str, Any]]:
    """The data of all events of one name, in order."""
    all_events = [events.decode(fields) for _, fields in client.xrange(EVENTS)]
    return [event.data for event in all_events if event.name == name]
