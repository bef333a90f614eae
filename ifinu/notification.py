"""
The vocabulary: notifications, their kinds, and the states they go through.

    queued → sending → sent → (server_ack → delivered → read | failed)
                    ↘ retrying, deferred, unknown, duplicate, expired, suppressed, cancelled, dead
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ifinu import damage, payment_codes
from ifinu import phone as _phone
from ifinu.escapes import CONTROLS

if TYPE_CHECKING:
    from pydantic._internal._repr import ReprArgs  # what `__repr_args__` returns; it has no public name


CONFIRMATION = "optout:"  # how the ids begin of the messages that confirm an opt-out


class Kind(enum.StrEnum):
    """The reason for a message. Producers put these values in `tipo_notificacao`."""

    REMINDER = "lembrete"  # the charge is due soon
    DUE = "vencimento"  # it is due today
    OVERDUE = "atraso"  # it is past due
    PAID = "pagamento"  # it was paid: a receipt
    CREATED = "cobranca_criada"  # it exists: the first message about it


class Stop(enum.StrEnum):
    """Why a message about a charge is not sent after all; ledger and `intents` have these words."""

    PAID = "paid"  # nothing is left to pay
    UNDONE = "payment_undone"  # a receipt whose payment was taken back
    CHARGE_CANCELLED = "charge_cancelled"
    CANCELLED = "cancelled"  # the step was: its charge's due date or recipient changed, or its rule
    ON_HOLD = "on_hold"  # charge or customer are held
    MUTED = "muted"  # the charge is not to be notified of
    TENANT_INACTIVE = "tenant_inactive"
    TENANT_PAUSED = "tenant_paused"
    CUSTOMER_INACTIVE = "customer_inactive"
    NO_PHONE = "no_phone"
    EMAIL_ONLY = "email_only"
    INVALID = "invalid"  # no message can be made of it


class Priority(enum.StrEnum):
    """The queue that a notification waits in. The queues are consumed in this order."""

    URGENT = "urgente"
    NORMAL = "normal"
    LOW = "baixa"


MISSING_FOR_KIND = "missing_for_kind"  # type of the error whose `ctx["fields"]` lists the fields that the text lacks

_LONGEST_ID = 200
_UNSENDABLE = re.compile(rf"(?![\t\n])[{CONTROLS}]")
_LINE_ENDS = re.compile(r"\r\n?")
_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _one_line(value: object) -> object:
    return " ".join(value.split()) if isinstance(value, str) else value


def _sendable(value: object) -> object:
    # The gateway sends a text with U+0000, then fails to store it and answers with an error for what it sent.
    return _UNSENDABLE.sub("", _LINE_ENDS.sub("\n", value)).strip() if isinstance(value, str) else value


# The last validator runs first and sees the raw value.
_Id = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=_LONGEST_ID, pattern=rf"^[^{CONTROLS}]+$"),
    BeforeValidator(damage.checking(damage.refuse_in_code)),
]
_Line = Annotated[
    str,
    StringConstraints(min_length=1, max_length=500, pattern=rf"^[^{CONTROLS}]+$"),
    BeforeValidator(_one_line),
]
_Name = Annotated[_Line, BeforeValidator(damage.checking(damage.refuse_in_name))]
_Description = Annotated[_Line, BeforeValidator(damage.checking(damage.refuse_in_line))]
_Pix = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=512, pattern=rf"^[^{CONTROLS}]+$"),
    AfterValidator(payment_codes.pix_code),
    BeforeValidator(damage.checking(damage.refuse_in_code)),
]
_Boleto = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(payment_codes.boleto_line)]
_ChargeRef = Annotated[str, StringConstraints(strip_whitespace=True, max_length=18, pattern=r"^[0-9]+$")]
_Text = Annotated[
    str,
    StringConstraints(min_length=1, max_length=4096),
    BeforeValidator(_sendable),
    BeforeValidator(damage.checking(damage.refuse_in_text)),
]
_Window = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, to_lower=True, pattern=rf"^[^{CONTROLS}]+$"),
    BeforeValidator(_one_line),
]
_Url = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=2048, pattern=rf"^[hH][tT][tT][pP][sS]?://[^\s{CONTROLS}]+$"),
    BeforeValidator(damage.checking(damage.refuse_in_link)),
]

# The fields that the template of each kind needs.
_NEEDED = {
    Kind.REMINDER: ("name", "amount", "due_date"),
    Kind.DUE: ("name", "amount", "due_date"),
    Kind.OVERDUE: ("name", "amount", "due_date"),
    Kind.PAID: ("name", "amount"),
    Kind.CREATED: ("name", "amount", "due_date"),
}
# Days from the day of sending to the due date of a sample charge; -10 is late even around Carnival.
SAMPLE_DUE_IN_DAYS: Mapping[str, int] = {
    Kind.REMINDER: 3, Kind.DUE: 0, Kind.OVERDUE: -10, Kind.PAID: 0, Kind.CREATED: 10,
}  # fmt: skip


def code_ids(notification_id: str) -> tuple[str, str]:
    """The ids of the separate messages with a notification's Pix code and its linha digitável."""
    stem = notification_id
    if len(stem) > _LONGEST_ID - len("#boleto"):
        stem = f"{stem[:120]}~{hashlib.sha256(stem.encode()).hexdigest()[:32]}"
    return f"{stem}#pix", f"{stem}#boleto"


def is_answer(notification_id: str) -> bool:
    """Whether an id is that of a payment code, which belongs to the message before it, or of a confirmed opt-out."""
    return notification_id.endswith(("#pix", "#boleto")) or notification_id.startswith(CONFIRMATION)


