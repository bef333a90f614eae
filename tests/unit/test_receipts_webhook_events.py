import json
from datetime import UTC, datetime

import pytest

from ifinu.ledger.states import State
from ifinu.receipts.webhook_events import ConnectionUpdate, Inbound, InvalidWebhook, Receipt, SentEcho, read

KEY = "3EB0215708B0C9E11F64B0"
WAMID = "wamid.HBgNNTUxMTk4NzY1NDMyMRUCABEYEjQ2"
LID = "123456789012345@lid"
PHONE = "5511987654321@s.whatsapp.net"


def hook(event, data, **envelope):
    """A webhook's body as the gateway sends it."""
    body = {
        "event": event,
        "instance": "wa1",
        "data": data,
        "destination": "http://ifinu-webhook:8090",
        "date_time": "2026-11-24T09:00:00.000Z",
        "sender": "5511900000000@s.whatsapp.net",
        "server_url": "http://evolution:8080",
        "apikey": "the-token",
    }
    return json.dumps(body | envelope).encode()


def update(**changes):
    """`messages.update` of 2.3.6."""
    return {
        "keyId": KEY,
        "remoteJid": PHONE,
        "fromMe": True,
        "participant": None,
        "status": "SERVER_ACK",
        "instanceId": "6c6bd7b5-4ea1-4bb8-b1a4-f2ec5c3a4a5e",
        "messageId": "cmhxkq3vd0003pk01s9t7fjtw",
    } | changes


def upsert(text="SAIR", *, key=None, **changes):
    """`messages.upsert` of a person."""
    return {
        "key": {"remoteJid": PHONE, "fromMe": False, "id": "AC1B2C3D4E5F60718293"} | (key or {}),
        "pushName": "Maria",
        "status": "DELIVERY_ACK",
        "message": {"conversation": text},
        "messageType": "conversation",
        "messageTimestamp": 1795477301,
        "instanceId": "6c6bd7b5-4ea1-4bb8-b1a4-f2ec5c3a4a5e",
        "source": "ios",
    } | changes


def sent(text="Olá", **changes):
    """`send.message`: the answer to sendText."""
    return {
        "key": {"remoteJid": PHONE, "fromMe": True, "id": KEY},
        "pushName": "Você",
        "status": "PENDING",
        "message": {"conversation": text},
        "contextInfo": {"mentionedJid": [], "groupMentions": []},
        "messageType": "conversation",
        "messageTimestamp": 1795477301,
        "source": "web",
    } | changes


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("ERROR", "failed"),
        ("SERVER_ACK", "server_ack"),
        ("DELIVERY_ACK", "delivered"),
        ("READ", "read"),
        ("PLAYED", "read"),
        ("PENDING", None),
        ("DELETED", None),
        ("SENT", None),  # a status of Meta's on a message of Baileys
        ("server_ack", None),
        (3, None),
        (None, None),
    ],
)
def test_a_receipt_of_baileys(status, state):
    expected = () if state is None else (Receipt("wa1", KEY, State(state)),)
    assert read(hook("messages.update", update(status=status))) == expected


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("SENT", "server_ack"),
        ("DELIVERED", "delivered"),
        ("READ", "read"),
        ("FAILED", "failed"),
        ("DELETED", None),
        ("DELIVERY_ACK", None),
    ],
)
def test_a_receipt_of_meta_is_ours_although_from_me_is_false(status, state):
    expected = () if state is None else (Receipt("wa1", WAMID, State(state)),)
    assert read(hook("messages.update", update(keyId=WAMID, fromMe=False, status=status))) == expected


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"fromMe": False}, 0),  # the receipt that we read a person's message
        ({"fromMe": None}, 0),
        ({"remoteJid": LID}, 1),
        ({"remoteJid": None}, 1),
        ({"keyId": ""}, 0),
        ({"keyId": None}, 0),
        ({"keyId": 12}, 0),
        ({"keyId": "with blank"}, 0),
        ({"keyId": "x" * 201}, 0),
    ],
)
def test_only_an_outgoing_message_with_an_id_has_a_receipt(changes, count):
    assert len(read(hook("messages.update", update(**changes)))) == count


def test_a_receipt_without_from_me_is_ours():
    data = update()
    del data["fromMe"]
    assert read(hook("messages.update", data)) == (Receipt("wa1", KEY, State.SERVER_ACK),)


def test_several_receipts_come_in_one_hook():
    data = [update(status="READ"), "noise", update(keyId="B2", status="ERROR"), update(status="PENDING")]
    assert read(hook("messages.update", data)) == (
        Receipt("wa1", KEY, State.READ),
        Receipt("wa1", "B2", State.FAILED),
    )


