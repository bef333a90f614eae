"""The webhooks that a receiver gets."""

import base64
import datetime
import hashlib
import hmac
import json

import pytest

FAST = {"receipts_ms": {"server_ack": 10, "delivery_ack": 20, "read": 30}}
NUMBER = "5511987654321"


def subscribe(api, sink, **more):
    hook = {"enabled": True, "url": sink.url, "events": [], **more}
    return api("POST", "/webhook/set/ifinu", {"webhook": hook})


@pytest.fixture
def api(start):
    return start(seed=1, script=FAST, webhook_retry_s=0.02)


def test_a_webhook_is_set_and_found(api, sink):
    assert api("GET", "/webhook/find/ifinu").body is None
    row = subscribe(api, sink, byEvents=True, headers={"x-a": "b"})
    assert row.status == 201
    assert set(row.body) == {
        *("id", "url", "headers", "enabled", "events", "webhookByEvents", "webhookBase64"),
        *("createdAt", "updatedAt", "instanceId"),
    }
    found = api("GET", "/webhook/find/ifinu").body
    assert {**found, "updatedAt": ""} == {**row.body, "updatedAt": ""}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"enabled": True, "url": "http://x.test", "events": []}, 400),  # flat
        ({"webhook": {"url": "http://x.test", "events": []}}, 400),
        ({"webhook": {"enabled": True, "events": []}}, 400),
        ({"webhook": {"enabled": True, "url": "http://x.test", "events": ["NOISE"]}}, 400),
        ({"webhook": {"enabled": True, "url": "http://x.test"}}, 500),
    ],
)
def test_a_wrong_webhook_is_refused(api, body, status):
    assert api("POST", "/webhook/set/ifinu", body).status == status
    assert api("GET", "/webhook/find/ifinu").body is None


def test_a_webhook_without_its_url_is_reported_once(api):
    refused = api("POST", "/webhook/set/ifinu", {"webhook": {"enabled": True, "events": []}})
    assert refused.body["response"]["message"] == [['webhook requires property "url"']]


def test_an_empty_list_means_all_events_and_a_disabled_webhook_gets_none(api, sink):
    everything = subscribe(api, sink, events=[]).body["events"]
    assert len(everything) == 31
    assert {"MESSAGES_UPDATE", "SEND_MESSAGE", "CONNECTION_UPDATE", "APPLICATION_STARTUP"} <= set(everything)
    off = api("POST", "/webhook/set/ifinu", {"webhook": {"enabled": False, "url": sink.url}})
    assert (off.status, off.body["events"]) == (201, [])


def test_a_field_missing_in_a_later_webhook_keeps_its_value(api, sink):
    first = subscribe(api, sink, headers={"jwt_key": "s3cret"}, byEvents=True).body
    later = subscribe(api, sink, events=["SEND_MESSAGE"]).body
    assert (later["headers"], later["webhookByEvents"]) == ({"jwt_key": "s3cret"}, True)
    assert (later["events"], later["id"], later["createdAt"]) == (["SEND_MESSAGE"], first["id"], first["createdAt"])
    assert subscribe(api, sink, headers={"x-a": "b"}).body["headers"] == {"x-a": "b"}


def test_a_send_is_announced_and_its_receipts_follow(api, sink, eventually):
    subscribe(api, sink)
    sent = api.send(NUMBER, "Fatura 1").body
    eventually(
        lambda: (sink.statuses(), [event["data"] for event in sink.events("send.message")]),
        (["SERVER_ACK", "DELIVERY_ACK", "READ"], [sent]),
    )
    update = sink.events("messages.update")[0]["data"]
    assert update["keyId"] == sent["key"]["id"] != update["messageId"]
    assert (update["fromMe"], update["remoteJid"]) == (True, "5511987654321@s.whatsapp.net")


def test_the_envelope_has_the_token_and_a_mislabelled_local_time(api, sink, eventually):
    subscribe(api, sink)
    api.send(NUMBER)
    eventually(lambda: len(sink.events("send.message")), 1)
    envelope = sink.events("send.message")[0]
    assert envelope["apikey"] == api.simulator.token("ifinu")
    assert (envelope["instance"], envelope["destination"]) == ("ifinu", sink.url)
    assert (envelope["server_url"], envelope["sender"]) == (api.simulator.url, "5511900000000@s.whatsapp.net")
    claimed = datetime.datetime.fromisoformat(envelope["date_time"])
    behind = datetime.datetime.now(datetime.UTC) - claimed
    assert datetime.timedelta(hours=3) <= behind < datetime.timedelta(hours=3, minutes=1)


