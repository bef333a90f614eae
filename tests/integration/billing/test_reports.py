"""
Reports: each step counts once, and a payment for the last notice before it.
"""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import booked
import pytest
from sqlalchemy import Connection, Engine, insert

from ifinu.billing import charges, reports
from ifinu.ledger.schema import notifications

TODAY, NOW = booked.TODAY, booked.NOW


def became(connection: Connection, id_: str, state: str, **columns: Any) -> None:
    row = {"state_rank": 1, "state_ms": 1, "state_seq": 0, "attempts": 1, "first_at": NOW, "last_at": NOW}
    connection.execute(insert(notifications).values({**row, "id": id_, "state": state} | columns))


@pytest.fixture
def reported(engine: Engine) -> Engine:
    """A day with each outcome."""
    with engine.begin() as connection:
        booked.tenant(connection)
        booked.customer(connection)
        for name, state, reason, columns in (
            ("read", "queued", None, {"sent_at": NOW, "delivered_at": NOW, "read_at": NOW}),
            ("sent", "queued", None, {"sent_at": NOW}),
            ("suppressed", "queued", None, {}),
            ("cancelled", "queued", None, {"reason": "paid"}),
            ("waits", "queued", None, None),
            ("planned", "planned", None, None),
            ("merged", "merged", None, None),
            ("stale", "skipped", "stale", None),
        ):
            charge = booked.charge(connection, name)
            id_ = booked.intent(connection, charge, state=state, reason=reason)
            if columns is not None:
                became(connection, id_, name, **columns)
    return engine


def test_each_step_counts_once_by_what_became_of_it(reported: Engine):
    with reported.connect() as connection:
        (row,) = reports.notices(connection, TODAY, TODAY, tenant="t1", by="kind")
        assert (row.group, row.steps, row.sent, row.delivered, row.read) == ("lembrete", 8, 2, 1, 1)
        assert (row.waiting, row.merged) == (2, 1)
        assert row.not_sent == {"stale": 1, "paid": 1, "opted_out": 1}
        assert row.steps == row.sent + row.waiting + row.merged + sum(row.not_sent.values())
        assert reports.notices(connection, TODAY, TODAY, tenant="t2", by="kind") == []
        assert reports.notices(connection, TODAY + timedelta(days=1), TODAY, tenant=None, by="kind") == []
        for group in reports.GROUPS:
            assert sum(each.steps for each in reports.notices(connection, TODAY, TODAY, tenant=None, by=group)) == 8


def test_a_payment_counts_for_the_last_notice_before_it(reported: Engine):
    with reported.begin() as connection:
        charges.pay(connection, "t1", "read", at=NOW + timedelta(days=2), via="test", now=NOW + timedelta(days=2))
        charges.pay(connection, "t1", "waits", at=NOW, via="test", now=NOW)
        (row,) = reports.recovered(connection, TODAY, TODAY + timedelta(days=9), tenant="t1")
        assert (row.step, row.charges, row.within_1, row.within_3, row.within_7) == ("l3", 1, 0, 1, 1)
        found = {each.status: (each.charges, each.amount) for each in reports.portfolio(connection, tenant=None)}
        assert found == {"open": (6, 6 * Decimal("149.90")), "paid": (2, 2 * Decimal("149.90"))}


def test_the_commands_print_the_report(reported: Engine, postgres_ledger: str, monkeypatch, capsys):
    from ifinu.cli import main

    monkeypatch.setenv("IFINU_DATABASE_URL", postgres_ledger)
    assert main(["report", "day", TODAY.isoformat(), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["notices"][0]["not_sent"] == {"stale": 1, "paid": 1, "opted_out": 1}
    assert main(["report", "month", f"{TODAY:%m/%Y}", "--tenant", "t1"]) == 0
    assert "Steps planned for 01/12/2026 to 31/12/2026" in capsys.readouterr().out
    assert main(["report", "month", f"{TODAY:%Y-%m}", "--by", "step", "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "l3,8,2,1,1,0,2,1,1,1,1"
    assert main(["report", "day", "yesterday"]) == 2
    assert "write 2026-12-01" in capsys.readouterr().err
    assert main(["report", "day", "--tenant", "t9"]) == 1
