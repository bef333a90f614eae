"""Guards of the code, broken on purpose: the simulation has to notice each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from ifinu.broker.keys import script
from ifinu.delivery import Delivery


def _in_lua(name: str, guard: str, instead: str = "") -> Callable[[], None]:
    def apply() -> None:
        found = script(name)
        assert found.source.count(guard) == 1, f"{name}.lua: the guard has changed"
        found.source = found.source.replace(guard, instead)
        found.sha = hashlib.sha1(found.source.encode(), usedforsecurity=False).hexdigest()

    return apply


def _in_python(owner: type, name: str, instead: Any) -> Callable[[], None]:
    def apply() -> None:
        assert hasattr(owner, name), f"{owner.__name__}.{name} is gone"
        setattr(owner, name, instead)

    return apply


MUTANTS: dict[str, Callable[[], None]] = {
    "claim: sends what a dead worker was sending": _in_lua(
        "claim",
        "  redis.call('ZADD', KEYS[5], 'NX', since, ARGV[5])\n",
        "  if true then return answer('go') end\n",
    ),
    "claim: sends to a person who opted out": _in_lua(
        "claim", "if out and cjson.decode(out)['confirmation'] ~= ARGV[5] then", "if false then"
    ),
    "resend: as often as it is not found": _in_lua("resend", "elseif was[3] then", "elseif false then"),
    "postpone: of a message that another worker has": _in_lua(
        "postpone",
        "if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then",
        "redis.call('HDEL', KEYS[1], ARGV[1])\nif false then",
    ),
    "settle: an event each time that it is repeated": _in_lua("settle", "if was[1] ~= ARGV[2] then", "if true then"),
    "bury: forgets what a dead worker was sending": _in_lua(
        "bury", "elseif was[1] == 'sending' and", "elseif false and"
    ),
    "no confirmation of the claim before the request": _in_python(Delivery, "_confirm_again", lambda *_: None),
}
