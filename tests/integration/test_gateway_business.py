"""The client against a simulated instance of the channel WHATSAPP-BUSINESS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from ifinu.errors import GatewayError, MaybeSent, Misconfigured, NotSent, Reason, Refused, SendError, Throttled
from ifinu.gateway import Evolution, Management
from ifinu.gateway.message_records import Integration
from ifinu.simulator import Simulator
from ifinu.simulator.fault_script import OF_META

PHONE = "+5577998616740"
OUTCOMES: dict[str, tuple[type[SendError], Reason]] = {
    "meta_190": (Misconfigured, Reason.META_UNAUTHORIZED),
    "meta_368": (Misconfigured, Reason.ACCOUNT_RESTRICTED),
    "meta_130429": (Throttled, Reason.TOO_MANY_REQUESTS),
    "meta_131016": (NotSent, Reason.META_UNAVAILABLE),
    "meta_131026": (Refused, Reason.CANNOT_RECEIVE),
    "meta_131031": (Misconfigured, Reason.ACCOUNT_RESTRICTED),
    "meta_131042": (Misconfigured, Reason.ACCOUNT_RESTRICTED),
    "meta_131047": (Refused, Reason.NEEDS_TEMPLATE),
    "meta_131048": (Throttled, Reason.TOO_MANY_REQUESTS),
    "meta_131049": (Refused, Reason.REFUSED_BY_META),
    "meta_131056": (Throttled, Reason.PAIR_LIMIT),
    "meta_132001": (Refused, Reason.REFUSED_BY_META),
    "meta_down": (MaybeSent, Reason.SEND_FAILED),
}
WAITS_S = {"meta_130429": 5.0, "meta_131048": 3600.0, "meta_131056": 6.0}


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(api_key="key", business=("meta",), seed=1) as simulator:
        simulator.inbound(instance="meta", number=PHONE[1:], text="oi")
        yield simulator


@pytest.fixture
def client(simulator: Simulator) -> Iterator[Evolution]:
    client = Evolution(simulator.url, "key")
    yield client
    client.close()


COMPONENTS = [{"type": "body", "parameters": [{"type": "text", "text": "Maria"}]}]


def test_a_template_is_sent_outside_the_window_and_is_found_by_nothing_but_its_name(
    simulator: Simulator, client: Evolution
):
    simulator.set_fault(window="at_once")
    stranger = "+5577999990000"
    with pytest.raises(Refused):
        client.send_text("meta", stranger, "Fatura 1")
    sent = client.send_template("meta", stranger, "cobranca", "pt_BR", COMPONENTS)
    assert sent.key_id is not None
    (send,) = simulator.sends
    assert send.text == f"template cobranca: {json.dumps(COMPONENTS)}"
    now = datetime.now(UTC)
    day = timedelta(days=1)
    stored = client.find_messages("meta", since=now - day, until=now + day).messages
    assert [message.text for message in stored] == ["▶️cobranca◀️"]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_template_is_refused_as_a_text_is(simulator: Simulator, client: Evolution, outcome: str):
    simulator.set_fault(next=[outcome])
    with pytest.raises(SendError) as raised:
        client.send_template("meta", PHONE, "cobranca", "pt_BR", COMPONENTS, private=("Maria",))
    assert (type(raised.value), raised.value.reason) == OUTCOMES[outcome]
    assert simulator.sends == []


def test_every_refusal_of_the_simulator_is_tried():
    assert set(OUTCOMES) == OF_META


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_refusal_of_meta_is_an_error_though_the_answer_is_201(simulator: Simulator, client: Evolution, outcome: str):
    simulator.set_fault(next=[outcome])
    with pytest.raises(SendError) as raised:
        client.send_text("meta", PHONE, "Fatura 1")
    assert (type(raised.value), raised.value.reason) == OUTCOMES[outcome]
    assert simulator.sends == []
    if outcome in WAITS_S:
        assert isinstance(raised.value, Throttled)
        assert raised.value.retry_after_s == WAITS_S[outcome]
    client.send_text("meta", PHONE, "Fatura 1")
    assert len(simulator.sends) == 1


def test_a_message_that_meta_took_is_sent_and_found(simulator: Simulator, client: Evolution):
    sent = client.send_text("meta", PHONE, "Fatura 1 Ref. K7Q2")
    assert sent.key_id is not None
    assert sent.key_id.startswith("wamid.")
    now = datetime.now(UTC)
    found = client.find_sent(
        "meta", PHONE, lambda text: "K7Q2" in text, since=now - timedelta(minutes=1), until=now + timedelta(minutes=1)
    )
    assert found == sent.key_id


def test_the_window_of_24_hours_refuses_at_once_with_a_hint(simulator: Simulator, client: Evolution):
    simulator.set_fault(window="at_once")
    with pytest.raises(Refused, match="templates only") as raised:
        client.send_text("meta", "+5511987654321", "Fatura 1")
    assert raised.value.reason is Reason.NEEDS_TEMPLATE


def test_a_number_of_meta_is_connected(client: Evolution):
    assert client.connection_state("meta") == "open"
    with pytest.raises(GatewayError):
        client.connection_state("other")


def test_an_instance_of_meta_is_created_and_sends(simulator: Simulator, client: Evolution):
    management = Management(simulator.url, "key")
    created = management.create_instance("wa2", channel=Integration.BUSINESS, number="106540352242923", token="EAAG")
    management.close()
    assert created.token == "EAAG"
    simulator.inbound(instance="wa2", number=PHONE[1:], text="oi")
    assert client.send_text("wa2", PHONE, "Fatura 1").confirmed
    with pytest.raises(GatewayError) as raised:
        client.send_text("wa3", PHONE, "Fatura 1")
    assert isinstance(raised.value, Misconfigured)