@pytest.mark.parametrize(
    ("event", "data", "text"),
    [
        ("send.message", sent("Fatura"), "Fatura"),
        # The EVOLUTION channel: a UUID, and the number as it was requested.
        (
            "send.message",
            {"key": {"id": KEY, "remoteJid": "5511987654321", "fromMe": True}, "message": {"conversation": "Fatura"}},
            "Fatura",
        ),
        ("messages.upsert", upsert("Fatura", key={"fromMe": True, "id": KEY}), "Fatura"),
        ("messages.upsert", upsert("Fatura", key={"fromMe": True, "id": KEY, "remoteJid": LID}), "Fatura"),
        ("send.message", sent(message={"extendedTextMessage": {"text": "Fatura"}}), "Fatura"),
        ("send.message", sent(message={"documentMessage": {}}), None),
        ("send.message", sent(key={"fromMe": True}), None),
        # Meta's refusal, which the gateway passes on as a success.
        ("send.message", {"message": "(#131030) not allowed", "type": "OAuthException", "code": 131030}, None),
    ],
)
def test_an_outgoing_message_is_an_echo(event, data, text):
    phone = None if data.get("key", {}).get("remoteJid") == LID else "+5511987654321"
    by_hand = event == "messages.upsert"  # the gateway reports its own sends as `send.message`
    assert read(hook(event, data)) == (() if text is None else (SentEcho("wa1", KEY, text, phone, by_hand),))


@pytest.mark.parametrize(
    ("key", "phone"),
    [
        ({}, "+5511987654321"),
        ({"remoteJid": "551187654321@s.whatsapp.net"}, "+5511987654321"),  # an account from before the ninth digit
        ({"remoteJid": "5511987654321:12@s.whatsapp.net"}, "+5511987654321"),
        # 2.3.6: the LID, and the phone beside it; 2.3.7 puts the phone in its place.
        ({"remoteJid": LID, "remoteJidAlt": PHONE, "addressingMode": "lid"}, "+5511987654321"),
        ({"remoteJid": PHONE, "remoteJidAlt": LID, "addressingMode": "lid"}, "+5511987654321"),
        ({"remoteJid": PHONE, "remoteJidAlt": PHONE}, "+5511987654321"),
        ({"remoteJid": LID, "addressingMode": "lid"}, None),
        ({"remoteJid": LID, "remoteJidAlt": ""}, None),
        ({"remoteJid": "14155552671@s.whatsapp.net"}, None),
    ],
)
def test_a_person_is_known_by_the_address_that_is_a_phone(key, phone):
    assert read(hook("messages.upsert", upsert(key=key))) == (
        Inbound("wa1", phone, "SAIR", None, datetime(2026, 11, 23, 23, 41, 41, tzinfo=UTC)),
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"conversation": "SAIR"}, "SAIR"),
        ({"extendedTextMessage": {"text": "SAIR"}}, "SAIR"),
        ({"ephemeralMessage": {"message": {"extendedTextMessage": {"text": "SAIR"}}}}, "SAIR"),
        ({"imageMessage": {"caption": "SAIR"}, "base64": "…"}, "SAIR"),
        ({"videoMessage": {"caption": "SAIR", "contextInfo": {}}}, "SAIR"),
        ({"documentMessage": {"caption": "SAIR", "title": "a.pdf"}}, "SAIR"),
        ({"documentWithCaptionMessage": {"message": {"documentMessage": {"caption": "SAIR"}}}}, "SAIR"),
        ({"viewOnceMessage": {"message": {"imageMessage": {"caption": "SAIR"}}}}, "SAIR"),
        ({"viewOnceMessageV2": {"message": {"imageMessage": {"caption": "SAIR"}}}}, "SAIR"),
        ({"ephemeralMessage": {"message": {"viewOnceMessageV2": {"message": {"conversation": "SAIR"}}}}}, "SAIR"),
        ({"someNewWrapper": {"message": {"conversation": "SAIR"}}, "messageContextInfo": {}}, "SAIR"),
        ({"editedMessage": {"message": {"protocolMessage": {"editedMessage": {"conversation": "SAIR"}}}}}, "SAIR"),
        ({"protocolMessage": {"type": 14, "editedMessage": {"extendedTextMessage": {"text": "SAIR"}}}}, "SAIR"),
        ({"buttonsResponseMessage": {"selectedButtonId": "b1", "selectedDisplayText": "SAIR"}}, "SAIR"),
        ({"buttonsResponseMessage": {"selectedButtonId": "SAIR"}}, "SAIR"),
        ({"templateButtonReplyMessage": {"selectedId": "1", "selectedDisplayText": "SAIR"}}, "SAIR"),
        ({"listResponseMessage": {"title": "SAIR", "singleSelectReply": {"selectedRowId": "r"}}}, "SAIR"),
        ({"listResponseMessage": {"singleSelectReply": {"selectedRowId": "SAIR"}}}, "SAIR"),
        ({"interactiveResponseMessage": {"body": {"text": "SAIR"}}}, "SAIR"),
        (
            {"interactiveResponseMessage": {"nativeFlowResponseMessage": {"paramsJson": '{"id": "SAIR"}'}}},
            "SAIR",
        ),
        ({"interactiveResponseMessage": {"nativeFlowResponseMessage": {"paramsJson": '{"id": '}}}, None),
        ({"pollUpdateMessage": {"vote": {"selectedOptions": ["SAIR"]}}}, "SAIR"),
        ({"reactionMessage": {"text": "👎", "key": {"id": "A"}}}, None),
        ({"stickerMessage": {}}, ""),
        ({"audioMessage": {"seconds": 3}}, ""),
        ({"viewOnceMessage": {"message": {"imageMessage": {}}}}, ""),
        ({"protocolMessage": {"type": 3}}, None),
        ({"conversation": ""}, None),
        ({"conversation": 1}, None),
        (None, None),
        ("SAIR", None),
    ],
)
def test_a_text_is_read_where_it_may_stand(content, text):
    said = read(hook("messages.upsert", upsert(message=content)))
    assert [one.text for one in said] == ([] if text is None else [text])


