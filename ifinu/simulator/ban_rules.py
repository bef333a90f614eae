"""
The rules by which WhatsApp restricts and bans a number, in the fault script: `bans`, by instance, `*` for the others.

WhatsApp publishes no such rule; these are settable and off. Their times run `speed` times as fast as the clock.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ifinu.errors import ConfigurationError
from ifinu.simulator.script_values import amount, known, mapping, member

ALL = "*"
_COUNTS = ("a_minute", "new_chats", "ban_after")
_TIMES = ("gap_ms", "throttle_s", "restrict_s")


class Penalty(enum.StrEnum):
    """What a breach of a rule costs."""

    NONE = "none"
    THROTTLE = "throttle"  # `rate-overlimit` for `throttle_s`; nothing is sent
    RESTRICT = "restrict"  # for `restrict_s` new chats get the receipt ERROR (463), and known ones go on
    LOG_OUT = "log_out"  # the session ends with 401; the number can be paired again
    BAN = "ban"  # the session ends with 403, and no phone can pair it any more


@dataclass(frozen=True, slots=True)
class BanRules:
    """
    The rules for one instance. A chat is new until a message of either side got through.

    Attributes:
        gap_ms: Least time between two messages that WhatsApp gets.
        a_minute: Most messages in any minute.
        new_chats: Most new chats in any 24 hours.
        too_fast: What a breach of `gap_ms` or `a_minute` costs.
        too_many_new: What a breach of `new_chats` costs.
        ban_after: So many breaches in 24 hours ban the number; a send while it is throttled, or to a new chat while it
            is restricted, is one too.
        throttle_s: How long it is throttled.
        restrict_s: How long it is restricted.
    """

    gap_ms: float = 0.0
    a_minute: int | None = None
    new_chats: int | None = None
    too_fast: Penalty = Penalty.THROTTLE
    too_many_new: Penalty = Penalty.RESTRICT
    ban_after: int | None = None
    throttle_s: float = 60.0
    restrict_s: float = 86_400.0

    @classmethod
    def parse(cls, value: object) -> BanRules:
        """
        Read the rules of one instance.

        Raises:
            ConfigurationError: A rule is unknown, or its value wrong.
        """
        names = [f"bans.{field.name}" for field in fields(cls)]
        given: dict[str, Any] = {}
        for key, said in mapping(value).items():
            name = known(f"bans.{key}", names)
            if key in _TIMES:
                given[key] = amount(name, said)
            elif key not in _COUNTS:
                given[key] = member(Penalty, said)
            elif said is not None:
                given[key] = _count(name, said)
        return cls(**given)

    def as_script(self) -> dict[str, Any]:
        """The rules as `parse` reads them."""
        return asdict(self)


def read_bans(value: object) -> dict[str, BanRules]:
    """Read `bans` of a script: the rules by instance; an instance without any is in no danger."""
    return {name: BanRules.parse(rules) for name, rules in mapping(value).items() if rules}


def for_all(rules: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a script for rules given on a command line; empty if none is."""
    given = {name: value for name, value in rules.items() if value is not None}
    return {"bans": {ALL: given}} if given else {}


def _count(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigurationError(f"{name} must be a whole number, zero or more")
    return value
