"""The webhook reader raises only its documented errors, with any body."""

import contextlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from ifinu.receipts.stop_words import wish_of
from ifinu.receipts.webhook_events import InvalidWebhook, read

# Names that the reader looks for, so that drawn events pass its first checks.
NAMES = st.sampled_from(
    ["key", "keyId", "id", "remoteJid", "remoteJidAlt", "fromMe", "status", "message", "conversation", "text",
     "caption", "extendedTextMessage", "imageMessage", "ephemeralMessage", "editedMessage", "protocolMessage",
     "contextInfo", "stanzaId", "messageTimestamp", "low", "state", "statusReason", "buttonsResponseMessage",
     "selectedDisplayText",
     "listResponseMessage", "title", "singleSelectReply", "interactiveResponseMessage", "nativeFlowResponseMessage",
     "paramsJson", "body", "pollUpdateMessage", "vote", "selectedOptions", "disconnectionReasonCode"]
)  # fmt: skip
WORDS = st.sampled_from(
    [
        "",
        "SAIR",
        "READ",
        "open",
        "closed",
        "3EB0AA",
        "5511987654321@s.whatsapp.net",
        "1@lid",
        "\ud800",
        "\x00",
        "²",
        "[[",
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, 1e308, float("nan"), float("inf")])
    | WORDS
    | st.text(max_size=40)
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6), max_leaves=25
)
EVENTS = st.sampled_from(
    ["messages.update", "send.message", "messages.upsert", "messages.edited", "connection.update", "status.instance",
     "logout.instance", "else"]
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(event=EVENTS, instance=WORDS | st.just("wa1"), sender=VALUES, date_time=VALUES, data=VALUES)
def test_no_event_makes_the_reader_fail(event, instance, sender, date_time, data):
    body = {"event": event, "instance": instance, "sender": sender, "date_time": date_time, "data": data}
    for said in read(json.dumps(body).encode()):
        wish_of(getattr(said, "text", ""))


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_make_the_reader_fail(raw):
    with contextlib.suppress(InvalidWebhook):
        read(raw)


TYPED = st.sampled_from(["não", "me", "mande", "mais", ",", ".", "sair", "para", "de", "+", "ñ", "SAIR"])


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=320) | st.lists(TYPED).map(" ".join))
def test_no_text_makes_the_grammar_fail(text):
    wish_of(text)
