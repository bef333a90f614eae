"""One message: render it and send it. Knows neither Celery nor Redis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

from ifinu.gateway import Evolution, Sent
from ifinu.notification import Notification
from ifinu.render import Renderer

_BRAZIL = ZoneInfo("America/Sao_Paulo")


@dataclass(frozen=True)
class Delivery:
    """
    What it takes to send a notification.

    Attributes:
        gateway: Where it is sent through.
        renderer: What makes its text.
        instance: WhatsApp instance for notifications that name none.
        today: Says which day it is in Brazil.
    """

    gateway: Evolution
    renderer: Renderer
    instance: str
    today: Callable[[], date]

    def deliver(self, notification: Notification) -> Sent:
        """
        Send one notification.

        Raises:
            InvalidNotification: Its text cannot be made.
            SendError: The send failed; the subclass says what follows.
        """
        text = self.renderer.render(notification, today=self.today())
        return self.gateway.send_text(notification.instance or self.instance, notification.phone, text)


def today_in_brazil() -> date:
    """The day in São Paulo, by which a charge is due."""
    return datetime.now(_BRAZIL).date()
