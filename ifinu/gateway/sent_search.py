"""The search for one message among those that an instance has sent: by the person's addresses, page by page."""

from __future__ import annotations

import abc
from collections.abc import Callable
from datetime import datetime

from ifinu import phone
from ifinu.gateway.message_records import FoundMessages

_MOST_PAGES = 20


class SentSearch(abc.ABC):
    """A gateway that can find a message that it has sent."""

    @abc.abstractmethod
    def find_messages(
        self, instance: str, *, since: datetime, until: datetime, remote_jid: str | None = None, page: int = 1
    ) -> FoundMessages:
        """One page of the messages that an instance has sent."""

    def find_sent(
        self, instance: str, number_e164: str, is_it: Callable[[str], bool], *, since: datetime, until: datetime
    ) -> str:
        """
        Search the messages that an instance has sent to one person, with and without the ninth digit of the number.

        Args:
            is_it: Whether a text is the one that is searched.
            since: Oldest time of sending, aware.
            until: Newest, aware.

        Returns:
            The gateway's id of the first message that fits, or empty.

        Raises:
            GatewayError: The gateway could not be queried.
        """
        for form in phone.ninth_digit_forms(number_e164):
            jid = f"{phone.digits(form)}@s.whatsapp.net"
            for page in range(1, _MOST_PAGES + 1):
                found = self.find_messages(instance, since=since, until=until, remote_jid=jid, page=page)
                for one in found.messages:
                    if one.text and is_it(one.text):
                        return one.key_id
                if page >= found.pages:
                    break
        return ""
