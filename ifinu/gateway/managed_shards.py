"""
The management of several gateway processes behind one host name, as of one.

A gateway process keeps the WhatsApp connections of its instances in memory and cannot use those of another process.
Asked for one, some routes say so, some answer SUCCESS and do nothing, and `delete` erases the rows of an instance that
runs elsewhere. So each call goes only to the process that says now that it holds its instance (`routing.py`).
"""

from __future__ import annotations

from ifinu import errors
from ifinu.errors import NotSent, Reason
from ifinu.gateway import message_records, responses
from ifinu.gateway.addresses import Resolve, resolve
from ifinu.gateway.calls import Calls
from ifinu.gateway.management import Management
from ifinu.gateway.routing import Answer, routing_to
from ifinu.gateway.shard import ask_all

Instances = tuple[message_records.Instance, ...]


class ManagedShards(Management):
    """
    The management of all gateway processes of one host name; threads may share it.

    Args:
        url: As for `Management`; its host is resolved every few seconds.
        api_key: As for `Management`; all processes have the same key.

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
        look_up: Resolve = resolve,
    ) -> None:
        super().__init__(url, api_key, worker=worker)
        self.url = url
        self._answers_in_s = connect_timeout_s + read_timeout_s
        self._routing = routing_to(
            Management, url, api_key, connect_timeout_s, read_timeout_s, worker=worker, look_up=look_up
        )

    def close(self) -> None:
        """Release what it holds."""
        super().close()
        self._routing.close()

    def connection_state(self, instance: str) -> message_records.ConnectionState:
        """Same as `Management.connection_state`; ABSENT if it exists and no process that answers holds it."""
        return self._routing.state(instance)

    def create_instance(
        self,
        instance: str,
        *,
        channel: message_records.Integration = message_records.Integration.BAILEYS,
        number: str | None = None,
        token: str | None = None,
    ) -> message_records.CreatedInstance:
        """
        As `Management.create_instance`, in the process with the fewest instances.

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
        As `Management.instance_names`, of all processes.

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

    def _at(self, instance: str) -> Calls:
        """
        The calls of the process that confirms now that it holds an instance; a change must not go to another.

        Raises:
            SendError: No process does.
        """
        return self._routing.asked(instance).shard.gateway._at(instance)

    def _nobody(self) -> errors.GatewayError:
        return errors.GatewayError(f"{self.url}: the name has no address, or no gateway process answers")
