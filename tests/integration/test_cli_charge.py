"""`ifinu tenant`, `customer` and `charge` on PostgreSQL, with Redis there and away."""

from __future__ import annotations

from pathlib import Path

import booked
import pytest
import redis
import time_machine
from command_line import Shell
from sqlalchemy import text, update

from ifinu.billing import calendars, planner
from ifinu.billing.billing_schema import intents
from ifinu.broker.keys import claim_key
from ifinu.embedded import Valkey
from ifinu.ledger.engine import connect
from ifinu.ledger.states import State

NAME, PHONE = "Maria Silva", "(11) 98765-4321"


@pytest.fixture
def ifinu(capsys, monkeypatch, postgres_ledger: str, valkey: Valkey):
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_DATABASE_URL", postgres_ledger)
    with time_machine.travel(booked.NOW, tick=False):
        yield Shell(capsys, monkeypatch)


@pytest.fixture
def shop(ifinu: Shell) -> Shell:
    """One tenant with one customer, and a charge that is due on 10 December."""
    for command in (
        ("tenant", "add", "u1", "--legal-name", "Academia Fit LTDA", "--uf", "SP"),
        ("customer", "add", "k-9", "--name", NAME, "--phone", PHONE),
        ("charge", "add", "inv-42", "--customer", "k-9", "--amount", "149,90", "--due", "10/12/2026"),
    ):
        ended = ifinu(*command)
        assert (ended.code, ended.err) == (0, ""), ended
    return ifinu


def queue_the_message(url: str) -> str:
    """Insert a message about the charge that was pushed, and return its id."""
    engine = connect(url)
    with engine.begin() as connection:
        found = booked.charges.get(connection, "u1", "inv-42")
        id_ = booked.intent(connection, found, state="queued")
    engine.dispose()
    return id_


def flags(url: str) -> dict[str, bool]:
    engine = connect(url)
    with engine.connect() as connection:
        found = booked.flags(connection)
    engine.dispose()
    return found


def test_a_payment_is_recorded_and_cancels_what_is_queued(
    shop: Shell, client: redis.Redis, postgres_ledger: str
) -> None:
    message = queue_the_message(postgres_ledger)
    part = shop("charge", "pay", "inv-42", "--amount", "100")
    assert (part.code, part.out) == (0, "Recorded; R$ 49,90 are left of charge inv-42.\n")
    assert client.hget(claim_key(message), "state") == b"cancelled"  # it asks for all
    replacement = f"{message}~1"
    whole = shop("charge", "pay", "inv-42", "--at", "2026-12-01 09:30", "--json")
    assert whole.json == {
        "id": "inv-42", "was": "open", "status": "paid", "left": "0.00", "over": "0.00",
        "withdrawn": [replacement],
    }  # fmt: skip
    assert client.hget(claim_key(replacement), "state") == b"cancelled"
    again = shop("charge", "pay", "inv-42")
    assert (again.code, again.out) == (0, "Charge inv-42 was paid already; nothing changed.\n")
    shown = shop("charge", "show", "inv-42")
    assert "paid 01/12/2026 09:30:00 (cli)" in shown.out


