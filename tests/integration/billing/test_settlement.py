"""What an event of a payment provider does to its charge, and what the next one does."""

import itertools
import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import bills
import payments
import pytest
from payments import TENANT
from sqlalchemy import select

from ifinu.billing import charges
from ifinu.billing.billing_schema import payment_events
from ifinu.billing.charges import NewCharge
from ifinu.billing.payments import asaas, mercado_pago, settlement, signed_events, stripe, woovi
from ifinu.billing.payments.provider_events import PaymentRequest
from ifinu.errors import NotFound
from ifinu.ledger.engine import connect

NOW = datetime(2026, 12, 10, 20, tzinfo=UTC)
READERS = {module.NAME: module.read for module in (asaas, signed_events, stripe, woovi)}


@pytest.fixture
def engine(postgres_ledger):
    made = connect(postgres_ledger)
    yield made
    made.dispose()


@pytest.fixture
def connection(engine):
    with engine.begin() as made:
        yield made


def event(provider, body):
    if provider == "mercado_pago":
        return mercado_pago.event_of(body)
    return READERS[provider](PaymentRequest({}, payments.encoded(body)))


def apply(connection, provider, body, now=NOW, tenant=TENANT):
    return settlement.apply(connection, tenant, event(provider, body), now)


def billing(connection):
    bills.tenant(connection, TENANT)
    bills.customer(connection, "k1", TENANT)


def add(connection, id_="inv-42", **columns):
    given = {"amount": Decimal("149.90"), "due_date": date(2026, 12, 10)} | columns
    charges.add(connection, NewCharge(tenant=TENANT, id=id_, customer_id="k1", **given), NOW)


def with_charge(connection, **columns):
    billing(connection)
    add(connection, **columns)


def charge(connection, id_="inv-42"):
    return charges.get(connection, TENANT, id_)


def stored(connection):
    rows = connection.execute(select(payment_events).order_by(payment_events.c.received_at, payment_events.c.event_id))
    return [(row.event, row.state, row.note) for row in rows]


PAID = [
    ("generic", payments.signed()),
    ("asaas", payments.asaas()),
    ("asaas", payments.asaas("PAYMENT_CONFIRMED")),
    ("stripe", payments.stripe()),
    ("stripe", payments.stripe("checkout.session.async_payment_succeeded")),
    ("stripe", payments.stripe("invoice.paid")),
    ("stripe", payments.stripe("payment_intent.succeeded")),
    ("woovi", payments.woovi()),
    ("mercado_pago", payments.mercado_pago_payment(transaction_amount=Decimal("149.90"))),
]


@pytest.mark.parametrize(("provider", "body"), PAID)
def test_a_payment_pays_the_charge_once(connection, provider, body):
    with_charge(connection)
    assert apply(connection, provider, body)[:3] == ("applied", None, "inv-42")
    found = charge(connection)
    assert (found.status, found.paid, found.paid_via) == ("paid", Decimal("149.90"), provider)
    for _ in range(3):
        assert apply(connection, provider, body).state == "repeated"
    assert charge(connection) == found


def test_a_payment_without_an_amount_pays_all(connection):
    with_charge(connection)
    assert apply(connection, "asaas", payments.asaas(value=None)).state == "applied"
    assert (charge(connection).status, charge(connection).paid) == ("paid", Decimal("149.90"))


SAME = {
    "asaas": [payments.asaas("PAYMENT_CONFIRMED", at="2026-12-10 16:45:03"), payments.asaas(at="2026-12-14 09:00:00")],
    "stripe": [payments.stripe(), payments.stripe("payment_intent.succeeded", "evt_2"),
               payments.stripe("invoice.paid", "evt_3")],
    "woovi": [payments.woovi(), payments.woovi("OPENPIX:TRANSACTION_RECEIVED")],
    "generic": [payments.signed(payment_id="p"), payments.signed(id_="evt-2", payment_id="p")],
}  # fmt: skip


