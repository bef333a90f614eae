"""One of several gateway processes, and queries to all of them at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Generic, TypeVar

from ifinu import errors
from ifinu.gateway.client import Evolution
from ifinu.gateway.http_transport import RequestNotDelivered
from ifinu.gateway.management import Management

_T = TypeVar("_T")
Client = TypeVar("Client", bound=Evolution | Management)

_TURN_S = 0.5


class Shard(Generic[Client]):
    """
    One gateway process, at an address.

    While it does not answer, only one thread at a time asks it. Otherwise all helper threads of a worker would wait for
    it, and so would the messages for other processes.

    Args:
        gateway: Its client, for sending or for management.
        asking: Its management with short timeouts, for queries that many threads may wait for.

    Attributes:
        away: Whether it did not answer the last request.
    """

    def __init__(self, address: str, gateway: Client, asking: Management) -> None:
        self.address = address
        self.gateway = gateway
        self.away = False
        self._asking = asking
        self._turn = threading.Lock()

    def ask(self, question: Callable[[Management], _T]) -> _T:
        """
        Query it, with short timeouts.

        Raises:
            GatewayError: As the question raises; without a status if there was no answer.
        """
        alone = self.away
        if alone and not self._turn.acquire(timeout=_TURN_S):
            raise errors.GatewayError(f"{self.address}: no answer; another thread asks again")
        try:
            answer = question(self._asking)
        except errors.GatewayError as exc:
            self.away = exc.status is None
            raise
        else:
            self.away = False
            return answer
        finally:
            if alone:
                self._turn.release()

    def failed(self, exc: errors.GatewayError) -> None:
        """Note a failed request: the process is away if it could not be reached."""
        if isinstance(exc.__cause__, RequestNotDelivered):
            self.away = True

    def close(self) -> None:
        """Close the connections; those in use close after their answer."""
        self.gateway.close()
        self._asking.close()


def ask_all(
    shards: Mapping[str, Shard[Client]],
    question: Callable[[Shard[Client]], _T],
    *,
    wait_s: float,
    is_enough: Callable[[_T], bool] = lambda answer: False,
) -> dict[str, _T | errors.GatewayError]:
    """
    Query several processes at once.

    Args:
        question: The query of one process; it may raise GatewayError.
        wait_s: Longest wait for all answers together, in seconds; a later answer counts as none.
        is_enough: Whether an answer makes the other answers unnecessary.

    Returns:
        The answer or the error, by address. After an answer that is enough, only the earlier ones.
    """
    coming: queue.SimpleQueue[tuple[str, _T | errors.GatewayError]] = queue.SimpleQueue()

    def ask(shard: Shard[Client]) -> None:
        answer: _T | errors.GatewayError
        try:
            answer = question(shard)
        except errors.GatewayError as exc:
            answer = exc
        coming.put((shard.address, answer))

    if len(shards) == 1:
        ask(*shards.values())
    else:
        # New threads each time, since this is rare.
        for shard in shards.values():
            threading.Thread(target=ask, args=(shard,), name=f"ask {shard.address}", daemon=True).start()
    answers: dict[str, _T | errors.GatewayError] = {}
    deadline = monotonic() + wait_s
    while len(answers) < len(shards):
        try:
            address, answer = coming.get(timeout=max(0.0, deadline - monotonic()))
        except queue.Empty:
            late = [address for address in shards if address not in answers]
            return answers | {address: errors.GatewayError(f"{address}: no answer in {wait_s:g} s") for address in late}
        answers[address] = answer
        if not isinstance(answer, errors.GatewayError) and is_enough(answer):
            break
    return answers