def test_events_can_be_chosen_and_can_have_separate_paths(api, sink, eventually):
    subscribe(api, sink, events=["MESSAGES_UPDATE"], byEvents=True)
    api.send(NUMBER)
    eventually(sink.statuses, ["SERVER_ACK", "DELIVERY_ACK", "READ"])
    assert {path for path, _, _ in sink.got} == {"/hook/messages-update"}


def test_a_jwt_key_becomes_a_bearer_token_and_other_headers_go_as_they_are(api, sink, eventually):
    subscribe(api, sink, events=["SEND_MESSAGE"], headers={"jwt_key": "s3cret", "X-Tenant": "7"})
    api.send(NUMBER)
    eventually(lambda: len(sink.got), 1)
    _, headers, _ = sink.got[0]
    assert headers["X-Tenant"] == "7"
    assert "jwt_key" not in headers
    signed, _, signature = headers["Authorization"].removeprefix("Bearer ").rpartition(".")
    expected = hmac.digest(b"s3cret", signed.encode(), hashlib.sha256)
    assert base64.urlsafe_b64decode(signature + "=") == expected
    claims = json.loads(base64.urlsafe_b64decode(signed.partition(".")[2] + "=="))
    assert claims["exp"] - claims["iat"] == 600
    assert (claims["app"], claims["action"]) == ("evolution", "webhook")


@pytest.mark.parametrize(
    ("answers", "deliveries", "counted"),
    [
        ([200], 1, {"delivered": 1}),
        ([500, 429, 200], 3, {"retried": 2, "delivered": 1}),
        ([400], 1, {"refused": 1}),
        ([404], 1, {"refused": 1}),
        ([422], 1, {"refused": 1}),
    ],
)
def test_only_some_failures_are_tried_again(api, sink, eventually, answers, deliveries, counted):
    sink.answers = list(answers)
    subscribe(api, sink, events=["SEND_MESSAGE"])
    api.send(NUMBER)
    eventually(lambda: {k: v for k, v in api.simulator.summary()["webhooks"].items() if v}, counted)
    assert len(sink.got) == deliveries


def test_an_absent_receiver_gets_its_webhook_later(start, sink, eventually):
    api = start(webhook_retry_s=0.02, webhook_url="http://127.0.0.1:9/hook")
    api.send(NUMBER)
    eventually(lambda: api.simulator.summary()["webhooks"]["retried"] > 0)
    assert sink.got == []


@pytest.mark.parametrize("waits", ["event_ms", "receipts_ms"])
def test_webhooks_waiting_in_memory_are_lost_with_the_gateway(api, sink, eventually, waits):
    """
    The events of each instance are posted one after the other; a kill drops those that wait.
    """
    subscribe(api, sink, events=["MESSAGES_UPDATE"])
    far = {"receipts_ms": {"read": 600_000}} if waits == "receipts_ms" else {"webhooks": {"event_ms": 600_000.0}}

    def sent(text):
        return api.send(NUMBER, text).body["key"]["id"]

    def arrived(key_id):
        return {e["data"]["status"] for e in sink.events() if e["data"]["keyId"] == key_id}

    first = sent("Fatura 1")
    eventually(lambda: arrived(first), {"SERVER_ACK", "DELIVERY_ACK", "READ"})
    api.simulator.set_fault(**far)
    waiting = sent("Fatura 2")
    in_time = {"SERVER_ACK", "DELIVERY_ACK"} if waits == "receipts_ms" else set()
    eventually(lambda: arrived(waiting), in_time)
    api.simulator.set_fault(gateway="refuse")
    api.simulator.set_fault(gateway="up", webhooks={"event_ms": 0.0}, receipts_ms={"read": 30})
    last = sent("Fatura 3")
    eventually(lambda: arrived(last), {"SERVER_ACK", "DELIVERY_ACK", "READ"})
    assert arrived(waiting) == in_time


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("0009", ["ERROR"]),
        ("0022", ["DELIVERY_ACK", "READ", "READ", "SERVER_ACK"]),
    ],
)
def test_receipts_follow_the_script(api, sink, eventually, ending, expected):
    subscribe(api, sink)
    api.send(f"551198765{ending}")
    # Two receipts due together are posted on two connections, and may change places.
    eventually(lambda: sorted(sink.statuses()), sorted(expected))


def test_a_send_without_receipts_is_announced_all_the_same(api, sink, eventually):
    subscribe(api, sink)
    api.send("5511987650010")
    later = api.send(NUMBER).body["key"]["id"]
    eventually(lambda: (sink.statuses(), len(sink.events("send.message"))), (["SERVER_ACK", "DELIVERY_ACK", "READ"], 2))
    assert {event["data"]["keyId"] for event in sink.events("messages.update")} == {later}


