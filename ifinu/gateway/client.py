"""
The client of the sending path: it sends, looks up and asks for a state. `management.py` does the rest.

A send raises a subclass of SendError, which says what the failure proves; a look-up raises GatewayError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from ifinu import phone
from ifinu.gateway import http_transport, message_records, outcomes
from ifinu.gateway.calls import Calls, headers_of, path, to_json
from ifinu.gateway.sent_search import SentSearch

_PAGE = 50  # messages in one answer of a search


class Evolution(SentSearch):
    """
    A client of one gateway process.

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
        headers = headers_of(api_key, worker)
        self._api_key = headers["apikey"]
        self._transport = http_transport.HttpTransport(
            url,
            headers=headers,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            address=address,
        )
        self._at = f"{url} at {address}" if address else url
        self._calls = Calls(self._transport.exchange, self._at, self._api_key)

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
        body = {"number": phone.digits(number_e164), "text": text.replace("\0", ""), "linkPreview": False}
        return self._send("message/sendText", instance, body, (text,), before)

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
    ) -> outcomes.Sent:
        """
        Send one of Meta's templates, once; only the channel BUSINESS has them.

        The gateway stores and reports no more of it than its name: a look-up cannot tell two of them apart.

        Args:
            name: Its name at Meta.
            language: Its code, as `pt_BR`.
            components: Its values, as Meta takes them.
            private: Texts that no error may repeat.
            before: As for `send_text`.

        Raises:
            SendError: As for `send_text`.
        """
        number = phone.digits(number_e164)
        body = {"number": number, "name": name, "language": language, "components": components}
        return self._send("message/sendTemplate", instance, body, private, before)

    def _send(
        self,
        route: str,
        instance: str,
        body: dict[str, Any],
        private: Iterable[str],
        before: Callable[[], None] | None,
    ) -> outcomes.Sent:
        hide = (self._api_key, *private)
        try:
            answer = self._transport.exchange("POST", path(route, instance), to_json(body), before=before)
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
        return self._calls.ask(message_records.read_messages, "POST", "chat/findMessages", instance, body)

    def connection_state(self, instance: str) -> message_records.ConnectionState:
        """The state of an instance; ABSENT if another gateway process holds it."""
        return self._calls.connection_state(instance)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
