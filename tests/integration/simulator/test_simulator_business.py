"""The channel WHATSAPP-BUSINESS: Meta's refusals, its window of 24 hours, and its receipts."""

import time

import pytest

from ifinu.simulator import Outcome
from ifinu.simulator.fault_script import OF_META

FAST = {"receipts_ms": {"server_ack": 5, "delivery_ack": 10, "read": 15}, "latency_ms": 0}
NUMBER, JID = "5577998616740", "557798616740@s.whatsapp.net"  # the gateway asks nobody, and drops the ninth digit
TEMPLATE = {"name": "cobranca", "language": "pt_BR", "components": [{"type": "body", "parameters": []}]}


@pytest.fixture
def api(start):
    return start(seed=1, business=("meta",), script=FAST)


@pytest.fixture
def hooked(api, sink):
    hook = {"enabled": True, "url": sink.url, "events": []}
    api("POST", "/webhook/set/meta", {"webhook": hook})
    return sink


def text(api, number=NUMBER, text="Fatura 1", **more):
    return api.send(number, text, instance="meta", **more)


def template(api, number=NUMBER, **more):
    return api("POST", "/message/sendTemplate/meta", {"number": number, **TEMPLATE, **more})


def writes(api, number=NUMBER):
    return api.simulator.inbound(instance="meta", number=number, text="oi", quoted="wamid.X")


def message(answer):
    return answer.body["response"]["message"]


def test_an_instance_is_created_with_metas_token_and_its_number(api):
    body = {"instanceName": "wa2", "integration": "WHATSAPP-BUSINESS", "token": "EAAG", "number": "1055"}
    created = api("POST", "/instance/create", body)
    assert created.status == 201
    assert created.body["hash"] == "EAAG"
    assert created.body["instance"]["status"] == "open"
    assert created.body["instance"]["webhookWaBusiness"].endswith("/webhook/meta")
    assert api("GET", "/instance/connectionState/wa2").body["instance"]["state"] == "open"
    assert api("GET", "/instance/connect/wa2").body["instance"]["state"] == "open"
    assert api("POST", "/chat/whatsappNumbers/wa2", {"numbers": [NUMBER]}).body["message"] == [
        "Method not available on WhatsApp Business API"
    ]


def test_a_text_is_taken_while_the_person_wrote_lately(api, hooked, eventually):
    inbound = writes(api)
    sent = text(api)
    assert sent.status == 201
    assert set(sent.body) == {"key", "message", "messageType", "messageTimestamp", "instanceId", "status", "source"}
    assert (sent.body["key"]["remoteJid"], sent.body["status"]) == (JID, "PENDING")
    key_id = sent.body["key"]["id"]
    assert key_id.startswith("wamid.")
    eventually(lambda: (hooked.statuses(), len(hooked.events("messages.upsert"))), (["SENT", "DELIVERED", "READ"], 1))
    receipt = hooked.events("messages.update")[0]["data"]
    assert (receipt["keyId"], receipt["fromMe"], receipt["participant"]) == (key_id, False, JID)
    (written,) = hooked.events("messages.upsert")
    assert written["data"]["key"] == {"id": inbound, "remoteJid": JID, "fromMe": False}
    assert written["data"]["contextInfo"] == {"stanzaId": "wamid.X"}
    assert "sender" not in written
    rows = api("POST", "/chat/findStatusMessage/meta", {"where": {"id": key_id}}).body
    assert [(row["status"], row["fromMe"]) for row in rows] == [("SENT", False), ("DELIVERED", False), ("READ", False)]
    found = api("POST", "/chat/findMessages/meta", {"where": {"key": {"remoteJid": JID, "fromMe": True}}}).body
    (record,) = found["messages"]["records"]
    assert (record["key"]["id"], record["source"], record["contextInfo"]) == (key_id, "unknown", None)


def test_a_quotation_is_part_of_the_message(api):
    writes(api)
    sent = text(api, quoted={"key": {"id": "wamid.Y"}})
    assert sent.body["message"] == {"conversation": "Fatura 1", "contextInfo": {"stanzaId": "wamid.Y"}}
    assert sent.body["messageType"] == "conversation"


