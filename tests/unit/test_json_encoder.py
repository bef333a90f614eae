from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from ifinu.json_encoder import encoder

DOCUMENTS: list[Any] = [
    {"b": 1, "a": [True, None, 1.5, -0.0, float("inf")], "ç": "é \ud800 \u2028 \x1b \"'\\/", "vazio": {}, "": []},
    {3: "number", None: "null", True: "true", 2.5: "float"},
    "text", 12, 10**30, 1e22, None, [], {}, ("tuple", {"deep": [[[{"er": 1}]]]}),
]  # fmt: skip


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_are_written_as_json_dumps_does(document: Any, ascii_only: bool, separators: tuple[str, str]):
    write = encoder(ascii_only=ascii_only, separators=separators)
    expected = json.dumps(document, ensure_ascii=ascii_only, separators=separators)
    assert write(document) == write(document) == expected


def test_keys_are_sorted():
    document = {"b": 1, "a": {"d": 2, "c": 3}}
    assert encoder(sort_keys=True)(document) == json.dumps(document, sort_keys=True)


def test_the_default_writes_other_values():
    day = date(2026, 11, 30)
    assert encoder(default=date.isoformat)({"day": day}) == '{"day": "2026-11-30"}'
    with pytest.raises(TypeError, match="date is not JSON serializable"):
        encoder()({"day": day})


def test_without_the_c_encoder_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch):
    expected = [encoder(ascii_only=False)(document) for document in DOCUMENTS]
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    assert [encoder(ascii_only=False)(document) for document in DOCUMENTS] == expected
