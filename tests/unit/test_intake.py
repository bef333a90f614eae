from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kombu import Connection

from ifinu.broker import NORMAL
from ifinu.broker.intake import ACCEPTED, QUEUE, TAG, TASK, Unreadable, admit, call_of, token_of
from ifinu.settings import load
from ifinu.worker.app import app

PLACE = {"queue": "a:queue", "tag": "a-tag", "max_bytes": 10_000}
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def envelope(**changes: Any) -> dict[str, Any]:
    """A message that is admitted, but for `changes`; `headers__x` changes the header x, None removes."""
    message: dict[str, Any] = {
        "body": "[[], {}, {}]",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "t", "id": "i", "retries": 0},
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
    """What Celery's own publisher makes of a call, as it would stand on the list."""
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
    (envelope(headers__id="\ud800"), "bad_envelope", "headers.id must be a string"),
    (envelope(headers__id=7), "bad_envelope", "headers.id must be a string"),
    (envelope(headers__ifinu_token={}), "bad_envelope", "headers.ifinu_token must be a string"),
    (envelope(headers__retries="0"), "bad_envelope", "headers.retries must be a whole number"),
    (envelope(headers__compression="zlib"), "bad_envelope", "compressed messages are not read"),
    (envelope(content_type="application/x-python-serialize"), "bad_envelope", "application/json in utf-8"),
    (envelope(content_encoding="binary"), "bad_envelope", "application/json in utf-8"),
    (envelope(properties__delivery_info=None), "bad_envelope", "properties.delivery_info must be an object"),
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
def test_what_cannot_be_a_task_is_unreadable_and_says_why(message: Any, reason: str, detail: str):
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


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, "<?>"),
        ({"retries": 3}, "<?>"),
        ({"eta": None, "expires": 60}, "<?>"),
        ({"argsrepr": "<lembrete>", "kwargsrepr": "{}"}, "<lembrete>"),
        ({"argsrepr": "<Maria>", "kwargsrepr": "{'nome': 'Maria'}", "shadow": "to Maria"}, "<?>"),
    ],
)
def test_an_envelope_of_celerys_own_making_is_admitted_as_it_is_but_for_what_it_shows(
    options: dict[str, Any], shown: str
):
    published = published_by_celery(**options)
    admitted = admit(json.dumps(published).encode(), **PLACE)
    published["headers"] |= {"argsrepr": shown, "kwargsrepr": "{}", "shadow": None}
    assert admitted["headers"].pop(TAG) == "a-tag"
    assert admitted["headers"].pop(QUEUE) == "a:queue"
    assert admitted["properties"].pop("delivery_tag") == "a-tag"
    published["properties"].pop("delivery_tag")
    assert admitted == published


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


def test_two_copies_of_one_envelope_get_tags_of_their_own():
    raw = json.dumps(envelope()).encode()
    tags = [admit(raw, queue="q", tag=tag, max_bytes=10_000)["properties"]["delivery_tag"] for tag in ("a", "b")]
    assert tags == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    [
        '{"id":"test_1","tipo_notificacao":"lembrete"}',
        '{ "id" : "a",\n\t"valor": 1.50, "nome":"Jo\\u00e3o" }',
        '{"nome":"João","emoji":"💸","id":"a","id":"b"}',
        '{"valor":100000000000000000000000000.10}',
        "{}",
        '{"headers":{},"properties":{}}',
    ],
)
def test_a_bare_object_is_wrapped_with_the_producers_exact_text(text: str):
    payload = admit(text.encode(), **PLACE)
    assert call_of(payload) == ([text], {})
    assert payload["headers"]["task"] == TASK
    assert payload["headers"]["retries"] == 0
    assert payload["properties"]["delivery_tag"] == "a-tag"
    assert payload["properties"]["delivery_info"]["routing_key"] == "a:queue"
    # A retry publishes it again: it has to pass as an envelope too.
    assert call_of(admit(json.dumps(payload).encode(), **PLACE)) == ([text], {})


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
        ({"id": "\ud800"}, None),  # half a surrogate pair: no text that Redis could take
        ({"id": None}, None),
        ({}, None),
    ],
)
def test_a_wrapped_message_is_the_task_of_its_notification_id_or_of_a_new_one(
    body: dict[str, Any], task_id: str | None
):
    ids = [admit(json.dumps(body).encode(), **PLACE)["headers"]["id"] for _ in range(2)]
    assert ids == [task_id, task_id] if task_id else ids[0] != ids[1] and all(len(each) == 32 for each in ids)


@pytest.mark.parametrize(
    ("given", "shown"), [('"atraso"', "<atraso>"), ('"para Maria, 77998616740"', "<?>"), ('["atraso"]', "<?>")]
)
def test_what_flower_and_the_logs_see_of_a_wrapped_message_is_its_kind_and_nothing_else(given, shown):
    raw = f'{{"tipo_notificacao":{given},"telefone":"77998616740"}}'.encode()
    headers = admit(raw, **PLACE)["headers"]
    assert (headers["argsrepr"], headers["kwargsrepr"]) == (shown, "{}")


@pytest.mark.parametrize(
    ("given", "told"), [('"2026-11-24T10:00:00Z"', "2026-11-24T10:00:00Z"), ("7", None), ('"\\ud800"', None)]
)
def test_when_a_bare_message_was_accepted_is_what_it_says(given, told):
    headers = admit(f'{{"tipo_notificacao":"atraso","criado_em":{given}}}'.encode(), **PLACE)["headers"]
    assert headers.get(ACCEPTED) == told


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
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
ENVELOPES = st.fixed_dictionaries(
    {
        "headers": JSON | st.fixed_dictionaries({"task": st.just("t") | JSON, "id": st.just("i") | JSON}),
        "properties": JSON
        | st.fixed_dictionaries(
            {"delivery_info": st.just({}) | JSON},
            optional={"body_encoding": st.sampled_from(["utf-8", "base64", None]) | JSON},
        ),
        "body": st.sampled_from(["[[],{},{}]", "W1tdLHt9LHt9XQ=="]) | JSON,
    },
    optional={
        "content-type": st.just("application/json") | JSON,
        "content-encoding": st.just("utf-8") | JSON,
    },
)


@given(st.binary() | st.text().map(str.encode) | (JSON | ENVELOPES).map(lambda body: json.dumps(body).encode()))
@example(b'{"id": "\\ud800", "tipo_notificacao": "\\udfff"}')
@example(b'\xef\xbb\xbf{"id": 1}')
@example(b"\x00")
@example(b"NaN")
@example(json.dumps(envelope(properties__body_encoding={})).encode())
@example(json.dumps(envelope(body="é", properties__body_encoding="base64")).encode())
def test_any_bytes_give_a_message_or_unreadable_and_never_anything_else(raw: bytes):
    try:
        payload = admit(raw, **PLACE)
    except Unreadable:
        return
    assert payload["properties"]["delivery_tag"] == "a-tag"
    assert isinstance(payload["headers"]["task"], str)
    call_of(payload)


@pytest.mark.parametrize("described", ["<atraso>", "77998616740", ["<atraso>"], {"a": 1}, 7])
def test_what_an_envelope_says_of_its_arguments_is_shown_only_where_it_is_a_kind(described):
    """
    Of whatever type: it stops nobody.
    """
    headers = admit(json.dumps(envelope(headers__argsrepr=described)).encode(), **PLACE)["headers"]
    assert headers["argsrepr"] == ("<atraso>" if described == "<atraso>" else "<?>")
