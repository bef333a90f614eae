"""A headless Chromium, driven over the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import programs
from processes import wait_until
from tornado.websocket import WebSocketClientConnection, websocket_connect

_DEADLINE_S = 30.0
_LARGEST_BYTES = 50 * 2**20


def program() -> str:
    """The path of Chromium. Without it the test is skipped, and fails in CI."""
    return shutil.which("google-chrome") or programs.program("chromium", variable="CHROMIUM")


class Browser:
    """
    One page of one browser.

    Args:
        directory: Folder for the browser's profile.
        login: `user:password` for HTTP basic authentication.
        size: Width and height of the window in CSS pixels.
    """

    def __init__(self, directory: Path, login: str, size: tuple[int, int] = (1280, 720)) -> None:
        self._profile = directory / "chromium"
        self._login = login.partition(":")[::2]
        self._size = size
        self._ids = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self.asked = 0  # how often the browser asked for the login
        self.errors: list[str] = []  # exceptions of the page's scripts

    def __enter__(self) -> Self:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        log = (self._profile.parent / "chromium.log").open("wb")
        with log:
            self._process = subprocess.Popen(
                [
                    program(), "--headless", "--remote-debugging-port=0", f"--user-data-dir={self._profile}",
                    "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                    "--force-device-scale-factor=1", *sandbox, "about:blank",
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._loop = asyncio.new_event_loop()
        try:
            self._connect()
        except BaseException:
            self._end()
            raise
        return self

    def _connect(self) -> None:
        port_file = self._profile / "DevToolsActivePort"
        wait_until(lambda: port_file.exists() and port_file.read_text().count("\n") >= 1, _DEADLINE_S)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=_DEADLINE_S) as answer:
            (page,) = [each for each in json.load(answer) if each["type"] == "page"]
        self._socket = self._loop.run_until_complete(_connected(page["webSocketDebuggerUrl"]))
        for method in ("Page.enable", "Runtime.enable"):
            self.call(method)
        self.call("Fetch.enable", handleAuthRequests=True)
        width, height = self._size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def _end(self) -> None:
        """Kill all processes of the browser, since a remaining one occupies a core, and close the loop."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(20)
        self._loop.close()

    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        try:
            self._loop.run_until_complete(self._hang_up())
        finally:
            self._end()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol and return its result."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), _DEADLINE_S))

    def open(self, url: str) -> None:
        """Navigate to a URL; `shows` then waits for the expected text."""
        self.call("Page.navigate", url=url)

    def text(self) -> str:
        """The visible text of the page."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def html(self) -> str:
        """The page's current HTML, including invisible parts."""
        return str(self.evaluate("document.documentElement.outerHTML"))

    def shows(self, *words: str) -> str:
        """Wait until all the words are visible, and return the page's text."""
        return str(wait_until(lambda: text if all(w in (text := self.text()) for w in words) else "", 20, self.text))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def picture(self, file: Path) -> None:
        """A screenshot of the window as PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    async def _hang_up(self) -> None:
        self._socket.close()

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = await self._send(method, parameters)
        while number not in self._answers:
            text = await self._socket.read_message()
            assert text is not None, "Chromium hung up"
            await self._read(json.loads(text))
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    async def _send(self, method: str, parameters: dict[str, Any]) -> int:
        number = next(self._ids)
        await self._socket.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
        return number

    async def _read(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case None:
                self._answers[message["id"]] = message
            case "Fetch.requestPaused":
                await self._send("Fetch.continueRequest", {"requestId": params["requestId"]})
            case "Fetch.authRequired":
                self.asked += 1
                user, password = self._login
                login = {"response": "ProvideCredentials", "username": user, "password": password}
                # A browser whose login was refused asks again.
                reply = login if self.asked == 1 else {"response": "CancelAuth"}
                request = {"requestId": params["requestId"], "authChallengeResponse": reply}
                await self._send("Fetch.continueWithAuth", request)
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(params["exceptionDetails"]))


async def _connected(url: str) -> WebSocketClientConnection:
    return await websocket_connect(url, max_message_size=_LARGEST_BYTES)
