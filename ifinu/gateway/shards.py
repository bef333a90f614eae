"""
Several gateway processes behind one host name, used as one gateway.

A gateway process keeps the WhatsApp connections of its instances in memory and cannot use those of another process.
Asked for one, some routes say so, some answer SUCCESS and do nothing, and `delete` erases the rows of an instance that
runs elsewhere. So each request goes only to the process that holds its instance (`routing.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from datetime import datetime

from ifinu import errors
from ifinu.errors import NotSent, Reason
from ifinu.gateway import http_transport, message_records, responses
from ifinu.gateway.addresses import Addresses, Resolve, resolve
from ifinu.gateway.client import Evolution
from ifinu.gateway.outcomes import Sent
from ifinu.gateway.routing import Answer, LocationStore, Routing
from ifinu.gateway.shard import Shard, ask_all

# Nothing was sent, and another process may hold the instance.
_ELSEWHERE = frozenset({Reason.WRONG_SHARD, Reason.UNREACHABLE, Reason.UNAVAILABLE})
_LONGEST_CONNECT_S = 3.0  # of a query
_LONGEST_ANSWER_S = 5.0

Instances = tuple[message_records.Instance, ...]


class Shards:
    """
    All gateway processes of one host name, with the methods of one; threads may share it.

    Args:
        url: As for `Evolution`; its host is resolved every few seconds.
        api_key: As for `Evolution`; all processes have the same key.
        memory: Store in which workers share the address of each instance, or None.

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
        host, port = http_transport.endpoint(url)
        self.url = url
        self._answers_in_s = connect_timeout_s + read_timeout_s
        connect = functools.partial(Evolution, url, api_key, worker=worker)
        connect()  # raises now if the key cannot be used

        def open_shard(address: str) -> Shard:
            gateway = connect(address=address, connect_timeout_s=connect_timeout_s, read_timeout_s=read_timeout_s)
            asking = connect(
                address=address,
                connect_timeout_s=min(connect_timeout_s, _LONGEST_CONNECT_S),
                read_timeout_s=min(read_timeout_s, _LONGEST_ANSWER_S),
            )
            return Shard(address, gateway, asking)

        self._routing = Routing(Addresses(host, port, look_up), open_shard, name=f"{host}:{port}", memory=memory)

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
        shard = self._routing.of(instance)
        try:
            return shard.gateway.send_text(instance, number_e164, text, before=before)
        except NotSent as exc:
            if exc.reason not in _ELSEWHERE:
                raise
            shard.failed(exc)
        shard = self._routing.anew(instance, shard)
        try:
            return shard.gateway.send_text(instance, number_e164, text, before=before)
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
        try:
            return self._routing.asked(instance).state
        except NotSent as exc:
            if exc.reason is Reason.WRONG_SHARD:
                return message_records.ConnectionState.ABSENT
            raise

    def create_instance(
        self,
        instance: str,
        *,
        channel: message_records.Integration = message_records.Integration.BAILEYS,
        number: str | None = None,
        token: str | None = None,
    ) -> message_records.CreatedInstance:
        """
        As `Evolution.create_instance`, in the process with the fewest instances.

        Raises:
            GatewayError: Also, with status 403, if any process knows the name.
        """
        try:
            self._routing.asked(instance)
        except NotSent as exc:
            if exc.reason is not Reason.WRONG_SHARD:
                raise
        except errors.Misconfigured as exc:
            if exc.reason is not Reason.INSTANCE_NOT_FOUND:
                raise
            counted = [(len(found), address) for address, found in self.survey().items() if isinstance(found, tuple)]
            shard = self._routing.shards().get(min(counted)[1]) if counted else None
            if shard is None:
                raise self._nobody() from exc
            return shard.gateway.create_instance(instance, channel=channel, number=number, token=token)
        raise errors.GatewayError(
            f"{responses.one_line(instance)}: there is an instance of this name already", instance=instance, status=403
        )

    def connect_instance(self, instance: str, *, number: str | None = None) -> message_records.Pairing:
        return self._at(instance).connect_instance(instance, number=number)

    def restart_instance(self, instance: str) -> message_records.Pairing:
        return self._at(instance).restart_instance(instance)

    def logout_instance(self, instance: str) -> None:
        """Same as `Evolution.logout_instance`; any other process would answer SUCCESS and do nothing."""
        self._at(instance).logout_instance(instance)

    def delete_instance(self, instance: str) -> None:
        """Same as `Evolution.delete_instance`; any other process would leave it running without its rows."""
        self._at(instance).delete_instance(instance)

    def set_webhook(
        self, instance: str, url: str, events: Iterable[str], *, headers: dict[str, str] | None = None
    ) -> message_records.Webhook:
        return self._at(instance).set_webhook(instance, url, events, headers=headers)

    def find_webhook(self, instance: str) -> message_records.Webhook | None:
        return self._at(instance).find_webhook(instance)

    def fetch_instances(self) -> Instances:
        """
        The instances of all processes that answer.

        Raises:
            GatewayError: No process answered.
        """
        found = self.survey()
        answers = [each for each in found.values() if isinstance(each, tuple)]
        if not answers:
            failures = [each for each in found.values() if isinstance(each, errors.GatewayError)]
            raise max(failures, key=lambda exc: exc.status or 0) if failures else self._nobody()
        # A process with two addresses lists its instances twice.
        return tuple({one.name: one for instances in answers for one in instances}.values())

    def instance_names(self) -> frozenset[str]:
        """
        As `Evolution.instance_names`, of all processes.

        Raises:
            GatewayError: A process did not answer, so that its instances are unknown.
        """
        found = self.survey()
        for each in found.values():
            if isinstance(each, errors.GatewayError):
                raise each
        if not found:
            raise self._nobody()
        return frozenset(one.name for each in found.values() if isinstance(each, tuple) for one in each)

    def survey(self) -> dict[str, Instances | errors.GatewayError]:
        """The instances of each process, or its error, by address; empty if the name has no address."""
        shards = self._routing.shards(fresh=True)
        return ask_all(shards, lambda shard: shard.gateway.fetch_instances(), wait_s=self._answers_in_s)

    def states(self, instance: str) -> dict[str, Answer]:
        """The state of an instance at each process, or its error, by address."""
        return self._routing.states(instance)

    def _at(self, instance: str) -> Evolution:
        """
        The process that confirms now that it holds an instance; a change must not go to another.

        Raises:
            SendError: No process does.
        """
        return self._routing.asked(instance).shard.gateway

    def _nobody(self) -> errors.GatewayError:
        return errors.GatewayError(f"{self.url}: the name has no address, or no gateway process answers")