@pytest.mark.parametrize("provider", SAME)
def test_several_events_of_one_payment_are_one_payment_in_any_order(connection, provider):
    """
    The charge is larger than the payment, so that one counted twice would show.
    """
    for number, order in enumerate(itertools.permutations(SAME[provider])):
        nested = connection.begin_nested()
        with_charge(connection, amount=Decimal("1000"))
        states = [apply(connection, provider, body, NOW + timedelta(minutes=n)) for n, body in enumerate(order)]
        assert [(one.state, one.note) for one in states[1:]] == [("ignored", "same_payment")] * (len(order) - 1), number
        assert charge(connection).paid == Decimal("149.90")
        nested.rollback()


def test_two_payments_of_a_part_are_two(connection):
    with_charge(connection)
    first = apply(connection, "generic", payments.signed(amount="100"))
    assert (first.state, first.note) == ("applied", "partial")
    assert (charge(connection).status, charge(connection).paid) == ("open", Decimal("100"))
    second = apply(connection, "generic", payments.signed(id_="evt-2", amount="49.90"))
    assert (second.state, second.note, charge(connection).status) == ("applied", None, "paid")


def test_too_much_is_noted(connection):
    with_charge(connection)
    assert apply(connection, "generic", payments.signed(amount="200"))[:2] == ("applied", "overpaid")
    assert charge(connection).status == "paid"


def test_a_second_payment_of_a_paid_charge_is_noted_and_its_refund_changes_nothing(connection):
    with_charge(connection)
    apply(connection, "asaas", payments.asaas())
    again = payments.asaas(id="pay_2")
    assert apply(connection, "asaas", again)[:2] == ("ignored", "already_paid")
    back = payments.asaas("PAYMENT_REFUNDED", at="2026-12-11 10:00:00", id="pay_2")
    assert apply(connection, "asaas", back)[:2] == ("ignored", "refund_of_duplicate")
    assert (charge(connection).status, charge(connection).hold_until) == ("paid", None)


REFUNDS = [
    ("asaas", payments.asaas(), payments.asaas("PAYMENT_REFUNDED", at="2026-12-11 10:00:00")),
    ("asaas", payments.asaas(), payments.asaas("PAYMENT_CHARGEBACK_REQUESTED", at="2026-12-11 10:00:00")),
    ("asaas", payments.asaas(), payments.asaas("PAYMENT_RECEIVED_IN_CASH_UNDONE", at="2026-12-11 10:00:00")),
    ("stripe", payments.stripe(), payments.stripe("charge.refunded", "evt_9", created=1_797_000_000)),
    ("stripe", payments.stripe(), payments.stripe("charge.dispute.created", "evt_9", created=1_797_000_000)),
    ("woovi", payments.woovi(), payments.woovi("PIX_TRANSACTION_REFUND_SENT_CONFIRMED", refunded=14_990)),
    ("mercado_pago", payments.mercado_pago_payment(transaction_amount=Decimal("149.90")),
     payments.mercado_pago_payment("charged_back", transaction_amount=Decimal("149.90"),
                                   date_last_updated="2026-12-12T13:01:00.000-03:00")),
    ("generic", payments.signed(), payments.signed("charge.refunded", "evt-2")),
]  # fmt: skip


@pytest.mark.parametrize(("provider", "paid", "refunded"), REFUNDS)
def test_a_refund_holds_the_charge_without_an_end(connection, provider, paid, refunded):
    with_charge(connection)
    apply(connection, provider, paid)
    assert apply(connection, provider, refunded, NOW + timedelta(days=1)).state == "applied"
    found = charge(connection)
    assert (found.is_open, found.paid, found.hold_until) == (True, Decimal("0"), date.max)
    assert apply(connection, provider, refunded).state == "repeated"


@pytest.mark.parametrize("given", [{"payment_id": "p"}, {}])
def test_a_refund_of_a_part_changes_nothing(connection, given):
    with_charge(connection)
    apply(connection, "generic", payments.signed(**given))
    part = payments.signed("charge.refunded", "evt-2", amount="10", **given)
    assert apply(connection, "generic", part)[:2] == ("ignored", "partial_refund")
    assert (charge(connection).status, charge(connection).hold_until) == ("paid", None)


