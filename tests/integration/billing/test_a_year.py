"""
A year of charges, day by day, with payments, disputes, opt-outs, imports and outages.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
import time_machine
from sqlalchemy import Engine
from year import Year

LONG = os.environ.get("FAULT") == "long"


@pytest.mark.timeout(3600 if LONG else 900)
@pytest.mark.parametrize("seed", range(3) if LONG else [1])
def test_what_is_sent_over_a_year_is_true_once_and_welcome_and_every_step_is_decided(engine: Engine, seed: int):
    days, size = (365, 1_000) if LONG else (45, 150)
    with time_machine.travel(datetime(2026, 11, 30, tzinfo=UTC), tick=False) as clock:
        year = Year(engine, clock.move_to, seed, days, size)
        year.run()
        found = year.judged()

    assert found == {}
    assert len(year.sends) > size
