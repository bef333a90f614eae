from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine

from ifinu.ledger.engine import connect


@pytest.fixture
def engine(postgres_ledger: str) -> Iterator[Engine]:
    """A migrated and empty PostgreSQL ledger."""
    made = connect(postgres_ledger)
    yield made
    made.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """One transaction for the whole test."""
    with engine.begin() as opened:
        yield opened
