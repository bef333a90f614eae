"""Control of a simulator that runs in another process."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

from ifinu.errors import ConfigurationError
from ifinu.simulator.send_ledger import Send

_TIMEOUT_S = 10.0
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy of the environment leads to it


class Control:
    """
    The control surface over HTTP, with the methods of `Simulator`.

    Args:
        url: Base URL, as the simulator printed it.

    Every call raises OSError when the simulator cannot be reached and ConfigurationError when it refuses.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self.url = url.rstrip("/")
        self.api_key = api_key

    @property
    def sends(self) -> list[Send]:
        return self.sends_since(0)

    def sends_since(self, number: int) -> list[Send]:
        """The sends from number `number` on, counted from 0."""
        return [Send(**send) for send in self._ask("GET", f"ledger?since={number}")["sends"]]

    def total(self) -> int:
        """How many messages WhatsApp got; cheap, however many there are."""
        return int(self._ask("GET", "ledger?limit=0")["total"])

    def summary(self) -> dict[str, Any]:
        return self._ask("GET", "summary")

    def numbers(self) -> dict[str, dict[str, Any]]:
        """The figures of each instance, by which to judge its pace: `GET numbers`."""
        return self._ask("GET", "numbers")

    def set_fault(self, **script: Any) -> None:
        self._ask("POST", "faults", script)

    def set_instance(self, name: str, **changes: Any) -> None:
        self._ask("POST", f"instances/{quote(name, safe='')}", changes)

    def inbound(self, **message: Any) -> str:
        """Simulate a message from a person, and return its `key.id`."""
        return str(self._ask("POST", "inbound", message)["key_id"])

    def reset(self) -> None:
        """Delete recorded sends and messages; faults and instances stay."""
        self._ask("POST", "reset", {})

    def _ask(self, method: str, route: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - the caller's own simulator
            f"{self.url}/_simulator/{route}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"apikey": self.api_key, "Content-Type": "application/json"},
            method=method,
        )
        try:
            with _direct.open(request, timeout=_TIMEOUT_S) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as exc:
            with exc:
                raise ConfigurationError(f"simulator: {exc.code} {exc.read(1000).decode()}") from exc