def test_receipts_may_name_a_lid(api, sink, eventually):
    subscribe(api, sink)
    key_id = api.send("5511987650023").body["key"]["id"]
    eventually(lambda: len(sink.statuses()), 3)
    for event in sink.events("messages.update"):
        assert event["data"]["remoteJid"].endswith("@lid")
        assert event["data"]["keyId"] == key_id


def test_a_person_can_reply_stop_by_script(api, sink, eventually):
    subscribe(api, sink)
    sent = api.send("5511987650024").body
    eventually(lambda: len(sink.events("messages.upsert")), 1)
    data = sink.events("messages.upsert")[0]["data"]
    assert (data["message"], data["key"]["fromMe"]) == ({"conversation": "SAIR"}, False)
    assert data["contextInfo"]["stanzaId"] == sent["key"]["id"]


@pytest.mark.parametrize(
    ("variant", "shows_phone_in"),
    [("plain", "remoteJid"), ("lid", "remoteJidAlt"), ("lid_alone", None)],
)
def test_a_person_writes(api, sink, eventually, variant, shows_phone_in):
    subscribe(api, sink)
    key_id = api.simulator.inbound(instance="ifinu", number=NUMBER, text="SAIR", variant=variant)
    eventually(lambda: len(sink.events("messages.upsert")), 1)
    key = sink.events("messages.upsert")[0]["data"]["key"]
    assert key["id"] == key_id
    assert [name for name, value in key.items() if value == f"{NUMBER}@s.whatsapp.net"] == (
        [shows_phone_in] if shows_phone_in else []
    )
    assert key["remoteJid"].endswith("@s.whatsapp.net" if variant == "plain" else "@lid")


def test_a_change_of_state_is_posted(api, sink, eventually):
    subscribe(api, sink)
    for state in ("connecting", "open", "open"):
        api.simulator.set_instance("ifinu", state=state)
    eventually(lambda: states(sink), ["connecting", "open"])


def states(sink):
    """The states, sorted: two in close succession are posted on two connections, and may change places."""
    return sorted(event["data"]["state"] for event in sink.events("connection.update"))


def test_a_restart_of_an_open_instance_is_posted(start, sink, eventually):
    api = start(reconnect_ms=20)
    subscribe(api, sink)
    assert api("POST", "/instance/restart/ifinu").body == {"instance": {"instanceName": "ifinu", "state": "open"}}
    eventually(lambda: states(sink), ["connecting", "open"])


def test_a_pairing_posts_connecting_twice_and_no_close(start, sink, eventually):
    api = start(reconnect_ms=20)
    subscribe(api, sink)
    api("DELETE", "/instance/logout/ifinu")
    eventually(lambda: states(sink), ["close"])
    assert sink.events("connection.update")[0]["data"]["statusReason"] == 401
    api("GET", "/instance/connect/ifinu")
    api.simulator.set_instance("ifinu", phone="scans")
    eventually(lambda: states(sink), ["close", "connecting", "connecting", "open"])


def test_both_webhooks_fire(start, sink, eventually):
    api = start(webhook_url=sink.url)
    subscribe(api, sink)
    api.send(NUMBER)
    eventually(lambda: len(sink.events("send.message")), 2)


@pytest.mark.parametrize(
    ("fault", "deliveries"), [({"duplicate": 1.0}, 2), ({"drop": 1.0}, 0), ({"shuffle_ms": 50.0}, 1)]
)
def test_deliveries_are_repeated_lost_or_late(api, sink, eventually, fault, deliveries):
    subscribe(api, sink, events=["SEND_MESSAGE"])
    api.simulator.set_fault(webhooks=fault)
    api.send(NUMBER)
    eventually(lambda: len(sink.got), deliveries)
    counts = api.simulator.summary()["webhooks"]
    assert counts["lost_on_purpose"] == (1 if "drop" in fault else 0)


def test_shuffled_deliveries_change_their_order(api, sink, eventually):
    subscribe(api, sink, events=["SEND_MESSAGE"])
    api.simulator.set_fault(webhooks={"shuffle_ms": 200.0})
    sent = [api.send(NUMBER, f"text {n}").body["key"]["id"] for n in range(12)]
    eventually(lambda: len(sink.got), 12)
    got = [event["data"]["key"]["id"] for event in sink.events()]
    assert sorted(got) == sorted(sent)
    assert got != sent
