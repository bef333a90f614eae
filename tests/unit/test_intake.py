from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kombu import Connection

from ifinu import wire
from ifinu.broker import NORMAL
from ifinu.broker.headers import ACCEPTED, FIRST_TRY, QUEUE, TAG, TOKEN, TRACEPARENT, TROUBLE
from ifinu.broker.intake import (
    TASK,
    Admitted,
    Unreadable,
    _loads,
    admit,
    call_of,
    successor,
    token_of,
)
from ifinu.errors import InvalidNotification
from ifinu.settings import load
from ifinu.worker.app import app

PLACE = {"queue": "a:queue", "tag": "a-tag", "max_bytes": 10_000}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def envelope(**changes: Any) -> dict[str, Any]:
    """A valid message with `changes`: `headers__x` sets the header x, None removes it."""
    message: dict[str, Any] = {
        "body": "[[], {}, {}]",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": TASK, "id": "i", "retries": 0},
        "properties": {"delivery_info": {}, "body_encoding": "utf-8", "delivery_tag": "the publisher's"},
    }
    for name, value in changes.items():
        place, _, inner = name.partition("__")
        target, key = (message[place], inner) if inner else (message, name.replace("_", "-"))
        if value is None:
            target.pop(key)
        else:
            target[key] = value
    return message


def published_by_celery(**options: Any) -> dict[str, Any]:
    """A call as Celery's publisher would put it on the list."""
    app.use(load())
    with Connection("memory://") as connection:
        with app.amqp.Producer(connection) as producer:
            app.send_task(TASK, args=[{"id": "id-1"}], task_id="id-1", producer=producer, **options)
        return json.loads(json.dumps(connection.default_channel._get(NORMAL)))


