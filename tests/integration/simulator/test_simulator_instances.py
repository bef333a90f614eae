"""The life cycle of an instance, and the messages stored for it."""

import datetime
import threading
import time

import pytest

from ifinu.errors import ConfigurationError
from ifinu.simulator import Simulator


def state_of(api, name):
    return api("GET", f"/instance/connectionState/{name}").body["instance"].get("state")


def create(api, name="new", **more):
    return api("POST", "/instance/create", {"instanceName": name, "integration": "WHATSAPP-BAILEYS", **more})


def test_whatsapp_closes_the_socket_after_the_scan(start):
    api = start(reconnect_ms=600_000)
    create(api)
    api("GET", "/instance/connect/new")
    api.simulator.set_instance("new", phone="scans")
    assert state_of(api, "new") == "close"  # with 515


def test_an_instance_is_created_paired_logged_out_and_deleted(start, eventually):
    api = start(reconnect_ms=20)
    created = create(api, webhook={"url": "http://127.0.0.1:9/x", "events": []})
    assert created.status == 201
    assert set(created.body) == {
        *("instance", "hash", "webhook", "websocket", "rabbitmq", "nats", "sqs", "settings"),
    }
    assert len(created.body["settings"]) == 8
    assert state_of(api, "new") == "close"
    assert api.send("5511987654321", instance="new").body["response"]["message"].endswith("(reading 'onWhatsApp')")

    qr = api("GET", "/instance/connect/new")
    assert qr.body["code"].startswith("2@")
    assert qr.body["base64"].startswith("data:image/png;base64,")
    assert (qr.body["pairingCode"], qr.body["count"]) == (None, 1)
    api.simulator.set_instance("new", phone="scans")
    eventually(lambda: state_of(api, "new"), "open")
    assert api("GET", "/instance/connect/new").body == {"instance": {"instanceName": "new", "state": "open"}}
    assert api.send("5511987654321", instance="new").status == 201

    assert api("DELETE", "/instance/logout/new").body == {
        "status": "SUCCESS",
        "error": False,
        "response": {"message": "Instance logged out"},
    }
    assert state_of(api, "new") == "close"
    assert api("POST", "/instance/restart/new").body == {"error": True, "message": "[object Object]"}
    assert api("DELETE", "/instance/delete/new").body["response"]["message"] == "Instance deleted"
    assert api("GET", "/instance/connectionState/new").status == 404


def test_a_number_gives_a_pairing_code_at_once(api):
    created = create(api, qrcode=True, number="5511987654321")
    assert len(created.body["qrcode"]["pairingCode"]) == 8
    assert created.body["instance"]["status"] == "connecting"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"webhook": {"url": "http://x.test"}}, ["Cannot read properties of undefined (reading 'length')"]),
        ({"webhook": {"events": []}}, ['Invalid "url" property']),
        ({"number": "abc"}, [['number does not match pattern "^\\\\d+[\\\\.@\\\\w-]+"']]),
        ({"number": 5511987654321}, [["number is not of a type(s) string"]]),
        ({"integration": "WHATSAPP-BUSINESS"}, ["token is required"]),
        ({"integration": "WHATSAPP-BUSINESS", "token": "t"}, ["number is required"]),
    ],
)
def test_a_wrong_creation_leaves_no_instance(api, more, message):
    refused = create(api, **more)
    assert (refused.status, refused.body["response"]["message"]) == (400, message)
    assert api("GET", "/instance/connectionState/new").status == 404


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 403, ['This name "undefined" is already in use.']),
        ({"instanceName": 5}, 500, "Argument `name`: Invalid value provided"),
        ({"instanceName": "new"}, 401, "Unauthorized"),
    ],
)
def test_a_name_is_looked_at_before_the_key(api, body, status, message):
    refused = api("POST", "/instance/create", {**body, "integration": "WHATSAPP-BAILEYS"}, key=None)
    said = refused.body["response"]["message"]
    assert (refused.status, said == message or message in said) == (status, True)