def test_outside_the_window_a_text_fails_later_and_a_template_does_not(api, hooked, eventually):
    assert text(api).body["key"]["id"].startswith("wamid.")
    eventually(hooked.statuses, ["FAILED"])
    sent = template(api)
    assert (sent.status, sent.body["message"]) == (201, {"conversation": "▶️cobranca◀️"})
    eventually(hooked.statuses, ["FAILED", "SENT", "DELIVERED", "READ"])
    assert [send.outcome for send in api.simulator.sends] == ["refused_later", "ok"]


def test_the_window_can_refuse_at_once_or_not_at_all(api):
    api.simulator.set_fault(window="at_once")
    refused = text(api)
    assert (refused.status, refused.body["code"], "key" in refused.body) == (201, 131047, False)
    api.simulator.set_fault(window="off")
    assert "key" in text(api).body
    assert len(api.simulator.sends) == 1


def test_the_window_closes(api, at_some_pace):
    def answers(seconds):
        api.simulator.set_fault(window="at_once", speed=86_400 / seconds)  # which a day takes
        writes(api)
        in_time = text(api).body
        time.sleep(seconds + 0.05)
        late = text(api).body["code"]
        writes(api)
        return "key" in in_time, late, "key" in text(api).body

    at_some_pace(answers, (True, 131047, True))


@pytest.mark.parametrize("outcome", sorted(OF_META - {Outcome.META_DOWN}))
def test_a_refusal_of_meta_is_201_without_a_key_and_sends_nothing(api, outcome):
    api.simulator.set_fault(next=[outcome])
    writes(api)
    refused = text(api)
    assert refused.status == 201
    assert {"message", "type", "code", "fbtrace_id"} <= set(refused.body)
    assert refused.body["code"] == int(outcome.removeprefix("meta_"))
    assert "key" not in refused.body
    assert api.simulator.sends == []


@pytest.mark.parametrize(
    ("outcome", "status", "says", "sends"),
    [
        ("meta_down", 400, ["TypeError: Cannot read properties of undefined (reading 'message')"], 0),
        ("connection_closed", 400, ["TypeError: Cannot read properties of undefined (reading 'message')"], 0),
        ("sent_then_type_error", 400, ["TypeError: Cannot read properties of undefined (reading '0')"], 1),
    ],
)
def test_meta_without_an_answer(api, outcome, status, says, sends):
    api.simulator.set_fault(next=[outcome])
    writes(api)
    failed = text(api)
    assert (failed.status, message(failed)) == (status, says)
    assert len(api.simulator.sends) == sends


def test_a_row_that_could_not_be_written_still_has_its_event(api, hooked, eventually):
    api.simulator.set_fault(next=["sent_then_database_error"])
    writes(api)
    failed = text(api)
    assert failed.status == 400
    assert message(failed)[0].startswith("PrismaClientKnownRequestError")
    eventually(lambda: len(hooked.events("send.message")), 1)
    where = {"where": {"key": {"remoteJid": JID, "fromMe": True}}}
    assert api("POST", "/chat/findMessages/meta", where).body["messages"]["total"] == 0
    assert len(api.simulator.sends) == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"text": ""}, ["TypeError: Cannot read properties of undefined (reading 'message')"]),
        ({"text": "x", "quoted": {}}, ["Message not found"]),
    ],
)
def test_the_gateway_refuses_by_itself(api, body, says):
    assert message(text(api, **body)) == says


@pytest.mark.parametrize("words", [" ", "x" * 4097])
def test_meta_refuses_a_text_that_is_blank_or_too_long(api, words):
    writes(api)
    assert text(api, text=words).body["code"] == 100


def test_a_template_is_checked_and_only_this_channel_has_it(api):
    bare = api("POST", "/message/sendTemplate/meta", {"number": NUMBER, "components": {}})
    assert message(bare) == [
        [
            "components is not of a type(s) array",
            'instance requires property "name"',
            'instance requires property "language"',
        ]
    ]
    other = api("POST", "/message/sendTemplate/ifinu", {"number": NUMBER, **TEMPLATE})
    assert (other.status, message(other)) == (500, "Method not available in the Baileys service")


def test_the_same_ending_means_nothing_on_another_channel(api):
    assert "key" in api.send("5511987650036").body
    writes(api, "5511987650036")
    assert text(api, "5511987650036").body["code"] == 131031