REFUSED = [
    (b"x" * 10_001, "too_large", "10001 bytes; the limit is 10000"),
    (b'{"a":"\xe9"}', "not_utf8", "byte 6 is not UTF-8"),
    (b"", "not_json", "Expecting value: line 1 column 1 (char 0)"),
    (b"{not json", "not_json", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    (b"[" * 5_000 + b"]" * 5_000, "not_json", "nested too deeply"),
    (b'{"a": ' + b"9" * 5_000 + b"}", "not_json", "Exceeds the limit"),
    (b"[]", "not_an_object", "a JSON list, not an object"),
    (b"null", "not_an_object", "a JSON NoneType, not an object"),
    (b'"text"', "not_an_object", "a JSON str, not an object"),
    (envelope(headers=[]), "bad_envelope", "headers and properties must be objects"),
    (envelope(properties="p"), "bad_envelope", "headers and properties must be objects"),
    (envelope(headers__task=None), "bad_envelope", "headers.task must be a string"),
    (envelope(headers__id="\ud800"), "bad_envelope", "headers.id must be a string of 1 to 200 characters"),
    (envelope(headers__id=7), "bad_envelope", "headers.id must be a string of 1 to 200 characters"),
    (envelope(headers__id=""), "bad_envelope", "headers.id must be a string of 1 to 200 characters"),
    (envelope(headers__id="x" * 201), "bad_envelope", "headers.id must be a string of 1 to 200 characters"),
    (envelope(headers__task="no.such.task"), "unknown_task", "no task is named no.such.task"),
    (envelope(headers__task="celery.group"), "unknown_task", "no task is named celery.group"),
    (envelope(headers__task="celery.chord_unlock", headers__retries=-1), "unknown_task", "celery.chord_unlock"),
    (envelope(headers__task="to Maria\x1b[2J"), "unknown_task", "no task is named what its header says"),
    (envelope(headers__task="sms_77998616740"), "unknown_task", "6740"),
    (envelope(headers__ifinu_token={}), "bad_envelope", "headers.ifinu_token must be a string"),
    (envelope(headers__ifinu_token="x" * 201), "bad_envelope", "headers.ifinu_token must be a string"),
    *(
        (envelope(headers__retries=value), "bad_envelope", "headers.retries must be a whole number from 0 to 100")
        for value in ("0", -1, -1_000_000, 101, 10**400, True, 1.0, [0])
    ),
    *(
        (envelope(**{f"headers__{name}": value}), "bad_envelope", f"headers.{name} must be an ISO 8601 time")
        for name in ("eta", "expires")
        for value in ("soon", "", "\ud800", 60, 10**400, True, [], {}, "0001-01-01T00:00:00+23:59", "2026-13-01")
    ),
    (envelope(headers__ignore_result="yes"), "bad_envelope", "headers.ignore_result must be true or false"),
    (envelope(headers__compression="zlib"), "bad_envelope", "compressed messages are not read"),
    (envelope(content_type="application/x-python-serialize"), "bad_envelope", "application/json in utf-8"),
    (envelope(content_encoding="binary"), "bad_envelope", "application/json in utf-8"),
    (envelope(properties__body_encoding="hex"), "bad_envelope", "neither base64 nor utf-8"),
    (envelope(properties__body_encoding="base64", body="%%%"), "bad_envelope", "not base64 of UTF-8"),
    (envelope(properties__body_encoding="base64", body="/w=="), "bad_envelope", "not base64 of UTF-8"),
    (envelope(body=[]), "bad_envelope", "the body is not a string"),
    (envelope(body="{"), "bad_envelope", "Expecting property name"),
    (envelope(body="[" * 3_000 + "]" * 3_000), "bad_envelope", "nested too deeply"),
    (envelope(body="[[], {}]"), "bad_envelope", "the body is not [args, kwargs, embed]"),
    (envelope(body="[{}, {}, {}]"), "bad_envelope", "the body is not [args, kwargs, embed]"),
    (envelope(body="[[], [], {}]"), "bad_envelope", "the body is not [args, kwargs, embed]"),
    (envelope(body='[[], {}, {"chain": [{"task": "t"}]}]'), "bad_envelope", "other tasks to be run after it"),
    (envelope(body='[[], {}, {"callbacks": [1]}]'), "bad_envelope", "other tasks to be run after it"),
    (envelope(body='[[], {}, {"id": "another"}]'), "bad_envelope", "other tasks to be run after it"),
    (envelope(headers__chord={"task": "t"}), "bad_envelope", "other tasks to be run after it"),
    (envelope(body="[[], {}, null]"), "bad_envelope", "the body is not [args, kwargs, embed]"),
]


@pytest.mark.parametrize(("message", "reason", "detail"), REFUSED)
def test_a_message_that_cannot_be_a_task_is_unreadable_with_a_reason(message: Any, reason: str, detail: str):
    raw = message if isinstance(message, bytes) else json.dumps(message).encode()
    with pytest.raises(Unreadable) as caught:
        admit(raw, **PLACE)
    assert caught.value.reason == reason
    assert detail in str(caught.value)


def test_the_detail_of_a_refusal_quotes_nothing_of_the_message():
    with pytest.raises(Unreadable) as caught:
        admit(b'{"telefone": "77998616740", "nome": Maria}', **PLACE)
    assert "77998616740" not in str(caught.value)
    assert "Maria" not in str(caught.value)


def plain(**headers: Any) -> Admitted:
    """What is admitted of an envelope that calls the task with `{"id": "id-1"}` and has these `headers`."""
    return Admitted(
        {
            "lang": "py", "task": TASK, "id": "id-1", "root_id": "id-1", "parent_id": None, "group": None,
            "shadow": None, "eta": None, "expires": None, "retries": 0, "timelimit": [None, None],
            "argsrepr": "<?>", "kwargsrepr": "{}", TAG: "a-tag", QUEUE: "a:queue", **headers,
        },
        [{"id": "id-1"}],
        {},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ({}, {}),
        ({"retries": 3}, {"retries": 3}),
        ({"expires": datetime(2026, 12, 1, 9, tzinfo=UTC)}, {"expires": "2026-12-01T09:00:00+00:00"}),
        ({"argsrepr": "<lembrete>", "kwargsrepr": "{}"}, {"argsrepr": "<lembrete>"}),
        ({"argsrepr": "<Maria>", "kwargsrepr": "{'nome': 'Maria'}", "shadow": "to Maria"}, {}),
        ({"time_limit": 1, "soft_time_limit": 0.5, "priority": 9, "group_id": "g", "root_id": "r"}, {}),
        ({"stamped_headers": ["tenant"], "tenant": "u1", "replaced_task_nesting": 3}, {}),
    ],
)
def test_an_envelope_from_celery_calls_the_task_and_controls_nothing_else(
    options: dict[str, Any], headers: dict[str, Any]
):
    admitted = admit(json.dumps(published_by_celery(**options)).encode(), **PLACE)
    admitted.headers.pop("ignore_result", None)
    assert admitted._replace(reply_to=None) == plain(**headers)  # it differs for each producer; see below


