"""The application with a pool that fails on one message, as a bug might make it."""

from __future__ import annotations

import os
from typing import Any

from celery.concurrency.base import BasePool

from ifinu.worker.app import app

__all__ = ["app"]

_apply_async = BasePool.apply_async


def _stumbling(self: BasePool, *args: Any, **options: Any) -> Any:
    if options.get("correlation_id") == os.environ["STUMBLES_OVER"]:
        raise OverflowError
    return _apply_async(self, *args, **options)


BasePool.apply_async = _stumbling  # the purpose of this module
