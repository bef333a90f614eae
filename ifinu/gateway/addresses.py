"""
The addresses of the gateway's host name.

A headless Service resolves to the address of every gateway process that is ready. Processes come and go, and an address
may belong to another one a minute later, so an answer is used for a few seconds only.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from time import monotonic

from ifinu import loop

Resolve = Callable[[str, int], Iterable[str]]

_EVERY_S = 3.0  # between two look-ups
_SOONEST_S = 0.5  # even if an address has just failed
_LONGEST_S = 60.0  # for which the last answer is used while the name server gives none
_TURN_S = 5.0  # wait for another caller's look-up

# These errors mean that the name has no address; any other error leaves that open.
_NOTHING = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


def resolve(host: str, port: int) -> Iterable[str]:
    """
    The addresses of a host, of both families; empty if the name has none.

    Raises:
        OSError: The name server did not answer.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as exc:
        if exc.errno in _NOTHING:
            return ()
        raise
    return {str(address[0]) for *_, address in found}


class Addresses:
    """
    The addresses of one host; threads and tasks may share it.

    Args:
        look_up: Resolves the host; its timeout is the system resolver's.
    """

    def __init__(
        self, host: str, port: int, look_up: Resolve = resolve, clock: Callable[[], float] = monotonic
    ) -> None:
        self._host, self._port = host, port
        self._look_up = look_up
        self._clock = clock
        self._turn = threading.Lock()
        self._found: tuple[str, ...] = ()
        self._looked_at = self._answered_at = float("-inf")

    def __call__(self, *, fresh: bool = False) -> tuple[str, ...]:
        """
        The addresses, sorted; empty if the name has none, or no name server has answered.

        Args:
            fresh: A known address has failed: resolve the name again, unless that was just done.
        """
        if self._is_due(fresh):
            known = self._answered_at > float("-inf")
            # One caller resolves the name; the others use the known addresses where they can.
            if loop.acquire(self._turn, 0.0 if known and not fresh else _TURN_S):
                try:
                    if self._is_due(fresh):
                        loop.in_thread(self._renew)
                finally:
                    self._turn.release()
        return self._found

    def _is_due(self, fresh: bool) -> bool:
        return self._clock() - self._looked_at >= (_SOONEST_S if fresh else _EVERY_S)

    def _renew(self) -> None:
        try:
            found = self._look_up(self._host, self._port)
        except OSError:
            if self._clock() - self._answered_at >= _LONGEST_S:
                self._found = ()
        else:
            self._found = tuple(sorted(found))
            self._answered_at = self._clock()
        self._looked_at = self._clock()
