"""
Which gateway process holds an instance: it is known, or all are asked.

    known here ─▶ known to the others (Redis) ─▶ each address is asked for the instance's state
        ▲                                                         │ it has one: it holds it
        ╰─────────────────────────────────────────────────────────╯ only this is remembered

What the answers of all come to when no one holds it:

    the key is refused by one                     Misconfigured(unauthorized)
    one knows the instance and does not hold it   NotSent(wrong_shard): its process starts, is away, or it moves
    those that answer say there is none           Misconfigured(instance_not_found)
    those that answer are no gateway              Misconfigured(route_not_found, redirected)
    none answers, or the name stands for nothing  NotSent(unreachable), or (unavailable) for errors: an outage
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from ifinu import errors
from ifinu.errors import Misconfigured, NotSent, Reason
from ifinu.gateway import outcomes, responses
from ifinu.gateway.addresses import Addresses
from ifinu.gateway.message_records import ConnectionState
from ifinu.gateway.shard import Shard, ask_all

ASK_S = 6.0  # for an answer of all of them

_FLIGHT_S = 15.0  # for another thread that asks, and has to look the name up before
# What a process says of an instance that it holds, the best first.
_RANK = {ConnectionState.OPEN: 0, ConnectionState.CONNECTING: 1, ConnectionState.CLOSE: 2}
_WRONG = (Reason.INSTANCE_NOT_FOUND, Reason.ROUTE_NOT_FOUND, Reason.REDIRECTED)

Answer = ConnectionState | errors.GatewayError


class LocationStore(Protocol):
    """Where processes tell each other which address holds an instance; what it cannot do, it leaves."""

    def recall(self, instance: str) -> str | None:
        """The address, if somebody told it."""

    def remember(self, instance: str, address: str) -> None:
        """It was seen there."""

    def forget(self, instance: str, address: str) -> None:
        """It is there no more; another address that was told meanwhile stays."""


class Holder(NamedTuple):
    """Who says that it holds an instance, and the state that it says it is in."""

    shard: Shard
    state: ConnectionState


class _Asked(NamedTuple):
    """Who was asked, and what they said."""

    shards: Mapping[str, Shard]
    answers: Mapping[str, Answer]


class Holders:
    """
    The processes behind one host name, and which of them holds what; threads may share it.

    Args:
        where: What the name stands for.
        connect: Makes the client of an address.
        name: Of the host, for errors.
        memory: Shared with other processes, or None.
    """

    def __init__(
        self, where: Addresses, connect: Callable[[str], Shard], *, name: str, memory: LocationStore | None = None
    ) -> None:
        self._where = where
        self._connect = connect
        self._name = name
        self._memory = memory
        self._lock = threading.Lock()
        self._shards: dict[str, Shard] = {}
        self._known: dict[str, str] = {}
        self._asking: dict[str, concurrent.futures.Future[_Asked]] = {}

    def of(self, instance: str) -> Shard:
        """
        The one that holds an instance, as far as is known; when nothing is, all are asked.

        Raises:
            SendError: As the module says.
        """
        return self._remembered(instance) or self.asked(instance).shard

    def anew(self, instance: str, failed: Shard) -> Shard:
        """
        The one that holds it, after another has shown that it does not, or cannot be reached.

        Raises:
            SendError: As the module says.
        """
        self.forget(instance, failed)
        return self._remembered(instance) or self.asked(instance).shard

    def asked(self, instance: str) -> Holder:
        """
        The one that says, now, that it holds it. Of one instance one thread asks, and all that wait have its answer.

        Raises:
            SendError: As the module says.
        """
        with self._lock:
            asking = self._asking.get(instance)
            mine = asking is None
            if asking is None:
                asking = self._asking[instance] = concurrent.futures.Future()
        if mine:
            try:
                asking.set_result(self._ask(instance))
            except BaseException as exc:
                asking.set_exception(exc)
                raise
            finally:
                with self._lock:
                    del self._asking[instance]
        try:
            found = asking.result(_FLIGHT_S)
        except concurrent.futures.TimeoutError:
            raise NotSent(
                f"{responses.one_line(instance)}: who holds it is still being asked",
                reason=Reason.WRONG_SHARD,
                instance=instance,
            ) from None
        address, state = judged(instance, found.answers, self._name)
        return Holder(found.shards[address], state)

    def states(self, instance: str) -> dict[str, Answer]:
        """What each says of an instance, by address; it waits for all of them, and remembers nothing."""
        return ask_all(self.shards(fresh=True), _state_of(instance), wait_s=ASK_S)

    def forget(self, instance: str, shard: Shard) -> None:
        """It is not there, or that one cannot be reached."""
        with self._lock:
            if self._known.get(instance) == shard.address:
                del self._known[instance]
        if self._memory is not None:
            self._memory.forget(instance, shard.address)

    def shards(self, *, fresh: bool = False) -> dict[str, Shard]:
        """
        The processes that there are now, by address.

        Args:
            fresh: As for `Addresses`.
        """
        addresses = self._where(fresh=fresh)
        with self._lock:
            if addresses != tuple(self._shards):
                gone = [shard for address, shard in self._shards.items() if address not in addresses]
                self._shards = {address: self._shards.get(address) or self._connect(address) for address in addresses}
                for shard in gone:
                    shard.close()
            return self._shards

    def close(self) -> None:
        """Close the connections: those in use when their answer is there."""
        for shard in tuple(self._shards.values()):
            shard.close()

    def _remembered(self, instance: str) -> Shard | None:
        """Who was last seen to hold it, if it is still one of them, and was not found away."""
        shards = self.shards()
        shard = shards.get(self._known.get(instance, ""))
        if shard is None and self._memory is not None:
            shard = shards.get(self._memory.recall(instance) or "")
            if shard is not None:
                self._known[instance] = shard.address
        return None if shard is None or shard.away else shard

    def _ask(self, instance: str) -> _Asked:
        shards = self.shards(fresh=True)
        # An open one is the one; of others there might be two, and the better has to be waited for.
        found = ask_all(
            shards, _state_of(instance), wait_s=ASK_S, is_enough=lambda state: state is ConnectionState.OPEN
        )
        if (best := _best(found)) is not None:
            self._known[instance] = best[0]
            if self._memory is not None:
                self._memory.remember(instance, best[0])
        return _Asked(shards, found)


def judged(instance: str, found: Mapping[str, Answer], name: str) -> tuple[str, ConnectionState]:
    """
    The address that holds an instance, and the state that it tells.

    Args:
        instance: Its name, for the error.
        found: What each address said.
        name: Of their host, for the error.

    Raises:
        SendError: None holds it; as the module says.
    """
    if (best := _best(found)) is not None:
        return best
    said = f"{responses.one_line(instance)}: {name}"
    failures = [answer for answer in found.values() if isinstance(answer, errors.GatewayError)]
    wrong = {outcomes.misconfigured(exc.status, exc.answer): exc for exc in failures}
    absent = len(found) - len(failures)
    if (denied := wrong.get(Reason.UNAUTHORIZED)) is not None:
        raise _misconfigured(Reason.UNAUTHORIZED, said, denied, instance)
    if absent:
        quiet = f", and {len(failures)} more did not answer" if failures else ""
        raise NotSent(
            f"{said}: none of {absent} gateway processes holds it{quiet}; its process starts or is away, or it moves",
            reason=Reason.WRONG_SHARD,
            instance=instance,
            status=200,
        )
    for reason in _WRONG:
        if (exc := wrong.get(reason)) is not None:
            raise _misconfigured(reason, said, exc, instance)
    if not found:
        cause, reason = "the name stands for no address", Reason.UNREACHABLE
    else:
        answered = next((exc for exc in failures if exc.status is not None), failures[0])
        cause = f"none of {len(found)} gateway processes answered: {answered}"
        reason = Reason.UNREACHABLE if answered.status is None else Reason.UNAVAILABLE
    words = "; ".join(filter(None, (f"{said}: {cause}", outcomes.hint(reason))))
    raise NotSent(words, reason=reason, instance=instance)


def _best(found: Mapping[str, Answer]) -> tuple[str, ConnectionState] | None:
    held = [(address, said) for address, said in found.items() if isinstance(said, ConnectionState) and said in _RANK]
    return min(held, key=lambda one: _RANK[one[1]]) if held else None


def _misconfigured(reason: Reason, said: str, exc: errors.GatewayError, instance: str) -> Misconfigured:
    line = "; ".join(filter(None, (f"{said}: HTTP {exc.status}: {exc.answer}", outcomes.hint(reason))))
    return Misconfigured(line, reason=reason, instance=instance, status=exc.status, answer=exc.answer)


def _state_of(instance: str) -> Callable[[Shard], ConnectionState]:
    return lambda shard: shard.ask(lambda gateway: gateway.connection_state(instance))
