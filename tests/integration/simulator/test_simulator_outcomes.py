"""The answer of each outcome, and whether WhatsApp got the message."""

import http.client
import json
import socket
import threading
from urllib.parse import urlsplit

import pytest

from ifinu.simulator.fault_script import ENDINGS, OF_META

OK = (201, "PENDING")


def as_seen(call):
    """The outcome of a call as a client sees it: (status, message), or `reset`."""
    try:
        answer = call()
    except (ConnectionResetError, http.client.RemoteDisconnected):
        return "reset"
    if answer.status == 201:
        return answer.status, answer.body["status"]
    if isinstance(answer.body, str):
        return answer.status, "page"
    return answer.status, answer.body["response"]["message"]


def not_on_whatsapp(ending):
    number = f"551198765{ending}"
    return 400, [{"jid": f"{number}@s.whatsapp.net", "exists": False, "number": number}]


CLOSED_500 = (500, "Connection Closed")
# For these answers the table below lists the words that they must contain.
LONG_TEXTS = ("prisma.message.create", "prisma.isOnWhatsapp", "TypeError")


ENDS = [
    ("9999", [OK, OK], 2, 2),
    ("0001", [not_on_whatsapp("0001"), not_on_whatsapp("0001")], 0, 0),
    ("0002", [CLOSED_500, CLOSED_500, OK, OK], 2, 2),
    ("0003", [CLOSED_500, CLOSED_500, CLOSED_500], 0, 0),
    ("0004", ["reset"], 1, 1),
    ("0005", [(400, "prisma.message.create")], 1, 0),
    ("0006", [OK], 1, 1),
    ("0007", [(400, ["Error: Connection Closed"])], 0, 0),
    ("0008", [(400, ["Error: rate-overlimit"])], 0, 0),
    ("0009", [OK], 1, 1),
    ("0010", [OK], 1, 1),
    ("0011", [(400, ["Error: Timed Out"])], 0, 0),
    ("0012", ["reset"], 0, 0),
    ("0013", [(400, "TypeError")], 1, 0),
    ("0014", [not_on_whatsapp("0014"), OK], 1, 1),
    ("0015", [(500, "Timed Out")], 0, 0),
    ("0016", [(500, "prisma.isOnWhatsapp")], 0, 0),
    ("0017", [(400, "TypeError")], 0, 0),
    ("0018", [OK], 1, 1),
    ("0019", [(500, "Timed Out")], 0, 0),
    ("0020", [(502, "page"), OK], 1, 1),
    ("0021", [(504, "page")], 1, 1),
    ("0022", [OK], 1, 1),
    ("0023", [OK], 1, 1),
    ("0024", [OK], 1, 1),
    ("0025", [CLOSED_500], 0, 0),
    ("0026", [(400, ["Error: rate-overlimit"]), OK], 1, 1),
    ("0027", [(500, "rate-overlimit"), OK], 1, 1),
]


def test_each_ending_of_the_simulator_has_its_row():
    assert [ending for ending, *_ in ENDS[1:]] == [
        ending for ending, first in ENDINGS.items() if first[0] not in OF_META
    ]


@pytest.mark.parametrize(("ending", "answers", "really_sent", "stored"), ENDS)
def test_a_number_ending_decides_the_answer_and_the_truth(api, ending, answers, really_sent, stored):
    api.simulator.set_fault(hang_ms=20)
    number = f"551198765{ending}"
    for expected in answers:
        seen = as_seen(lambda: api.send(number))
        if isinstance(expected, tuple) and expected[1] in LONG_TEXTS:
            assert (seen[0], expected[1] in str(seen[1])) == (expected[0], True)
        else:
            assert seen == expected
    assert len(api.simulator.sends) == really_sent
    found = api("POST", "/chat/findMessages/ifinu", {"where": {"key": {"fromMe": True}}}).body["messages"]
    assert found["total"] == stored


def test_the_same_fault_is_500_for_a_new_number_and_400_for_a_known_one(api):
    known, new = "5511987654321", "5511987654322"
    api.send(known)
    api.simulator.set_instance("ifinu", socket="dead")
    assert api("GET", "/instance/connectionState/ifinu").body["instance"]["state"] == "open"
    assert as_seen(lambda: api.send(new)) == CLOSED_500
    assert as_seen(lambda: api.send(known)) == (400, ["Error: Connection Closed"])
    api.simulator.set_instance("ifinu", socket="alive")
    assert as_seen(lambda: api.send(new)) == OK


@pytest.mark.parametrize("state", ["close", "connecting"])
def test_an_instance_that_is_not_open_sends_nothing(api, state):
    api.simulator.set_instance("ifinu", state=state)
    assert as_seen(lambda: api.send("5511987654321")) == CLOSED_500
    assert api.simulator.sends == []


