"""Every answer that the gateway, or a proxy in front of it, can give to a send: one row each."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifinu import errors
from ifinu.errors import MaybeSent, Misconfigured, NotSent, Reason, Refused, Throttled
from ifinu.gateway import Sent, classify, outcomes, responses

SENT = (
    '{"key":{"remoteJid":"557798616740@s.whatsapp.net","fromMe":true,"id":"3EB0215708B0C9E11F64B0"},'
    '"pushName":"Você","status":"PENDING","message":{"conversation":"Olá"},"messageType":"conversation",'
    '"messageTimestamp":1795477301,"instanceId":"a0c1","source":"web"}'
)
# The EVOLUTION channel: no WhatsApp, no status.
SENT_NOWHERE = '{"key":{"remoteJid":"5577998616740","id":"0b1e6f1c-2f6a-4a3f-9d39-6f2a4c1f5a10"},"source":"unknown"}'
DB_TEXT = (
    "PrismaClientUnknownRequestError: \nInvalid `this.prismaRepository.message.create()` invocation in\n"
    '/evolution/dist/main.js:1:1\n\n{ message: { conversation: "Olá Maria" } }\n'
    "invalid byte sequence for encoding UTF8: 0x00"
)
ENVOY = "upstream connect error or disconnect/reset before headers. reset reason: "
HTML = "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center><hr>nginx</body></html>"


def envelope(status: int, error: str, message: Any) -> str:
    """The shape of almost every error."""
    return json.dumps({"status": status, "error": error, "response": {"message": message}})


def bad_request(message: Any) -> str:
    return envelope(400, "Bad Request", message)


def server_error(message: Any) -> str:
    return envelope(500, "Internal Server Error", message)


def failure(status: int, body: str, **more: Any) -> errors.SendError:
    with pytest.raises(errors.SendError) as raised:
        classify(status, body.encode(), instance="wa1", **more)
    return raised.value


@pytest.mark.parametrize(
    ("status", "body", "sent"),
    [
        (201, SENT, Sent("3EB0215708B0C9E11F64B0", "PENDING", "557798616740@s.whatsapp.net")),
        (200, SENT, Sent("3EB0215708B0C9E11F64B0", "PENDING", "557798616740@s.whatsapp.net")),
        (201, SENT_NOWHERE, Sent("0b1e6f1c-2f6a-4a3f-9d39-6f2a4c1f5a10", None, "5577998616740")),
        (201, '{"key":{"id":"wamid.HBgNNTU3"}}', Sent("wamid.HBgNNTU3")),
        # WhatsApp has it, but its row was not written. Not an error, since errors are retried.
        (400, bad_request([DB_TEXT]), Sent(None, confirmed=False)),
        (400, bad_request(["PrismaClientKnownRequestError: …"]), Sent(None, confirmed=False)),
        (400, bad_request(["DriverAdapterError: InvalidInput"]), Sent(None, confirmed=False)),
    ],
)
def test_answers_that_mean_sent(status: int, body: str, sent: Sent) -> None:
    assert classify(status, body.encode(), instance="wa1") == sent


def of_meta(code: int) -> str:
    return json.dumps({"message": f"(#{code}) Meta's words", "type": "OAuthException", "code": code, "fbtrace_id": "A"})


NOT_SENT: list[tuple[int, str, type[errors.SendError], Reason]] = [
    # 2xx without a message id
    (201, "", MaybeSent, Reason.UNEXPECTED_ANSWER),
    (204, "", MaybeSent, Reason.UNEXPECTED_ANSWER),
    (200, "<html>captive portal</html>", MaybeSent, Reason.UNEXPECTED_ANSWER),
    (201, '{"status":"PENDING"}', MaybeSent, Reason.UNEXPECTED_ANSWER),
    (201, '{"key":null}', MaybeSent, Reason.UNEXPECTED_ANSWER),
    (201, '{"key":{"id":""}}', MaybeSent, Reason.UNEXPECTED_ANSWER),
    (201, '{"key":{"id":7}}', MaybeSent, Reason.UNEXPECTED_ANSWER),
    (201, '["3EB0"]', MaybeSent, Reason.UNEXPECTED_ANSWER),
    (201, SENT[:90], MaybeSent, Reason.UNEXPECTED_ANSWER),
    # Meta's refusals, which the gateway passes on as 201
    *((201, of_meta(code), Misconfigured, Reason.META_UNAUTHORIZED) for code in (0, 3, 10, 190, 200, 299, 131005)),
    *((201, of_meta(code), Misconfigured, Reason.NUMBER_NOT_REGISTERED) for code in (33, 131037, 131045, 133010)),
    *((201, of_meta(code), Misconfigured, Reason.ACCOUNT_RESTRICTED) for code in (368, 131031, 131042)),
    *((201, of_meta(code), Throttled, Reason.TOO_MANY_REQUESTS) for code in (4, 80007, 130429, 131048)),
    (201, of_meta(131056), Throttled, Reason.PAIR_LIMIT),
    *((201, of_meta(code), NotSent, Reason.META_UNAVAILABLE) for code in (2, 131000, 131016, 131057, 133004)),
    (201, of_meta(131026), Refused, Reason.CANNOT_RECEIVE),
    (201, of_meta(131047), Refused, Reason.NEEDS_TEMPLATE),
    *((201, of_meta(code), Refused, Reason.REFUSED_BY_META) for code in (1, 100, 300, 130472, 131049, 132001, 999999)),
    (201, '{"message":"x","type":"OAuthException"}', Refused, Reason.REFUSED_BY_META),
    (201, '{"message":"x","error_data":{"details":"y"},"code":131047}', Refused, Reason.NEEDS_TEMPLATE),
    (201, '{"message":"x","fbtrace_id":"A","code":"131047"}', Refused, Reason.REFUSED_BY_META),
    (201, '{"message":"x","code":131047}', MaybeSent, Reason.UNEXPECTED_ANSWER),  # not Meta's
    (201, '{"type":"OAuthException","code":131047}', MaybeSent, Reason.UNEXPECTED_ANSWER),
    # 3xx
    (301, "", Misconfigured, Reason.REDIRECTED),
    (302, HTML.format("302 Found"), Misconfigured, Reason.REDIRECTED),
    (308, "", Misconfigured, Reason.REDIRECTED),
    # 400, thrown on purpose or by the schema
    (400, bad_request([['instance requires property "number"']]), Refused, Reason.INVALID_REQUEST),
    (
        400,
        bad_request([['instance requires property "number"', 'instance requires property "text"']]),
        Refused,
        Reason.INVALID_REQUEST,
    ),
    (400, bad_request([["Error: Timed Out"]]), Refused, Reason.INVALID_REQUEST),
    (400, bad_request(["Text is required"]), Refused, Reason.INVALID_REQUEST),
    (400, bad_request(["Method not available on Evolution Channel"]), Refused, Reason.INVALID_REQUEST),
    (400, bad_request(["[object Object]"]), Refused, Reason.GROUP_NOT_FOUND),
    (
        400,
        envelope(400, "Internal Server Error", "Unexpected end of JSON input"),
        Refused,
        Reason.INVALID_REQUEST,
    ),
    (
        400,
        bad_request([{"jid": "5511900000000@s.whatsapp.net", "exists": False, "number": "5511900000000"}]),
        Refused,
        Reason.NUMBER_NOT_ON_WHATSAPP,
    ),
    (400, "{}", Refused, Reason.INVALID_REQUEST),
    (400, bad_request([]), Refused, Reason.INVALID_REQUEST),
    (400, HTML.format("400 Bad Request"), Refused, Reason.INVALID_REQUEST),
    # 400, out of the send itself
    (400, bad_request(["Error: Connection Closed"]), NotSent, Reason.CONNECTION_CLOSED),
    (400, bad_request(["Error: rate-overlimit"]), Throttled, Reason.RATE_OVERLIMIT),
    (400, bad_request(["Error: Timed Out"]), MaybeSent, Reason.SEND_TIMEOUT),
    (400, bad_request(["Error: internal-server-error"]), MaybeSent, Reason.SEND_FAILED),
    (
        400,
        bad_request(["TypeError: Cannot read properties of undefined (reading 'message')"]),
        MaybeSent,
        Reason.SEND_FAILED,
    ),
    (400, bad_request(["TypeError: this.isZero is not a function"]), MaybeSent, Reason.SEND_FAILED),
    (400, bad_request(["RangeError: Invalid array length"]), MaybeSent, Reason.SEND_FAILED),
    # key, instance, route
    (401, envelope(401, "Unauthorized", "Unauthorized"), Misconfigured, Reason.UNAUTHORIZED),
    (403, envelope(403, "Forbidden", ["Forbidden"]), Misconfigured, Reason.UNAUTHORIZED),
    (403, HTML.format("403 Forbidden"), Misconfigured, Reason.UNAUTHORIZED),
    (407, "", Misconfigured, Reason.UNAUTHORIZED),
    (
        404,
        envelope(404, "Not Found", ['The "wa1" instance does not exist']),
        Misconfigured,
        Reason.INSTANCE_NOT_FOUND,
    ),
    (
        404,
        envelope(404, "Not Found", ['Instance "wa1" not found']),
        Misconfigured,
        Reason.INSTANCE_NOT_FOUND,
    ),
    (
        404,
        envelope(404, "Not Found", ["Cannot POST /api/message/sendText/wa1"]),
        Misconfigured,
        Reason.ROUTE_NOT_FOUND,
    ),
    (404, "404 page not found\n", Misconfigured, Reason.ROUTE_NOT_FOUND),
    (405, HTML.format("405 Not Allowed"), Misconfigured, Reason.ROUTE_NOT_FOUND),
    # other 4xx, all a proxy's
    (408, "", MaybeSent, Reason.TIMEOUT),
    (413, HTML.format("413 Request Entity Too Large"), Refused, Reason.TOO_LARGE),
    (422, "{}", Refused, Reason.INVALID_REQUEST),
    (429, "", Throttled, Reason.TOO_MANY_REQUESTS),
    # 500: everything that can fail with it runs before the send
    (500, server_error("Connection Closed"), NotSent, Reason.CONNECTION_CLOSED),
    (500, server_error("Timed Out"), NotSent, Reason.LOOKUP_TIMEOUT),
    (
        500,
        server_error("Cannot read properties of undefined (reading 'onWhatsApp')"),
        NotSent,
        Reason.NEVER_CONNECTED,
    ),
    (
        500,
        server_error("Cannot read properties of undefined (reading 'textMessage')"),
        NotSent,
        Reason.WRONG_SHARD,
    ),
    (500, server_error(DB_TEXT), NotSent, Reason.GATEWAY_DATABASE),
    *(
        (500, server_error(text), NotSent, Reason.GATEWAY_DATABASE)
        for text in (
            "Can't reach database server at `postgres:5432`",
            "DriverAdapterError: DatabaseNotReachable",
            "Timed out fetching a new connection from the connection pool",
            "remaining connection slots are reserved for roles with the SUPERUSER attribute",
            "terminating connection due to administrator command",
            "Error: connect ECONNREFUSED 10.0.0.9:5432",
            "ER_CON_COUNT_ERROR: Too many connections",
        )
    ),
    (500, server_error(["PrismaClientInitializationError: …"]), NotSent, Reason.GATEWAY_DATABASE),
    # every place where a rate limit can appear
    *(
        (status, body, Throttled, Reason.RATE_OVERLIMIT)
        for status in (400, 429, 500)
        for body in (
            bad_request("rate-overlimit"),
            bad_request(["rate-overlimit"]),
            server_error("Error: rate-overlimit"),
            '"rate-overlimit"',
            '["Error: rate-overlimit"]',
            "rate-overlimit",
            '{"isBoom":true,"output":{"payload":{"message":"rate-overlimit"}}}',
        )
    ),
    (400, bad_request([['text: "rate-overlimit" is not allowed']]), Refused, Reason.INVALID_REQUEST),
    (500, server_error(["Error: connect ECONNREFUSED 10.0.0.1:443"]), NotSent, Reason.GATEWAY_ERROR),
    (500, "", NotSent, Reason.GATEWAY_ERROR),
    # other 5xx: a proxy's, and 2.4 without its licence
    (
        503,
        '{"error":"service not activated","code":"LICENSE_REQUIRED","message":"activate it"}',
        Misconfigured,
        Reason.LICENSE_REQUIRED,
    ),
    (503, HTML.format("503 Service Temporarily Unavailable"), NotSent, Reason.UNAVAILABLE),
    (503, "no available server\n", NotSent, Reason.UNAVAILABLE),
    (503, "no healthy upstream", NotSent, Reason.UNAVAILABLE),
    (503, ENVOY + "connection failure", NotSent, Reason.UNAVAILABLE),
    (503, ENVOY + "remote connection failure, transport failure reason: …", NotSent, Reason.UNAVAILABLE),
    (503, ENVOY + "overflow", NotSent, Reason.UNAVAILABLE),
    (503, ENVOY + "connection termination", MaybeSent, Reason.GATEWAY_5XX),
    (503, ENVOY.partition(". ")[0], MaybeSent, Reason.GATEWAY_5XX),
    (502, HTML.format("502 Bad Gateway"), MaybeSent, Reason.GATEWAY_5XX),
    (504, HTML.format("504 Gateway Time-out"), MaybeSent, Reason.GATEWAY_5XX),
    (520, "", MaybeSent, Reason.GATEWAY_5XX),
    # statuses that HTTP does not use
    (102, "", MaybeSent, Reason.UNEXPECTED_ANSWER),
    (999, "", MaybeSent, Reason.UNEXPECTED_ANSWER),
]


@pytest.mark.parametrize(("status", "body", "kind", "reason"), NOT_SENT)
def test_answers_that_mean_not_sent_or_unknown(
    status: int, body: str, kind: type[errors.SendError], reason: Reason
) -> None:
    error = failure(status, body)
    assert (type(error), error.reason, error.status, error.instance) == (kind, reason, status, "wa1")


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_but_those_that_no_answer_gives_has_a_row_above(reason: Reason) -> None:
    no_answer = {Reason.UNREACHABLE, Reason.CONNECTION_LOST, Reason.UNKNOWN}
    assert reason in {row[3] for row in NOT_SENT} | no_answer


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["response", "message", "error", "key", "id", "code", "type", "output"]), inner, max_size=4
        )
    ),
)


@given(
    status=st.integers(100, 999) | st.sampled_from([200, 201, 400, 404, 429, 500, 503]),
    body=st.binary() | st.text().map(str.encode) | _json.map(lambda value: json.dumps(value).encode()),
)
def test_any_answer_has_an_outcome(status: int, body: bytes) -> None:
    result: Sent | errors.SendError
    try:
        result = classify(status, body, instance="wa1")
    except errors.SendError as exc:
        result = exc
    assert type(result) in (Sent, NotSent, Throttled, MaybeSent, Refused, Misconfigured)
    assert str(result).isprintable()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"response":{"message":' + b"9" * 5000 + b"}}",
        b"\xff\xfe\x00<html>",
        b'{"response":{"message":["\\ud800"]}}',
        b"x" * 5_000_000,
    ],
    ids=["deep", "long number", "not UTF-8", "half a character", "huge"],
)
@pytest.mark.parametrize(("status", "kind"), [(201, MaybeSent), (400, Refused), (502, MaybeSent)])
def test_a_hostile_body_is_judged_by_its_status(status: int, kind: type[errors.SendError], body: bytes) -> None:
    with pytest.raises(kind) as raised:
        classify(status, body, instance="wa1")
    assert len(str(raised.value)) < 400
    assert str(raised.value).encode()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, envelope(401, "Unauthorized", "Unauthorized"), "Unauthorized"),
        (400, bad_request(["Text is required"]), "Text is required"),
        (400, bad_request([["a is missing", "b is missing"]]), "a is missing; b is missing"),
        (400, '{"status":400,"error":"Bad Request","message":["numbers"]}', "numbers"),
        (428, '{"isBoom":true,"output":{"payload":{"message":"Connection Closed"}}}', "Connection Closed"),
        (503, '{"error":"service not activated","code":"X"}', "service not activated"),
        (502, HTML.format("502 Bad Gateway"), "502 Bad Gateway"),
        (502, "<p>bad</p>\r\n<p>gateway</p>", "bad gateway"),
        (500, server_error("a\nb\x00c"), "a b c"),
        (
            500,
            server_error("nobody at 5577998616740@s.whatsapp.net"),
            "nobody at +55 77 9****-6740@s.whatsapp.net",
        ),
        (500, server_error("x" * 500), "x" * 199 + "…"),
        # Prisma prints the query, and with it the text of the message.
        (
            500,
            server_error(DB_TEXT),
            "PrismaClientUnknownRequestError: Invalid `this.prismaRepository.message.create()` "
            "invocation: invalid byte sequence for encoding UTF8: 0x00",
        ),
        (502, "", ""),
    ],
)
def test_an_error_carries_the_gateways_words_in_one_line(status: int, body: str, words: str) -> None:
    error = failure(status, body)
    assert error.answer == words
    assert str(error).startswith(f"wa1: HTTP {status}" + (f": {words}" if words else ""))


def test_the_number_that_is_not_on_whatsapp_is_not_repeated() -> None:
    body = bad_request([{"jid": "5511900000000@s.whatsapp.net", "exists": False, "number": "5511900000000"}])
    assert str(failure(400, body)) == "wa1: HTTP 400; the number is not on WhatsApp"


@pytest.mark.parametrize("secret", ["s3cr3t-key", 'Olá "Maria",\n\nsua fatura'])
@pytest.mark.parametrize("repeated", ["{}", "as it came: {}!", '"{}"'])
def test_a_secret_that_the_gateway_repeats_is_not_repeated(secret: str, repeated: str) -> None:
    error = failure(500, server_error(repeated.format(secret)), hide=(secret,))
    escaped = failure(500, repeated.format(json.dumps(secret)), hide=(secret,))
    for line in secret.splitlines():
        if line:
            assert line not in f"{error} {error.answer} {escaped} {escaped.answer}"


def test_an_instance_named_after_its_phone_is_masked_in_the_message() -> None:
    with pytest.raises(NotSent) as raised:
        classify(500, b"", instance="5577998616740")
    assert str(raised.value) == "+55 77 9****-6740: HTTP 500"


NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, None),
        ("30", 30.0),
        (" 7 ", 7.0),
        ("0", 1.0),
        ("86400", 3600.0),
        ("9" * 5000, 3600.0),
        ("Sun, 01 Mar 2026 12:02:00 GMT", 120.0),
        ("Sun, 01 Mar 2026 09:02:00 -0300", 120.0),
        ("Sun, 01 Mar 2026 12:02:00 -0000", 120.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 1.0),
        ("Sun, 01 Mar 2099 11:00:00 GMT", 3600.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("²", None),
    ],
)
def test_retry_after_is_read_and_bounded(header: str | None, wait_s: float | None) -> None:
    assert outcomes.retry_after_s(header, now=NOW) == wait_s


@given(header=st.text())
def test_any_retry_after_is_read(header: str) -> None:
    wait_s = outcomes.retry_after_s(header, now=NOW)
    assert wait_s is None or 1 <= wait_s <= 3600


@pytest.mark.parametrize(
    ("status", "body", "asked_s", "wait_s"),
    [
        (429, "", 7.0, 7.0),
        (429, "", None, 60.0),
        (400, bad_request(["Error: rate-overlimit"]), None, 60.0),
    ],
)
def test_a_throttled_send_says_how_long_to_wait(status: int, body: str, asked_s: float | None, wait_s: float) -> None:
    error = failure(status, body, retry_after_s=asked_s)
    assert isinstance(error, Throttled)
    assert error.retry_after_s == wait_s


def test_a_masked_phone_is_masked_before_the_words_are_cut() -> None:
    said = responses.one_line("x" * 190 + " 5577998616740")
    assert "99861" not in said
    assert len(said) == 200


def test_a_sent_message_shows_no_phone() -> None:
    assert "557798616740" not in repr(classify(201, SENT.encode(), instance="wa1"))
