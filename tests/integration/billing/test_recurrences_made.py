"""
Charges of recurrences: each once, in time, whoever makes them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import booked
import pytest
import structlog
from sqlalchemy import Connection, Engine, select, update

from ifinu.billing import charges, recurrences, tenants
from ifinu.billing.billing_schema import agenda
from ifinu.billing.billing_schema import charges as rows_of
from ifinu.billing.billing_schema import recurrences as rows_of_recurrences
from ifinu.billing.recurrences import Recurrence
from ifinu.errors import InvalidBilling, NotFound

NOW, TODAY = booked.NOW, booked.TODAY


def monthly(id_: str = "r1", **fields: Any) -> Recurrence:
    given = {"amount": Decimal("99.90"), "every": 1, "unit": "months", "anchor": date(2026, 12, 31)} | fields
    return Recurrence("t1", id_, "k1", **given)


def dues(connection: Connection) -> dict[str, str]:
    rows = connection.execute(select(rows_of.c.id, rows_of.c.due_date).order_by(rows_of.c.seq))
    return {id_: due.isoformat() for id_, due in rows}


@pytest.fixture
def filled(engine: Engine) -> Engine:
    with engine.begin() as connection:
        booked.tenant(connection)
        booked.customer(connection)
    return engine


def test_a_charge_is_made_so_long_before_it_is_due(filled: Engine):
    with filled.begin() as connection:
        recurrences.add(connection, monthly(), NOW)
        assert dues(connection) == {"r1#1": "2026-12-31"}
        assert recurrences.generate(connection, NOW) == 0
        assert recurrences.generate(connection, NOW + timedelta(days=25)) == 0
        assert recurrences.generate(connection, NOW + timedelta(days=26)) == 1  # 35 days before 31 January
        assert dues(connection) == {"r1#1": "2026-12-31", "r1#2": "2027-01-31"}
        assert charges.get(connection, "t1", "r1#2").amount == Decimal("99.90")
        assert len(connection.execute(select(agenda)).all()) == 2


def test_after_an_outage_each_missed_charge_is_made_once_by_several_processes(filled: Engine):
    with filled.begin() as connection:
        for i in range(30):
            recurrences.add(connection, monthly(f"r{i}", count=20), NOW)
    late = NOW + timedelta(days=500)

    def work(_: int) -> None:
        while True:
            with filled.begin() as connection:
                if recurrences.generate(connection, late) == 0:
                    return

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    with filled.begin() as connection:
        while recurrences.generate(connection, late):
            pass
        found = dues(connection)
        assert len(found) == 30 * 17  # until 30 April 2028
        assert found["r7#3"] == "2027-02-28"


def test_a_tenant_that_is_suspended_gets_no_charges(filled: Engine):
    with filled.begin() as connection:
        recurrences.add(connection, monthly(), NOW)
        tenants.change(connection, "t1", NOW, status="suspended")
        assert recurrences.generate(connection, NOW + timedelta(days=60)) == 0


def test_a_charge_that_was_there_under_the_id_stays_as_it_is(filled: Engine):
    with filled.begin() as connection:
        booked.charge(connection, "r1#2", due_date=date(2027, 2, 5), amount=Decimal(50))
        recurrences.add(connection, monthly(), NOW)
        with structlog.testing.capture_logs() as lines:
            assert recurrences.generate(connection, NOW + timedelta(days=60)) == 1
        assert dues(connection) == {"r1#2": "2027-02-05", "r1#1": "2026-12-31", "r1#3": "2027-02-28"}
        assert charges.get(connection, "t1", "r1#2").amount == Decimal(50)
    assert lines == [
        {
            "event": "ifinu.recurrence.id_taken",
            "log_level": "warning",
            "tenant": "t1",
            "recurrence": "r1",
            "charge": "r1#2",
        }
    ]


@pytest.mark.parametrize("wrong", [{"method": "cash"}, {"description": "a\x01b"}])
def test_a_recurrence_that_cannot_be_charged_stops_no_other(filled: Engine, wrong: dict[str, Any]):
    """It can only have come by other ways than `add`."""
    with filled.begin() as connection:
        for id_ in ("r1", "r2", "r3"):
            recurrences.add(connection, monthly(id_), NOW)
        connection.execute(update(rows_of_recurrences).filter_by(id="r2").values(wrong))
    late = NOW + timedelta(days=60)
    with filled.begin() as connection, structlog.testing.capture_logs() as lines:
        assert recurrences.generate(connection, late) == 4
        assert recurrences.generate(connection, late) == 0
    assert [(line["event"], line["recurrence"]) for line in lines] == [("ifinu.recurrence.failed", "r2")]
    with filled.begin() as connection:
        assert {"r1#2", "r1#3", "r3#2", "r3#3"} < dues(connection).keys()
        right = {"method": "pix", "description": None}
        connection.execute(update(rows_of_recurrences).filter_by(id="r2").values(right))
        assert recurrences.generate(connection, late) == 0
        assert recurrences.generate(connection, late + timedelta(days=1)) == 2  # it is tried again a day later


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"amount": Decimal("1.005")}, "amount"),
        ({"amount": Decimal(0)}, "amount"),
        ({"id_": "x" * 115}, "id"),  # the numbers of its charges come after it
        ({"description": "a\x00b"}, "description"),
        ({"anchor": date(2200, 1, 1)}, "due_date"),
    ],
)
def test_what_no_charge_may_have_is_refused_when_it_is_added(filled: Engine, fields: dict[str, Any], field: str):
    with pytest.raises(InvalidBilling) as refused:
        monthly(**{"anchor": date(2028, 1, 1)} | fields)
    assert refused.value.field == field


def test_a_recurrence_that_was_stopped_makes_no_more(filled: Engine):
    with filled.begin() as connection:
        recurrences.add(connection, monthly(), NOW)
        with pytest.raises(InvalidBilling, match="already"):
            recurrences.add(connection, monthly(), NOW)
        recurrences.stop(connection, "t1", "r1")
        assert recurrences.generate(connection, NOW + timedelta(days=60)) == 0
        with pytest.raises(NotFound):
            recurrences.stop(connection, "t1", "r2")
