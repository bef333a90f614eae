"""
The figures of the guard, on SQLite and on PostgreSQL.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import ledger_rows as rows
import pytest

from ifinu.ledger import schema
from ifinu.ledger.states import State
from ifinu.numbers.signals import Figures, Reader

NOW = datetime(2026, 11, 24, 15, 30, tzinfo=UTC)
SECONDS = timedelta(seconds=1)


def ago(**length):
    return NOW - timedelta(**length)


class Book:
    """Messages in a ledger, each with its row and its event `sent`."""

    def __init__(self, ledger):
        self.ledger = ledger
        self.count = 0

    def sent(self, at, *, instance="n1", new=None, state=State.SENT, ack_s=1, **values):
        self.count += 1
        id_ = f"m{self.count}"
        row = {"instance": instance, "sent_at": at, "key_id": f"K{self.count}", "phone_hash": f"p{self.count}"}
        if ack_s is not None:
            row["server_ack_at"] = at + ack_s * SECONDS
        rows.notification(self.ledger, id_, state, at, **(row | values))
        flag = {} if new is None else {"new": new}
        rows.event(self.ledger, id_, "sent", at, seq=self.count, key_id=row["key_id"], **flag)
        return id_

    def event(self, at, name, **data):
        self.count += 1
        rows.event(self.ledger, f"e{self.count}", name, at, seq=self.count, **data)

    def figures(self, judged_from=None, name="n1", **arguments):
        return Reader(self.ledger, NOW).figures({name: judged_from}, **arguments)[name]


@pytest.fixture
def book(ledger):
    return Book(ledger)


def test_a_number_without_messages_has_no_figures(book):
    assert book.figures() == Figures()
    assert Reader(book.ledger, NOW).figures({}) == {}


def test_messages_are_counted_by_their_number(book):
    book.sent(ago(minutes=5))
    book.sent(ago(minutes=5), instance="n2", new=True)
    book.sent(ago(minutes=6), instance="n2")
    found = Reader(book.ledger, NOW).figures({"n1": None, "n2": None, "n3": None}, {"n2"})
    assert {name: (one.sent, one.warming) for name, one in found.items()} == {
        "n1": (1, False),
        "n2": (2, True),
        "n3": (0, False),
    }


def test_answers_are_counted_from_the_beginning_of_the_window_of_numbers_that_warm_up(book):
    asked = {}

    def answers(since):
        asked.update(since)
        return {"n2": 0}

    for name in ("n1", "n2", "n3"):
        book.sent(ago(minutes=5), instance=name)
    judged_from = {"n1": None, "n2": ago(minutes=30), "n3": None}
    found = Reader(book.ledger, NOW).figures(judged_from, {"n2", "n3"}, answers)
    assert asked == {"n2": ago(minutes=30), "n3": ago(days=7)}
    assert {name: one.answers for name, one in found.items()} == {"n1": None, "n2": 0, "n3": None}
    assert found["n2"].as_data()["answers"] == 0


@pytest.mark.parametrize(
    ("within_the_hour", "before", "counted"),
    [(0, 60, 50), (10, 60, 50), (49, 60, 50), (60, 60, 60), (10, 20, 30)],
)
def test_the_last_hour_or_the_last_fifty_count_whichever_are_more(book, within_the_hour, before, counted):
    for number in range(within_the_hour):
        book.sent(ago(minutes=1, seconds=number))
    for number in range(before):
        book.sent(ago(hours=2, seconds=number))
    assert book.figures().sent == counted


@pytest.mark.parametrize(("age_days", "counted"), [(6, 1), (8, 0)])
def test_messages_of_more_than_a_week_ago_do_not_count(book, age_days, counted):
    book.sent(ago(days=age_days))
    assert book.figures().sent == counted


def test_messages_before_the_last_step_do_not_count(book):
    for minutes in (5, 20, 40):
        book.sent(ago(minutes=minutes))
    assert book.figures(ago(minutes=30)).sent == 2


@pytest.mark.parametrize(
    ("new", "failed_after_s", "new_errors", "known_errors"),
    [
        (True, 119, 1, 0),
        (True, 121, 0, 0),  # not what a restriction looks like
        (True, None, 0, 0),
        (None, 119, 0, 1),  # without the flag, it is a known chat
        (False, 3000, 0, 1),
        (None, None, 0, 0),
    ],
)
def test_errors_of_new_chats_and_of_known_ones(book, new, failed_after_s, new_errors, known_errors):
    at = ago(minutes=55)
    failed = None if failed_after_s is None else at + failed_after_s * SECONDS
    book.sent(at, new=new, failed_at=failed)
    found = book.figures()
    opened = int(bool(new) and failed is not None)  # counted only for a number with a failure
    assert (found.sent, found.new, found.new_errors, found.known_errors) == (1, opened, new_errors, known_errors)


@pytest.mark.parametrize(
    ("sent_ago_s", "receipts", "settled", "confirmed", "reachable", "delivered"),
    [
        (119, {}, 0, 0, 0, 0),
        (121, {}, 1, 0, 0, 0),
        (121, {"server_ack_at": 5}, 1, 1, 0, 0),
        (601, {"server_ack_at": 5}, 1, 1, 1, 0),
        (900, {"server_ack_at": 5, "delivered_at": 599}, 1, 1, 1, 1),
        (900, {"server_ack_at": 5, "delivered_at": 602}, 1, 1, 1, 0),
        (900, {"read_at": 300}, 1, 1, 1, 1),  # the earlier receipts were lost
        (601, {"key_id": None}, 0, 0, 0, 0),  # no receipt could be joined to it
    ],
)
def test_receipts(book, sent_ago_s, receipts, settled, confirmed, reachable, delivered):
    at = NOW - sent_ago_s * SECONDS
    values = {name: value if value is None else at + value * SECONDS for name, value in receipts.items()}
    book.sent(at, ack_s=None, **values)
    found = book.figures()
    assert (found.settled, found.confirmed) == (settled, confirmed)
    assert (found.reachable, found.delivered) == (reachable, delivered)


@pytest.mark.parametrize(
    ("confirmed_before", "silent_now", "usual"),
    [
        (20, 10, Fraction(1)),
        (20, 0, None),  # nothing to compare
        (19, 10, None),  # too few to know what is usual
    ],
)
def test_the_usual_share_of_confirmed_messages_is_that_of_the_week_without_those_judged(
    book, confirmed_before, silent_now, usual
):
    for number in range(confirmed_before):
        book.sent(ago(days=2, seconds=number))
    for number in range(silent_now):
        book.sent(ago(minutes=10, seconds=number), ack_s=None)
    assert book.figures(ago(minutes=30)).usual == usual


@pytest.mark.parametrize(
    ("name", "reason", "minutes_ago", "counted"),
    [
        ("deferred", "throttled", 59, 1),
        ("deferred", "throttled", 61, 0),
        ("retrying", "rate_overlimit", 5, 1),
        ("retrying", "too_many_requests", 5, 1),
        ("deferred", "window", 5, 0),
        ("retrying", "connection_closed", 5, 0),
        ("dead", "throttled", 5, 0),
    ],
)
def test_refusals_because_the_number_sends_too_fast(book, name, reason, minutes_ago, counted):
    book.event(ago(minutes=minutes_ago), name, reason=reason, instance="n1")
    book.event(ago(minutes=minutes_ago), name, reason=reason, instance="n2")
    assert book.figures().throttled == counted
    assert book.figures(ago(minutes=2)).throttled == 0


def test_people_who_opted_out_after_a_message_of_the_number(book):
    def opted_out(person, minutes_ago, source="whatsapp", tenant="t1"):
        rows.add(
            book.ledger, schema.opt_outs, tenant=tenant, phone_hash=person, source=source, at=ago(minutes=minutes_ago),
            ms=1, seq=0,
        )  # fmt: skip

    for person in ("replied", "imported", "earlier", "twice", "twice", "another"):
        book.sent(ago(minutes=30), phone_hash=person, instance="n2" if person == "another" else "n1")
    opted_out("replied", 20)
    opted_out("imported", 20, source="import")
    opted_out("earlier", 40)
    opted_out("twice", 20)
    opted_out("twice", 20, tenant="t2")
    opted_out("another", 20)
    assert book.figures().opt_outs == 2


def test_phones_that_are_not_on_whatsapp(book):
    def dead(id_, at, reason="number_not_on_whatsapp", instance="n1"):
        rows.notification(book.ledger, id_, State.DEAD, at, reason=reason, instance=instance)

    dead("a", ago(minutes=5))
    dead("b", ago(minutes=6))
    dead("c", ago(minutes=5), reason="invalid")
    dead("d", ago(minutes=5), instance="n2")
    assert book.figures().not_on_whatsapp == 2
    assert book.figures(ago(minutes=5, seconds=30)).not_on_whatsapp == 1


def test_the_state_of_the_connection(book):
    rows.add(book.ledger, schema.instances, name="n1", state="close", code=401, at=NOW, ms=1, seq=0)
    found = book.figures()
    assert (found.state, found.code) == ("close", 401)
