"""A POST to the gateway, as every sender that `bench/peers.py` compares with makes it: with `requests` or `aiohttp`."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import ClientSession

REDIS_URL = os.environ.get("IFINU_REDIS_URL", "")
_URL = f"{os.environ.get('IFINU_EVOLUTION_URL', '')}/message/sendText/ifinu"
_HEADERS = {"apikey": os.environ.get("IFINU_EVOLUTION_API_KEY", "")}
_local = threading.local()


def post(message: dict[str, Any]) -> None:
    """Post a finished text over this thread's session."""
    import requests

    if not hasattr(_local, "session"):
        _local.session = requests.Session()
        _local.session.headers.update(_HEADERS)
    _local.session.post(_URL, json={**message, "linkPreview": False}, timeout=(5, 75)).raise_for_status()


async def session() -> ClientSession:
    """A session for `post_by`, which the worker makes when it starts."""
    import aiohttp

    return aiohttp.ClientSession(headers=_HEADERS, timeout=aiohttp.ClientTimeout(sock_connect=5, sock_read=75))


async def post_by(client: ClientSession, message: dict[str, Any]) -> None:
    """Post a finished text."""
    async with client.post(_URL, json={**message, "linkPreview": False}) as answer:
        answer.raise_for_status()
        await answer.read()