@pytest.mark.parametrize(
    ("hook", "shown"),
    [
        ({}, {}),
        (
            {"webhook": {"url": "http://x.test", "headers": {"jwt_key": "k"}, "events": []}},
            {"webhookUrl": "http://x.test", "webhookHeaders": {"jwt_key": "k"}},
        ),
    ],
)
def test_a_creation_shows_its_webhook(api, hook, shown):
    assert create(api, **hook).body["webhook"] == shown


def test_a_restart_brings_a_dead_socket_back(start, eventually):
    api = start(reconnect_ms=20)
    api.simulator.set_instance("ifinu", socket="dead")
    assert api.send("5511987654321").status == 500
    assert api("POST", "/instance/restart/ifinu").body == {"instance": {"instanceName": "ifinu", "state": "open"}}
    eventually(lambda: state_of(api, "ifinu"), "open")
    assert api.send("5511987654321").status == 201


def flaps(api, name):
    """The number of state changes within half a second."""
    until, seen = time.monotonic() + 0.5, []
    while time.monotonic() < until:
        if (now := state_of(api, name)) not in seen[-1:]:
            seen.append(now)
    return len(seen)


@pytest.mark.parametrize("twice", [False, True])
def test_a_second_socket_during_a_pairing_and_the_first_kick_each_other(start, eventually, twice):
    """
    `connect` opens a socket whenever the state is `close`, which it is for a moment after the scan.
    """
    api = start(reconnect_ms=100)
    create(api)

    def connects_twice():
        api("GET", "/instance/connect/new")
        api.simulator.set_instance("new", phone="scans")
        if twice and api("GET", "/instance/connect/new").body.get("count") != 1:
            api("DELETE", "/instance/logout/new")  # it was open again
            return False
        return True

    eventually(connects_twice)
    eventually(lambda: state_of(api, "new"), "open")
    if twice:
        eventually(lambda: flaps(api, "new") > 1)
    else:
        assert flaps(api, "new") == 1
    stored = {row["name"]: row["connectionStatus"] for row in api("GET", "/instance/fetchInstances").body}
    assert stored["new"] == "open"  # the database keeps the old state
    api.simulator.set_fault(gateway="refuse")
    api.simulator.set_fault(gateway="up")  # a restart ends it
    assert (state_of(api, "new"), flaps(api, "new")) == ("open", 1)


def test_a_phone_scans_only_a_code_that_is_shown(api):
    with pytest.raises(ConfigurationError, match="no code is shown"):
        api.simulator.set_instance("ifinu", phone="scans")


def test_a_closed_instance_that_is_paired_needs_no_code(start, eventually):
    api = start(reconnect_ms=20)
    api.simulator.set_instance("ifinu", state="close")
    assert api("GET", "/instance/connect/ifinu").body == {"count": 0}
    eventually(lambda: state_of(api, "ifinu"), "open")


@pytest.mark.parametrize(
    ("version", "state", "socket", "logged_out", "deleted"),
    [
        ("2.3.7", "open", "dead", 500, [400, 400]),
        ("2.3.6", "open", "dead", 200, [200]),
        ("2.3.7", "connecting", "alive", 200, [400, 200]),
        ("2.3.6", "connecting", "alive", 200, [200]),
    ],
)
def test_each_version_logs_out_and_deletes_in_its_way(start, version, state, socket, logged_out, deleted):
    api = start(instances=("a", "b"), version=version)
    for name in ("a", "b"):
        api.simulator.set_instance(name, state=state, socket=socket)
    assert api("GET", "/").body["version"] == version
    assert api("DELETE", "/instance/logout/a").status == logged_out
    assert [api("DELETE", "/instance/delete/b").status for _ in deleted] == deleted


def test_an_unknown_version_is_refused():
    with pytest.raises(ConfigurationError, match=r"2\.4\.0: the simulator plays 2\.3\.6 and 2\.3\.7"):
        Simulator(api_key="k", version="2.4.0")


