"""
Sending through several gateway processes behind one host name, as through one.

Each request goes only to the process that holds its instance (`routing.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from ifinu import errors
from ifinu.errors import NotSent, Reason
from ifinu.gateway import http_transport, message_records
from ifinu.gateway.addresses import Resolve, resolve
from ifinu.gateway.client import Evolution
from ifinu.gateway.outcomes import Sent
from ifinu.gateway.routing import LocationStore, routing_to
from ifinu.gateway.sent_search import SentSearch

# Nothing was sent, and another process may hold the instance.
_ELSEWHERE = frozenset({Reason.WRONG_SHARD, Reason.UNREACHABLE, Reason.UNAVAILABLE})


class Shards(SentSearch):
    """
    All gateway processes of one host name, with the methods of one; threads may share it.

    Args:
        url: As for `Evolution`; its host is resolved every few seconds.
        api_key: As for `Evolution`; all processes have the same key.
        memory: As for `Routing`.

    Raises:
        ConfigurationError: The URL or the key cannot be used.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 75.0,
        worker: str | None = None,
        memory: LocationStore | None = None,
        look_up: Resolve = resolve,
    ) -> None:
        Evolution(url, api_key, worker=worker)  # raises now if the key cannot be used
        self.url = url
        self._routing = routing_to(
            Evolution, url, api_key, connect_timeout_s, read_timeout_s, worker=worker, memory=memory, look_up=look_up
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def close(self) -> None:
        """Close the connections; those in use close after their answer."""
        self._routing.close()

    def send_text(
        self,
        instance: str,
        number_e164: str,
        text: str,
        *,
        before: Callable[[], None] | None = None,
    ) -> Sent:
        """
        As `Evolution.send_text`, through the process that holds the instance.

        If the remembered process answers that it does not hold it, or cannot be reached, nothing was sent: all
        processes are asked, and the text is sent through the one that holds it, once.

        Raises:
            NotSent: Also if no process holds it (`wrong_shard`), or none can be reached (`unreachable`).
            SendError: As for `Evolution.send_text`.
        """
        return self._send(instance, lambda at: at.send_text(instance, number_e164, text, before=before))

    def send_template(
        self,
        instance: str,
        number_e164: str,
        name: str,
        language: str,
        components: list[Any],
        *,
        private: Iterable[str] = (),
        before: Callable[[], None] | None = None,
    ) -> Sent:
        """
        As `Evolution.send_template`, through the process that holds the instance.

        Raises:
            SendError: As for `send_text`.
        """
        return self._send(
            instance,
            lambda at: at.send_template(
                instance, number_e164, name, language, components, private=private, before=before
            ),
        )

    def _send(self, instance: str, send: Callable[[Evolution], Sent]) -> Sent:
        shard = self._routing.of(instance)
        try:
            return send(shard.gateway)
        except NotSent as exc:
            if exc.reason not in _ELSEWHERE:
                raise
            shard.failed(exc)
        shard = self._routing.anew(instance, shard)
        try:
            return send(shard.gateway)
        except NotSent as exc:
            if exc.reason not in _ELSEWHERE:
                raise
            shard.failed(exc)
            self._routing.forget(instance, shard)
            if exc.reason is Reason.WRONG_SHARD:
                raise
            # It answered a moment ago, and other processes may answer: this is not an outage of the whole gateway.
            raise NotSent(
                f"{exc} (at {shard.address}, which had just said that it holds it)",
                reason=Reason.WRONG_SHARD,
                instance=instance,
                status=exc.status,
                answer=exc.answer,
            ) from exc

    def find_messages(
        self,
        instance: str,
        *,
        since: datetime,
        until: datetime,
        remote_jid: str | None = None,
        page: int = 1,
    ) -> message_records.FoundMessages:
        """Same as `Evolution.find_messages`, at the process that holds the instance: only its answer counts."""
        find = functools.partial(
            Evolution.find_messages,
            instance=instance,
            since=since,
            until=until,
            remote_jid=remote_jid,
            page=page,
        )
        shard = self._routing.of(instance)
        try:
            return find(shard.gateway)
        except errors.GatewayError as exc:
            shard.failed(exc)
            if isinstance(exc.__cause__, http_transport.AnswerLost):
                raise  # the caller asks again; a second query here could take as long
        return find(self._routing.anew(instance, shard).gateway)

    def connection_state(self, instance: str) -> message_records.ConnectionState:
        """Same as `Evolution.connection_state`; ABSENT if it exists and no process that answers holds it."""
        return self._routing.state(instance)