STEERING = {
    "stamped_headers": [5, ["tag"]],
    "stamps": [{"delivery_info": {"routing_key": "nowhere"}}, 7],
    "timelimit": [[10**400, None], [0, 0], "1", [1]],
    "group": ["g", {}], "group_index": [-1], "groups": [7], "shadow": ["x", 7], "origin": [[], "x"],
    "replaced_task_nesting": [10**400], "delivery_info": [{"routing_key": "nowhere"}], "root_id": [7],
    "parent_id": [{}],
    "correlation_id": ["x"], "reply_to": ["q"], "priority": [9], "hostname": ["h"], "redelivered": [True],
    "lang": ["pickle"], "kwargsrepr": ["Maria"], "argsrepr": [{}, "Maria"], "ifinu_tag": ["t"], "ifinu_queue": ["q"],
    "ifinu_suspect": ["d"], "ifinu_postpones": [{"queue": "q"}], "ifinu_id": ["another"], "x": ["y"],
    "ifinu_first_at": ["yesterday", 7, "2026-11-01T10:00:00"], "ifinu_accepted_at": ["now", {}],
    "traceparent": ["x", 7],
    "ifinu_trouble": [7, list(range(11))],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in STEERING.items() for value in values])
def test_an_unexpected_header_has_no_effect(name: str, value: object):
    given = published_by_celery()
    given["headers"].pop("ignore_result", None)
    given["headers"][name] = value
    given["properties"].pop("reply_to")
    assert admit(json.dumps(given).encode(), **PLACE) == plain()


@pytest.mark.parametrize(
    ("properties", "reply_to"),
    [
        ({"delivery_info": {"exchange": "x", "routing_key": "nowhere", "priority": 9}, "priority": {}}, None),
        ({"delivery_info": 7, "correlation_id": 10**400, "delivery_mode": None, "delivery_tag": "another"}, None),
        ({"reply_to": NORMAL}, None),
        ({"reply_to": 7}, None),
        ({"reply_to": "7b0fd0a8-8e3a-3d3b-9d0f-0c1b6c1f2a3d"}, "7b0fd0a8-8e3a-3d3b-9d0f-0c1b6c1f2a3d"),
    ],
)
def test_an_envelope_cannot_choose_where_its_retry_and_result_go(properties: dict[str, Any], reply_to: str | None):
    given = published_by_celery()
    given["headers"].pop("ignore_result", None)
    given["properties"] = {"body_encoding": "base64", **properties}
    assert admit(json.dumps(given).encode(), **PLACE) == plain()._replace(reply_to=reply_to)


# A retry as version 0.1.0 published it, before headers were checked one by one. It can wait during a rolling update.
OLD_RETRY = {
    "lang": "py", "task": TASK, "id": "id-1", "shadow": None, "eta": None, "expires": None, "group": None,
    "group_index": None, "retries": 2, "timelimit": [None, None], "root_id": "id-1", "parent_id": None,
    "argsrepr": "<atraso>", "kwargsrepr": "{}", "origin": "gen1@host", "ignore_result": True,
    "replaced_task_nesting": 0,
    "stamped_headers": None, "stamps": {}, "ifinu_accepted_at": "2026-11-24T10:00:00+00:00", "traceparent": TRACE,
    "ifinu_first_at": "2026-11-24T10:00:05+00:00", "ifinu_token": "0123abcd.001", "ifinu_trouble": ["unreachable", 1],
}  # fmt: skip


