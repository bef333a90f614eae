"""One of several gateway processes, and asking all of them at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TypeVar

from ifinu import errors
from ifinu.gateway.client import Evolution
from ifinu.gateway.http_transport import RequestNotDelivered

_T = TypeVar("_T")

_TURN_S = 0.5


class Shard:
    """
    One gateway process, by its address.

    One that does not answer is asked by one thread at a time: else every slot of a worker would wait for it, and the
    messages of the others with them.

    Args:
        address: IP address.
        gateway: Its client.
        asking: A client of it with short time limits, for questions that many may have to wait for.

    Attributes:
        away: Whether it did not answer when it was last asked, or sent to.
    """

    def __init__(self, address: str, gateway: Evolution, asking: Evolution) -> None:
        self.address = address
        self.gateway = gateway
        self.away = False
        self._asking = asking
        self._turn = threading.Lock()

    def ask(self, question: Callable[[Evolution], _T]) -> _T:
        """
        Ask it something, in a short time.

        Raises:
            GatewayError: As the question does; without a status when there was no answer.
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
        """A request to it failed: note it if it was because it cannot be reached."""
        if isinstance(exc.__cause__, RequestNotDelivered):
            self.away = True

    def close(self) -> None:
        """Close the connections: those in use when their answer is there."""
        self.gateway.close()
        self._asking.close()


def ask_all(
    shards: Mapping[str, Shard],
    question: Callable[[Shard], _T],
    *,
    wait_s: float,
    is_enough: Callable[[_T], bool] = lambda answer: False,
) -> dict[str, _T | errors.GatewayError]:
    """
    Ask several at once.

    Args:
        shards: By address.
        question: What is asked of each; it may raise GatewayError.
        wait_s: Longest wait for all the answers together, in seconds; who has not answered by then gave none.
        is_enough: Whether an answer makes the others needless.

    Returns:
        By address: the answer, or why there is none. After one that was enough, only those that came before it.
    """
    coming: queue.SimpleQueue[tuple[str, _T | errors.GatewayError]] = queue.SimpleQueue()

    def ask(shard: Shard) -> None:
        answer: _T | errors.GatewayError
        try:
            answer = question(shard)
        except errors.GatewayError as exc:
            answer = exc
        coming.put((shard.address, answer))

    if len(shards) == 1:
        ask(*shards.values())
    else:
        # Threads of their own, since a pool of them would not survive a fork; they are seldom needed.
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
