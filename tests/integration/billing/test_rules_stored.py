from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import date

import pytest
from sqlalchemy import Engine, func, select

from ifinu.billing import rules
from ifinu.billing.billing_schema import rules as stored
from ifinu.ledger.engine import connect


@pytest.fixture
def engine(postgres_ledger: str) -> Iterator[Engine]:
    made = connect(postgres_ledger)
    yield made
    made.dispose()


def test_the_default_rule_is_stored_once_however_many_ask_for_it_at_once(engine: Engine):
    found: list[int] = []

    def ask() -> None:
        with engine.begin() as connection:
            found.append(rules.default(connection))

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(20)
    with engine.begin() as connection:
        assert connection.execute(select(func.count()).select_from(stored)).scalar_one() == 1
        assert found == [rules.default(connection)] * 4
        kept = rules.get(connection, found[0])
    assert [replace(step, effective_on=None) for step in kept.steps] == list(rules.DEFAULT.steps)
    assert {step.effective_on for step in kept.steps} == {rules.ALWAYS}


def test_a_changed_rule_is_the_next_version_and_an_unchanged_one_is_not(engine: Engine):
    first = rules.Rule("academia", rules.DEFAULT.steps[:3])
    second = rules.Rule("academia", rules.DEFAULT.steps[:2])
    today = date(2026, 12, 1)
    with engine.begin() as connection:
        ids = [rules.save(connection, "u1", rule, today) for rule in (first, first, second, first)]
        assert [rules.version(connection, id_) for id_ in ids] == [1, 1, 2, 3]
        assert rules.save(connection, "u2", first, today) not in ids
        assert [step.step for step in rules.get(connection, ids[2]).steps] == ["l3", "v"]
        assert {step.effective_on for step in rules.get(connection, ids[0]).steps} == {today}
