"""`python -m senders.publish NAME` publishes the messages on stdin, a JSON list, by the client of that library."""

from __future__ import annotations

import importlib
import json
import sys

if __name__ == "__main__":
    importlib.import_module(f"senders.{sys.argv[1]}").publish(json.load(sys.stdin))