def test_the_list_of_instances_shows_their_rows(start):
    api = start(instances=("a", "b"))
    api.send("5511987654321", instance="a")
    rows = {row["name"]: row for row in api("GET", "/instance/fetchInstances").body}
    assert set(rows) == {"a", "b"}
    assert rows["a"]["connectionStatus"] == "open"
    assert rows["a"]["token"] == api.simulator.token("a")
    assert [rows[name]["_count"]["Message"] for name in ("a", "b")] == [1, 0]


def test_an_instance_is_found_by_id_or_number_and_an_unknown_one_is_not(api):
    create(api, number="5511987654321")
    rows = {row["name"]: row for row in api("GET", "/instance/fetchInstances").body}
    for query in (f"instanceId={rows['new']['id']}", "number=5511987654321"):
        assert [row["name"] for row in api("GET", f"/instance/fetchInstances?{query}").body] == ["new"]
    for query in ("instanceId=none", "number=none"):
        missing = api("GET", f"/instance/fetchInstances?{query}")
        assert (missing.status, missing.body["response"]["message"]) == (404, ['Instance "none" not found'])


def test_a_row_keeps_its_owner_and_the_reason_of_its_logout(api):
    paired, *_ = api("GET", "/instance/fetchInstances").body
    assert (paired["disconnectionReasonCode"], paired["disconnectionAt"]) == (None, None)
    api("DELETE", "/instance/logout/ifinu")
    row, *_ = api("GET", "/instance/fetchInstances").body
    assert (row["connectionStatus"], row["ownerJid"]) == ("close", "5511900000000@s.whatsapp.net")
    assert (row["disconnectionReasonCode"], row["disconnectionAt"][-1]) == (401, "Z")
    assert '"statusCode":401' in row["disconnectionObject"]
    assert {"id", "createdAt", "updatedAt", "instanceId", "rejectCall"} <= row["Setting"].keys()
    assert row["Setting"]["instanceId"] == row["id"]


def test_the_evolution_channel_stores_and_sends_nothing(api):
    created = create(api, "plumbing", integration="EVOLUTION")
    assert created.body["instance"]["status"] == "open"
    sent = api.send("anything", "", instance="plumbing")
    assert sent.status == 201
    assert sent.body["key"]["remoteJid"] == "anything"
    assert sent.body["source"] == "unknown"
    assert not {"status", "pushName", "contextInfo"} & set(sent.body)
    assert api.simulator.sends == []
    numbers = api("POST", "/chat/whatsappNumbers/plumbing", {"numbers": ["5511987654321"]})
    assert (numbers.status, numbers.body["message"]) == (400, ["Method not available on Evolution Channel"])


def numbers(api, *asked):
    return api("POST", "/chat/whatsappNumbers/ifinu", {"numbers": list(asked)})


def test_numbers_are_looked_up_groups_first(api):
    answer = numbers(api, "5585987654321", "5511987650001", "120363025246125486@g.us")
    assert [row["exists"] for row in answer.body] == [True, True, False]
    assert [row["jid"] for row in answer.body] == [
        "120363025246125486@g.us",
        "558587654321@s.whatsapp.net",
        "5511987650001@s.whatsapp.net",
    ]


def test_a_failed_look_up_has_a_separate_envelope(api):
    assert (numbers(api).status, set(numbers(api).body)) == (400, {"status", "error", "message"})
    missing = api("POST", "/chat/whatsappNumbers/ifinu", {})
    assert (missing.status, missing.body) == (400, {})
    for asked, says in (
        ([5511987654321], '"numbers" must be an array of numeric strings'),
        ("5511987654321", "numbers is not of a type(s) array"),
    ):
        wrong = api("POST", "/chat/whatsappNumbers/ifinu", {"numbers": asked})
        assert (wrong.status, wrong.body["message"]) == (400, [[says]])
    numbers(api, "5511987654321")
    api.simulator.set_instance("ifinu", socket="dead")
    assert numbers(api, "5511987654321").status == 200  # from the cache
    dead = numbers(api, "5511987654322")
    assert (dead.status, dead.body["output"]["payload"]["message"]) == (400, "Connection Closed")


