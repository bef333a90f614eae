"""
The Evolution API, as far as ifinu uses it.

A send raises a subclass of SendError, which says what the failure proves; every other route raises GatewayError. Only
`connect` is called with a query string: a query parameter would override the instance in the path after the gateway
has checked the key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

from ifinu import errors, phone
from ifinu.errors import Reason
from ifinu.gateway import http_transport, message_records, outcomes, responses

_T = TypeVar("_T")

_PAGE = 50  # messages in one answer of a search
_REASONS = {401: Reason.UNAUTHORIZED} | dict.fromkeys((301, 302, 303, 307, 308), Reason.REDIRECTED)


class Evolution:
    """
    A client of one gateway process; threads may share it, and a forked process opens its own connections.

    Args:
        url: Base URL, `http://host:port` or `https://host/prefix`.
        api_key: Sent as `apikey`; no repr, error or log contains it.
        connect_timeout_s: Longest wait for a connection.
        read_timeout_s: Longest wait for an answer. A send makes several queries of up to 60 s each at WhatsApp, and a
            request that times out here may still be sent.
        worker: Name of this worker, sent as `X-Ifinu-Worker`, so that logs of proxies and gateway name the worker.
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
        self._api_key = api_key.strip()
        headers = {"apikey": self._api_key} | ({"X-Ifinu-Worker": worker} if worker else {})
        self._transport = http_transport.HttpTransport(
            url,
            headers=headers,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            address=address,
        )
        self._at = f"{url} at {address}" if address else url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._at!r})"

    def close(self) -> None:
        """Close the connections; those in use close after their answer."""
        self._transport.close()

    def send_text(
        self,
        instance: str,
        number_e164: str,
        text: str,
        *,
        before: Callable[[], None] | None = None,
    ) -> outcomes.Sent:
        """
        Send one text, once: neither this client nor the gateway retries.

        Args:
            number_e164: The recipient, as `+5577998616740`.
            text: The text. U+0000 is removed, since the gateway sends it and then fails to store it.
            before: Called just before the request is written; if it raises, nothing is sent.

        Returns:
            The message's id; `confirmed` is False if it was sent but the id was lost.

        Raises:
            NotSent: Nothing reached WhatsApp.
            Throttled: Nothing reached WhatsApp, since the number sends too fast.
            MaybeSent: The outcome is unknown.
            Refused: The gateway refuses this message or this number.
            Misconfigured: The gateway refuses every message of this instance.
        """
        body = _json({"number": phone.digits(number_e164), "text": text.replace("\0", ""), "linkPreview": False})
        hide = (self._api_key, text)
        try:
            answer = self._transport.exchange("POST", _path("message/sendText", instance), body, before=before)
        except (http_transport.RequestNotDelivered, http_transport.AnswerLost) as exc:
            raise outcomes.unanswered(exc, instance=instance, hide=hide) from exc
        wait_s = outcomes.retry_after_s(answer.retry_after, now=datetime.now(UTC))
        return outcomes.classify(answer.status, answer.body, instance=instance, retry_after_s=wait_s, hide=hide)

    def find_messages(
        self,
        instance: str,
        *,
        since: datetime,
        until: datetime,
        remote_jid: str | None = None,
        page: int = 1,
    ) -> message_records.FoundMessages:
        """
        Search the messages that this instance has sent and stored.

        A message that is found was sent. One that is not found may have been sent: the gateway writes the row after the
        send, and that may fail. It cannot search by text.

        Args:
            since: Oldest time of sending, aware.
            until: Newest, aware.
            remote_jid: Only messages to this address (`Sent.remote_jid`, or each of `phone.ninth_digit_forms`).
            page: From 1.
        """
        where = {
            "key": {"fromMe": True} if remote_jid is None else {"fromMe": True, "remoteJid": remote_jid},
            "messageTimestamp": {"gte": _iso(since), "lte": _iso(until)},
        }
        body = {"where": where, "page": page, "offset": _PAGE}
        return self._ask(message_records.read_messages, "POST", "chat/findMessages", instance, body)

    def connection_state(self, instance: str) -> message_records.ConnectionState:
        """The state of an instance; ABSENT if another gateway process holds it."""
        return self._ask(message_records.read_connection, "GET", "instance/connectionState", instance).state

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
        return self._ask(message_records.read_created, "POST", "instance/create", body=body)

    def connect_instance(self, instance: str, *, number: str | None = None) -> message_records.Pairing:
        """
        Start pairing. Returns a QR code, no QR code yet (ask again), or OPEN if the instance is paired.

        Args:
            number: Digits of the phone, for a pairing code beside the QR code. It is sent in the query string, which
                a proxy may remove.
        """
        query = "" if number is None else f"?number={quote(number, safe='')}"
        return self._ask(message_records.read_connection, "GET", "instance/connect", instance, query=query)

    def restart_instance(self, instance: str) -> message_records.Pairing:
        """Reconnect the instance to WhatsApp; GatewayError if it is not connected."""
        return self._ask(message_records.read_connection, "POST", "instance/restart", instance)

    def logout_instance(self, instance: str) -> None:
        """Unpair the instance: it then needs a new QR code."""
        self._ask(_nothing, "DELETE", "instance/logout", instance)

    def delete_instance(self, instance: str) -> None:
        """Delete the instance with its messages and webhook; the gateway deletes them after its answer."""
        self._ask(_nothing, "DELETE", "instance/delete", instance)

    def fetch_instances(self) -> tuple[message_records.Instance, ...]:
        """The instances of this gateway process."""
        return self._ask(message_records.read_instances, "GET", "instance/fetchInstances")

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
        return self._ask(message_records.read_webhook, "POST", "webhook/set", instance, {"webhook": webhook})

    def find_webhook(self, instance: str) -> message_records.Webhook | None:
        """The webhook of an instance; None if it has none."""
        return self._ask(message_records.read_found_webhook, "GET", "webhook/find", instance)

    def _ask(
        self,
        read: Callable[[Any], _T],
        method: str,
        route: str,
        instance: str | None = None,
        body: dict[str, Any] | None = None,
        query: str = "",
    ) -> _T:
        content = b"" if body is None else _json(body)
        try:
            answer = self._transport.exchange(method, _path(route, instance) + query, content)
        except http_transport.RequestNotDelivered as exc:
            raise self._error(str(exc), instance, Reason.UNREACHABLE) from exc
        except http_transport.AnswerLost as exc:
            raise self._error(f"{method} {route}: no answer, so it may be done: {exc}", instance) from exc
        ok = 200 <= answer.status < 300
        reason = _REASONS.get(answer.status)
        try:
            decoded = responses.decode(answer.body)
        except ValueError:
            decoded, reason = {"error": True}, Reason.ROUTE_NOT_FOUND if ok else reason
        # `connect` and `restart` answer 200 with an error inside.
        if not ok or (isinstance(decoded, dict) and decoded.get("error") is True):
            words = responses.words(answer.body, hide=(self._api_key,))
            said = ": ".join(filter(None, (f"{method} {route}", f"HTTP {answer.status}", words)))
            raise self._error(said, instance, reason, status=answer.status, answer=words)
        try:
            return read(decoded)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as exc:
            said = f"{method} {route}: the answer is not understood ({type(exc).__name__})"
            raise self._error(said, instance, Reason.ROUTE_NOT_FOUND) from exc

    def _error(
        self,
        said: str,
        instance: str | None,
        reason: Reason | None = None,
        *,
        status: int | None = None,
        answer: str = "",
    ) -> errors.GatewayError:
        line = responses.one_line(f"{instance or self._at}: {said}", hide=(self._api_key,))
        message = "; ".join(filter(None, (line, reason and outcomes.hint(reason))))
        return errors.GatewayError(message, instance=instance, status=status, answer=answer)


def _nothing(_: Any) -> None:
    """Read nothing from an answer."""


def _path(route: str, instance: str | None) -> str:
    return f"/{route}" if instance is None else f"/{route}/{quote(instance, safe='')}"


def _json(body: dict[str, Any]) -> bytes:
    # Half a surrogate pair is not a character; the gateway's database would refuse it after the send.
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
