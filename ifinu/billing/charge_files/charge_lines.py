"""
The records of a charge file -> charges with their customers.

    amount         the open balance, where the file has one
    due date       the nominal one; the real one, where it is later than the bank's calendar explains: it was postponed
    id             prefix, number and installment, whichever there are, joined by `-`
    customer       code and store; else made of the document, or of name and phone
    phone          that of WhatsApp, the mobile, the other one; of several in a cell the first mobile
    paid           a date of payment, a balance of zero, or a status such as `liquidado`

A line is taken whole or refused whole. No error repeats a value, so no name and no amount reaches a log.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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

# What a status is, as `names.fold` returns it; the first that fits counts.
_STATUSES = {
    state: re.compile(pattern)
    for state, pattern in (
        ("partly", r".*parcial.*"),
        ("cancelled", r"(?:cancelad|estornad|excluid|anulad|renegociad)[oa]s?|cancell?ed|refunded|deleted"),
        ("paid", r"(?:liquidad|pag|quitad|baixad|recebid|confirmad)[oa]s?(?:emdinheiro)?|paid|received|confirmed"),
        (
            "open",
            r"(?:em)?abert[oa]s?|pendentes?|avencer|vence(?:hoje|amanha)|vencid[oa]s?|(?:em)?atras(?:o|ad[oa]s?)|emdia|"
            r"aguardando(?:pagamento|recebimento)?|previst[oa]|emitid[oa]|registrad[oa]|inadimplente|"
            r"open|overdue|pending",
        ),
    )
}
_METHODS = {
    "pix": "pix", "boleto": "boleto", "boletobancario": "boleto", "cartao": "card", "cartaodecredito": "card",
    "creditcard": "card", "card": "card",
}  # fmt: skip
_TOTAL = re.compile(r"(?:sub)?tota(?:l|is)\b", re.IGNORECASE)
_NOT_DIGITS = re.compile(r"\D")
_ANY_DIGIT = re.compile("[1-9]")
_BETWEEN_PHONES = re.compile(r"[/;,|]|\s(?:e|ou)\s", re.IGNORECASE)
_PHONES = ("whatsapp", "mobile", "phone")  # the likeliest to have WhatsApp first
_E164_MOBILE = 14  # characters
# Titles of Protheus that nobody owes: credit notes, payments in advance, provisional ones, and taxes (AB-, IR-, …).
_CREDIT = re.compile(r"NCC|RA|PR|[A-Z]{2}-")
_ABOUT_CUSTOMER = ("name", "uf", "address")
_IDENTIFYING = ("customer_id", "name", "document", *_PHONES, "email")
_ABOUT_CHARGE = ("description", "payment_link", "pix_code", "boleto_line", "provider_id")


class NoCharge(enum.StrEnum):
    """A row that is skipped, since it is about no charge."""

    TOTAL = "rows with totals"
    CREDIT = "credits, taxes and provisional titles"


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

    def read(self, record: Mapping[str, object], spelling: Mapping[str, str]) -> ChargeLine | NoCharge:
        """
        Read a record.

        Args:
            record: Its cells by field, or an object of JSON with the keys of its source.
            spelling: Field -> its column.

        Raises:
            InvalidBilling: A field is wrong; it is named as the file names it.
        """
        cells = self._cells(record)
        if _is_total(cells):
            return NoCharge.TOTAL
        if _CREDIT.fullmatch(cells.get("title_type", "")):
            return NoCharge.CREDIT
        with _spelled(spelling):
            return self._line(cells)

    def _cells(self, record: Mapping[str, object]) -> dict[str, str]:
        cells: dict[str, str] = {}
        for key, value, is_customers in _flat(record):
            to = key if key in self._fields.shown else self._fields.of(key)
            if to is None or value is None or isinstance(value, (bool, list, dict)):
                continue
            if is_customers and to not in _ABOUT_CUSTOMER and to not in _IDENTIFYING:
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
        folded = names.fold(word)
        state = next((state for state, words in _STATUSES.items() if words.fullmatch(folded)), None) if word else "open"
        if state is None:
            raise InvalidBilling("status", "is no known state; write aberto, pago, pago parcialmente or cancelado")
        if state == "cancelled":
            return state
        if balance:
            return "open"
        return "paid" if balance == 0 or (paid_on is not None and state != "partly") else state

    def _customer(self, cells: Mapping[str, str]) -> Customer:
        given: dict[str, Any] = {name: cells[name] for name in _ABOUT_CUSTOMER if name in cells}
        given |= {"phone": _phone(cells), "document": _document(cells.get("document", ""))}
        given["email"] = next((each for each in re.split(r"[;,\s]+", cells.get("email", "")) if "@" in each), None)
        if "customer_id" in cells:
            id_ = _joined(cells, "customer_id", "store", needed="customer_id")
        elif given["document"]:
            id_ = self._made_of("cpf", re.sub(r"[\W_]", "", given["document"]).upper())
        elif given["phone"]:  # people share one
            id_ = self._made_of("tel", given["phone"], names.fold(cells.get("name", "")))
        else:
            raise InvalidBilling("customer_id", "is empty, as are the document and the phone, which could identify it")
        return Customer(self._tenant, id_, **given)

    def _made_of(self, what: str, *parts: str) -> str:
        """An id that is the same in each file, and shows nobody's document or phone."""
        digest = hashlib.sha256("\0".join((self._tenant, *parts)).encode()).hexdigest()
        return f"{what}-{digest[:16]}"

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


