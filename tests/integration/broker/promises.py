"""A model of the broker's promises about one notification id."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ifinu.broker.claims import Verdict

JUNK = b"no json"
INVALID = "invalid"  # content that is refused before the id is claimed
FREE = ("", "dead")  # states in which an id is free


@dataclass
class Sends:
    """
    The sends of one id that really reached the gateway. The promise: at most one message reaches the person, unless a
    person decided to take the risk, and an id is looked up before it is resent.

    Attributes:
        open: The tags whose send began and has no outcome yet: in doubt once their holder is gone.
        forgiven: Those of `open` in spite of which a resend was decided.
        again: The tags of such resends.
        over: The id has a final outcome.
    """

    open: set[str] = field(default_factory=set)
    forgiven: set[str] = field(default_factory=set)
    again: set[str] = field(default_factory=set)
    over: bool = False

    def begin(self, tag: str) -> None:
        """A worker was allowed to send."""
        assert not self.over, "sent after its end"
        assert self.open <= self.forgiven, "sent blindly while a send is open"
        self.open.add(tag)
        if self.forgiven:
            self.again.add(tag)

    def begin_again(self, tag: str, in_flight: dict[str, bytes]) -> None:
        """A worker was allowed to resend."""
        doubts = self.open - self.forgiven
        assert doubts, "sent again without a doubt"
        assert not doubts & self.again, "sent again twice"
        assert not (doubts - {tag}) & in_flight.keys(), "sent again while its sender lives"
        self.forgiven |= doubts
        self.open.add(tag)
        self.again.add(tag)
        self.forgiven.discard(tag)

    def did_not_happen(self, tag: str, *, undone: bool = False) -> None:
        """The send certainly did not take place; `undone` makes the decision to resend open again."""
        self.open.discard(tag)
        self.again.discard(tag)
        if undone:
            self.forgiven.clear()


@dataclass
class Life:
    """
    The expected state of an id's claim.

    Attributes:
        state: As in `claims.py`; empty without a claim.
        tag: The tag of the message that owns the claim.
        token: The token that its retry carries.
        content: The content that it was claimed for.
        letter: The record of the dead letter that holds it.
        purged: A person purged that letter.
    """

    state: str = ""
    tag: str = ""
    token: str = ""
    content: str = ""
    cancelled: bool = False
    resent: bool = False
    letter: bytes = b""
    purged: bool = False
    sends: Sends = field(default_factory=Sends)

    def in_doubt(self) -> bool:
        """The id may have been sent and is listed as such; a resent one is in doubt until its final outcome."""
        between = self.resent and self.state in ("sending", "waiting")
        return (self.state == "unknown" or between) and not self.purged

    def verdict(self, task: Task, in_flight: dict[str, bytes], opted_out: bool) -> Verdict:
        """The verdict that a message asking to send must get."""
        if task.tag not in in_flight:  # its lease expired: the message is on the queue, or held by another worker
            return Verdict.DUPLICATE
        if self.state not in FREE and self.content not in ("", task.content):
            return Verdict.REUSED
        orphaned = self.tag != "" and (self.tag == task.tag or self.tag not in in_flight)
        awaited = self.token != "" and self.token == task.token
        match self.state:
            case "cancelled":
                return Verdict.CANCELLED
            case "unknown":
                return Verdict.LOOK_UP if awaited or orphaned else Verdict.DUPLICATE
            case "sending" if self.tag == task.tag:
                return Verdict.GO
            case "sending":
                return Verdict.LOOK_UP if orphaned else Verdict.DUPLICATE
            case "waiting" if awaited:
                pass
            case state if state not in FREE:
                return Verdict.DUPLICATE
        if self.cancelled:
            return Verdict.CANCELLED
        return Verdict.OPTED_OUT if opted_out else Verdict.GO

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("state", "tag", "token", "cancelled", "resent")}


@dataclass
class Task:
    """A message that a worker holds, or wrongly believes it holds; `phase` is the last verdict it got."""

    tag: str
    raw: bytes
    worker: int
    phase: str = "new"
    shown: str = ""  # the token that its retry must carry

    def __post_init__(self) -> None:
        body = {} if self.raw == JUNK else json.loads(self.raw)
        self.id, self.content, self.token = body.get("id", ""), body.get("content", ""), body.get("token", "")
