from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from pix import pix
from pydantic import ValidationError

from ifinu import notification as vocabulary
from ifinu.notification import MISSING_FOR_KIND, Kind, Notification

COMPLETE = {
    "id": "inv-42:lembrete",
    "kind": "lembrete",
    "phone": "(77) 99861-6740",
    "name": "Maria Silva",
    "amount": "1234.50",
    "due_date": "2026-12-01",
}


def test_each_table_by_kind_names_every_kind():
    assert set(vocabulary._NEEDED) == set(vocabulary.SAMPLE_DUE_IN_DAYS) == set(Kind)


def test_a_notification_is_normalised():
    notification = Notification(**COMPLETE)
    assert notification.phone == "+5577998616740"
    assert notification.amount == Decimal("1234.50")
    assert notification.due_date == date(2026, 12, 1)


def test_validation_keeps_no_id_in_a_cache():
    """
    Pydantic would return the string that it kept from the first message; it keeps 16,384 of them.
    """
    first, second = (Notification(**COMPLETE | {"id": " inv-42 "}) for _ in range(2))
    assert first.id == second.id == "inv-42"
    assert first.id is not second.id


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("id", "  a b ", "a b"),
        ("kind", Kind.REMINDER, Kind.REMINDER),
        ("name", " Maria \n\t Silva ", "Maria Silva"),
        ("description", "Plano\r\nanual", "Plano anual"),
        ("amount", 1234.1, Decimal("1234.1")),
        ("amount", 5, Decimal(5)),
        ("amount", Decimal("0.01"), Decimal("0.01")),
        ("amount", "999999999999.99", Decimal("999999999999.99")),
        ("due_date", date(2026, 12, 1), date(2026, 12, 1)),
        ("payment_link", " HTTPS://exemplo.com.br/pagar?a=ç ", "HTTPS://exemplo.com.br/pagar?a=ç"),
        ("pix_code", f" {pix('duas  vezes')} ", pix("duas  vezes")),
        (
            "boleto_line",
            " 00190.50095 40144.816069 06809.350314 3 37370000000100",
            "00190500954014481606906809350314337370000000100",
        ),
        ("valid_until", "2026-12-01T18:00:00Z", datetime(2026, 12, 1, 18, tzinfo=UTC)),
        ("text", "Olá!\r\n\r\nTudo\tbem?\x00\x1b[0m\n", "Olá!\n\nTudo\tbem?[0m"),
    ],
)
def test_the_fields_that_are_kept(field, given, kept):
    assert getattr(Notification(**COMPLETE | {field: given}), field) == kept


@pytest.mark.parametrize(
    ("field", "refused"),
    [
        ("id", ""),
        ("id", "a\x00b"),
        ("id", "a\nb"),
        ("id", "x" * 201),
        ("kind", "lembrte"),
        ("phone", 77998616740),
        ("phone", "99861-6740"),
        ("name", "Maria\x00"),
        ("name", "Maria\x1b[31m"),
        ("name", "\ud800"),
        ("name", "x" * 501),
        ("amount", 0),
        ("amount", "-1"),
        ("amount", True),
        ("amount", "1.234"),
        ("amount", 0.1 + 0.2),
        ("amount", float("nan")),
        ("amount", float("inf")),
        ("amount", "9999999999999.99"),
        ("due_date", "20261201"),
        ("due_date", "1764547200"),
        ("due_date", "2026-02-30"),
        ("due_date", datetime(2026, 12, 1, tzinfo=UTC)),
        ("due_date", 1764547200),
        ("payment_link", "javascript:alert(1)"),
        ("payment_link", "https://a b"),
        ("payment_link", "https://a\x00b"),
        ("payment_link", "https://" + "x" * 2048),
        ("pix_code", pix().replace("Fulano", "Fu\nano")),
        ("pix_code", pix().replace("Fulano", "Cicrano")),
        ("valid_until", "2026-12-01T18:00:00"),
        ("valid_until", datetime(2026, 12, 1)),  # noqa: DTZ001 - a naive one is the case
        ("valid_until", "1764547200"),
        ("valid_until", 1764547200),
        ("text", "\x00 \x01"),
        ("text", "x" * 4097),
        ("text", "half \udc00"),
        ("priority", "urgent"),
        ("unknown", 1),
    ],
)
def test_a_refused_field_is_named_and_its_value_not_repeated(field, refused):
    with pytest.raises(ValidationError) as caught:
        Notification(**COMPLETE | {field: refused})
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]
    assert "input_value" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        (Kind.REMINDER, ("name", "amount", "due_date")),
        (Kind.DUE, ("name", "amount", "due_date")),
        (Kind.OVERDUE, ("name", "amount", "due_date")),
        (Kind.PAID, ("name", "amount")),
    ],
)
def test_each_kind_names_at_once_what_its_text_lacks(kind, needed):
    bare = {"id": "x", "kind": kind, "phone": "77998616740"}
    with pytest.raises(ValidationError) as caught:
        Notification(**bare)
    (error,) = caught.value.errors()
    assert (error["type"], error["ctx"]["fields"]) == (MISSING_FOR_KIND, needed)
    assert Notification(**bare | {field: COMPLETE[field] for field in needed}).kind is kind
    assert Notification(**bare, text="Olá").text == "Olá"


def test_it_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Notification(**COMPLETE).name = "João"


@pytest.mark.parametrize("shown", [repr, str])
def test_the_repr_has_neither_phone_nor_name_nor_text(shown):
    notification = Notification(**COMPLETE, text="segredo")
    assert "+55 77 9****-6740" in shown(notification)
    for private in ("998616740", "Maria", "segredo", "1234"):
        assert private not in shown(notification)