def test_a_payment_counts_without_redis_which_is_said(
    shop: Shell, postgres_ledger: str, client: redis.Redis, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = queue_the_message(postgres_ledger)
    monkeypatch.setenv("IFINU_REDIS_URL", "redis://127.0.0.1:1")
    paid = shop("charge", "pay", "inv-42")
    assert (paid.code, paid.out) == (0, "Charge inv-42 is paid. Messages withdrawn: 1.\n")
    assert "Redis did not cancel what is queued" in paid.err
    assert flags(postgres_ledger) == {message: False}
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    assert shop("charge", "add", "b", "--customer", "k-9", "--amount", "1", "--due", "2026-12-20").code == 0
    assert shop("charge", "cancel", "b").err == ""
    assert flags(postgres_ledger) == {message: True}


def test_a_charge_that_repeats_is_due_as_often_as_was_said(shop: Shell) -> None:
    options = "--customer", "k-9", "--amount", "600", "--due", "2099-01-31", "--every", "1", "--count", "3"
    added = shop("charge", "repeat", "seguro", *options)
    assert (added.code, added.out) == (0, "Charge seguro is due on 31/01/2099, 28/02/2099, 31/03/2099.\n")
    assert shop("charge", "repeat", "seguro", *options).code == 2
    assert shop("charge", "stop", "seguro").out == "seguro repeats no more.\n"
    unknown = shop("charge", "stop", "seguros")
    assert (unknown.code, "did you mean 'seguro'?" in unknown.err) == (1, True)
    assert shop("charge", "repeat", "x", *options, "--unit", "fortnights").code == 2


def test_names_and_phones_are_masked_unless_asked(shop: Shell) -> None:
    for command in (
        ("customer", "list"), ("customer", "show", "k-9"), ("charge", "list"), ("charge", "show", "inv-42"),
    ):  # fmt: skip
        for options in ((), ("--json",)):
            masked, whole = shop(*command, *options), shop(*command, *options, "--reveal")
            assert masked.code == whole.code == 0, masked.err
            assert "Silva" not in masked.out, command
            assert "98765" not in masked.out, command
            assert NAME in whole.out, command


def test_charges_are_listed_by_state_lateness_and_words(shop: Shell) -> None:
    shop("charge", "add", "old", "--customer", "k-9", "--amount", "80", "--due", "2026-11-20", "--description", "Plano")
    for options, ids in (
        ((), ["old", "inv-42"]),
        (("--status", "overdue"), ["old"]),
        (("--late", "7..30"), ["old"]),
        (("--late", "30.."), []),
        (("--search", "maria"), ["old", "inv-42"]),
        (("--search", "plano"), ["old"]),
        (("--search", PHONE, "--limit", "1"), ["old"]),
        (("--customer", "k-9", "--status", "open", "--status", "paid"), ["inv-42"]),
    ):
        found = shop("charge", "list", *options, "--json")
        assert [charge["id"] for charge in found.json] == ids, options
    assert "R$ 149,90" in shop("charge", "list").out


def test_a_charge_shows_what_went_what_will_go_and_why_something_did_not(shop: Shell, postgres_ledger: str) -> None:
    shop("charge", "add", "old", "--customer", "k-9", "--amount", "80", "--due", "2026-11-30")
    engine = connect(postgres_ledger)
    with engine.begin() as connection:
        calendars.fill(connection, booked.TODAY)
        planner.plan_all(connection, booked.NOW)
        [sent] = connection.scalars(
            update(intents).where(intents.c.state == "planned").values(state="queued").returning(intents.c.id)
        )
        booked.recorded(connection, sent, State.READ)
    known = {each["step"]: each for each in shop("charge", "show", "old", "--json").json["history"]}
    assert known["l3"]["reason"] == "before_import"
    assert shop("charge", "hold", "inv-42", "--until", "2026-12-09", "--why", "promessa").code == 0
    shown = shop("charge", "show", "inv-42")
    assert "held until 09/12/2026: promessa" in shown.out
    ahead = {each["step"]: each for each in shop("charge", "show", "inv-42", "--days", "20", "--json").json["ahead"]}
    assert (ahead["l3"]["state"], ahead["l3"]["reason"]) == ("skipped", "on_hold")
    assert (ahead["v"]["state"], ahead["v"]["day"]) == ("planned", "2026-12-10")
    assert "skipped: held" in shown.out
    went = [each for each in shop("charge", "show", "old", "--json").json["history"] if each["id"] == sent]
    assert [each["state"] for each in went] == ["read"]
    assert shop("charge", "show", "old").out.count("its day was before the charge was known") >= 1
    with engine.connect() as connection:
        assert (
            connection.execute(text("SELECT count(*) FROM intents WHERE id LIKE :of"), {"of": "%.v.261210%"}).scalar()
            == 0
        )
    engine.dispose()


def test_holds_releases_edits_and_cancellations(shop: Shell) -> None:
    assert "until it is released" in shop("charge", "hold", "inv-42", "--why", "contestação").out
    assert shop("charge", "release", "inv-42").out == "Charge inv-42 is released.\n"
    assert shop("charge", "release", "inv-42").out == "Charge inv-42 was not held.\n"
    assert shop("customer", "hold", "k-9", "--until", "2026-12-20", "--why", "férias").code == 0
    assert "held until 20/12/2026" in shop("customer", "list").out
    assert shop("customer", "release", "k-9", "--json").json == {"id": "k-9", "released": True}
    edited = shop("charge", "edit", "inv-42", "--due", "2026-12-12", "--amount", "200", "--no-fees", "--json").json
    assert (edited["payable_on"], edited["amount"], edited["waives_fees"]) == ("2026-12-14", "200.00", True)
    assert (
        shop("customer", "change", "k-9", "--phone", "11912345678", "--email", "", "--json")
        .json["phone"]
        .endswith("5678")
    )
    assert shop("charge", "cancel", "inv-42", "--json").json == {"ids": ["inv-42"], "withdrawn": []}
    assert (
        shop("tenant", "change", "u1", "--closed-on", "2026-12-24", "--daily-cap", "2", "--json").json["daily_cap"] == 2
    )
    assert "Academia Fit LTDA" in shop("tenant", "list").out
    assert shop("tenant", "show", "--json").json["window_spec"] == "lei-sp"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("charge", "pay", "inv-24"), 1, "error: there is no charge 'inv-24'; did you mean 'inv-42'?"),
        (("customer", "show", "k-8"), 1, "did you mean 'k-9'?"),
        (("charge", "list", "--tenant", "u11"), 1, "did you mean 'u1'?"),
        (("charge", "pay", "inv-42", "--amount", "1.234"), 2, "has two meanings"),
        (("charge", "pay", "inv-42", "--amount", "0"), 2, "amount: must be greater than 0"),
        (("charge", "edit", "inv-42"), 2, "say what is to change"),
        (("charge", "hold", "inv-42", "--why", "x", "--until", "2026-12-01"), 2, "has come already"),
        (("charge", "list", "--status", "late"), 2, "write open, overdue, paid, cancelled"),
        (("charge", "list", "--late", "a"), 2, "no range of days"),
        (("customer", "add", "k-9", "--name", "A"), 2, "there is a customer 'k-9' already"),
        (("customer", "add", "k-2", "--name", "A", "--phone", "123"), 2, "phone: "),
        (("tenant", "add", "u2", "--legal-name", "B", "--uf", "XX"), 2, "uf: 'XX' is no state"),
        (("tenant", "add", "u2", "--legal-name", "B", "--uf", "SP", "--window", "x"), 2, "window 'x'"),
    ],
)
def test_a_mistake_is_reported_with_its_remedy(shop: Shell, arguments: tuple[str, ...], code: int, words: str) -> None:
    ended = shop(*arguments)
    assert (ended.code, ended.out) == (code, ""), ended.err
    assert words in " ".join(ended.err.split())


