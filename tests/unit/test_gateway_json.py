"""What is written to the gateway and read from it, against the standard library's JSON."""

from __future__ import annotations

import json

import pytest

from ifinu.broker.events import Event, Name
from ifinu.gateway import responses
from ifinu.gateway.calls import to_json

TEXTS = ["Olá 😀", 'a "quoted" \\ and /', "\x00\x01\x1f\x7f\u2028\n\t", "half: \ud800", "halves: \udc00\ud83d", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_a_body_is_what_the_standard_library_writes(text: str):
    body = {"number": "5577998616740", "text": text, "linkPreview": False, "where": {"page": 1, "not": None}}
    written = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    assert to_json(body) == written


@pytest.mark.parametrize("text", TEXTS)
def test_an_event_holds_any_text(text: str):
    data = {"error": text, "attempts": 1, "tenant": None, "confirmed": True}
    assert json.loads(Event(Name.DEAD, "inv-1", data).arguments()[2]) == data


@pytest.mark.parametrize(
    "body",
    [
        b'{"key":{"id":"3EB0"},"n":1.5,"x":null}', b'{"a":1,"a":2}', b'"\\ud83d\\ude00"', b'{"a":"\\ud800"}',
        b'"\\udc00"', b"\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16"), b"[" * 300 + b"]" * 300, b"NaN", b"1e999",
        b" \r\n1 ", b"1" * 4000, b"-0",
    ],
)  # fmt: skip
def test_an_answer_is_read_as_by_the_standard_library(body: bytes):
    assert repr(responses.decode(body)) == repr(json.loads(body))


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b'{"a":1} x', b"01", b'"\x01"', b"\xff", b"[1,]", b"-", b'{"a"', b"[" * 100_000, b"1" * 5000],
)
def test_what_is_no_json_is_refused(body: bytes):
    with pytest.raises(ValueError):  # noqa: PT011 - the caller knows no more
        responses.decode(body)
