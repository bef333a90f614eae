"""
The records of a charge file -> charges with their customers.

    amount         the open balance, where the file has one
    due date       the nominal one; the real one, where it is later than the bank's calendar explains: it was postponed
    id             prefix, number and installment, whichever there are, joined by `-`
    customer       code and store, or the document, or the phone
    paid           a date of payment, a balance of zero, or a status such as `liquidado`

A line is taken whole or refused whole. No error repeats a value, so no name and no amount reaches a log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from ifinu import names, phone, values
from ifinu.billing import calendars
from ifinu.billing.charge_files.bank_returns import BANK
from ifinu.billing.charges import NewCharge
from ifinu.billing.customers import Customer
from ifinu.errors import InvalidBilling
from ifinu.tables import Fields

_OPEN = ("aberto", "emaberto", "pendente", "avencer", "vencido", "atrasado", "open", "overdue", "pending")
_PAID = ("liquidado", "pago", "quitado", "baixado", "recebido", "paid", "received", "confirmed", "recebidoemdinheiro")
_CANCELLED = ("cancelado", "estornado", "excluido", "cancelled", "canceled")
_PARTLY = ("parcial", "parcialmentepago", "recebidoparcialmente", "baixadoparcialmente")
_STATUSES = {
    word: state
    for state, words in (("open", _OPEN), ("paid", _PAID), ("cancelled", _CANCELLED), ("partly", _PARTLY))
    for word in words
}
_METHODS = {
    "pix": "pix", "boleto": "boleto", "boletobancario": "boleto", "cartao": "card", "cartaodecredito": "card",
    "creditcard": "card", "card": "card",
}  # fmt: skip
_TOTAL = re.compile(r"(?:sub)?tota(?:l|is)\b", re.IGNORECASE)
_NOT_DIGITS = re.compile(r"\D")
_ABOUT_CUSTOMER = {"name": "name", "phone": "phone", "email": "email", "document": "document", "uf": "uf",
                   "address": "address"}  # fmt: skip
_ABOUT_CHARGE = ("description", "payment_link", "pix_code", "boleto_line", "provider_id")


@dataclass(frozen=True, slots=True)
class ChargeLine:
    """
    One record of a charge file.

    Attributes:
        charge: The charge. Of one that is paid or cancelled, what it was.
        customer: Who owes it.
        state: open, paid or cancelled.
        paid_at: When it was paid, aware; None if the file does not say.
    """

    charge: NewCharge
    customer: Customer
    state: str
    paid_at: datetime | None


class LineReader:
    """
    Reads records for a tenant.

    Args:
        tenant: Id of the tenant.
        zone: Its time zone.
        fields: The fields for which the file is read.
        provider: The payment provider that issued the charges, or `BANK`.
        known_on: As `NewCharge.known_on`.
    """

    def __init__(
        self, tenant: str, zone: ZoneInfo, fields: Fields, *, provider: str = BANK, known_on: date | None = None
    ) -> None:
        self._tenant = tenant
        self._zone = zone
        self._fields = fields
        self._provider = provider
        self._known_on = known_on

    def read(self, record: Mapping[str, object], spelling: Mapping[str, str]) -> ChargeLine | None:
        """
        Read a record.

        Args:
            record: Its cells by field, or an object of JSON with the keys of its source.
            spelling: Field -> its column.

        Returns:
            None for a row with totals.

        Raises:
            InvalidBilling: A field is wrong; it is named as the file names it.
        """
        cells = self._cells(record)
        if "id" not in cells and any(_TOTAL.match(cell) for cell in cells.values()):
            return None
        with _spelled(spelling):
            return self._line(cells)

    def _cells(self, record: Mapping[str, object]) -> dict[str, str]:
        cells: dict[str, str] = {}
        for key, value in record.items():
            to = key if key in self._fields.shown else self._fields.of(key)
            if to is None or value is None or isinstance(value, (bool, list, dict)):
                continue
            if text := str(value).strip():
                cells.setdefault(to, text)
        return cells

    def _line(self, cells: Mapping[str, str]) -> ChargeLine:
        amount, balance = _amount(cells, "amount"), _amount(cells, "balance")
        paid, paid_on = _amount(cells, "paid_amount"), _day(cells, "paid_on", self._zone)
        if amount is None and balance is None:
            raise InvalidBilling("amount", "is empty")
        state = self._state(cells, balance, paid_on)
        owed = balance or amount
        if state == "partly":
            if amount is None or paid is None:
                raise InvalidBilling("status", "says that a part was paid, and there is no balance and no amount paid")
            state, owed = "open", amount - paid
        if owed is None or owed <= 0:
            raise InvalidBilling("amount", "is zero; a charge needs an amount")
        customer = self._customer(cells)
        texts: dict[str, Any] = {name: cells[name] for name in _ABOUT_CHARGE if name in cells}
        charge = NewCharge(
            tenant=self._tenant,
            id=_joined(cells, "prefix", "id", "installment", needed="id"),
            customer_id=customer.id,
            amount=owed,
            due_date=self._due(cells),
            method=self._method(cells),
            provider=self._provider if "provider_id" in texts else None,
            known_on=self._known_on,
            **texts,
        )
        at = None if paid_on is None else datetime.combine(paid_on, time(12), self._zone)
        return ChargeLine(charge, customer, state, at)

    def _state(self, cells: Mapping[str, str], balance: Decimal | None, paid_on: date | None) -> str:
        word = cells.get("status", "")
        state = _STATUSES.get(names.fold(word)) if word else "open"
        if state is None:
            raise InvalidBilling("status", f"is none of {', '.join(_STATUSES)}")
        if state == "cancelled":
            return state
        if balance:
            return "open"
        return "paid" if balance == 0 or (paid_on is not None and state != "partly") else state

    def _customer(self, cells: Mapping[str, str]) -> Customer:
        given: dict[str, Any] = {to: cells[name] for name, to in _ABOUT_CUSTOMER.items() if name in cells}
        if "phone" in given and (code := _NOT_DIGITS.sub("", cells.get("area_code", "")).lstrip("0")):
            number = _NOT_DIGITS.sub("", given["phone"]).lstrip("0")
            given["phone"] = f"{code}{number}" if len(number) in (8, 9) else given["phone"]
        if "customer_id" in cells:
            id_ = _joined(cells, "customer_id", "store", needed="customer_id")
        elif "document" in given:
            id_ = re.sub(r"[\W_]", "", given["document"]).upper()
        elif "phone" in given:
            with _field("phone"):
                id_ = phone.normalize(given["phone"])
        else:
            raise InvalidBilling("customer_id", "is empty, as are the document and the phone, which could identify it")
        return Customer(self._tenant, id_, **given)

    def _due(self, cells: Mapping[str, str]) -> date:
        nominal, real = _day(cells, "due_date", self._zone), _day(cells, "real_due_date", self._zone)
        due = nominal or real
        if due is None:
            raise InvalidBilling("due_date", "is empty; nothing is sent about a charge without a due date")
        return real if real is not None and real > calendars.payable_on(due) else due

    def _method(self, cells: Mapping[str, str]) -> str | None:
        word = names.fold(cells.get("method", ""))
        if word:
            return _METHODS.get(word, "other")
        return "boleto" if "boleto_line" in cells else "pix" if "pix_code" in cells else None


def _joined(cells: Mapping[str, str], *parts: str, needed: str) -> str:
    if needed not in cells:
        raise InvalidBilling(needed, "is empty")
    return "-".join(cells[part] for part in parts if part in cells)


def _amount(cells: Mapping[str, str], field: str) -> Decimal | None:
    if field not in cells:
        return None
    with _field(field):
        return values.amount(cells[field])


def _day(cells: Mapping[str, str], field: str, zone: ZoneInfo) -> date | None:
    if field not in cells or not cells[field].strip("0/-. "):  # Protheus writes an empty date as `  /  /  `
        return None
    with _field(field):
        found = values.day_or_time(cells[field])
    if isinstance(found, datetime):
        return (found if found.tzinfo is None else found.astimezone(zone)).date()
    return found


@contextmanager
def _field(name: str) -> Iterator[None]:
    try:
        yield
    except InvalidBilling:
        raise
    except ValueError as exc:
        raise InvalidBilling(name, str(exc)) from exc


@contextmanager
def _spelled(spelling: Mapping[str, str]) -> Iterator[None]:
    try:
        yield
    except InvalidBilling as exc:
        raise InvalidBilling(spelling.get(exc.field, exc.field), exc.reason) from exc