def find(api, **where):
    return api("POST", "/chat/findMessages/ifinu", {"where": where, "offset": 2}).body["messages"]


def test_stored_messages_are_found_newest_first_by_page(api):
    ids = [api.send("5511987654321", f"Fatura {n}").body["key"]["id"] for n in range(3)]
    api.send("5511987654322")
    found = find(api, key={"remoteJid": "5511987654321@s.whatsapp.net", "fromMe": True})
    assert (found["total"], found["pages"], found["currentPage"]) == (3, 2, 1)
    assert [record["key"]["id"] for record in found["records"]] == [ids[2], ids[1]]
    assert found["records"][0]["message"] == {"conversation": "Fatura 2"}
    assert found["records"][0]["contextInfo"]["mentionedJid"] == []
    assert find(api, key={"id": ids[0]})["total"] == 1


@pytest.mark.parametrize("paging", [{"page": "1"}, {"offset": "5"}, {"page": "1", "offset": "5"}])
def test_pages_are_counted_in_whole_numbers(api, paging):
    for route in ("findMessages", "findStatusMessage"):
        refused = api("POST", f"/chat/{route}/ifinu", {"where": {}, **paging})
        assert (refused.status, "Expected Int, provided String" in refused.body["response"]["message"]) == (500, True)


def test_a_time_window_needs_both_ends(api):
    api.send("5511987654321")
    now = datetime.datetime.now(datetime.UTC)
    hour = datetime.timedelta(hours=1)
    past = {"gte": (now - 2 * hour).isoformat(), "lte": (now - hour).isoformat()}
    present = {"gte": (now - hour).isoformat(), "lte": (now + hour).isoformat()}
    assert find(api, messageTimestamp=past)["total"] == 0
    assert find(api, messageTimestamp=present)["total"] == 1
    assert find(api, messageTimestamp={"lte": past["lte"]})["total"] == 1


def test_a_slow_insert_is_sent_and_not_yet_found(api, eventually, pauses):
    api.simulator.set_fault(hang_ms=400)
    thread = threading.Thread(target=api.send, args=("5511987650018",))
    thread.start()
    eventually(lambda: (len(api.simulator.sends), pauses.seconds), (1, [0.4]))
    assert find(api)["total"] == 0
    pauses.go_on()
    thread.join()
    assert find(api)["total"] == 1


def statuses(api, key_id):
    found = api("POST", "/chat/findStatusMessage/ifinu", {"where": {"id": key_id}})
    return [row["status"] for row in found.body]


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("9999", ["SERVER_ACK", "DELIVERY_ACK", "READ"]),
        ("0009", ["ERROR"]),
        ("0010", []),
        ("0022", ["DELIVERY_ACK", "READ", "READ", "SERVER_ACK"]),
    ],
)
def test_receipts_are_kept_without_any_webhook(api, ending, expected):
    api.simulator.set_fault(receipts_ms={"server_ack": 0, "delivery_ack": 0, "read": 0})
    key_id = api.send(f"551198765{ending}").body["key"]["id"]
    assert statuses(api, key_id) == expected
    assert [update["status"] for update in find(api)["records"][0]["MessageUpdate"]] == expected


def test_a_receipt_takes_its_time(api):
    api.simulator.set_fault(receipts_ms={"server_ack": 0, "delivery_ack": 600_000, "read": 900_000})
    assert statuses(api, api.send("5511987654321").body["key"]["id"]) == ["SERVER_ACK"]


def test_recorded_sends_outlive_the_simulator():
    with Simulator(api_key="k") as simulator:
        url = simulator.url
    assert url.startswith("http://127.0.0.1:")
    assert simulator.sends == []
    assert simulator.summary()["posts"]["total"] == 0
