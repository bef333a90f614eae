from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery.platforms import EX_FAILURE, EX_OK

from ifinu.worker.consumer import PacedConsumer


class Leases:
    """Remembers how the messages were returned."""

    suspect: bool | None = None

    def give_back_all(self, *, suspect: bool) -> None:
        self.suspect = suspect

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("code", "suspect"), [(EX_FAILURE, True), (EX_OK, False), (None, False)])
def test_messages_returned_after_an_unrecoverable_error_are_suspect(code: int | None, suspect: bool):
    ending, held = cast("Any", object.__new__(PacedConsumer)), Leases()
    ending.leases = held
    ending.controller = SimpleNamespace(exitcode=code)
    ending.blueprint = SimpleNamespace(shutdown=lambda _: None)
    ending.perform_pending_operations = lambda: None
    ending.shutdown()
    assert held.suspect is suspect
