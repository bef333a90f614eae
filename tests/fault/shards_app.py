"""The application where one name stands for the addresses in a file, a line each."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from shards import NAME

from ifinu.worker.app import app

__all__ = ["app"]

FILE = "ADDRESSES_OF_THE_GATEWAY"

_look_up = socket.getaddrinfo


def _look_up_in_file(host: Any, port: Any, *args: Any, **more: Any) -> Any:
    if host != NAME:
        return _look_up(host, port, *args, **more)
    addresses = Path(os.environ[FILE]).read_text().split()
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    return [found for address in addresses for found in _look_up(address, port, *args, **more)]


socket.getaddrinfo = _look_up_in_file