def _flat(record: Mapping[str, object]) -> Iterator[tuple[str, object, bool]]:
    """
    The cells of a record, and whether each is about the customer alone.

    An object of JSON may have the customer as an object in it, as the Go service writes it.
    """
    for key, value in record.items():
        if isinstance(value, dict) and names.fold(key) in ("cliente", "customer"):
            yield from (("customer_id" if name == "id" else name, inner, True) for name, inner in value.items())
        else:
            yield key, value, False


def _is_total(cells: Mapping[str, str]) -> bool:
    """Whether a row is a sum or a note under the table: no day is due, and nobody owes it."""
    if "due_date" in cells or "real_due_date" in cells:
        return False
    if "id" in cells:
        return len(cells) == 1 or _TOTAL.match(cells["id"]) is not None
    return any(_TOTAL.match(cell) for cell in cells.values()) or not any(name in cells for name in _IDENTIFYING)


def _phone(cells: Mapping[str, str]) -> str | None:
    """The phone in E.164; a cell without a digit, or with zeros, has none."""
    code = _NOT_DIGITS.sub("", cells.get("area_code", "")).lstrip("0")
    for field in _PHONES:
        if _ANY_DIGIT.search(cells.get(field, "")):
            with _field(field):
                return _first_phone(cells[field], code)
    return None


def _first_phone(cell: str, area_code: str) -> str:
    """
    The phone in a cell; of several the first mobile, else the first.

    Raises:
        ValueError: The cell has no phone.
    """
    try:
        return _normal(cell, area_code)
    except ValueError:
        found = []
        for part in _BETWEEN_PHONES.split(cell):
            with suppress(ValueError):
                found.append(_normal(part, area_code))
        if not found:
            raise
        return next((each for each in found if len(each) == _E164_MOBILE), found[0])


def _normal(spelling: str, area_code: str) -> str:
    number = _NOT_DIGITS.sub("", spelling).lstrip("0")
    return phone.normalize(f"{area_code}{number}" if area_code and len(number) in (8, 9) else spelling)


def _document(cell: str) -> str | None:
    """A CPF or CNPJ; one that a spreadsheet stored as a number has its zeros in front again."""
    bare = re.sub(r"[\W_]", "", cell)
    if not bare.strip("0"):
        return None
    for width, weights in ((11, range(2, 12)), (14, (*range(2, 10), *range(2, 10)))):
        whole = bare.zfill(width)
        if bare.isdigit() and width - 3 < len(bare) < width and _has_check_digits(whole, weights):
            return whole
    return cell


def _has_check_digits(digits: str, weights: Sequence[int]) -> bool:
    """Whether the last two digits of a CPF or a CNPJ follow from the others."""
    for end in (len(digits) - 2, len(digits) - 1):
        total = sum(int(digit) * weight for digit, weight in zip(digits[end - 1 :: -1], weights, strict=False))
        if int(digits[end]) != total * 10 % 11 % 10:
            return False
    return True


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
        return values.local_day(found, zone) if isinstance(found, datetime) else found


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
