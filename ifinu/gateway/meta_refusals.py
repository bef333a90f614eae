"""
Meta's refusals, which the channel BUSINESS answers with 201 in place of a message's key. None of them was sent.

| code | outcome |
|---|---|
| 0, 3, 10, 190, 200–299, 131005 | Misconfigured `meta_unauthorized` |
| 33, 131037, 131045, 133010 | Misconfigured `number_not_registered` |
| 368, 131031, 131042 | Misconfigured `account_restricted` |
| 4, 80007, 130429, 131048 | Throttled `too_many_requests`; 131048 for an hour |
| 131056 | Throttled `pair_limit`: only messages to this person have to wait |
| 2, 131000, 131016, 131057, 133004 | NotSent `meta_unavailable` |
| 131026 | Refused `cannot_receive` |
| 131047 | Refused `needs_template` |
| any other, 131049 among them | Refused `refused_by_meta` |

The HTTP status of Meta's answer is lost on the way. Meta reports many of these codes later, as the receipt FAILED,
whose code is lost, too.

Source: Meta, WhatsApp Cloud API, "Error codes".
"""

from __future__ import annotations

from typing import Any

from ifinu import errors
from ifinu.errors import Misconfigured, NotSent, Reason, Refused, Throttled

_UNAUTHORIZED = (Misconfigured, Reason.META_UNAUTHORIZED)
_NOT_REGISTERED = (Misconfigured, Reason.NUMBER_NOT_REGISTERED)
_RESTRICTED = (Misconfigured, Reason.ACCOUNT_RESTRICTED)
_TOO_MANY = (Throttled, Reason.TOO_MANY_REQUESTS)
_UNAVAILABLE = (NotSent, Reason.META_UNAVAILABLE)
_REFUSED = (Refused, Reason.REFUSED_BY_META)
_BY_CODE: dict[int, tuple[type[errors.SendError], Reason]] = {
    **dict.fromkeys((0, 3, 10, 190, *range(200, 300), 131005), _UNAUTHORIZED),
    **dict.fromkeys((33, 131037, 131045, 133010), _NOT_REGISTERED),
    **dict.fromkeys((368, 131031, 131042), _RESTRICTED),
    **dict.fromkeys((4, 80007, 130429, 131048), _TOO_MANY),
    **dict.fromkeys((2, 131000, 131016, 131057, 133004), _UNAVAILABLE),
    131056: (Throttled, Reason.PAIR_LIMIT),
    131026: (Refused, Reason.CANNOT_RECEIVE),
    131047: (Refused, Reason.NEEDS_TEMPLATE),
}
# Meta names no times. Its throughput is by the second, its quota by the hour, and a pair may have one message in 6 s.
_WAITS_S = {4: 600.0, 80007: 600.0, 130429: 5.0, 131048: 3600.0, 131056: 6.0}


def read(answer: dict[str, Any]) -> tuple[type[errors.SendError], Reason] | None:
    """What a successful answer without a key means; None if it is not an error of Meta's."""
    code = _code(answer)
    if code is None:
        return None
    return _BY_CODE.get(code, _REFUSED)


def wait_s(answer: Any) -> float | None:
    """How long a throttled instance or person should wait; None if the answer does not say so."""
    code = _code(answer) if isinstance(answer, dict) else None
    return None if code is None else _WAITS_S.get(code)


def _code(answer: dict[str, Any]) -> int | None:
    """Meta's code, or -1 without one; None if the answer is not Meta's."""
    if not isinstance(answer.get("message"), str) or not {"type", "error_data", "fbtrace_id"} & answer.keys():
        return None
    code = answer.get("code")
    return code if isinstance(code, int) else -1
