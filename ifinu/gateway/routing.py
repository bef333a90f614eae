"""
Routing: the gateway process that holds an instance, remembered or found by asking all.

    this worker's memory ─▶ the workers' memory (Redis) ─▶ ask each address for the instance's state
        ▲                                                         │ an address that has a state holds it
        ╰─────────────────────────────────────────────────────────╯ only this is remembered

If no process holds it, the answers together mean:

    one refuses the key                           Misconfigured(unauthorized)
    one knows the instance but does not hold it   NotSent(wrong_shard): its process starts or is away, or it moves
    no such instance at those that answer         Misconfigured(instance_not_found)
    those that answer are not a gateway           Misconfigured(route_not_found, redirected)
    none answers, or the name has no address      NotSent(unreachable), or (unavailable) for errors: an outage
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, Protocol

from ifinu import errors, loop
from ifinu.errors import Misconfigured, NotSent, Reason
from ifinu.gateway import http_transport, outcomes, responses
from ifinu.gateway.addresses import Addresses, Resolve
from ifinu.gateway.management import Management
from ifinu.gateway.message_records import ConnectionState
from ifinu.gateway.shard import Client, Shard, ask_all

ASK_S = 6.0  # for the answers of all processes

_LONGEST_CONNECT_S = 3.0  # of a query
_LONGEST_ANSWER_S = 5.0
_FLIGHT_S = 15.0  # for another caller that asks, and may have to resolve the name first
# The states of an instance at the process that holds it, best first.
_RANK = {ConnectionState.OPEN: 0, ConnectionState.CONNECTING: 1, ConnectionState.CLOSE: 2}
_WRONG = (Reason.INSTANCE_NOT_FOUND, Reason.ROUTE_NOT_FOUND, Reason.REDIRECTED)

Answer = ConnectionState | errors.GatewayError


class LocationStore(Protocol):
    """Shares the address of each instance between processes. Its methods never raise: the store is optional."""

    def recall(self, instance: str) -> str | None:
        """The address of the process that holds the instance, if it is known."""

    def remember(self, instance: str, address: str) -> None:
        """Store that the process at the address holds the instance."""

    def forget(self, instance: str, address: str) -> None:
        """Delete the address of an instance, unless another one was stored meanwhile."""


class Route(NamedTuple, Generic[Client]):
    """The process that says it holds an instance, and the state it reports."""

    shard: Shard[Client]
    state: ConnectionState


class _Asked(NamedTuple, Generic[Client]):
    """The processes asked, and their answers."""

    shards: Mapping[str, Shard[Client]]
    answers: Mapping[str, Answer]


class _Question(Generic[Client]):
    """
    A question to all processes.

    Attributes:
        open: A lock, held until the answers are there.
        asked: The answers; None until then.
    """

    def __init__(self) -> None:
        self.open = threading.Lock()
        self.open.acquire()
        self.asked: _Asked[Client] | None = None


class Routing(Generic[Client]):
    """
    The processes behind one host name, and the instances each holds; threads and tasks may share it.

    `of`, `anew` and `asked` raise SendError if no process holds the instance; see the module.

    Args:
        connect: Makes the client of an address.
        memory: Store in which workers share the address of each instance, or None.
    """

    def __init__(
        self,
        where: Addresses,
        connect: Callable[[str], Shard[Client]],
        *,
        name: str,
        memory: LocationStore | None = None,
    ) -> None:
        self._where = where
        self._connect = connect
        self._name = name
        self._memory = memory
        self._lock = threading.Lock()
        self._shards: dict[str, Shard[Client]] = {}
        self._known: dict[str, str] = {}
        self._questions: dict[str, _Question[Client]] = {}

    def of(self, instance: str) -> Shard[Client]:
        """The process that holds an instance: the remembered one, else by asking all."""
        return self._remembered(instance) or self.asked(instance).shard

    def anew(self, instance: str, failed: Shard[Client]) -> Shard[Client]:
        """The process that holds an instance, after another turned out not to hold it or to be unreachable."""
        self.forget(instance, failed)
        return self._remembered(instance) or self.asked(instance).shard

    def asked(self, instance: str) -> Route[Client]:
        """
        The process that confirms now that it holds an instance.

        One caller asks for an instance at a time; those that wait for it share its answer.
        """
        with self._lock:
            question = self._questions.get(instance)
            if is_new := question is None:
                question = self._questions[instance] = _Question()
        if is_new:
            try:
                question.asked = self._ask(instance)
            finally:
                with self._lock:
                    del self._questions[instance]
                question.open.release()
        elif loop.acquire(question.open, _FLIGHT_S):
            question.open.release()
        if question.asked is None:
            raise NotSent(
                f"{responses.one_line(instance)}: still asking which gateway process holds it",
                reason=Reason.WRONG_SHARD,
                instance=instance,
            )
        address, state = judged(instance, question.asked.answers, self._name)
        return Route(question.asked.shards[address], state)

    def state(self, instance: str) -> ConnectionState:
        """
        The state of an instance at the process that holds it; ABSENT if it exists and no process that answers holds it.

        Raises:
            SendError: See the module.
        """
        try:
            return self.asked(instance).state
        except NotSent as exc:
            if exc.reason is Reason.WRONG_SHARD:
                return ConnectionState.ABSENT
            raise

    def states(self, instance: str) -> dict[str, Answer]:
        """The state of an instance at each process, by address; waits for all answers and remembers none."""
        return ask_all(self.shards(fresh=True), _state_of(instance), wait_s=ASK_S)

    def forget(self, instance: str, shard: Shard[Client]) -> None:
        """Forget that a process holds an instance: it does not, or cannot be reached."""
        with self._lock:
            if self._known.get(instance) == shard.address:
                del self._known[instance]
        if (memory := self._memory) is not None:
            loop.in_thread(lambda: memory.forget(instance, shard.address))

    def shards(self, *, fresh: bool = False) -> dict[str, Shard[Client]]:
        """
        The current processes, by address.

        Args:
            fresh: As for `Addresses.__call__`.
        """
        addresses = self._where(fresh=fresh)
        made: dict[str, Shard[Client]] = {}
        if new := [address for address in addresses if address not in self._shards]:
            # Slow: each client reads the system's certificates, and the first one loads requests.
            made = loop.in_thread(lambda: {address: self._connect(address) for address in new})
        with self._lock:
            if addresses != tuple(self._shards):
                gone = [shard for address, shard in self._shards.items() if address not in addresses]
                known = made | self._shards
                self._shards = {address: known.get(address) or self._connect(address) for address in addresses}
                for shard in gone:
                    shard.close()
            return self._shards

    def close(self) -> None:
        """Close the connections; those in use close after their answer."""
        for shard in tuple(self._shards.values()):
            shard.close()

    def _remembered(self, instance: str) -> Shard[Client] | None:
        """The process last known to hold it, if it still exists and is not away."""
        shards = self.shards()
        shard = shards.get(self._known.get(instance, ""))
        if shard is None and (memory := self._memory) is not None:
            shard = shards.get(loop.in_thread(lambda: memory.recall(instance)) or "")
            if shard is not None:
                self._known[instance] = shard.address
        return None if shard is None or shard.away else shard

    def _ask(self, instance: str) -> _Asked[Client]:
        shards = self.shards(fresh=True)

        def ask() -> dict[str, Answer]:
            # An OPEN answer decides. Two processes may report other states, so wait for the better one.
            found = ask_all(
                shards, _state_of(instance), wait_s=ASK_S, is_enough=lambda state: state is ConnectionState.OPEN
            )
            if (best := _best(found)) is not None:
                self._known[instance] = best[0]
                if self._memory is not None:
                    self._memory.remember(instance, best[0])
            return found

        return _Asked(shards, loop.in_thread(ask))


def routing_to(
    client: type[Client],
    url: str,
    api_key: str,
    connect_timeout_s: float,
    read_timeout_s: float,
    *,
    worker: str | None,
    look_up: Resolve,
    memory: LocationStore | None = None,
) -> Routing[Client]:
    """The routing to clients of the processes behind a URL's host; the arguments are those of the clients."""
    host, port = http_transport.endpoint(url)

    def open_shard(address: str) -> Shard[Client]:
        return Shard(
            address,
            client(
                url,
                api_key,
                connect_timeout_s=connect_timeout_s,
                read_timeout_s=read_timeout_s,
                worker=worker,
                address=address,
            ),
            Management(
                url,
                api_key,
                connect_timeout_s=min(connect_timeout_s, _LONGEST_CONNECT_S),
                read_timeout_s=min(read_timeout_s, _LONGEST_ANSWER_S),
                worker=worker,
                address=address,
            ),
        )

    return Routing(Addresses(host, port, look_up), open_shard, name=f"{host}:{port}", memory=memory)


def judged(instance: str, found: Mapping[str, Answer], name: str) -> tuple[str, ConnectionState]:
    """
    The address that holds an instance, and the state it reports.

    Raises:
        SendError: No process holds it; see the module.
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
        cause, reason = "the name has no address", Reason.UNREACHABLE
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


def _state_of(instance: str) -> Callable[[Shard[Client]], ConnectionState]:
    return lambda shard: shard.ask(lambda gateway: gateway.connection_state(instance))
