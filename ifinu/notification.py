"""
The vocabulary: what a notification is, which kinds there are, and the states it goes through.

    queued → sending → sent → (server_ack → delivered → read | failed)
                    ↘ retrying, deferred, unknown, duplicate, expired, suppressed, cancelled, dead
"""

from __future__ import annotations

import enum
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from ifinu import phone as _phone


class Kind(enum.StrEnum):
    """Why a person is written to. The values are what producers put in `tipo_notificacao`."""

    REMINDER = "lembrete"  # the charge is due soon
    DUE = "vencimento"  # it is due today
    OVERDUE = "atraso"  # it is past due
    PAID = "pagamento"  # it was paid: a receipt


class Priority(enum.StrEnum):
    """Which queue a notification waits in; they are consumed in this order."""

    URGENT = "urgente"
    NORMAL = "normal"
    LOW = "baixa"


_Id = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
_Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4096)]
_Url = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2048, pattern=r"^https?://\S+$")]

# What the template of each kind cannot do without.
_NEEDED = {
    Kind.REMINDER: ("name", "amount", "due_date"),
    Kind.DUE: ("name", "amount", "due_date"),
    Kind.OVERDUE: ("name", "amount", "due_date"),
    Kind.PAID: ("name", "amount"),
}


class Notification(BaseModel):
    """
    One message to one person about one charge.

    Attributes:
        id: The idempotency key, chosen by the producer, e.g. `inv-42:lembrete`. Two messages with one id are one
            notification.
        kind: Why it is sent; chooses the template.
        phone: E.164 (`+5577998616740`). Any usual Brazilian spelling is accepted and normalised.
        name: Whom it addresses.
        amount: Money in BRL, above zero.
        due_date: The day the charge is due, a date in Brazil.
        description: What the charge is for.
        instance: WhatsApp instance to send from; None means the default one.
        tenant: On whose behalf (`usuario_id` on the wire).
        payment_link: Where to pay, http or https.
        pix_code: Pix "copia e cola".
        attachment: URL of a document, http or https.
        valid_until: After this instant it must not be sent.
        priority: Which queue it waits in.
        text: Free text in place of the kind's template.

    Raises:
        pydantic.ValidationError: Naming every field at fault.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    id: _Id
    kind: Kind
    phone: str
    name: _Line | None = None
    amount: Annotated[Decimal, Field(gt=0, max_digits=14, decimal_places=2)] | None = None
    due_date: date | None = None
    description: _Line | None = None
    instance: _Id | None = None
    tenant: _Id | None = None
    payment_link: _Url | None = None
    pix_code: _Line | None = None
    attachment: _Url | None = None
    valid_until: AwareDatetime | None = None
    priority: Priority = Priority.NORMAL
    text: _Text | None = None

    @field_validator("phone", mode="before")
    @classmethod
    def _phone_is_e164(cls, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("must be a string of digits, such as '(77) 99861-6740'")
        return _phone.normalize(value)

    @field_validator("due_date", mode="before")
    @classmethod
    def _date_is_a_date(cls, value: object) -> object:
        # A datetime would be cut to its UTC day, which is tomorrow after 21:00 in Brazil; a number would be an epoch.
        if isinstance(value, datetime) or (value is not None and not isinstance(value, (date, str))):
            raise ValueError("must be a date, such as '2026-12-01'")
        return value

    @field_validator("amount", mode="before")
    @classmethod
    def _amount_is_exact(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("must be a decimal, such as '1234.50'")
        # 0.1 + 0.2 in a producer's float is not a price: what it prints as is.
        return Decimal(repr(value)) if isinstance(value, float) else value

    @model_validator(mode="after")
    def _has_what_its_text_needs(self) -> Self:
        if self.text is None:
            for field in _NEEDED[self.kind]:
                if getattr(self, field) is None:
                    raise MissingField(field, self.kind)
        return self


class MissingField(ValueError):  # noqa: N818 - pydantic carries it in ctx["error"]; wire.py reads `.field`
    """The template of `kind` needs `field`."""

    def __init__(self, field: str, kind: Kind) -> None:
        super().__init__(f"{field} is required for {kind.value}")
        self.field = field
