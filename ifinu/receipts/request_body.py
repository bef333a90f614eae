"""The body of a request, within a size and a time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

MAX_BODY_BYTES = 1_000_000

_BODY_S = 10.0


async def read_body(request: Request) -> bytes | None:
    """
    Read the body; None if it is too large.

    Raises:
        TimeoutError: The body stopped coming.
    """
    try:
        async with asyncio.timeout(_BODY_S):
            return await _read(request)
    except ClientDisconnect as exc:
        raise TimeoutError("the client closed the connection") from exc


async def _read(request: Request) -> bytes | None:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)