def test_a_retry_keeps_its_tries_its_token_and_its_first_attempt_time():
    given = published_by_celery()
    given["headers"] = OLD_RETRY
    headers = admit(json.dumps(given).encode(), **PLACE).headers
    kept = ("retries", "ignore_result", "argsrepr", ACCEPTED, FIRST_TRY, TOKEN, TROUBLE, TRACEPARENT)
    assert {name: headers[name] for name in kept} == {name: OLD_RETRY[name] for name in kept}


@pytest.mark.parametrize(
    ("given", "eta"),
    [
        ("2026-12-01T09:00:00-03:00", "2026-12-01T12:00:00+00:00"),
        ("2026-12-01T09:00:00", "2026-12-01T09:00:00+00:00"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59+00:00"),
    ],
)
def test_the_time_of_an_envelope_is_converted_to_utc(given: str, eta: str):
    assert admit(json.dumps(envelope(headers__eta=given)).encode(), **PLACE).headers["eta"] == eta


@pytest.mark.parametrize(
    ("message", "token"),
    [
        (envelope(headers__ifinu_token="t1"), "t1"),
        (envelope(), ""),
        (envelope(headers__ifinu_token=[1]), ""),
        ({"id": "ifinu_token"}, ""),
        ({"headers": ["ifinu_token"]}, ""),
        (["ifinu_token"], ""),
        ({"headers": {"ifinu_token": "\ud800"}}, ""),  # as above
    ],
)
def test_the_token_of_a_retry_is_read_without_trusting_the_message(message: Any, token: str):
    assert token_of(json.dumps(message).encode()) == token
    assert token_of(b"\xff ifinu_token") == ""


def test_two_copies_of_one_envelope_get_different_delivery_tags():
    raw = json.dumps(envelope()).encode()
    tags = [admit(raw, queue="q", tag=tag, max_bytes=10_000).headers[TAG] for tag in ("a", "b")]
    assert tags == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    [
        '{"id":"test_1","tipo_notificacao":"lembrete"}',
        '{ "id" : "a",\n\t"valor": 1.50, "nome":"Jo\\u00e3o" }',
        '{"nome":"João","emoji":"💸","id":"a"}',
        '{"valor":100000000000000000000000000.10}',
        "{}",
        '{"headers":{},"properties":{}}',
        '{"id":"a","id":"b"}',
        '{"valor":NaN}',
        '{"valor":1e999}',
    ],
)
def test_a_bare_object_is_the_argument_of_a_call_and_its_exact_text_that_of_the_retry(text: str):
    admitted = admit(text.encode(), **PLACE)
    try:
        assert admitted.args == [wire.parse(text)]
    except InvalidNotification:  # the task parses it again, and the error names the fault
        assert admitted.args == [text]
    assert admitted.headers["task"] == TASK
    assert admitted.headers["retries"] == 0
    assert admitted.headers[TAG] == "a-tag"
    assert admitted.headers[QUEUE] == "a:queue"
    retry = successor(text.encode(), admitted.headers, reply_to=None, retries=1)
    assert admit(retry.encode(), **PLACE).args == [text]


@pytest.mark.parametrize(
    ("body", "task_id"),
    [
        ({"id": "inv-42:lembrete"}, "inv-42:lembrete"),
        ({"id": "x" * 200}, "x" * 200),
        ({"id": "x" * 201}, None),
        ({"id": ""}, None),
        ({"id": 7}, "7"),
        ({"id": " a "}, "a"),
        ({"id": " "}, None),
        ({"id": True}, None),
        ({"id": 1.5}, None),
        ({"id": "\ud800"}, None),  # half a surrogate pair, which Redis cannot store
        ({"id": None}, None),
        ({}, None),
    ],
)
def test_a_wrapped_message_is_the_task_of_its_notification_id_or_of_a_new_one(
    body: dict[str, Any], task_id: str | None
):
    ids = [admit(json.dumps(body).encode(), **PLACE).headers["id"] for _ in range(2)]
    assert ids == [task_id, task_id] if task_id else ids[0] != ids[1] and all(len(each) == 32 for each in ids)


