"""The messages of intents, made of what PostgreSQL has now."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from bills import PHONE, charge, customer, intent, tenant
from ledgers import migrated
from pix import pix
from sqlalchemy import Connection, event, update

from ifinu.billing.billing_schema import billing_tenants, charges, customers, intents
from ifinu.billing.messages import compose
from ifinu.billing.texts import Texts
from ifinu.ledger.engine import connect
from ifinu.notification import Kind, Notification, Stop

NOW = datetime(2026, 12, 15, 12, 0, tzinfo=UTC)
TODAY = date(2026, 12, 15)


@pytest.fixture
def connection(postgres_ledger: str) -> Iterator[Connection]:
    """A transaction with a tenant and a customer, rolled back in the end."""
    engine = connect(postgres_ledger)
    with engine.connect() as connection:
        tenant(connection, window_spec="lei-sp")
        customer(connection)
        yield connection
    engine.dispose()


def one(connection: Connection, key: tuple[int, str], now: datetime = NOW) -> Notification | Stop:
    return compose(connection, [key], now, Texts())[key[1]]


def test_messages_are_made_in_time_while_the_tables_are_new(postgres: str):
    """
    PostgreSQL knows nothing of what is in them yet, and ends a statement that takes too long.
    """
    engine = connect(migrated(postgres))
    with engine.begin() as connection:
        tenant(connection)
        keys = []
        for n in range(240):
            customer(connection, f"k{n}", phone=f"+55119{87_000_000 + n}")
            keys.append(intent(connection, charge(connection, f"inv-{n}", f"k{n}"), "lembrete", state="queued"))
        assert len(compose(connection, keys, NOW)) == 240
    engine.dispose()


def test_a_message_has_what_the_database_says(connection):
    until = datetime(2026, 12, 17, 3, 0, tzinfo=UTC)
    seq = charge(connection, payment_link="https://pag.exemplo/1", pix_code=pix())
    key = intent(connection, seq, valid_until=until)
    made = one(connection, key)
    assert made.model_dump(exclude_defaults=True, exclude={"text"}) == {
        "id": f"c{seq}.atraso.261210",
        "kind": Kind.OVERDUE,
        "phone": "+5511987654321",
        "name": "Maria Silva",
        "amount": Decimal("102.17"),
        "due_date": date(2026, 12, 10),
        "description": "Mensalidade",
        "tenant": "u1",
        "payment_link": "https://pag.exemplo/1",
        "pix_code": pix(),
        "valid_until": until,
        "charge_ref": str(seq),
        "sending_window": "lei-sp",
    }


@pytest.mark.parametrize(
    ("of", "columns", "stop"),
    [
        (charges, {"status": "paid", "paid": 100}, Stop.PAID),
        (charges, {"paid": 100}, Stop.PAID),
        (charges, {"status": "cancelled"}, Stop.CHARGE_CANCELLED),
        (charges, {"hold_until": TODAY + timedelta(days=1)}, Stop.ON_HOLD),
        (charges, {"hold_until": date.max}, Stop.ON_HOLD),
        (charges, {"hold_until": TODAY}, None),
        (charges, {"notify": False}, Stop.MUTED),
        (customers, {"hold_until": TODAY + timedelta(days=1)}, Stop.ON_HOLD),
        (customers, {"hold_until": TODAY}, None),
        (customers, {"active": False}, Stop.CUSTOMER_INACTIVE),
        (customers, {"phone": None, "name": None}, Stop.NO_PHONE),
        (customers, {"channels": ["email"]}, Stop.EMAIL_ONLY),
        (customers, {"name": "undefined"}, Stop.INVALID),
        (billing_tenants, {"status": "suspended"}, Stop.TENANT_INACTIVE),
        (billing_tenants, {"active_until": NOW}, Stop.TENANT_INACTIVE),
        (billing_tenants, {"active_until": NOW, "status": "lifetime"}, None),
        (billing_tenants, {"active_until": NOW + timedelta(seconds=1)}, None),
        (billing_tenants, {"paused_at": NOW}, Stop.TENANT_PAUSED),
        (intents, {"state": "queued"}, None),
        (intents, {"state": "cancelled"}, Stop.CANCELLED),
        (intents, {"state": "cancelled", "reason": "rule_changed"}, Stop.CANCELLED),
        (intents, {"state": "cancelled", "reason": "paid"}, Stop.PAID),
        (intents, {"state": "merged"}, Stop.CANCELLED),
        (intents, {"id": "c1.atraso.261210~1"}, Stop.CANCELLED),
    ],
)
def test_why_no_message_goes(connection, of, columns, stop):
    seq = charge(connection)
    key = intent(connection, seq)
    if "id" in columns:
        columns = {"id": f"c{seq}.atraso.261210~1"}
    connection.execute(update(of).values(**columns))
    made = one(connection, key)
    assert made is stop if stop else isinstance(made, Notification)


def test_a_receipt_goes_if_its_charge_is_paid_and_says_what_was_paid(connection):
    paid = charge(connection, "a", status="paid", paid="102.17", hold_until=date.max)
    undone = charge(connection, "b")
    keys = [intent(connection, seq, "pagamento") for seq in (paid, undone)]
    made = compose(connection, keys, NOW, Texts())
    assert made[keys[0][1]].amount == Decimal("102.17")
    assert made[keys[1][1]] is Stop.UNDONE


def test_a_held_customer_gets_a_receipt(connection):
    key = intent(connection, charge(connection, status="paid", paid="100"), "pagamento")
    connection.execute(update(customers).values(hold_until=date.max))
    assert one(connection, key).kind is Kind.PAID


def test_a_due_notice_after_a_weekend_is_of_the_day_on_which_it_can_still_be_paid(connection):
    key = intent(connection, charge(connection, due=date(2026, 12, 5)), "vencimento")
    assert one(connection, key, datetime(2026, 12, 7, 12, tzinfo=UTC)).due_date == date(2026, 12, 7)


def test_an_expired_pix_code_is_left_out(connection):
    seq = charge(connection, pix_code=pix(), pix_expires_at=NOW)
    key = intent(connection, seq)
    assert one(connection, key).pix_code is None
    assert one(connection, key, NOW - timedelta(seconds=1)).pix_code == pix()


def test_today_is_the_tenants(connection):
    connection.execute(update(billing_tenants).values(tz="America/Manaus"))  # four hours behind UTC
    key = intent(connection, charge(connection))
    late = [one(connection, key, datetime(2026, 12, 11, hour, 0, tzinfo=UTC)).amount for hour in (3, 4)]
    assert late == [Decimal("100.00"), Decimal("102.03")]


def test_a_batch_is_one_query_and_an_unknown_id_is_left_out(connection):
    keys = [intent(connection, charge(connection, f"inv-{n}")) for n in range(20)]
    ran = []
    event.listen(connection, "before_cursor_execute", lambda *args: ran.append(args[2]))
    made = compose(connection, [*keys, (10**9, "c1000000000.atraso.261210")], NOW, Texts())
    assert list(made) == [id_ for _, id_ in keys]
    assert len(ran) == 1
    assert compose(connection, [], NOW, Texts()) == {}
    assert len(ran) == 1


def merged(connection: Connection, **columns: Any) -> tuple[tuple[int, str], list[int]]:
    """Three charges of a customer, and the intent of the one that leads."""
    seqs = [charge(connection, f"inv-{n}", due=date(2026, 12, 8 + n), **columns) for n in range(3)]
    key = intent(connection, seqs[0])
    for seq in seqs[1:]:
        intent(connection, seq, state="merged", leader=seqs[0])
    return key, seqs


def pay(connection: Connection, seq: int) -> None:
    connection.execute(update(charges).where(charges.c.seq == seq).values(status="paid", paid=100))


def test_a_leader_speaks_of_the_charges_that_are_still_open(connection):
    key, seqs = merged(connection, waives_fees=True)
    charge(connection, "of another day")
    customer(connection, "k2", phone="+5511987650002")
    intent(connection, charge(connection, "of another", "k2"), state="merged", leader=seqs[0])
    totals = [one(connection, key).amount]
    for seq in (seqs[1], seqs[0]):
        pay(connection, seq)
        totals.append(one(connection, key).amount)
    assert totals == [Decimal(300), Decimal(200), Decimal(100)]
    pay(connection, seqs[2])
    assert one(connection, key) is Stop.PAID


def test_a_leader_does_not_speak_of_what_was_merged_into_it_on_another_day(connection):
    seqs = [charge(connection, f"inv-{n}", waives_fees=True) for n in range(2)]
    key = intent(connection, seqs[0])
    intent(connection, seqs[1], state="merged", leader=seqs[0], planned_on=TODAY - timedelta(days=7))
    assert one(connection, key).amount == Decimal(100)


def test_a_message_to_a_person_speaks_of_the_charges_of_their_other_customers(connection):
    """
    A mother pays for two children, each a customer with her phone.
    """
    for id_, name, phone in (("k2", "João Silva", PHONE), ("k3", "Rui Alves", "+5511987650003")):
        customer(connection, id_, name=name, phone=phone)
    own = charge(connection)
    key = intent(connection, own, leader=own)
    for id_, whose in (("b", "k2"), ("c", "k3")):
        intent(connection, charge(connection, id_, whose, description=f"Aulas {id_}"), state="merged", leader=own)
    made = one(connection, key)
    assert "Olá, Maria Silva!" in made.text
    assert "*1. Mensalidade*\n" in made.text
    assert "*2. Aulas b* (João Silva)\n" in made.text
    assert "Aulas c" not in made.text  # its customer has another phone by now
    connection.execute(update(charges).where(charges.c.seq == own).values(status="paid"))
    alone = one(connection, key)
    assert "Olá, João Silva!" in alone.text
    assert "Aulas b" in alone.text