def test_charges_need_a_migrated_postgresql_and_say_so(
    ifinu: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, postgres: str
) -> None:
    assert "add one with `ifinu tenant add`" in ifinu("charge", "list").err
    monkeypatch.setenv("IFINU_DATABASE_URL", f"sqlite:///{tmp_path}/ledger.db")
    ended = ifinu("charge", "list")
    assert (ended.code, "charges need PostgreSQL" in ended.err) == (2, True)
    assert not (tmp_path / "ledger.db").exists()
    monkeypatch.setenv("IFINU_DATABASE_URL", postgres)
    ended = ifinu("charge", "list")
    assert (ended.code, "run `ifinu migrate`" in ended.err) == (2, True)


def test_one_of_several_tenants_has_to_be_named(shop: Shell) -> None:
    shop("tenant", "add", "u2", "--legal-name", "Escola Sol", "--uf", "AM", "--tz", "America/Manaus")
    ended = shop("charge", "list")
    assert (ended.code, "--tenant u1 or u2" in ended.err) == (2, True)
    assert shop("charge", "list", "--tenant", "u2").out == "No charge was found.\n"


def test_erase_reaches_customers_and_what_is_queued_about_them(
    shop: Shell, client: redis.Redis, postgres_ledger: str
) -> None:
    message = queue_the_message(postgres_ledger)
    asked = shop("erase", "--phone", PHONE)
    assert (asked.code, asked.out) == (2, "")
    assert shop("customer", "show", "k-9", "--reveal", "--json").json["name"] == NAME
    erased = shop("erase", "--phone", PHONE, "--yes")
    assert (erased.code, "1 customers anonymised" in erased.out) == (0, True)
    assert client.hget(claim_key(message), "state") == b"cancelled"
    found = shop("customer", "show", "k-9", "--reveal", "--json").json
    assert (found["name"], found["phone"], found["active"]) == (None, None, False)
    assert shop("charge", "show", "inv-42", "--json").json["amount"] == "149.90"