@pytest.mark.parametrize(("provider", "paid", "refunded"), [row for row in REFUNDS if row[0] in ("asaas", "woovi")])
def test_a_payment_that_comes_after_its_refund_does_not_count(connection, provider, paid, refunded):
    with_charge(connection)
    assert apply(connection, provider, refunded).state == "applied"
    assert charge(connection).hold_until == date.max
    assert apply(connection, provider, paid)[:2] == ("ignored", "refunded_before")
    assert (charge(connection).status, charge(connection).paid) == ("open", 0)


def test_a_refund_of_stripe_waits_for_the_event_that_names_its_charge(connection):
    """
    A refund has no metadata; only the payment's event says which charge it is about.
    """
    with_charge(connection)
    late = payments.stripe("charge.refunded", "evt_9", created=1_797_000_000)
    assert apply(connection, "stripe", late).state == "unmatched"
    assert apply(connection, "stripe", payments.stripe()).state == "applied"
    assert (charge(connection).is_open, charge(connection).hold_until) == (True, date.max)


def test_cash_that_was_undone_may_be_paid_again(connection):
    with_charge(connection)
    apply(connection, "asaas", payments.asaas(at="2026-12-10 10:00:00"))
    apply(connection, "asaas", payments.asaas("PAYMENT_RECEIVED_IN_CASH_UNDONE", at="2026-12-10 11:00:00"))
    assert charge(connection).is_open
    assert apply(connection, "asaas", payments.asaas(at="2026-12-10 12:00:00")).state == "applied"
    assert (charge(connection).status, charge(connection).paid) == ("paid", Decimal("149.90"))
    late = payments.asaas("PAYMENT_RECEIVED_IN_CASH_UNDONE", at="2026-12-10 11:30:00")
    assert apply(connection, "asaas", late)[:2] == ("ignored", "outdated")
    assert charge(connection).status == "paid"


def test_a_payment_that_was_recorded_by_hand_is_not_a_second_one(connection):
    """
    Its refund holds the charge, as that of any payment.
    """
    with_charge(connection)
    charges.pay(connection, TENANT, "inv-42", via="cli", now=NOW)
    assert apply(connection, "asaas", payments.asaas())[:2] == ("applied", "recorded_before")
    assert apply(connection, "asaas", payments.asaas(at="2026-12-14 09:00:00"))[:2] == ("ignored", "same_payment")
    assert apply(connection, "stripe", payments.stripe())[:2] == ("ignored", "already_paid")
    assert charge(connection).paid == Decimal("149.90")
    refunded = payments.asaas("PAYMENT_REFUNDED", at="2026-12-15 10:00:00")
    assert apply(connection, "asaas", refunded).state == "applied"
    assert (charge(connection).is_open, charge(connection).hold_until) == (True, date.max)


STORY = (
    payments.asaas("PAYMENT_CONFIRMED", at="2026-12-10 10:00:00"),
    payments.asaas(at="2026-12-10 11:00:00"),
    payments.asaas("PAYMENT_RECEIVED_IN_CASH_UNDONE", at="2026-12-10 12:00:00"),
    payments.asaas(at="2026-12-10 13:00:00"),
)


@pytest.mark.parametrize(
    ("story", "is_paid"), [(STORY[:2], True), (STORY[:3], False), (STORY[1:3], False), (STORY, True), (STORY[1:], True)]
)
def test_the_end_is_the_same_in_any_order_and_with_any_repetition(connection, story, is_paid):
    for order in itertools.permutations(story):
        nested = connection.begin_nested()
        with_charge(connection)
        for number, body in enumerate((*order, *order)):
            apply(connection, "asaas", body, NOW + timedelta(minutes=number))
        found = charge(connection)
        names = [body["dateCreated"] for body in order]
        assert (found.status == "paid", found.paid > 0) == (is_paid, is_paid), names
        assert is_paid or found.hold_until == date.max, names
        nested.rollback()


