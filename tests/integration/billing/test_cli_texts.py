"""`ifinu template`: a tenant's texts about charges."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from bills import charge, customer, tenant
from command_line import Shell
from sqlalchemy import Engine, insert, select

from ifinu.billing import texts
from ifinu.billing.billing_schema import billing_tenants, rule_steps

GOOD = "{{ razao_social }}, {{ documento }}, {{ endereco }}: {{ nome }}{% include 'contas.txt.j2' %}\n{{ valor }}"


@pytest.fixture
def ifinu(capsys, monkeypatch, engine: Engine) -> Shell:
    monkeypatch.setenv("IFINU_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    with engine.begin() as connection:
        tenant(connection, trade_name="Academia Fit")
    return Shell(capsys, monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    path = tmp_path / "atraso.txt.j2"

    def write(body: str) -> str:
        path.write_text(body, encoding="utf-8")
        return str(path)

    return write


def stored(engine: Engine, name: str = "atraso") -> tuple[int, str] | None:
    with engine.connect() as connection:
        found = texts.get(connection, "u1", name)
    return found and (found.version, found.body)


def test_a_text_is_stored_shown_listed_and_taken_back(ifinu, engine, file):
    assert ifinu("template", "list").out == "No texts of the tenant's own.\n"
    shown = ifinu("template", "show", "atraso")
    assert "Ainda não identificamos" in shown.out
    assert shown.err == "From ifinu:\n"
    assert ifinu("template", "set", "atraso", file(GOOD)).out == "u1 has atraso, version 1\n"
    assert ifinu("template", "set", "atraso", file(GOOD + "!")).out == "u1 has atraso, version 2\n"
    assert ifinu("template", "show", "atraso").out == GOOD + "!\n"
    assert ifinu("template", "show", "atraso", "--version", "1", "--json").json == {
        "tenant": "u1",
        "name": "atraso",
        "from": "version 1",
        "body": GOOD,
    }
    listed = ifinu("template", "list", "--json").json
    assert [(text["name"], text["version"]) for text in listed["texts"]] == [("atraso", 2)]
    assert ifinu("template", "list").out.split()[4:6] == ["atraso", "2"]
    assert ifinu("template", "set", "atraso", file("")).code == 0
    assert ifinu("template", "show", "atraso", "--json").json["from"] == "ifinu"


def test_a_text_to_which_lint_objects_is_stored_only_anyway(ifinu, engine, file):
    ended = ifinu("template", "set", "atraso", file("{{ nome }} deve {{ valor }}"))
    assert ended.code == 1
    assert "atraso: does not name the supplier" in ended.out
    assert stored(engine) is None
    ended = ifinu("template", "set", "atraso", file("{{ nome }} deve {{ valor }}"), "--anyway", "--json")
    assert (ended.code, ended.json["version"], len(ended.json["problems"])) == (0, 1, 7)


def test_a_text_that_cannot_be_used_is_never_stored(ifinu, engine, file):
    ended = ifinu("template", "set", "lembrete", file("{{ nme }}"), "--anyway")
    assert ended.code == 2
    assert "lembrete: line 1: no value is called nme; did you mean nome?" in ended.err
    assert stored(engine, "lembrete") is None


def test_a_text_of_a_step_is_held_to_the_kinds_of_the_steps_that_name_it(ifinu, engine, file):
    assert "no step of its rule names it yet" in ifinu("template", "set", "amigavel", file("{{ nome }}")).out
    with engine.begin() as connection:
        rule = connection.scalar(select(billing_tenants.c.rule_id))
        step = {"ord": 1, "kind": "atraso", "text": "amigavel", "at": "09:00", "valid_days": 1}
        connection.execute(insert(rule_steps).values(rule_id=rule, step="d1", effective_on="2026-01-01", **step))
    ended = ifinu("template", "lint")
    assert ended.code == 1
    assert "amigavel: does not name the supplier" in ended.out
    assert "atraso:" not in ended.out


def test_a_diff_shows_what_a_file_changes(ifinu, engine, file):
    ended = ifinu("template", "diff", "atraso", file(GOOD))
    assert ended.code == 1
    assert ended.out.startswith("--- atraso of ifinu\n+++ ")
    ifinu("template", "set", "atraso", file(GOOD))
    assert (
        ifinu("template", "diff", "atraso", file(GOOD)).code,
        ifinu("template", "diff", "atraso", file(GOOD)).out,
    ) == (
        0,
        "",
    )
    ended = ifinu("template", "diff", "atraso", file(GOOD.replace("nome", "empresa")), "--json")
    assert [line[0] for line in ended.json["diff"]] == ["-", "+", "@", "-", "+", " "]
    assert ifinu("template", "diff", "atraso", file(GOOD), "--version", "7").code == 2


def test_lint_of_a_file_needs_no_database(ifinu, monkeypatch, file):
    monkeypatch.setenv("IFINU_DATABASE_URL", "postgresql://ifinu@127.0.0.1:1/none")
    ended = ifinu("template", "lint", file(GOOD), "--kind", "atraso")
    assert (ended.code, ended.out) == (0, "Nothing is wrong.\n")
    ended = ifinu("template", "lint", file("{{ nome }}"), "--kind", "atraso", "--json")
    assert ended.code == 1
    assert len(next(iter(ended.json["problems"].values()))) == 8
    assert ifinu("template", "lint", file(GOOD)).code == 2
    assert ifinu("template", "lint", file(GOOD), "--kind", "atraso", "--tenant", "u1").code == 3


def test_the_text_of_a_charge_as_it_would_be_now(ifinu, engine, file):
    with engine.begin() as connection:
        customer(connection)
        charge(connection, "inv-42", due=date(2026, 1, 5), status="paid")
    shown = ifinu("template", "preview", "lembrete", "--charge", "inv-42")
    assert "Olá, Maria Silva!" in shown.out
    assert "R$ 100,00* vence em *05/01/2026* (segunda-feira)" in shown.out
    ifinu("template", "set", "lembrete", file("{{ numero }}: {{ valor_original }}{{ multa or '' }}"), "--anyway")
    found = ifinu("template", "preview", "lembrete", "--charge", "inv-42", "--json").json
    assert found == {"kind": "lembrete", "tenant": "u1", "charge": "inv-42", "text": "inv-42: R$ 100,00"}
    assert ifinu("rules", "preview", "lembrete", "--charge", "inv-42", "--json").json == found
    assert "there is no charge 'inv-43'" in ifinu("template", "preview", "lembrete", "--charge", "inv-43").err


def test_what_there_is_not(ifinu, monkeypatch, file):
    assert "u1 has no text amigavel" in ifinu("template", "show", "amigavel").err
    assert "there is no tenant 'u9'" in ifinu("template", "list", "--tenant", "u9").err
    monkeypatch.setenv("IFINU_DATABASE_URL", "sqlite:///ifinu.db")
    ended = ifinu("template", "set", "atraso", file(GOOD))
    assert ended.code == 2
    assert "charges need PostgreSQL" in ended.err