def test_a_payment_by_mistake_is_undone_and_the_charge_is_held(shop: Shell) -> None:
    assert shop("charge", "reopen", "inv-42", "--why", "engano").code == 2
    shop("charge", "pay", "inv-42")
    refused = shop("charge", "cancel", "inv-42")
    assert (refused.code, "`ifinu charge reopen`" in refused.err) == (2, True)
    undone = shop("charge", "reopen", "inv-42", "--why", "engano")
    assert (undone.code, undone.err) == (0, "")
    assert undone.out.startswith("Charge inv-42 is open and held; R$ 149,90 are left.")
    assert "held until no end: engano" in shop("charge", "show", "inv-42").out
    assert shop("charge", "release", "inv-42").code == 0


def test_a_payment_that_has_not_come_yet_is_refused(shop: Shell) -> None:
    refused = shop("charge", "pay", "inv-42", "--at", "2026-12-11")
    assert (refused.code, "has not come yet" in refused.err) == (2, True)
    assert shop("charge", "list", "--status", "paid", "--json").json == []


def test_people_read_dates_as_in_brazil_and_times_of_their_zone(shop: Shell) -> None:
    shop("tenant", "change", "u1", "--tz", "America/Manaus", "--closed-on", "24/12/2026")
    shown = shop("tenant", "show").out
    assert "24/12/2026" in shown
    assert "padrao" in shown
    assert shop("tenant", "show", "--json").json["closed_on"] == ["2026-12-24"]
    shop("customer", "hold", "k-9", "--until", "20/12/2026", "--why", "acordo")
    assert "20/12/2026" in shop("customer", "show", "k-9").out
    shop("customer", "release", "k-9")
    released = shop("customer", "show", "k-9").out
    assert "acordo" not in released
    shop("charge", "pay", "inv-42", "--at", "2026-12-01 08:30")
    paid = shop("charge", "show", "inv-42").out
    assert "paid 01/12/2026 08:30:00 (cli)" in paid


def test_an_error_names_the_option_that_is_wrong(shop: Shell) -> None:
    add = "charge", "add", "b", "--customer", "k-9", "--amount", "10", "--due", "2026-12-20"
    for command, option in (
        ((*add, "--link", "foo"), "--link"),
        ((*add, "--discount", "11"), "--discount"),
        (("customer", "hold", "k-9", "--why", " "), "--why"),
        (("tenant", "change", "u1", "--fine", "200"), "--fine"),
    ):
        refused = shop(*command)
        assert (refused.code, refused.err.startswith(f"error: {option}: ")) == (2, True), refused.err


def test_what_is_paused_is_named_when_a_day_is_planned(shop: Shell) -> None:
    shop("regua", "pause")
    assert "paused: u1" in shop("regua", "run").out
    assert shop("regua", "run", "--json").json["paused"] == ["u1"]
