"""
Several gateway processes behind one host name, used as one gateway.

A gateway process keeps the WhatsApp connections of its instances in its own memory, and can do nothing with those of
another; some routes say so, some answer SUCCESS and do nothing, and `delete` erases the rows of an instance that lives
elsewhere. So each request goes to the process that holds its instance (`routing.py`), and to no other.
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
from ifinu.gateway.routing import Answer, Holders, LocationStore
from ifinu.gateway.shard import Shard, ask_all

# Nothing was sent, and another process may be the one that holds the instance.
_ELSEWHERE = frozenset({Reason.WRONG_SHARD, Reason.UNREACHABLE, Reason.UNAVAILABLE})
_LONGEST_CONNECT_S = 3.0  # of a question
_LONGEST_ANSWER_S = 5.0

Instances = tuple[message_records.Instance, ...]


class Shards:
    """
    All gateway processes of one host name, with the methods of one; threads may share it.

    Args:
        url: As for `Evolution`; its host is looked up every few seconds.
        api_key: As for `Evolution`; theirs is the same.
        connect_timeout_s: As for `Evolution`.
        read_timeout_s: As for `Evolution`.
        worker: As for `Evolution`.
        memory: Where processes tell each other who holds what, or None.
        look_up: What resolves the host.

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
        connect()  # a key that cannot be used is told now

        def open_shard(address: str) -> Shard:
            gateway = connect(address=address, connect_timeout_s=connect_timeout_s, read_timeout_s=read_timeout_s)
            asking = connect(
                address=address,
                connect_timeout_s=min(connect_timeout_s, _LONGEST_CONNECT_S),
                read_timeout_s=min(read_timeout_s, _LONGEST_ANSWER_S),
            )
            return Shard(address, gateway, asking)

        self._holders = Holders(Addresses(host, port, look_up), open_shard, name=f"{host}:{port}", memory=memory)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def close(self) -> None:
        """Close the connections: those in use when their answer is there."""
        self._holders.close()

    def send_text(
        self,
        instance: str,
        number_e164: str,
        text: str,
        *,
        before: Callable[[], None] | None = None,
    ) -> Sent:
        """
        As `Evolution.send_text`. When who was thought to hold the instance shows that nothing was sent, since it does
        not hold it or cannot be reached, the others are asked and it is sent through the one that does; once.

        Raises:
            NotSent: Also when none holds it (`wrong_shard`), or none can be reached (`unreachable`).
            SendError: As `Evolution.send_text` says.
        """
        shard = self._holders.of(instance)
        try:
            return shard.gateway.send_text(instance, number_e164, text, before=before)
        except NotSent as exc:
            if exc.reason not in _ELSEWHERE:
                raise
            shard.failed(exc)
        shard = self._holders.anew(instance, shard)
        try:
            return shard.gateway.send_text(instance, number_e164, text, before=before)
        except NotSent as exc:
            if exc.reason not in _ELSEWHERE:
                raise
            shard.failed(exc)
            self._holders.forget(instance, shard)
            if exc.reason is Reason.WRONG_SHARD:
                raise
            # It was there a moment ago, and so may others be: no outage of the whole gateway.
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
        """As `Evolution.find_messages`, of whoever holds the instance; no other process' answer counts."""
        find = functools.partial(
            Evolution.find_messages,
            instance=instance,
            since=since,
            until=until,
            remote_jid=remote_jid,
            page=page,
        )
        shard = self._holders.of(instance)
        try:
            return find(shard.gateway)
        except errors.GatewayError as exc:
            shard.failed(exc)
            if isinstance(exc.__cause__, http_transport.AnswerLost):
                raise  # whoever asks will ask again; here it could take as long once more
        return find(self._holders.anew(instance, shard).gateway)

    def connection_state(self, instance: str) -> message_records.ConnectionState:
        """As `Evolution.connection_state`; ABSENT when it is there and none that answers holds it."""
        try:
            return self._holders.asked(instance).state
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
        As `Evolution.create_instance`, in the process that has the fewest.

        Raises:
            GatewayError: Also (403) when any of them knows the name.
        """
        try:
            self._holders.asked(instance)
        except NotSent as exc:
            if exc.reason is not Reason.WRONG_SHARD:
                raise
        except errors.Misconfigured as exc:
            if exc.reason is not Reason.INSTANCE_NOT_FOUND:
                raise
            counted = [(len(found), address) for address, found in self.survey().items() if isinstance(found, tuple)]
            shard = self._holders.shards().get(min(counted)[1]) if counted else None
            if shard is None:
                raise self._nobody() from exc
            return shard.gateway.create_instance(instance, channel=channel, number=number, token=token)
        raise errors.GatewayError(
            f"{responses.one_line(instance)}: there is an instance of this name already", instance=instance, status=403
        )

    def connect_instance(self, instance: str, *, number: str | None = None) -> message_records.Pairing:
        """As `Evolution.connect_instance`."""
        return self._at(instance).connect_instance(instance, number=number)

    def restart_instance(self, instance: str) -> message_records.Pairing:
        """As `Evolution.restart_instance`."""
        return self._at(instance).restart_instance(instance)

    def logout_instance(self, instance: str) -> None:
        """As `Evolution.logout_instance`; any other process would answer SUCCESS and do nothing."""
        self._at(instance).logout_instance(instance)

    def delete_instance(self, instance: str) -> None:
        """As `Evolution.delete_instance`; any other process would leave it running without its rows."""
        self._at(instance).delete_instance(instance)

    def set_webhook(
        self, instance: str, url: str, events: Iterable[str], *, headers: dict[str, str] | None = None
    ) -> message_records.Webhook:
        """As `Evolution.set_webhook`."""
        return self._at(instance).set_webhook(instance, url, events, headers=headers)

    def find_webhook(self, instance: str) -> message_records.Webhook | None:
        """As `Evolution.find_webhook`."""
        return self._at(instance).find_webhook(instance)

    def fetch_instances(self) -> Instances:
        """
        The instances of all that answer.

        Raises:
            GatewayError: None answered.
        """
        found = self.survey()
        answers = [each for each in found.values() if isinstance(each, tuple)]
        if not answers:
            failures = [each for each in found.values() if isinstance(each, errors.GatewayError)]
            raise max(failures, key=lambda exc: exc.status or 0) if failures else self._nobody()
        # A process with two addresses tells its own twice.
        return tuple({one.name: one for instances in answers for one in instances}.values())

    def instance_names(self) -> frozenset[str]:
        """
        As `Evolution.instance_names`, of all processes.

        Raises:
            GatewayError: One of them did not answer, and may hold others.
        """
        found = self.survey()
        for each in found.values():
            if isinstance(each, errors.GatewayError):
                raise each
        if not found:
            raise self._nobody()
        return frozenset(one.name for each in found.values() if isinstance(each, tuple) for one in each)

    def survey(self) -> dict[str, Instances | errors.GatewayError]:
        """The instances of each process, by address, or why it does not tell; empty when the name stands for none."""
        shards = self._holders.shards(fresh=True)
        return ask_all(shards, lambda shard: shard.gateway.fetch_instances(), wait_s=self._answers_in_s)

    def states(self, instance: str) -> dict[str, Answer]:
        """What each process says of an instance, by address, or why it says nothing."""
        return self._holders.states(instance)

    def _at(self, instance: str) -> Evolution:
        """
        Whoever says now that it holds an instance: what changes something must not go to another.

        Raises:
            SendError: None does.
        """
        return self._holders.asked(instance).shard.gateway

    def _nobody(self) -> errors.GatewayError:
        return errors.GatewayError(f"{self.url}: the name stands for no address, or no gateway process answers")