def test_the_wrong_shard_fails_in_the_way_of_each_route(api):
    api.simulator.set_instance("ifinu", held=False)
    assert as_seen(lambda: api.send("5511987654321")) == (
        500,
        "Cannot read properties of undefined (reading 'textMessage')",
    )
    found = api("POST", "/chat/findMessages/ifinu", {"where": {}})
    assert found.body["response"]["message"] == "Cannot read properties of undefined (reading 'fetchMessages')"
    assert api("GET", "/instance/connectionState/ifinu").body == {"instance": {"instanceName": "ifinu"}}
    assert api("GET", "/instance/connect/ifinu").body == {"error": True, "message": "[object Object]"}
    hook = api("GET", "/webhook/find/ifinu")
    assert (hook.status, hook.body) == (200, None)
    new = {"webhook": {"enabled": True, "url": "http://x.test", "events": []}}
    refused = api("POST", "/webhook/set/ifinu", new)
    assert (refused.status, refused.body["response"]["message"]) == (
        500,
        "Cannot read properties of undefined (reading 'instanceId')",
    )
    assert api("GET", "/instance/fetchInstances").body == []
    assert api("DELETE", "/instance/logout/ifinu").body["status"] == "SUCCESS"
    assert api("DELETE", "/instance/delete/ifinu").status == 200
    assert api.send("5511987654321").status == 404


@pytest.mark.parametrize(("number", "status"), [("120363025246125486", "[object Object]"), ("abc", None)])
def test_nothing_is_sent_to_a_number_without_an_account(api, number, status):
    answer = api.send(number)
    assert answer.status == 400
    message = answer.body["response"]["message"][0]
    assert message == (status or {"jid": "@s.whatsapp.net", "exists": False, "number": "abc"})


def test_a_quotation_of_nothing_fails_once_the_number_is_known_to_exist(api):
    reading = (400, ["TypeError: Cannot read properties of undefined (reading 'fromMe')"])
    assert as_seen(lambda: api.send("5511987654321", quoted={})) == reading
    assert as_seen(lambda: api.send("5511987650001", quoted={})) == not_on_whatsapp("0001")
    assert as_seen(lambda: api.send("5511987654321", quoted={"key": {"id": "3EB0"}})) == OK
    assert len(api.simulator.sends) == 1


def test_an_outcome_can_be_forced_on_the_next_send_and_on_an_instance(api):
    api.simulator.set_fault(next=["rate_overlimit"], instances={"ifinu": "send_closed"})
    assert as_seen(lambda: api.send("5511987654321")) == (400, ["Error: rate-overlimit"])
    assert as_seen(lambda: api.send("5511987654321")) == (400, ["Error: Connection Closed"])
    api.simulator.set_fault(instances={})
    assert as_seen(lambda: api.send("5511987654321")) == OK


@pytest.mark.parametrize(
    ("gateway", "seen"),
    [("reset", "reset"), ("unavailable", (503, "page")), ("hang", "reset"), ("up", OK)],
)
def test_the_whole_gateway_can_be_down(api, gateway, seen):
    api.simulator.set_fault(gateway=gateway, hang_ms=20)
    assert as_seen(lambda: api.send("5511987654321")) == seen
    outcome = "ok" if gateway == "up" else f"gateway_{gateway}"
    assert api.simulator.summary()["posts"]["by_outcome"] == {outcome: 1}


def test_a_refusing_gateway_comes_back_on_the_same_port_with_its_ledger(api, eventually):
    api.send("5511987654321")
    api.simulator.set_fault(gateway="refuse")
    with pytest.raises(ConnectionRefusedError):
        api.send("5511987654321")
    api.simulator.set_fault(gateway="up")
    assert api.send("5511987654321").status == 201
    assert len(api.simulator.sends) == 2


def test_a_gateway_that_is_killed_drops_the_requests_under_way(api, eventually):
    api.simulator.set_fault(latency_ms=60_000)
    body = json.dumps({"number": "5511987654321", "text": "x"}).encode()
    parts = urlsplit(api.simulator.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as line:
        head = f"POST /message/sendText/ifinu HTTP/1.1\r\nHost: x\r\napikey: {api.simulator.api_key}\r\n"
        line.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        eventually(lambda: api.simulator.summary()["peak_in_flight"], {"ifinu": 1})
        api.simulator.set_fault(gateway="refuse")
        with pytest.raises(ConnectionResetError):
            line.recv(1)
    summary = api.simulator.summary()
    assert summary["posts"]["by_outcome"] == {"dropped": 1}
    assert summary["sends"]["total"] == 0


def test_a_message_sent_right_before_a_kill_may_have_no_row(api, eventually):
    api.simulator.set_fault(insert_ms=60_000)
    thread = threading.Thread(target=lambda: as_seen(lambda: api.send("5511987654321")))
    thread.start()
    eventually(lambda: len(api.simulator.sends), 1)
    api.simulator.set_fault(gateway="refuse")
    thread.join()
    api.simulator.set_fault(gateway="up")
    found = api("POST", "/chat/findMessages/ifinu", {"where": {}}).body["messages"]
    assert (found["total"], len(api.simulator.sends)) == (0, 1)
    assert api.simulator.summary()["posts"]["by_outcome"] == {"dropped_before_its_row": 1}


def test_instances_boot_without_a_state_then_in_close_and_open_later(start, eventually, at_some_pace):
    def boots(slower):
        api = start(load_ms=300 * slower, boot_ms=300 * slower)
        seen = [as_seen(lambda: api.send("5511987654321"))]

        def state():
            now = api("GET", "/instance/connectionState/ifinu").body["instance"].get("state")
            if now not in seen:
                seen.append(now)
            return now

        eventually(state, "open")
        return seen

    not_loaded = (500, "Cannot read properties of undefined (reading 'textMessage')")
    at_some_pace(boots, [not_loaded, None, "close", "open"])
