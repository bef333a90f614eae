from datetime import UTC, datetime

import pytest

from ifinu.broker import DeadLetter
from ifinu.cli.sentences import ClaimView, clock, sentence, state_of
from ifinu.ledger.queries import Known
from ifinu.ledger.states import State

AT = datetime(2026, 11, 24, 12, 0, 5, tzinfo=UTC)
TO_COME = datetime(2096, 11, 24, 12, 0, 5, tzinfo=UTC)
LETTER = DeadLetter("q", "connection_closed", "", 4, AT, AT, "n1", "lembrete", b"{}", b"{}")


def known(state, **values):
    empty = dict.fromkeys(Known.__dataclass_fields__)
    return Known(**(empty | {"id": "n1", "attempts": 1, "first_at": AT, "last_at": AT, "state": state} | values))


@pytest.mark.parametrize(
    ("of_ledger", "of_claim", "letter", "state"),
    [
        ("retrying", None, None, "retrying"),
        ("retrying", "waiting", None, "retrying"),
        ("unknown", "waiting", None, "waiting"),
        (None, "waiting", None, "waiting"),
        ("retrying", "sending", None, "sending"),
        ("retrying", "sent", None, "sent"),
        ("delivered", "sent", None, "delivered"),
        ("failed", "sent", None, "failed"),
        ("sent", "sent", None, "sent"),
        ("queued", None, LETTER, "queued"),
        (None, None, LETTER, "dead"),
        (None, "unknown", LETTER, "unknown"),
        (None, "", None, "cancelled"),
        ("deferred", "", None, "cancelled"),
    ],
)
def test_the_shown_state_combines_ledger_claim_and_dead_letter(of_ledger, of_claim, letter, state):
    ledger = of_ledger and known(State(of_ledger))
    claim = None if of_claim is None else ClaimView(of_claim, cancelled=not of_claim)
    assert state_of(ledger, claim, letter) == state


@pytest.mark.parametrize(
    ("state", "values", "letter", "text"),
    [
        ("queued", {}, None, "It is on its queue and will be sent in its turn."),
        ("sending", None, None,
         "A worker is sending it. If that worker dies, another one asks the gateway whether it was sent."),
        ("waiting", None, None, "It is waiting for its next try."),
        ("retrying", {"reason": "gateway_error", "due_at": TO_COME}, None,
         "A try failed (gateway_error). The next one is due at 24/11/2096 09:00:05."),
        ("deferred", {"reason": "window", "due_at": TO_COME}, None,
         "It is waiting (window) and will be sent no earlier than 24/11/2096 09:00:05. This does not count as a try."),
        ("unknown", {"reason": "timeout", "due_at": TO_COME}, None,
         "It may have been sent: no answer came (timeout). Its look-up at the gateway is due at 24/11/2096 09:00:05."),
        ("unknown", {"reason": "purged"}, None,
         "It may have been sent. Its message was deleted from its queue, so it is not looked up. Check the phone, then "
         "run `ifinu unknown resolve n1`."),
        ("purged", {"reason": "purged"}, None,
         "It was not sent: its message was deleted from its queue. Its id is free again; a message pushed with it "
         "since then is sent in its turn."),
        ("retrying", {"reason": "gateway_error", "due_at": AT}, None,
         "A try failed (gateway_error). The next one has been due since 24/11/2026 09:00:05."),
        ("deferred", {"reason": "window", "due_at": AT}, None,
         "It is waiting (window) and has been due since 24/11/2026 09:00:05. This does not count as a try."),
        ("unknown", {"reason": "timeout", "due_at": AT}, None,
         "It may have been sent: no answer came (timeout). Its look-up at the gateway has been due since "
         "24/11/2026 09:00:05."),
        ("unknown", None, None, "It may have been sent: no answer came. Its look-up at the gateway is scheduled."),
        ("unknown", {}, LETTER,
         "It may have been sent, and a look-up did not settle it. Check the phone, then run "
         "`ifinu unknown resolve n1`."),
        ("expired", {"reason": "valid until yesterday"}, None,
         "It was not sent and will not be: it came too late (valid until yesterday)."),
        ("suppressed", {}, None,
         "It was not sent and will not be: the person opted out (`ifinu optout list`)."),
        ("cancelled", {}, None, "It was not sent and will not be: it was cancelled."),
        ("dead", {}, LETTER,
         "It was not sent (connection_closed) and is in the dead letters. `ifinu dlq show n1` shows why; "
         "`ifinu dlq replay --id n1` sends it again."),
        ("dead", {"reason": "invalid"}, None,
         "It was not sent and will not be (invalid). Its dead letter was deleted."),
        ("sent", None, None, "The gateway accepted it. No receipt has come yet."),
        ("sent", {"sent_at": AT}, None, "The gateway accepted it at 24/11/2026 09:00:05. No receipt has come yet."),
        ("sent", {"sent_at": AT, "unconfirmed_at": AT}, None,
         "The gateway accepted it at 24/11/2026 09:00:05. No receipt has come in time: the phone may be off, or "
         "`ifinu webhook` may not be registered. A gateway that restarts also loses the receipts it has not posted."),
        ("failed", {"failed_at": AT}, None,
         "The gateway accepted it, but WhatsApp could not deliver it at 24/11/2026 09:00:05."),
        ("server_ack", {"server_ack_at": AT}, None,
         "WhatsApp accepted it at 24/11/2026 09:00:05; it has not reached the phone yet."),
        ("delivered", {"delivered_at": AT}, None,
         "It reached the phone at 24/11/2026 09:00:05; no read receipt has come."),
        ("read", {"read_at": AT}, None, "It was read at 24/11/2026 09:00:05."),
    ],
)  # fmt: skip
def test_each_state_has_a_sentence_with_the_next_step(state, values, letter, text):
    ledger = None if values is None else known(State(state), **values)
    assert sentence("n1", state, ledger, None, letter) == text


def test_no_two_states_share_a_sentence():
    texts = {sentence("n1", state, known(state), None, None) for state in State}
    assert len(texts) == len(State)
    assert not any("Its state is" in text for text in texts)


def test_a_reason_of_an_older_state_in_the_ledger_is_not_shown_for_the_present_one():
    older = known(State.RETRYING, reason="gateway_error", due_at=AT)
    assert sentence("n1", "unknown", older, ClaimView("unknown"), None) == (
        "It may have been sent: no answer came. Its look-up at the gateway is scheduled."
    )


def test_times_are_those_of_sao_paulo():
    assert clock(AT) == "24/11/2026 09:00:05"
    assert clock(None) == "–"
