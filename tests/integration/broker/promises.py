"""What the broker promises of one notification id, as a model to hold it against."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ifinu.broker.claims import Verdict

JUNK = b"no json"
INVALID = "invalid"  # content that is refused before the id is claimed
NOBODYS = ("", "dead")  # states in which an id is free


@dataclass
class Sends:
    """
    What really went to the gateway for one id: the promise is that at most one message reaches the person, unless
    somebody decided to take the risk, and that an id is looked up before it is sent again.

    Attributes:
        open: Tags whose send has begun and whose outcome nobody has told: in doubt once their holder is gone.
        forgiven: Such that it was decided to send again in spite of them.
        again: Tags of sends that took such a risk.
        over: The id has come to its end.
    """

    open: set[str] = field(default_factory=set)
    forgiven: set[str] = field(default_factory=set)
    again: set[str] = field(default_factory=set)
    over: bool = False

    def begin(self, tag: str) -> None:
        """A worker was told to send."""
        assert not self.over, "sent after its end"
        assert self.open <= self.forgiven, "sent blindly while a send is open"
        self.open.add(tag)
        if self.forgiven:
            self.again.add(tag)

    def begin_again(self, tag: str, in_flight: dict[str, bytes]) -> None:
        """A worker was told to send once more."""
        doubts = self.open - self.forgiven
        assert doubts, "sent again without a doubt"
        assert not doubts & self.again, "sent again twice"
        assert not (doubts - {tag}) & in_flight.keys(), "sent again while its sender lives"
        self.forgiven |= doubts
        self.open.add(tag)
        self.again.add(tag)
        self.forgiven.discard(tag)

    def did_not_happen(self, tag: str, *, undone: bool = False) -> None:
        """It is known that nothing was sent; `undone` where the decision to send again is open as before."""
        self.open.discard(tag)
        self.again.discard(tag)
        if undone:
            self.forgiven.clear()


@dataclass
class Life:
    """
    What an id's claim is to say.

    Attributes:
        state: As `claims.py` has it; empty for none.
        tag: Of the message that claimed it.
        token: What its retry shows.
        about: The content it was claimed for.
        letter: The record of the dead letter in which it is held.
        purged: A person deleted that.
    """

    state: str = ""
    tag: str = ""
    token: str = ""
    about: str = ""
    cancelled: bool = False
    resent: bool = False
    letter: bytes = b""
    purged: bool = False
    sends: Sends = field(default_factory=Sends)

    def in_doubt(self) -> bool:
        """It may have been sent and a person can ask which these are; who was sent again is in doubt until it ends."""
        between = self.resent and self.state in ("sending", "waiting")
        return (self.state == "unknown" or between) and not self.purged

    def verdict(self, task: Task, in_flight: dict[str, bytes], opted_out: bool) -> Verdict:
        """What a message that asks to send is to be told."""
        if task.tag not in in_flight:  # its lease ran out: the message is on the queue, or another worker's
            return Verdict.DUPLICATE
        if self.state not in NOBODYS and self.about not in ("", task.about):
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
            case state if state not in NOBODYS:
                return Verdict.DUPLICATE
        if self.cancelled:
            return Verdict.CANCELLED
        return Verdict.OPTED_OUT if opted_out else Verdict.GO

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("state", "tag", "token", "cancelled", "resent")}


@dataclass
class Task:
    """A message in the hands of a worker, which may have lost it without knowing; `phase` is what it was told last."""

    tag: str
    raw: bytes
    worker: int
    phase: str = "new"
    shown: str = ""  # what its retry has to carry

    def __post_init__(self) -> None:
        body = {} if self.raw == JUNK else json.loads(self.raw)
        self.id, self.about, self.token = body.get("id", ""), body.get("about", ""), body.get("token", "")