@pytest.mark.parametrize(
    "key",
    [
        {"remoteJid": "120363040000000000@g.us", "participant": PHONE},
        {"remoteJid": "120363040000000000@g.us", "remoteJidAlt": PHONE},
        {"remoteJid": "status@broadcast", "participant": PHONE},
        {"remoteJid": "120363100000000000@newsletter"},
        {"remoteJid": None},
        {"fromMe": None},
        {"fromMe": "false"},
    ],
)
def test_groups_and_channels_are_not_persons(key):
    assert read(hook("messages.upsert", upsert(key=key))) == ()


@pytest.mark.parametrize(
    ("stamp", "year"),
    [
        (1795477301, 2026),
        ("1795477301", 2026),
        ({"low": 1795477301, "high": 0, "unsigned": True}, 2026),
        (1795477301000, None),
        (-1, None),
        ("²", None),
        (1e300, None),
        (None, None),
    ],
)
def test_an_answer_has_the_quoted_message_and_its_time(stamp, year):
    context = {"stanzaId": KEY, "participant": PHONE, "quotedMessage": {"conversation": "Fatura"}}
    (said,) = read(hook("messages.upsert", upsert(messageTimestamp=stamp, contextInfo=context)))
    assert said.quoted == KEY
    assert (said.at and said.at.year) == year


@pytest.mark.parametrize(
    ("event", "data", "state", "code"),
    [
        ("connection.update", {"instance": "wa1", "state": "connecting", "statusReason": 200}, "connecting", 200),
        ("connection.update", {"instance": "wa1", "state": "open", "statusReason": 200, "wuid": PHONE}, "open", 200),
        ("connection.update", {"instance": "wa1", "state": "close", "statusReason": 401}, "close", 401),
        ("connection.update", {"instance": "wa1", "state": "refused", "statusReason": 428}, "refused", 428),
        ("connection.update", {"state": "open", "statusReason": True}, "open", None),
        ("connection.update", {"state": "perplexed"}, None, None),
        ("connection.update", {"state": ["open"]}, None, None),
        (
            "status.instance",
            {"instance": "wa1", "status": "closed", "disconnectionReasonCode": 401, "disconnectionObject": "{}"},
            "close",
            401,
        ),
        ("status.instance", {"instance": "wa1", "status": "removed"}, None, None),
        ("logout.instance", None, "close", None),
    ],
)
def test_the_state_of_an_instance(event, data, state, code):
    assert read(hook(event, data)) == (() if state is None else (ConnectionUpdate("wa1", state, code),))


@pytest.mark.parametrize(
    "event", ["qrcode.updated", "presence.update", "contacts.upsert", "chats.update", "messages.delete", "MESSAGES"]
)
def test_other_events_are_ignored(event):
    assert read(hook(event, update())) == ()


@pytest.mark.parametrize("event", ["messages.update", "send.message", "messages.upsert", "connection.update"])
@pytest.mark.parametrize(
    "data", [None, [], [None], "text", 1, {}, {"key": None}, {"key": {"id": []}}, {"key": {"fromMe": False}}]
)
def test_malformed_data_is_ignored(event, data):
    assert read(hook(event, data)) == ()


@pytest.mark.parametrize("instance", [None, "", 1, "x" * 201, "a\nb", "\ud800"])
def test_an_event_without_an_instance_is_ignored(instance):
    assert read(hook("messages.update", update(), instance=instance)) == ()


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"[]", b"null", b"{}", b'{"event": 1}', b"1" * 5000],
    ids=["empty", "cut_off", "not_utf8", "deep", "list", "null", "no_event", "event_is_a_number", "long_number"],
)
def test_an_entry_that_is_not_an_event_is_refused(raw):
    with pytest.raises(InvalidWebhook) as caught:
        read(raw)
    assert isinstance(caught.value, ValueError)


def test_no_repr_has_a_text_or_a_phone():
    (inbound,) = read(hook("messages.upsert", upsert("quero sair")))
    (echo,) = read(hook("send.message", sent("Fatura da Maria")))
    for secret in ("87654321", "quero", "Maria"):
        assert secret not in repr(inbound) + repr(echo)
