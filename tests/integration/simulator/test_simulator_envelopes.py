"""The shapes of answers and the order of guards: one case for each row of the gateway's table."""

import re

import pytest

NUMBER = "5511987654321"
SEND = "/message/sendText/ifinu"
GOOD = {"number": NUMBER, "text": "oi"}


def envelope(status, error, message):
    return status, {"status": status, "error": error, "response": {"message": message}}


@pytest.mark.parametrize(
    ("method", "path", "body", "key", "expected"),
    [
        ("POST", SEND, GOOD, None, envelope(401, "Unauthorized", "Unauthorized")),
        ("POST", SEND, GOOD, "wrong", envelope(401, "Unauthorized", "Unauthorized")),
        ("GET", "/instance/fetchInstances", None, "wrong", envelope(401, "Unauthorized", "Unauthorized")),
        (
            "POST",
            "/instance/create",
            {"instanceName": "ifinu", "integration": "WHATSAPP-BAILEYS"},
            "wrong",  # the name is checked before the key
            envelope(403, "Forbidden", ['This name "ifinu" is already in use.']),
        ),
        (
            "POST",
            "/message/sendText/missing",
            GOOD,
            None,  # the instance is checked before the key as well
            envelope(404, "Not Found", ['The "missing" instance does not exist']),
        ),
        (
            "GET",
            "/instance/fetchInstances?instanceName=missing",
            None,
            "global-key",
            envelope(404, "Not Found", ['Instance "missing" not found']),
        ),
        ("POST", "/zz", {}, None, envelope(404, "Not Found", ["Cannot POST /zz"])),
        ("GET", SEND, None, "global-key", envelope(404, "Not Found", [f"Cannot GET {SEND}"])),
        (
            "POST",
            "/instance/create",
            {"instanceName": "x", "integration": "TELEGRAM"},
            "global-key",
            envelope(400, "Bad Request", ["Invalid integration"]),
        ),
        (
            "DELETE",
            "/instance/logout/closed",
            None,
            "global-key",
            envelope(400, "Bad Request", ['The "closed" instance is not connected']),
        ),
    ],
)
def test_a_refusal_equals_upstreams(api, start, method, path, body, key, expected):
    api = start(instances=("ifinu", "closed"))
    api.simulator.set_instance("closed", state="close")
    answer = api(method, path, body, key=key)
    assert (answer.status, answer.body) == expected


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"number":', "Unexpected end of JSON input"),
        (b'{"number":"55', "Unterminated string in JSON at position 13"),
        (b"nope", "Unexpected token 'n', \"nope\" is not valid JSON"),
        (b"3", "Unexpected token '3', \"3\" is not valid JSON"),
        (b" \n", "Unexpected end of JSON input"),
        (b"<html><title>Bad gateway</title>", "Unexpected token '<', \"<html><tit\"... is not valid JSON"),
        (b'{"text":NaN}', 'Unexpected token \'N\', "{"text":NaN}" is not valid JSON'),
        (b'{"a":"NaN","text":falsch}', 'Unexpected token \'c\', ..."text":falsch}" is not valid JSON'),
        (b"{'number'}", "Expected property name or '}' in JSON at position 1"),
        (b'{"a":1,}', "Expected double-quoted property name in JSON at position 7"),
        (b"[1,]", "Unexpected token ']', \"[1,]\" is not valid JSON"),
        (b'{"a":[{}] "b"', "Expected ',' or '}' after property value in JSON at position 10"),
        (b'{"a":[{} 1]', "Expected ',' or ']' after array element in JSON at position 9"),
        (b'{"a" 1}', "Expected ':' after property name in JSON at position 5"),
        (b'{"a":"\n"}', "Bad control character in string literal in JSON at position 6"),
        (b'{"a":"\\q"}', "Bad escaped character in JSON at position 7"),
        (b"{} {}", "Unexpected non-whitespace character after JSON at position 3"),
    ],
)
def test_malformed_json_comes_before_every_guard_in_the_words_of_node(api, raw, says):
    for path in (SEND, "/message/sendText/missing", "/zz"):
        answer = api("POST", path, raw=raw, key=None)
        assert (answer.status, answer.body) == envelope(400, "Internal Server Error", says)


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ({}, ['instance requires property "number"', 'instance requires property "text"']),
        ({"number": NUMBER}, ['instance requires property "text"']),
        ({"number": 5511987654321, "text": "x"}, ["Invalid format"]),
        ({"number": NUMBER, "text": 3}, ["text is not of a type(s) string"]),
        ({**GOOD, "delay": "1s"}, ["Enter a value in milliseconds"]),
        ({**GOOD, "delay": 1.5}, ["Enter a value in milliseconds"]),
        ({**GOOD, "linkPreview": "no"}, ["linkPreview is not of a type(s) boolean"]),
        ({**GOOD, "quoted": {"key": {}}}, ['quoted.key requires property "id"']),
        ({**GOOD, "mentioned": ["x"]}, ['"mentioned" must be an array of numeric strings']),
        ({**GOOD, "mentioned": []}, ["mentioned does not meet minimum length of 1"]),
        ({**GOOD, "mentioned": "55"}, ["mentioned is not of a type(s) array"]),
        (
            {"number": 1, "delay": "x", "textMessage": {"text": "v1"}},
            ["Invalid format", "Enter a value in milliseconds", 'instance requires property "text"'],
        ),
    ],
)
def test_the_schema_reports_everything_at_once_in_a_nested_array(api, body, problems):
    answer = api("POST", SEND, body)
    assert (answer.status, answer.body) == envelope(400, "Bad Request", [problems])
    assert api.simulator.summary()["posts"]["by_outcome"] == {"invalid": 1}


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_blank_text_has_a_separate_envelope(api, text):
    answer = api.send(NUMBER, text)
    assert (answer.status, answer.body) == envelope(400, "Bad Request", ["Text is required"])


