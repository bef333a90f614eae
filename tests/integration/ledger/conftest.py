from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten a recorder's wait for events, since every test stops one."""
    monkeypatch.setattr("ifinu.ledger.recorder._WAIT_S", 0.05)
    monkeypatch.setattr("ifinu.ledger.recorder._MIGRATED_EVERY_S", 0.05)
    monkeypatch.setattr("ifinu.ledger.standby._ASK_EVERY_S", 0.05)
