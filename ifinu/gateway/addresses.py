"""
What the gateway's host name stands for.

A headless Service answers its name with the address of every gateway process that is ready. They come and go, and an
address may be another process' a minute later, so what a name stood for is believed for a few seconds.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from time import monotonic

Resolve = Callable[[str, int], Iterable[str]]

_EVERY_S = 3.0  # between two look-ups
_SOONEST_S = 0.5  # even when what was found has just failed
_LONGEST_S = 60.0  # for which the last answer is good while the name server gives none
_TURN_S = 5.0  # for which one waits for the look-up of another thread

# The name is known to stand for nothing; any other error says nothing about the name.
_NOTHING = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


def resolve(host: str, port: int) -> Iterable[str]:
    """
    The addresses of a host, of both families; none when the name stands for nothing.

    Raises:
        OSError: There was no answer.
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
    The addresses of one host; threads may share it.

    Args:
        host: Name of the host, or an address.
        port: Port of the gateway.
        look_up: What resolves; the limits of the system's resolver are the limit of its time.
        clock: Seconds that only go forward.
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
        The addresses, in order; none when the name stands for nothing, or nobody could say.

        Args:
            fresh: What is known has failed: look it up again, unless that was just done.
        """
        if self._is_due(fresh):
            known = self._answered_at > float("-inf")
            # One thread looks it up; the others go on with what is known, if it will do.
            if self._turn.acquire(timeout=0.0 if known and not fresh else _TURN_S):
                try:
                    if self._is_due(fresh):
                        self._renew()
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