def test_a_send_is_answered_201_with_the_whole_body(api):
    answer = api.send(NUMBER, "Olá, Conceição", linkPreview=False, unknown="ignored")
    assert answer.status == 201
    body = answer.body
    assert list(body) == [
        "key",
        "pushName",
        "status",
        "message",
        "contextInfo",
        "messageType",
        "messageTimestamp",
        "instanceId",
        "source",
    ]
    assert re.fullmatch(r"3EB0[0-9A-F]{18}", body["key"].pop("id"))
    assert body["key"] == {"remoteJid": "5511987654321@s.whatsapp.net", "fromMe": True}
    assert (body["pushName"], body["status"], body["source"]) == ("Você", "PENDING", "web")
    assert (body["message"], body["messageType"]) == ({"conversation": "Olá, Conceição"}, "conversation")


def test_the_jid_that_answers_is_the_one_whatsapp_knows(api):
    asked_with_nine = api.send("5585987654321").body["key"]["remoteJid"]
    asked_without = api.send("558587654321").body["key"]["remoteJid"]
    assert asked_with_nine == asked_without == "558587654321@s.whatsapp.net"
    assert [send.number for send in api.simulator.sends] == ["558587654321", "558587654321"]


def test_a_form_is_taken_like_json(api):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = api("POST", SEND, raw=b"number=5511987654321&text=oi+a+todos", headers=headers)
    assert answer.status == 201
    assert answer.body["message"] == {"conversation": "oi a todos"}


def test_a_body_of_unknown_type_counts_as_empty(api):
    answer = api("POST", SEND, raw=b'{"number":"1","text":"x"}', headers={"Content-Type": "text/plain"})
    assert answer.status == 400
    assert answer.body["response"]["message"][0][0] == 'instance requires property "number"'


def test_an_instance_token_opens_its_own_routes_and_no_others(start):
    api = start(instances=("a", "b"))
    token = api.simulator.token("a")
    good = {"number": NUMBER, "text": "oi"}
    assert api("POST", "/message/sendText/a", good, key=token).status == 201
    assert api("POST", "/message/sendText/b", good, key=token).status == 401
    assert api("POST", "/instance/create", {"instanceName": "c"}, key=token).status == 401
    assert [row["name"] for row in api("GET", "/instance/fetchInstances", key=token).body] == ["a"]


def test_the_query_string_replaces_the_instance_after_the_key_check(start):
    """Upstream's hole: with the token of A, a request can send from B."""
    api = start(instances=("a", "b"))
    path = "/message/sendText/a?instanceName=b"
    assert api("POST", path, {"number": NUMBER, "text": "oi"}, key=api.simulator.token("a")).status == 201
    assert [send.instance for send in api.simulator.sends] == ["b"]


def test_the_probes_need_no_key(api):
    welcome = api("GET", "/", key=None)
    assert (welcome.status, welcome.body["message"]) == (200, "Welcome to the Evolution API, it is working!")
    assert welcome.body["manager"] == f"{api.simulator.url}/manager"
    assert welcome.body["version"] == "2.3.7"
    manager = api("GET", "/manager/", key=None)
    assert (manager.status, manager.headers["Content-Type"]) == (200, "text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"mediatype": "document", "media": "https://x.test/boleto.pdf"}, 201, None),
        ({"mediatype": "document", "media": "JVBERi0xLjQ=", "fileName": "boleto.pdf"}, 201, None),
        (
            {"mediatype": "document", "media": "JVBERi0xLjQ="},
            400,
            ["For base64 the file name must be informed."],
        ),
        (
            {"mediatype": "image", "media": "data:image/png;base64,iVBO"},
            400,
            ["Owned media must be a url or base64"],
        ),
        (
            {"mediatype": "fax", "media": "JVBE"},
            400,
            [["mediatype is not one of enum values: image,document,video,audio"]],
        ),
        ({"media": "JVBE"}, 400, [['instance requires property "mediatype"']]),
    ],
)
def test_media_is_validated_and_sent_like_text(api, body, status, message):
    answer = api("POST", "/message/sendMedia/ifinu", {"number": NUMBER, "caption": "Fatura 1", **body})
    assert answer.status == status
    if status == 201:
        assert answer.body["messageType"] == "documentMessage"
        assert answer.body["message"]["documentMessage"]["caption"] == "Fatura 1"
        assert [send.text for send in api.simulator.sends] == ["document boleto.pdf: Fatura 1"]
    else:
        assert answer.body["response"]["message"] == message
        assert api.simulator.sends == []
