"""
The management of instances: create, pair, inspect and delete them, and register their webhooks.

Every failure is a GatewayError. It is for the calls outside the sending path, which may block.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from ifinu import errors
from ifinu.gateway import message_records
from ifinu.gateway.calls import Calls, headers_of


class Management:
    """
    The management of one gateway process; threads may share it.

    Args:
        url: Base URL, `http://host:port` or `https://host/prefix`.
        api_key: Sent as `apikey`; no repr, error or log contains it.
        connect_timeout_s: Longest wait for a connection.
        read_timeout_s: Longest wait for the head of an answer; its body may take as long again.
        worker: Name of the client, sent as `X-Ifinu-Worker`, so that logs of proxies and gateway name the client.
        address: IP address of the process, if the URL's host has several.

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
        address: str | None = None,
    ) -> None:
        from ifinu.gateway.requests_transport import RequestsTransport  # slow to load, and most workers never need it

        headers = headers_of(api_key, worker)
        self._transport = RequestsTransport(
            url,
            headers=headers,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            address=address,
        )
        self._name = f"{url} at {address}" if address else url
        self._calls = Calls(self._transport.exchange, self._name, headers["apikey"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    def close(self) -> None:
        """Release what it holds."""
        self._transport.close()

    def connection_state(self, instance: str) -> message_records.ConnectionState:
        """The state of an instance; ABSENT if another gateway process holds it."""
        return self._at(instance).connection_state(instance)

    def create_instance(
        self,
        instance: str,
        *,
        channel: message_records.Integration = message_records.Integration.BAILEYS,
        number: str | None = None,
        token: str | None = None,
    ) -> message_records.CreatedInstance:
        """
        Create an instance. Never create two of one name at a time: the loser's clean-up deletes the winner.

        Args:
            instance: Its name, unique in the gateway's whole database.
            channel: The service it connects to.
            number: Digits of the phone, for a pairing code beside the QR code; Meta's phone-number id for
                BUSINESS.
            token: The instance's key, or Meta's token for BUSINESS; without one the gateway generates a key.

        Raises:
            ConfigurationError: The name is blank. The gateway would create an instance that no route can address.
            GatewayError: With status 403 if the name is taken.
        """
        if not instance.strip():
            raise errors.ConfigurationError("an instance needs a name")
        wanted = {"instanceName": instance, "integration": channel, "number": number, "token": token}
        body = {name: value for name, value in wanted.items() if value is not None}
        return self._calls.ask(message_records.read_created, "POST", "instance/create", body=body)

    def connect_instance(self, instance: str, *, number: str | None = None) -> message_records.Pairing:
        """
        Start pairing. Returns a QR code, no QR code yet (ask again), or OPEN if the instance is paired.

        Args:
            number: Digits of the phone, for a pairing code beside the QR code. It is sent in the query string, which
                a proxy may remove.
        """
        query = "" if number is None else f"?number={quote(number, safe='')}"
        return self._at(instance).ask(message_records.read_connection, "GET", "instance/connect", instance, query=query)

    def restart_instance(self, instance: str) -> message_records.Pairing:
        """Reconnect the instance to WhatsApp; GatewayError if it is not connected."""
        return self._at(instance).ask(message_records.read_connection, "POST", "instance/restart", instance)

    def logout_instance(self, instance: str) -> None:
        """Unpair the instance: it then needs a new QR code."""
        self._at(instance).ask(_nothing, "DELETE", "instance/logout", instance)

    def delete_instance(self, instance: str) -> None:
        """Delete the instance with its messages and webhook; the gateway deletes them after its answer."""
        self._at(instance).ask(_nothing, "DELETE", "instance/delete", instance)

    def fetch_instances(self) -> tuple[message_records.Instance, ...]:
        """The instances of this gateway process."""
        return self._calls.ask(message_records.read_instances, "GET", "instance/fetchInstances")

    def instance_names(self) -> frozenset[str]:
        """
        The names of all instances.

        Raises:
            GatewayError: The list could not be read.
        """
        return frozenset(one.name for one in self.fetch_instances())

    def set_webhook(
        self, instance: str, url: str, events: Iterable[str], *, headers: dict[str, str] | None = None
    ) -> message_records.Webhook:
        """
        Register the webhook of an instance.

        Args:
            url: Receives events as POST.
            events: Names such as `MESSAGES_UPDATE`; an empty list means all events.
            headers: Sent unchanged, but `jwt_key` is turned into `Authorization: Bearer <a ten-minute
                JWT>`.
        """
        webhook = {"enabled": True, "url": url, "events": list(events)} | ({"headers": headers} if headers else {})
        return self._at(instance).ask(
            message_records.read_webhook, "POST", "webhook/set", instance, {"webhook": webhook}
        )

    def find_webhook(self, instance: str) -> message_records.Webhook | None:
        """The webhook of an instance; None if it has none."""
        return self._at(instance).ask(message_records.read_found_webhook, "GET", "webhook/find", instance)

    def _at(self, instance: str) -> Calls:
        """The calls of the process that holds an instance."""
        return self._calls


def _nothing(_: Any) -> None:
    """Read nothing from an answer."""