@pytest.mark.parametrize(
    ("given", "shown"), [('"atraso"', "<atraso>"), ('"para Maria, 77998616740"', "<?>"), ('["atraso"]', "<?>")]
)
def test_flower_and_the_logs_see_only_the_kind_of_a_wrapped_message(given, shown):
    raw = f'{{"tipo_notificacao":{given},"telefone":"77998616740"}}'.encode()
    headers = admit(raw, **PLACE).headers
    assert (headers["argsrepr"], headers["kwargsrepr"]) == (shown, "{}")


@pytest.mark.parametrize(
    ("given", "accepted_at"), [('"2026-11-24T10:00:00Z"', "2026-11-24T10:00:00Z"), ("7", None), ('"\\ud800"', None)]
)
def test_a_bare_message_may_say_when_it_was_accepted(given, accepted_at):
    headers = admit(f'{{"tipo_notificacao":"atraso","criado_em":{given}}}'.encode(), **PLACE).headers
    assert headers.get(ACCEPTED) == accepted_at


@pytest.mark.parametrize(
    ("changes", "call"),
    [
        ({"body": '[["a"], {"b": 1}, {}]'}, (["a"], {"b": 1})),
        ({"body": '[["é"], {}, {}]', "properties__body_encoding": None}, (["é"], {})),
        (
            {"body": base64.b64encode(b'[[], {"n": "\xc3\xa9"}, {}]').decode(), "properties__body_encoding": "base64"},
            ([], {"n": "é"}),
        ),
    ],
)
def test_the_call_of_a_message_is_read_from_every_encoding(
    changes: dict[str, Any], call: tuple[list[Any], dict[str, Any]]
):
    assert call_of(envelope(**changes)) == call


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
HEADERS = ("eta", "expires", "retries", "ignore_result", "argsrepr", "task", "id", *OLD_RETRY, *STEERING)
PROPERTIES = (
    "correlation_id",
    "reply_to",
    "delivery_mode",
    "delivery_info",
    "priority",
    "body_encoding",
    "delivery_tag",
)
ODD = JSON | st.sampled_from(
    [
        TASK,
        "i",
        "utf-8",
        "base64",
        "2026-12-01T09:00:00",
        "9999-12-31T23:59:59-23:59",
        10**400,
        -1,
        True,
        [None, None],
        "\ud800",
    ]
)
ENVELOPES = st.fixed_dictionaries(
    {
        "headers": JSON
        | st.builds(
            lambda odd, more: {"task": TASK, "id": "i", **odd, **more},
            st.dictionaries(st.sampled_from(HEADERS), ODD, max_size=4),
            st.dictionaries(st.text(max_size=9), JSON, max_size=2),
        ),
        "properties": JSON | st.dictionaries(st.sampled_from(PROPERTIES), ODD, max_size=4),
        "body": st.sampled_from(["[[],{},{}]", "W1tdLHt9LHt9XQ=="]) | JSON,
    },
    optional={
        "content-type": st.just("application/json") | JSON,
        "content-encoding": st.just("utf-8") | JSON,
    },
)


TOKENS = {TOKEN: "a-token", FIRST_TRY: "2026-11-01T10:00:00+00:00"}


@pytest.mark.parametrize(
    ("raw", "call"),
    [
        ('{"id": "ação", "tipo_notificacao": "lembrete" }', (['{"id": "ação", "tipo_notificacao": "lembrete" }'], {})),
        (
            json.dumps(envelope(body='[[{"id": "i"}], {"a": 1}, {}]', headers__expires="2026-12-01")),
            ([{"id": "i"}], {"a": 1}),
        ),
    ],
)
def test_the_successor_of_a_message_makes_the_same_call_as_often_as_it_is_retried(raw: str, call: Any):
    admitted = admit(raw.encode(), **PLACE)
    for retries in (1, 2):
        text = successor(raw.encode(), admitted.headers, reply_to=None, retries=retries, **TOKENS)
        again = admit(text.encode(), **PLACE)
        same = ("id", "expires", "argsrepr", "ignore_result")
        assert (again.args, again.kwargs) == call
        assert again.headers["retries"] == retries
        assert {name: again.headers[name] for name in TOKENS} == TOKENS
        assert [again.headers.get(name) for name in same] == [admitted.headers.get(name) for name in same]
        raw = text


