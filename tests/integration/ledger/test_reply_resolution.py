"""Replies that Redis could not attribute to a tenant, resolved by the ledger."""

from datetime import UTC, datetime, timedelta

import ledger_rows as rows
import pytest

from ifinu.broker import URGENT
from ifinu.broker.optouts import ALL, Confirmation, OptOuts
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.broker.replies import MAYBE, STOP, WRONG_PERSON, Replies, Reply
from ifinu.ledger.reply_resolution import ReplyResolver
from ifinu.ledger.states import State

NOW = datetime(2026, 11, 24, 15, 30, tzinfo=UTC)
HASH, MASKED = "a" * 32, "+55 77 9****-6740"
GOODBYE = Confirmation("optout:1", URGENT, b"{}")


@pytest.fixture
def answers(client):
    return Replies(client)


def wrote(ledger, id_, tenant, instance="wa1", *, days=1, state=State.SENT, **values):
    at = NOW - timedelta(days=days)
    sent_at = None if state is State.UNKNOWN else at
    known = {"phone_hash": HASH, "phone": MASKED, "sent_at": sent_at} | values
    rows.notification(ledger, id_, state, at, tenant=tenant, instance=instance, **known)


def open_one(answers, wish=STOP, **fields):
    """Store an unresolved reply as the webhook does: from a known phone, or from a hidden one."""
    answer = Reply(**{"id": "1", "wish": wish, "instance": "wa1", "at": NOW, "hash": HASH, "phone": MASKED} | fields)
    if answer.hash and wish != MAYBE and not answer.tenants:
        answer = Reply(**{name: getattr(answer, name) for name in answer.__slots__} | {"tenants": ("*",)})
    answers.take(answer, stays=True, confirmation=GOODBYE if answer.hash and wish == STOP else None)
    return answer


def opted_out(client):
    return sorted(out.tenant or "" for out in OptOuts(client, Pseudonyms(b"key")).all(ALL) if out.hash == HASH)


@pytest.mark.parametrize(
    ("written", "tenants"),
    [
        ([("u1", "wa1", 300)], ["u1"]),  # longer ago than Redis keeps it
        ([("u1", "wa1", 90), ("u2", "wa1", 70)], ["u2"]),  # the last sender on this instance
        ([("u1", "wa2", 2)], ["u1"]),  # the number of the first of them
        ([("u1", "wa2", 2), ("u3", "wa3", 90)], ["u1", "u3"]),  # the reply does not show which of the two
        ([("u1", "wa2", 2), (None, "wa1", 90)], [""]),  # on this instance, without a tenant
        ([], ["*"]),
    ],
)
def test_a_request_to_stop_applies_to_the_tenants_that_wrote_to_that_phone(ledger, client, answers, written, tenants):
    for number, (tenant, instance, days) in enumerate(written):
        wrote(ledger, f"n{number}", tenant, instance, days=days)
    open_one(answers)
    assert opted_out(client) == ["*"]  # no tenant may write to them meanwhile
    ReplyResolver(client, ledger).settle()
    assert opted_out(client) == tenants
    assert (answers.all(), answers.new(9), client.llen(URGENT)) == ([], [], 1)


def test_a_message_in_doubt_counts_and_an_unsent_one_does_not(ledger, client, answers):
    wrote(ledger, "n1", "u1", state=State.UNKNOWN)
    wrote(ledger, "n2", "u2", state=State.DEAD, days=0, sent_at=None)
    open_one(answers)
    ReplyResolver(client, ledger).settle()
    assert opted_out(client) == ["u1"]


def test_without_a_known_sender_a_stop_applies_to_every_tenant_of_the_instance(ledger, client, answers):
    for number, tenant in enumerate(["u1", "u2", None, "u2"]):
        wrote(ledger, f"n{number}", tenant, phone_hash="b" * 32)
    wrote(ledger, "n9", "u9", "wa2", phone_hash="b" * 32)
    open_one(answers)
    ReplyResolver(client, ledger).settle()
    assert opted_out(client) == ["", "u1", "u2"]


@pytest.mark.parametrize("hash_", [HASH, None])
def test_an_answer_that_quotes_a_message_is_for_its_tenant(ledger, client, answers, hash_):
    """
    Also for a person whose phone the gateway hides: the ledger knows the recipient of that message.
    """
    wrote(ledger, "n1", "u1", days=0, key_id="3EB0AA")
    wrote(ledger, "n2", "u2", days=9, key_id="3EB0BB")
    open_one(answers, quoted="3EB0BB", hash=hash_, phone=hash_ and MASKED)
    ReplyResolver(client, ledger).settle()
    assert (opted_out(client), answers.all()) == (["u2"], [])


def test_quoting_an_earlier_tenant_opts_out_of_that_one_and_the_last(ledger, client, answers):
    wrote(ledger, "n2", "u2", key_id="3EB0BB")
    open_one(answers, quoted="3EB0BB", tenants=("u1",), known=True)
    ReplyResolver(client, ledger).settle()
    assert (opted_out(client), answers.all()) == (["u1", "u2"], [])


@pytest.mark.parametrize("quoted", [None, "3EB0FF"])
def test_a_hidden_phone_unknown_to_the_ledger_is_left_to_a_person(ledger, client, answers, quoted):
    answer = open_one(answers, hash=None, phone=None, quoted=quoted)
    ReplyResolver(client, ledger).settle()
    assert (opted_out(client), answers.all(), answers.new(9)) == ([], [answer], [])


@pytest.mark.parametrize(("written", "tenants"), [(["u1"], ["u1"]), ([], [])])
def test_a_wrong_recipient_stays_open_with_the_tenants_that_wrote_to_them(ledger, client, answers, written, tenants):
    for tenant in written:
        wrote(ledger, "n1", tenant)
    open_one(answers, WRONG_PERSON, text="não sou a Maria")
    ReplyResolver(client, ledger).settle()
    (answer,) = answers.all()
    assert (opted_out(client), list(answer.tenants), answers.new(9)) == (tenants, tenants, [])
    answers.dismiss(answer)
    assert (opted_out(client), answers.all()) == ([], [])


def test_an_ambiguous_reply_changes_nothing_and_expires(ledger, client, answers):
    wrote(ledger, "n1", "u1")
    open_one(answers, MAYBE, text="cancelar")
    ReplyResolver(client, ledger).settle()
    assert (opted_out(client), len(answers.all())) == ([], 1)
    assert (answers.forget_maybes(NOW), answers.forget_maybes(NOW + timedelta(seconds=1))) == (0, 1)


def test_an_existing_opt_out_from_all_tenants_stays(ledger, client, answers):
    OptOuts(client, Pseudonyms(b"key"))
    earlier = open_one(answers)
    answers.settle(earlier, ["*"], source="cli")
    wrote(ledger, "n1", "u1")
    open_one(answers, id="2")
    ReplyResolver(client, ledger).settle()
    assert opted_out(client) == ["*", "u1"]
