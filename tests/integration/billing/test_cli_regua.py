"""`ifinu rules` and `ifinu regua`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import booked
import pytest
from command_line import Shell
from sqlalchemy import Engine, func, select

from ifinu.billing import calendars, customers, tenants
from ifinu.billing.billing_schema import intents
from ifinu.billing.rules import DEFAULT, dump


@pytest.fixture
def ifinu(capsys, monkeypatch, postgres_ledger: str) -> Shell:
    monkeypatch.setenv("IFINU_DATABASE_URL", postgres_ledger)
    return Shell(capsys, monkeypatch)


@pytest.fixture(autouse=True)
def _today(engine: Engine) -> None:
    """A tenant whose calendar is open on all days, and a charge that is due today."""
    now = datetime.now(UTC)
    with engine.begin() as connection:
        tenant = tenants.add(connection, tenants.Tenant("t1", "Academia Fit LTDA", "SP", window_spec="always"), now)
        customers.add(connection, customers.Customer("t1", "k1", name="Ana", phone="+5511987654321"), now)
        long_ago = now - timedelta(days=60)
        booked.charge(connection, "inv-1", due_date=tenant.today(now), now=long_ago)
        booked.charge(connection, "inv-2", due_date=tenant.today(now) + timedelta(days=5), now=long_ago)
        calendars.fill(connection, now.date())


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "regua.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def decided(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(intents)).scalar_one())


def test_a_rule_goes_out_as_a_file_and_comes_back_as_the_tenants(ifinu: Shell, tmp_path: Path):
    shown = ifinu("rules", "show")
    assert shown.out == dump(DEFAULT)
    file = written(tmp_path, shown.out.replace("name: padrao", "name: academia"))
    assert ifinu("rules", "apply", file, "--json").json == {"tenant": "t1", "rule": "academia", "version": 1}
    assert ifinu("rules", "show", "--json").json["name"] == "academia"
    assert ifinu("rules", "apply", file).out == "t1 has rule academia, version 1\n"


def test_a_wrong_rule_is_refused_with_its_line(ifinu: Shell, tmp_path: Path):
    ended = ifinu("rules", "apply", written(tmp_path, dump(DEFAULT).replace("days: -3", "days: 3")))
    assert (ended.code, ended.err.splitlines()) == (
        2, ["error: line 5: step l3: days: of a lembrete is below 0: it goes before the due date"],
    )  # fmt: skip


def test_a_diff_lists_the_charges_whose_message_of_tomorrow_changes(ifinu: Shell, engine: Engine, tmp_path: Path):
    file = written(tmp_path, dump(DEFAULT).replace("days: -3", "days: -4").replace("valid_days: 3", "valid_days: 2"))
    assert ifinu("rules", "diff", file, "--json").json == {
        "tenant": "t1",
        "differences": [{"charge": "inv-2", "customer": "k1", "before": None, "after": ["l3", "lembrete"]}],
    }
    assert "1 more, 0 fewer, 0 with another step" in ifinu("rules", "diff", file).out
    assert ifinu("rules", "diff", written(tmp_path, dump(DEFAULT))).out == "Tomorrow the same messages go.\n"
    assert decided(engine) == 0


def test_a_simulation_prints_the_days_to_come(ifinu: Shell, engine: Engine):
    steps = ifinu("rules", "simulate", "inv-2", "--days", "80", "--json").json["steps"]
    assert [(step["step"], step["n"]) for step in steps] == [
        ("l3", 0), ("v", 0), ("a1", 0), ("a7", 0), ("a15", 0), ("a15", 1), ("a15", 2), ("a15", 3), ("a15", 4),
    ]  # fmt: skip
    assert "a15 (5)" in ifinu("rules", "simulate", "inv-2", "--days", "80").out
    assert ifinu("rules", "simulate", "inv-9").code == 1
    assert decided(engine) == 0


def test_a_pass_can_be_tried_and_then_run(ifinu: Shell, engine: Engine):
    tried = ifinu("regua", "run", "--dry-run", "--json").json
    assert (tried["charges"], decided(engine)) == (2, 0)
    assert sum(each["messages"] for each in tried["decisions"]) == tried["planned"] + tried["skipped"] + tried["merged"]
    done = ifinu("regua", "run", "--json").json
    assert (done["charges"], decided(engine)) == (2, tried["planned"] + tried["skipped"] + tried["merged"])
    assert ifinu("regua", "run", "--json").json["charges"] == 0
    assert ifinu("regua", "run", "--day", "2026-12-10").code == 2
    assert ifinu("regua", "run", "--tenant", "t9").code == 1


def test_today_shows_what_was_decided_and_what_is_behind(ifinu: Shell):
    assert "charges with a step that is not decided yet: 2" in ifinu("regua", "today").out
    ifinu("regua", "run")
    today = ifinu("regua", "today", "--json").json
    assert (today["charges_to_decide"], today["paused"]) == (0, [])
    assert {each["kind"] for each in today["decisions"]} >= {"lembrete"}


def test_a_paused_tenant_is_passed_over_until_it_resumes(ifinu: Shell):
    assert ifinu("regua", "pause", "--json").json == {"tenant": "t1", "paused": True}
    assert ifinu("regua", "run", "--json").json["charges"] == 0
    assert ifinu("regua", "today", "--json").json["paused"] == ["t1"]
    assert ifinu("regua", "resume").out == "t1 is resumed\n"
    assert ifinu("regua", "run", "--json").json["charges"] == 2