def test_successors_are_due_in_the_order_in_which_they_were_written():
    raw = b'{"id": "z"}', b'{"id": "a"}'
    texts = [successor(each, admit(each, **PLACE).headers, reply_to=None, retries=1) for each in raw]
    assert sorted(texts) == texts


def is_sane(admitted: Admitted) -> bool:
    """Whether every value but the call was set by ifinu."""
    headers = admitted.headers
    return (
        headers["task"] == TASK
        and 0 < len(headers["id"]) <= 200
        and type(headers["retries"]) is int
        and 0 <= headers["retries"] <= 100
        and all(headers[name] is None or datetime.fromisoformat(headers[name]).tzinfo for name in ("eta", "expires"))
        and headers.get("ignore_result") in (None, True, False)
        and [headers[name] for name in ("group", "shadow", "parent_id", "timelimit")] == [None, None, None, [None] * 2]
        and headers.keys() <= {*plain().headers, *OLD_RETRY} - {"stamps", "stamped_headers"}
        and isinstance(admitted.args, list)
        and isinstance(admitted.kwargs, dict)
        and (admitted.reply_to is None or str(uuid.UUID(admitted.reply_to)) == admitted.reply_to)
    )


@settings(max_examples=400)
@given(
    (JSON | st.floats() | st.floats().map(str) | st.integers()).map(json.dumps)
    | st.from_regex(r"-?[0-9]{1,25}(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
    | st.lists(st.sampled_from(['"', "\\\\", "u", "d800", "dc00", "00e9", "/", "é", "\n", "[", "]", "1", ","])).map(
        "".join
    )
)
@example('{"a": 1, "a": 2}')
@example('"\\ud800"')
@example('"\\ud83d\\ude00"')
@example("[" * 400 + "]" * 400)
@example("9" * 4_400)
@example("[1e999, -1e999, NaN, -Infinity, 1e-999, -0, -0.0, 01]")
@example("\ufeff1")
def test_json_is_read_as_the_standard_library_reads_it(text: str):
    assert read_or_error(_loads, text) == read_or_error(json.loads, text)


def read_or_error(read: Callable[[str], Any], text: str) -> str:
    try:
        return repr(read(text))
    except ValueError as exc:
        return str(exc)


def test_an_envelope_may_be_a_value_in_a_message_of_another_form():
    raw = json.dumps({"id": "a", "tipo_notificacao": "lembrete", "x": json.dumps(envelope()), "properties": 1}).encode()
    assert admit(raw, **PLACE).headers["origin"] == "wire"
    with pytest.raises(InvalidNotification, match="duplicate"):
        wire.decode(wire.parse(admit(raw.replace(b'"x":', b'"id":'), **PLACE).args[0]))


@given(st.binary() | st.text().map(str.encode) | (JSON | ENVELOPES).map(lambda body: json.dumps(body).encode()))
@example(b'{"id": "\\ud800", "tipo_notificacao": "\\udfff"}')
@example(b'\xef\xbb\xbf{"id": 1}')
@example(b"\x00")
@example(b"NaN")
@example(json.dumps(envelope(properties__body_encoding={})).encode())
@example(json.dumps(envelope(body="é", properties__body_encoding="base64")).encode())
@example(json.dumps(envelope(body="[[1e999, NaN], {}, {}]")).encode())
def test_any_bytes_give_a_valid_message_or_unreadable(raw: bytes):
    try:
        admitted = admit(raw, **PLACE)
    except Unreadable:
        return
    assert is_sane(admitted)


@pytest.mark.parametrize("described", ["<atraso>", "77998616740", ["<atraso>"], {"a": 1}, 7])
def test_an_envelopes_description_of_its_arguments_is_shown_only_if_it_is_a_kind(described):
    """
    A description of any type is accepted.
    """
    headers = admit(json.dumps(envelope(headers__argsrepr=described)).encode(), **PLACE).headers
    assert headers["argsrepr"] == ("<atraso>" if described == "<atraso>" else "<?>")
