"""A running simulator, and a client that keeps no connection open."""

import asyncio
import contextlib
import http.client
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from ifinu.simulator import Simulator, send_routes

KEY = "global-key"
RECEIVED = 200
_STATUSES = ("ERROR", "FAILED", "SERVER_ACK", "SENT", "DELIVERY_ACK", "DELIVERED", "READ")


class Answer(NamedTuple):
    status: int
    body: Any
    headers: dict[str, str]


class Api:
    """Calls one simulator, on a new connection each time."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = KEY,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        sent = dict(headers or {})
        if key is not None:
            sent["apikey"] = key
        if body is not None:
            raw = json.dumps(body).encode()
        if raw is not None:
            sent.setdefault("Content-Type", "application/json")
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.simulator.port, timeout=10)) as line:
            line.request(method, path, raw, sent)
            response = line.getresponse()
            text = response.read()
            is_json = response.headers["Content-Type"].startswith("application/json")
            return Answer(response.status, json.loads(text) if is_json else text.decode(), dict(response.headers))

    def send(self, number: str, text: str = "Fatura 1", instance: str = "ifinu", **more: Any) -> Answer:
        return self("POST", f"/message/sendText/{instance}", {"number": number, "text": text, **more})


@pytest.fixture
def start() -> Iterator[Callable[..., Api]]:
    """Start simulators with the given options; all are stopped at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: Api(stack.enter_context(Simulator(api_key=KEY, **options)))


@pytest.fixture
def api(start: Callable[..., Api]) -> Api:
    return start(seed=1)


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait for a fact, or for a tuple of facts that come on different ways; on time-out show the last value."""

    def wait(fact: Callable[[], object], expected: object = True, deadline_s: float = 60.0) -> None:
        give_up_at = time.monotonic() + deadline_s
        while (seen := fact()) != expected:
            assert time.monotonic() < give_up_at, f"expected {expected!r}, saw {seen!r}"
            time.sleep(0.005)

    return wait


@pytest.fixture
def at_some_pace() -> Callable[..., None]:
    """See what lasts only for a while. On a machine too slow for that it lasts longer the next time, by the factor."""

    def see(seen: Callable[[int], object], expected: object = True) -> None:
        found = [seen(1)]
        for factor in (6, 36):
            if found[-1] != expected:
                found.append(seen(factor))
        assert found[-1] == expected, found

    return see


class Pauses:
    """The waits of sends, which go on when the test says so; `seconds` are those that were asked for."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._over = threading.Event()

    async def sleep(self, seconds: float) -> None:
        if seconds:
            self.seconds.append(seconds)
        while seconds and not self._over.is_set():
            await asyncio.sleep(0.005)

    def go_on(self) -> None:
        self._over.set()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    pauses = Pauses()
    stand_in = SimpleNamespace(sleep=pauses.sleep, CancelledError=asyncio.CancelledError)
    monkeypatch.setattr(send_routes, "asyncio", stand_in)
    return pauses


class Sink:
    """Receives webhooks. Answers with the statuses that a test gives it, then with `RECEIVED`."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], Any]] = []
        self.answers: list[int] = []
        sink = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                sink.got.append((self.path, dict(self.headers), body))
                self.send_response(sink.answers.pop(0) if sink.answers else RECEIVED)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def events(self, name: str | None = None) -> list[Any]:
        """The events in the order of their deliveries, which may overtake one another."""
        return [body for _, _, body in list(self.got) if name in (None, body["event"])]

    def statuses(self) -> list[str]:
        """The statuses of receipts in the order of their times; those of one millisecond in the usual order."""
        made = [(body["date_time"], _STATUSES.index(body["data"]["status"])) for body in self.events("messages.update")]
        return [_STATUSES[index] for _, index in sorted(made)]


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    thread = threading.Thread(target=sink.server.serve_forever, args=(0.01,))
    thread.start()
    yield sink
    sink.server.shutdown()
    thread.join()
    sink.server.server_close()
