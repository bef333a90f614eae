"""
JSON encoders that are made once.

`json.dumps` and `JSONEncoder.encode` make one for each document, which costs more than the document.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def encoder(
    *,
    ascii_only: bool = True,
    separators: tuple[str, str] = (", ", ": "),
    sort_keys: bool = False,
    default: Callable[[Any], Any] | None = None,
) -> Callable[[Any], str]:
    """
    An encoder that writes as `json.dumps` does with these options; a document that contains itself is not noticed.

    Args:
        ascii_only: As `ensure_ascii`.
    """
    stock = json.JSONEncoder(ensure_ascii=ascii_only, separators=separators, sort_keys=sort_keys, default=default)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without C
        return stock.encode
    quoted = json.encoder.encode_basestring_ascii if ascii_only else json.encoder.encode_basestring
    items, keys = separators
    encode = make(None, stock.default, quoted, None, keys, items, sort_keys, stock.skipkeys, stock.allow_nan)
    return lambda document: "".join(encode(document, 0))