def test_a_payment_before_the_charge_is_matched_when_the_charge_comes(connection):
    billing(connection)
    assert apply(connection, "asaas", payments.asaas("PAYMENT_CONFIRMED")).state == "unmatched"
    assert apply(connection, "asaas", payments.asaas(at="2026-12-11 10:00:00")).state == "unmatched"
    assert settlement.match(connection, TENANT, ["inv-42"], NOW) == []
    add(connection)
    assert (charge(connection).status, charge(connection).paid) == ("paid", Decimal("149.90"))
    assert set(stored(connection)) == {
        ("PAYMENT_CONFIRMED", "applied", None),
        ("PAYMENT_RECEIVED", "ignored", "same_payment"),
    }


def test_a_refund_before_the_charge_is_matched_with_its_payment(connection):
    """
    The refund names the payment only, and the payment names the charge.
    """
    billing(connection)
    late = payments.stripe("charge.refunded", "evt_9", created=1_797_000_000)
    for body in (late, payments.stripe()):
        assert apply(connection, "stripe", body).state == "unmatched"
    add(connection)
    assert (charge(connection).is_open, charge(connection).hold_until) == (True, date.max)


def test_a_charge_and_an_event_at_the_same_moment_find_each_other_a_little_later(engine):
    with engine.begin() as connection:
        billing(connection)
    with engine.begin() as one, engine.begin() as other:
        assert apply(one, "asaas", payments.asaas()).state == "unmatched"
        add(other)
    with engine.begin() as connection:
        assert charge(connection).is_open
        assert settlement.sweep(connection, NOW + timedelta(hours=2)) == []
        assert [done.state for done in settlement.sweep(connection, NOW + timedelta(minutes=1))] == ["applied"]
        assert charge(connection).status == "paid"
        assert settlement.sweep(connection, NOW + timedelta(minutes=1)) == []


def test_a_person_may_name_the_charge(connection):
    with_charge(connection)
    strange = payments.asaas(externalReference="PEDIDO 42")
    assert apply(connection, "asaas", strange).state == "unmatched"
    with pytest.raises(NotFound):
        settlement.match_one(connection, TENANT, strange["id"], "inv-43", NOW)
    with pytest.raises(NotFound):
        settlement.match_one(connection, TENANT, "evt_other", "inv-42", NOW)
    assert [one.state for one in settlement.match_one(connection, TENANT, strange["id"], "inv-42", NOW)] == ["applied"]
    assert charge(connection).status == "paid"
    with pytest.raises(NotFound):
        settlement.match_one(connection, TENANT, strange["id"], "inv-42", NOW)
    back = payments.asaas("PAYMENT_REFUNDED", at="2026-12-12 10:00:00", externalReference="PEDIDO 42")
    assert apply(connection, "asaas", back)[:3] == ("applied", None, "inv-42")  # by the payment's id


def test_the_providers_id_beats_a_reference_that_several_share(connection):
    """
    Asaas copies the reference of an installment plan to each of its payments.
    """
    with_charge(connection, provider="asaas", provider_id="pay_1")
    add(connection, "inv-43", provider="asaas", provider_id="pay_2")
    assert apply(connection, "asaas", payments.asaas(id="pay_2")).charge == "inv-43"
    assert charge(connection).status == "open"


def test_tenants_do_not_share_events_or_charges(connection):
    with_charge(connection)
    assert apply(connection, "asaas", payments.asaas(), tenant="another").state == "unmatched"
    assert charge(connection).status == "open"
    assert apply(connection, "asaas", payments.asaas()).state == "applied"


