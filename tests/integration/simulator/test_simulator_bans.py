"""A number that is driven too fast, or writes to too many strangers, over HTTP."""

import subprocess
import sys
import time

import pytest

from ifinu.simulator import Control

FAST = {"receipts_ms": {"server_ack": 5, "delivery_ack": 10, "read": 15}}
KNOWN, STRANGERS = "5511987654321", [f"55119876600{n:02}" for n in range(50, 80)]


def driven(start, speed=1.0, **rules):
    return start(seed=1, script={**FAST, "bans": {"ifinu": rules}, "speed": speed})


def said(answer):
    return answer.status, answer.body["response"]["message"] if answer.status >= 400 else None


def subscribe(api, sink):
    api("POST", "/webhook/set/ifinu", {"webhook": {"enabled": True, "url": sink.url, "events": []}})


def receipts(api, answer):
    where = {"where": {"id": answer.body["key"]["id"]}}
    return [row["status"] for row in api("POST", "/chat/findStatusMessage/ifinu", where).body]


def test_too_fast_is_rate_overlimit_at_the_look_up_or_at_the_send(start):
    api = driven(start, gap_ms=60_000)
    assert said(api.send(KNOWN)) == (201, None)
    assert said(api.send(KNOWN)) == (400, ["Error: rate-overlimit"])
    assert said(api.send(STRANGERS[0])) == (500, "rate-overlimit")
    assert [send.number for send in api.simulator.sends] == [KNOWN]
    figures = api.simulator.numbers()["ifinu"]
    assert (figures["breaches"]["too_fast"], figures["throttled"], figures["banned"]) == (2, True, False)


def test_a_paced_sender_is_left_alone(start):
    api = driven(start, speed=100, gap_ms=2000, a_minute=30, new_chats=5, ban_after=1)
    for number in [*STRANGERS[:5], *STRANGERS[:5]]:
        assert api.send(number).status == 201
        time.sleep(0.021)
    figures = api.simulator.numbers()["ifinu"]
    assert (figures["sends"], figures["people"], figures["breaches"]) == (10, 5, {"too_fast": 0, "too_many_new": 0})
    assert figures["least_gap_s"] > 0.02
    assert figures["most_in_flight"] == 1
    assert Control(api.simulator.url, api.simulator.api_key).numbers() == api.simulator.numbers()


def test_a_stranger_too_many_gets_the_receipt_error_and_known_people_go_on(start, sink, eventually):
    api = driven(start, new_chats=2)
    subscribe(api, sink)
    first, _, refused = (api.send(number) for number in STRANGERS[:3])
    assert refused.status == 201
    api.simulator.inbound(instance="ifinu", number=STRANGERS[9], text="oi")
    known = [first, api.send(STRANGERS[0]), api.send(STRANGERS[9])]
    every = ["SERVER_ACK", "DELIVERY_ACK", "READ"]
    eventually(lambda: [receipts(api, answer) for answer in (refused, *known)], [["ERROR"], every, every, every])
    eventually(
        lambda: [e["data"]["keyId"] for e in sink.events("messages.update") if e["data"]["status"] == "ERROR"],
        [refused.body["key"]["id"]],
    )
    assert api.simulator.numbers()["ifinu"]["refused"] == 1


@pytest.mark.parametrize(("penalty", "code", "pairs"), [("log_out", 401, True), ("ban", 403, False)])
def test_whatsapp_ends_the_session(start, sink, eventually, penalty, code, pairs):
    api = driven(start, new_chats=1, too_many_new=penalty)
    subscribe(api, sink)
    assert [api.send(number).status for number in STRANGERS[:2]] == [201, 201]
    assert said(api.send(STRANGERS[0])) == (400, ["Error: Connection Closed"])
    assert said(api.send(STRANGERS[5])) == (500, "Connection Closed")
    assert len(api.simulator.sends) == 2
    eventually(
        lambda: (
            [(e["data"]["state"], e["data"]["statusReason"]) for e in sink.events("connection.update")],
            [(e["data"]["status"], e["data"]["disconnectionReasonCode"]) for e in sink.events("status.instance")],
            [e["data"] for e in sink.events("logout.instance")],
        ),
        ([("close", code)], [("closed", code)], [None]),
    )
    (row,) = api("GET", "/instance/fetchInstances?instanceName=ifinu").body
    assert (row["connectionStatus"], row["disconnectionReasonCode"]) == ("close", code)
    assert api.simulator.numbers()["ifinu"]["banned"] is not pairs

    assert api("GET", "/instance/connect/ifinu").body["code"].startswith("2@")
    scan = ("POST", "/_simulator/instances/ifinu", {"phone": "scans"})
    assert api(*scan).status == (200 if pairs else 400)


def test_one_that_goes_on_is_banned_and_may_be_pardoned(start):
    api = driven(start, gap_ms=60_000, ban_after=3)
    api.send(KNOWN)
    assert [said(api.send(KNOWN))[0] for _ in range(3)] == [400, 400, 201]  # the last one is sent, and ends it
    assert said(api.send(KNOWN)) == (400, ["Error: Connection Closed"])
    assert api.simulator.numbers()["ifinu"]["banned"]
    api.simulator.set_instance("ifinu", state="open")
    api.simulator.set_fault(bans={})
    assert said(api.send(KNOWN)) == (201, None)
    assert not api.simulator.numbers()["ifinu"]["banned"]


def test_a_ban_at_the_look_up_sends_nothing(start):
    api = driven(start, gap_ms=60_000, ban_after=2)
    assert [said(api.send(number)) for number in (KNOWN, KNOWN, STRANGERS[0])] == [
        (201, None),
        (400, ["Error: rate-overlimit"]),
        (500, "Connection Closed"),
    ]
    assert len(api.simulator.sends) == 1


@pytest.mark.parametrize("program", [["ifinu.simulator"], ["ifinu", "simulator", "--port", "0"]])
def test_the_rules_are_options_of_the_command(tmp_path, program):
    (tmp_path / "key").write_text("secret")
    rules = ["--gap-ms", "50", "--a-minute", "6", "--new-chats", "7", "--ban-after", "8", "--speed", "9"]
    command = [sys.executable, "-m", *program, "--api-key-file", tmp_path / "key", *rules]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().rpartition(" ")[2].strip()
        script = Control(url, "secret")._ask("GET", "faults")
        process.terminate()
    given = {name: script["bans"]["*"][name] for name in ("gap_ms", "a_minute", "new_chats", "ban_after")}
    assert (given, script["speed"]) == ({"gap_ms": 50, "a_minute": 6, "new_chats": 7, "ban_after": 8}, 9)