class Notification(BaseModel):
    """
    One message to one person about one charge.

    Control characters are dropped from a text and refused in every other field, except that the lines of a name or a
    description are joined. An optional field that is empty or blank counts as absent. The `repr` may reach logs, so it
    shows the id, the kind and the masked phone only.

    Attributes:
        id: The idempotency key, chosen by the producer, e.g. `inv-42:lembrete`. Two messages with one id are
            one notification.
        kind: The reason for it; selects the template.
        phone: E.164 (`+5577998616740`). Any usual Brazilian spelling is accepted and normalised.
        name: The person it addresses.
        amount: Money in BRL, above zero.
        due_date: The day the charge is due, a date in Brazil.
        description: The subject of the charge.
        instance: WhatsApp instance to send from; None means the default one.
        tenant: The tenant that sends it (`usuario_id` on the wire).
        payment_link: URL to pay at, http or https.
        pix_code: Pix "copia e cola"; its structure and its checksum are checked.
        boleto_line: The "linha digitável" of a boleto or a utility bill, digits alone; its check digits are checked.
        attachment: URL of a document, http or https.
        valid_until: After this instant it must not be sent.
        priority: The queue it waits in.
        text: Free text instead of the kind's template.
        without_reference: Whether to leave out the line with the reference, so that the whole text can be copied. A
            look-up then compares whole texts.
        charge_ref: Number of the charge in the database, for a message that the régua planned: what it says may change
            until it is sent, so one id is not held to one content.
        sending_window: Hours in which it may be sent, in the grammar of `window.py`, beside those of its tenant and of
            the phone's state. They are closed on bank holidays and on those of the state, unless it is `always`.

    Raises:
        pydantic.ValidationError: Some fields are wrong; it names each.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        cache_strings="none",  # pydantic would keep the ids of 16,384 messages, a megabyte
    )

    id: _Id
    kind: Kind
    phone: str
    name: _Name | None = None
    amount: Annotated[Decimal, Field(gt=0, max_digits=14, decimal_places=2)] | None = None
    due_date: date | None = None
    description: _Description | None = None
    instance: _Id | None = None
    tenant: _Id | None = None
    payment_link: _Url | None = None
    pix_code: _Pix | None = None
    boleto_line: _Boleto | None = None
    attachment: _Url | None = None
    valid_until: AwareDatetime | None = None
    priority: Priority = Priority.NORMAL
    text: _Text | None = None
    without_reference: bool = False
    charge_ref: _ChargeRef | None = None
    sending_window: _Window | None = None

    @model_validator(mode="before")
    @classmethod
    def _blank_is_absent(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        return {
            name: value
            for name, value in given.items()
            if not isinstance(value, str) or value.strip() or name not in _OPTIONAL
        }

    @field_validator("phone", mode="before")
    @classmethod
    def _phone_is_e164(cls, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("must be a string of digits, such as '(77) 99861-6740'")
        return _phone.normalize(value)

    @field_validator("due_date", mode="before")
    @classmethod
    def _date_is_a_date(cls, value: object) -> object:
        # pydantic would cut a datetime to its UTC day, which is tomorrow after 21:00 in Brazil, and read '20261201' and
        # any number as seconds since 1970.
        if isinstance(value, datetime) or not isinstance(value, (date, str, type(None))):
            raise ValueError("must be a date, such as '2026-12-01'")
        if isinstance(value, str) and not _ISO_DATE.fullmatch(value):
            raise ValueError("must be a date, such as '2026-12-01'")
        return value

    @field_validator("valid_until", mode="before")
    @classmethod
    def _instant_is_written_out(cls, value: object) -> object:
        # pydantic would read a bare number as seconds, or milliseconds, since 1970.
        if not isinstance(value, (datetime, str, type(None))) or (isinstance(value, str) and "-" not in value[:8]):
            raise ValueError("must be a time with its zone, such as '2026-12-01T18:00:00-03:00'")
        return value

    @field_validator("amount", mode="before")
    @classmethod
    def _amount_is_exact(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("must be a decimal, such as '1234.50'")
        # A float is read as it prints: 0.1, not 0.1000000000000000055.
        return Decimal(repr(value)) if isinstance(value, float) else value

    @model_validator(mode="after")
    def _has_what_its_text_needs(self) -> Self:
        if self.text is None:
            lacking = [field for field in _NEEDED[self.kind] if getattr(self, field) is None]
            if lacking:
                raise PydanticCustomError(
                    MISSING_FOR_KIND,
                    "{names} required for {kind}",
                    {"fields": tuple(lacking), "names": ", ".join(lacking), "kind": self.kind.value},
                )
        return self

    def code_messages(self, instance: str) -> list[Self]:
        """
        The messages that follow it with its payment codes, one code each.

        Args:
            instance: WhatsApp instance that sent this notification.

        Returns:
            The messages; an empty list for a receipt, which leaves nothing to pay. `code_ids` derives their ids, so
            that each is sent once.
        """
        codes = (self.pix_code, self.boleto_line) if self.kind is not Kind.PAID else (None, None)
        return [
            type(self)(
                id=id_, kind=self.kind, phone=self.phone, due_date=self.due_date, instance=instance, tenant=self.tenant,
                valid_until=self.valid_until, priority=self.priority, text=code, without_reference=True,
                charge_ref=self.charge_ref,
            )
            for id_, code in zip(code_ids(self.id), codes, strict=True)
            if code is not None
        ]  # fmt: skip

    def __repr_args__(self) -> ReprArgs:
        return [("id", self.id), ("kind", self.kind.value), ("phone", _phone.mask(self.phone))]


_OPTIONAL = frozenset(name for name, field in Notification.model_fields.items() if not field.is_required())