def test_a_deleted_charge_is_cancelled_and_a_restored_one_is_open_again(connection):
    with_charge(connection)
    deleted = payments.asaas("PAYMENT_DELETED", at="2026-12-05 10:00:00")
    restored = payments.asaas("PAYMENT_RESTORED", at="2026-12-06 10:00:00")
    assert apply(connection, "asaas", deleted).state == "applied"
    assert charge(connection).status == "cancelled"
    assert apply(connection, "asaas", restored).state == "applied"
    assert charge(connection).status == "open"


def test_a_deletion_that_comes_after_the_restoration_changes_nothing(connection):
    with_charge(connection)
    apply(connection, "asaas", payments.asaas("PAYMENT_RESTORED", at="2026-12-06 10:00:00"))
    late = payments.asaas("PAYMENT_DELETED", at="2026-12-05 10:00:00")
    assert apply(connection, "asaas", late)[:2] == ("ignored", "outdated")
    assert charge(connection).status == "open"


def test_a_change_at_the_provider_changes_the_charge(connection):
    with_charge(connection)
    newer = payments.asaas("PAYMENT_UPDATED", at="2026-12-06 10:00:00", dueDate="2026-12-20", value=200)
    older = payments.asaas("PAYMENT_UPDATED", at="2026-12-05 10:00:00", dueDate="2026-12-15", value=180)
    assert apply(connection, "asaas", newer).state == "applied"
    assert apply(connection, "asaas", older)[:2] == ("ignored", "outdated")
    assert (charge(connection).due_date, charge(connection).amount) == (date(2026, 12, 20), Decimal("200"))


def test_a_change_or_deletion_of_a_paid_charge_does_nothing(connection):
    with_charge(connection)
    apply(connection, "asaas", payments.asaas())
    changed = payments.asaas("PAYMENT_UPDATED", at="2026-12-11 10:00:00", value=200)
    assert apply(connection, "asaas", changed)[:2] == ("ignored", "not_open")
    deleted = payments.asaas("PAYMENT_DELETED", at="2026-12-11 10:00:00")
    assert apply(connection, "asaas", deleted)[:2] == ("ignored", "already_paid")
    assert (charge(connection).status, charge(connection).amount) == ("paid", Decimal("149.90"))


def test_a_change_that_cannot_be_is_kept_as_invalid(connection):
    with_charge(connection)
    wrong = payments.asaas("PAYMENT_UPDATED", dueDate="1999-12-20")
    assert apply(connection, "asaas", wrong)[:2] == ("ignored", "invalid")
    assert charge(connection).due_date == date(2026, 12, 10)


def test_a_cancelled_charge_that_is_paid_is_paid(connection):
    with_charge(connection)
    charges.cancel(connection, TENANT, "inv-42", now=NOW)
    assert apply(connection, "asaas", payments.asaas()).state == "applied"
    assert charge(connection).status == "paid"


def test_the_same_event_at_the_same_time_counts_once(engine):
    """
    Eight deliveries of two events of one payment at once, as a provider that lost our answers repeats them.
    """
    with engine.begin() as connection:
        with_charge(connection, amount=Decimal("1000"))
    found, start = [], threading.Barrier(8)

    def deliver(body):
        start.wait(10)
        with engine.begin() as connection:
            found.append(apply(connection, "asaas", body).state)

    bodies = [payments.asaas("PAYMENT_CONFIRMED"), payments.asaas(at="2026-12-14 09:00:00")] * 4
    threads = [threading.Thread(target=deliver, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == ["applied", "ignored", *["repeated"] * 6]
    with engine.begin() as connection:
        assert charge(connection).paid == Decimal("149.90")


def test_an_event_goes_with_its_effect_or_not_at_all(engine, monkeypatch):
    with engine.begin() as connection:
        with_charge(connection)

    def fail(*_, **__):
        raise RuntimeError("the process dies here")

    with monkeypatch.context() as patched:
        patched.setattr(charges, "pay", fail)
        with pytest.raises(RuntimeError), engine.begin() as connection:
            apply(connection, "asaas", payments.asaas())
    with engine.begin() as connection:
        assert stored(connection) == []
        assert apply(connection, "asaas", payments.asaas()).state == "applied"
