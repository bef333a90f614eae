"""
`ifinu charge import`, as a user types it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import booked
import pytest
from bank_files import HEADER_240, segments
from sqlalchemy import Engine, select, text

from ifinu.billing import charges
from ifinu.billing.billing_schema import charges as rows_of
from ifinu.billing.charge_files import charge_import
from ifinu.cli import main
from ifinu.errors import LedgerUnavailable

TABLE = """id;cliente;cpf;celular;valor;vencimento;situação
1;Ana Souza;529.982.247-25;(11) 98765-4321;149,90;10/12/2099;
2;Ana Souza;529.982.247-25;(11) 98765-4321;80,00;05/01/2020;
3;Rui Lima;111.444.777-35;(11) 98765-4322;abc;10/12/2099;
1;Ana Souza;529.982.247-25;(11) 98765-4321;149,90;10/12/2099;
;Total;;;229,90;;
"""


@pytest.fixture
def run(engine: Engine, postgres_ledger: str, monkeypatch, capsys, tmp_path: Path):
    monkeypatch.setenv("IFINU_DATABASE_URL", postgres_ledger)
    monkeypatch.setenv("IFINU_REDIS_URL", "redis://127.0.0.1:1/0")
    with engine.begin() as connection:
        booked.tenant(connection)

    def run(content: str, *options: str, name: str = "charges.csv") -> tuple[int, Any, str]:
        file = tmp_path / name
        file.write_bytes(content.encode("latin-1"))
        code = main(["charge", "import", str(file), *options])
        out, err = capsys.readouterr()
        return code, json.loads(out) if "--json" in options else out, err

    return run


def stored(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        rows = connection.execute(select(rows_of.c.id, rows_of.c.status, rows_of.c.hold_reason))
        return {id_: f"{status} {reason}" if reason else status for id_, status, reason in rows}


def test_wrong_lines_are_refused_and_the_others_are_imported(run, engine: Engine, tmp_path: Path):
    copy = tmp_path / "refused.csv"
    code, found, _ = run(TABLE, "--json", "--refused", str(copy))
    assert code == 1
    assert (found["added"], found["late"], found["dry_run"]) == (2, 1, False)
    assert [(each["line"], each["field"]) for each in found["refused"]] == [(4, "valor"), (5, "id")]
    assert found["refused"][1]["reason"] == "is in line 2 already"
    assert copy.read_bytes().decode("latin-1").splitlines() == [TABLE.splitlines()[i] for i in (0, 3, 4)]
    assert stored(engine) == {"1": "open", "2": "overdue"}
    code, found, _ = run(TABLE, "--json")
    assert (found["added"], found["unchanged"]) == (0, 2)
    assert any("was imported" in warning for warning in found["warnings"])
    assert "98765" not in json.dumps(found)


def test_a_dry_run_changes_nothing(run, engine: Engine):
    code, out, err = run(TABLE, "--dry-run")
    assert code == 1
    assert "2 would be added" in out
    assert "rows with totals, skipped: 1" in err
    assert stored(engine) == {}


def test_charges_that_a_complete_file_lacks_are_held_unless_somebody_says_more(run, engine: Engine):
    three = "".join(f"{n};Ana;529.982.247-25;11987654321;10;10/12/2099;\n" for n in (1, 2, 3))
    header = TABLE.splitlines()[0] + "\n"
    assert run(header + three)[0] == 0
    only = header + three.splitlines()[0] + "\n"
    code, found, _ = run(only, "--full-snapshot", "--json")
    assert (code, found["absent_held"]) == (0, 2)
    assert stored(engine) == {"1": "open", **dict.fromkeys("23", "open not in the imported file")}
    code, found, _ = run(only, "--full-snapshot", "--absent", "pay", "--json")
    assert found["absent_paid"] == 2
    assert {id_: status.split()[0] for id_, status in stored(engine).items()} == {"1": "open", "2": "paid", "3": "paid"}


def test_a_complete_file_with_a_line_that_cannot_be_read_ends_nothing(run, engine: Engine):
    header = TABLE.splitlines()[0] + "\n"
    run(header + "1;Ana;529.982.247-25;11987654321;10;10/12/2099;\n")
    code, _, err = run(
        header + "2;Ana;529.982.247-25;11987654321;x;10/12/2099;\n", "--full-snapshot", "--absent", "pay"
    )
    assert code == 2
    assert "have no id that can be read" in err
    assert stored(engine)["1"] == "open"


def test_a_complete_file_that_lacks_most_charges_ends_nothing_without_a_person(run, engine: Engine):
    header = TABLE.splitlines()[0] + "\n"
    rows = [f"{n};Ana;529.982.247-25;11987654321;10;10/12/2099;\n" for n in range(24)]
    run(header + "".join(rows))
    for content in (header, header + "".join(rows[:8])):
        for what in ("pay", "hold"):
            code, _, err = run(content, "--full-snapshot", "--absent", what)
            assert (code, "open charges" in err or "are open" in err) == (2, True)
    assert set(stored(engine).values()) == {"open"}
    code, found, _ = run(header + "".join(rows[:16]), "--full-snapshot", "--absent", "pay", "--dry-run", "--json")
    assert (code, found["absent_paid"]) == (0, 8)
    assert set(stored(engine).values()) == {"open"}
    assert run(HEADER_240, "--full-snapshot")[0] == 2


def test_a_file_that_moves_most_due_dates_says_so(run):
    header = TABLE.splitlines()[0] + "\n"
    row = "{};Ana;529.982.247-25;11987654321;10;{}/12/2099;\n"
    run(header + "".join(row.format(n, "10") for n in range(24)))
    code, found, _ = run(header + "".join(row.format(n, "11" if n else "10") for n in range(24)), "--json")
    assert (code, found["moved"], found["changed"]) == (0, 23, 23)
    assert any("another due date" in warning for warning in found["warnings"])


def test_a_large_file_is_imported_although_postgresql_believes_the_tables_to_be_small(run, engine: Engine, monkeypatch):
    monkeypatch.setattr("ifinu.cli.charge.file_import._CHUNK", 100)
    header = TABLE.splitlines()[0] + "\n"
    row = "{0};Ana {0};;119{1};10;10/12/2099;\n"
    assert run(header + row.format(0, 80000000))[0] == 0
    with engine.begin() as connection:
        connection.execute(text("ANALYZE customers, charges"))
    assert run(header + "".join(row.format(n, 80000000 + n) for n in range(150)), "--json")[1]["added"] == 149
    with engine.connect() as connection:
        sizes = connection.execute(text("SELECT reltuples FROM pg_class WHERE relname IN ('customers', 'charges')"))
        assert all(size >= 100 for size in sizes.scalars())


def test_an_import_that_the_database_interrupts_says_where_to_go_on(run, engine: Engine, monkeypatch):
    monkeypatch.setattr("ifinu.cli.charge.file_import._CHUNK", 2)
    apply, done = charge_import.apply, []

    def failing(*given: Any, **how: Any) -> None:
        if done:
            raise LedgerUnavailable("canceling statement due to statement timeout")
        done.append(apply(*given, **how))

    monkeypatch.setattr(charge_import, "apply", failing)
    header = TABLE.splitlines()[0] + "\n"
    code, _, err = run(header + "".join(f"{n};Ana;529.982.247-25;11987654321;10;10/12/2099;\n" for n in range(4)))
    assert (code, "imported up to line 3; import the same file again" in err) == (3, True)
    assert set(stored(engine)) == {"0", "1"}


def test_a_return_file_of_a_bank_is_recognised(run, engine: Engine):
    with engine.begin() as connection:
        booked.customer(connection)
        booked.charge(connection, "inv-42")
    file = "\r\n".join([HEADER_240, *segments("06"), *segments("06", number="inv-99"), "short"]) + "\r\n"
    code, found, _ = run(file, "--json", name="CB301101.RET")
    assert code == 1
    assert (found["applied"], found["unmatched"], len(found["refused"])) == (1, 1, 1)
    assert "1 payments without a charge" in run(file.replace("inv-99", "inv-98"), name="CB301102.RET")[1]
    with engine.connect() as connection:
        assert charges.get(connection, "t1", "inv-42").status == "paid"


def test_mistakes_are_explained(run):
    assert run("cliente;valor\nAna;10\n")[0] == 2
    code, _, err = run(TABLE, "--map", "celular")
    assert (code, "Column=field" in err) == (2, True)
    code, _, err = run(TABLE, "--tenant", "t2")
    assert (code, "t2" in err) == (1, True)
