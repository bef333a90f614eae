import contextlib
import json
import string
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pix import pix
from pydantic import ValidationError

from ifinu import wire
from ifinu.errors import InvalidNotification
from ifinu.notification import Kind, Notification, Priority

BRASILIA = timezone(timedelta(hours=-3))
FLAT = {
    "id": "inv-42:lembrete",
    "tipo_notificacao": "lembrete",
    "telefone": "(77) 99861-6740",
    "nome": "Maria Silva",
    "valor": "1234.50",
    "vencimento": "2026-12-01",
    "descricao": "Mensalidade",
}
NESTED = {
    "id": "inv-42:lembrete",
    "tipo_notificacao": "lembrete",
    "usuario_id": "u1",
    "tentativas": 2,
    "criado_em": "2026-11-01T10:00:00Z",
    "cobranca": {
        "id": "42",
        "valor": 1234.5,
        "vencimento": "2026-12-01T00:00:00Z",
        "descricao": "Mensalidade",
        "link_pagamento": "https://exemplo.com.br/42",
        "pix_copia_cola": pix(),
        "cliente": {"nome": "Maria Silva", "telefone": "(77) 99861-6740"},
    },
}


@pytest.mark.parametrize("raw", ['{"a": [1, {"b": null}]}', b'{"a": [1, {"b": null}]}'])
def test_an_object_is_parsed(raw):
    assert wire.parse(raw) == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"{} {}", "is not JSON"),
        (b"{'id': 1}", "is not JSON"),
        (b'{"a": "\n"}', "is not JSON"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b'{"a": "\xff"}', "is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "is not UTF-8"),
        (b"[]", "must be a JSON object, not a list"),
        (b'"id"', "must be a JSON object, not a string"),
        (b"null", "must be a JSON object, not null"),
        (b"1", "must be a JSON object, not a number"),
        (b"true", "must be a JSON object, not true or false"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": 1, "a": 2}', "duplicate"),
        (b'{"a": [{"b": 1, "b": 1}]}', "duplicate"),
        (b'{"a": ' + b"9" * 5000 + b"}", "4300 digits"),
        (b"[" * 100_000, "nests deeper"),
        (b'{"a":' * 100_000, "nests deeper"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "nests deeper"),
        (b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", "nests deeper"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_anything_but_a_json_object_is_refused(raw, reason):
    with pytest.raises(InvalidNotification, match=reason) as caught:
        wire.parse(raw)
    assert caught.value.field == ""


def test_32_levels_are_not_too_deep():
    assert wire.parse('{"a":' * 32 + "1" + "}" * 32)


@given(st.one_of(st.binary(), st.text()))
def test_parsing_anything_gives_an_object_or_the_error(raw):
    with contextlib.suppress(InvalidNotification):
        assert isinstance(wire.parse(raw), dict)


def test_the_flat_form():
    assert wire.decode(FLAT) == Notification(
        id="inv-42:lembrete",
        kind=Kind.REMINDER,
        phone="+5577998616740",
        name="Maria Silva",
        amount=Decimal("1234.50"),
        due_date=date(2026, 12, 1),
        description="Mensalidade",
    )


def test_the_nested_form():
    assert wire.decode(NESTED) == Notification(
        id="inv-42:lembrete",
        kind=Kind.REMINDER,
        phone="+5577998616740",
        name="Maria Silva",
        amount=Decimal("1234.50"),
        due_date=date(2026, 12, 1),
        description="Mensalidade",
        payment_link="https://exemplo.com.br/42",
        pix_code=pix(),
        tenant="u1",
    )


def test_the_top_wins_over_what_is_nested_even_where_that_is_wrong():
    charge = {"data_vencimento": "2027-01-01", "valor": [], "cliente": {"nome": "João", "telefone": "123"}}
    assert wire.decode(FLAT | {"cobranca": charge}) == wire.decode(FLAT)


def test_the_id_of_a_charge_is_not_that_of_the_notification():
    with pytest.raises(InvalidNotification, match=r"^id: is required"):
        wire.decode({**NESTED, "id": None})


@pytest.mark.parametrize(
    ("wire_name", "value", "field", "read"),
    [
        ("id", 42, "id", "42"),
        ("usuario_id", 7, "tenant", "7"),
        ("tipo_notificacao", "atraso", "kind", Kind.OVERDUE),
        ("valor", 1234, "amount", Decimal(1234)),
        ("valor", 1234.1, "amount", Decimal("1234.1")),
        ("valor", Decimal("1.10"), "amount", Decimal("1.10")),
        ("valor", "1234", "amount", Decimal(1234)),
        ("valor", "1234.5", "amount", Decimal("1234.5")),
        ("valor", "1.234,50", "amount", Decimal("1234.50")),
        ("valor", "1234,50", "amount", Decimal("1234.50")),
        ("valor", "1.234.567,8", "amount", Decimal("1234567.8")),
        ("valor", "R$ 1.234,50", "amount", Decimal("1234.50")),
        ("valor", "R$\u00a01.234,50", "amount", Decimal("1234.50")),
        ("valor", "R$99.90", "amount", Decimal("99.90")),
        ("valor", "1,234.50", "amount", Decimal("1234.50")),
        ("valor", 89.90000000000001, "amount", Decimal("89.90")),
        ("vencimento", "01/12/2026", "due_date", date(2026, 12, 1)),
        ("vencimento", date(2026, 12, 1), "due_date", date(2026, 12, 1)),
        ("vencimento", "2026-12-01T23:30:00", "due_date", date(2026, 12, 1)),
        ("vencimento", "2026-12-01T23:30:00-03:00", "due_date", date(2026, 12, 1)),
        ("vencimento", "2026-12-02T02:59:59Z", "due_date", date(2026, 12, 1)),  # 23:59 in São Paulo
        ("vencimento", "2026-12-02T03:00:00.000Z", "due_date", date(2026, 12, 2)),
        ("vencimento", "2026-12-01T00:00:00Z", "due_date", date(2026, 12, 1)),  # Go's bare date
        ("vencimento", "2026-12-01 00:00:00+00:00", "due_date", date(2026, 12, 1)),
        ("vencimento", "2026-12-01T12:00:00.123456789Z", "due_date", date(2026, 12, 1)),
        ("valido_ate", "2026-12-01T18:00:00Z", "valid_until", datetime(2026, 12, 1, 18, tzinfo=UTC)),
        ("valido_ate", "2026-12-01T18:00:00", "valid_until", datetime(2026, 12, 1, 18, tzinfo=BRASILIA)),
        ("valido_ate", "2026-12-01 18:00", "valid_until", datetime(2026, 12, 1, 18, tzinfo=BRASILIA)),
        (
            "valido_ate",
            "2026-12-01",
            "valid_until",
            datetime(2026, 12, 1, 23, 59, 59, 999999, tzinfo=BRASILIA),
        ),
        (
            "valido_ate",
            "01/12/2026",
            "valid_until",
            datetime(2026, 12, 1, 23, 59, 59, 999999, tzinfo=BRASILIA),
        ),
        ("valido_ate", "0001-01-01T00:00:00Z", "valid_until", None),  # Go's zero time
        ("prioridade", "urgente", "priority", Priority.URGENT),
        ("prioridade", "", "priority", Priority.NORMAL),
        ("instancia", " vendas ", "instance", "vendas"),
        ("anexo", "https://exemplo.com.br/boleto.pdf", "attachment", "https://exemplo.com.br/boleto.pdf"),
        ("texto", " *Olá* {7*7} ", "text", "*Olá* {7*7}"),
        ("descricao", None, "description", None),
        ("descricao", "", "description", None),
        ("descricao", "   ", "description", None),
        ("cobranca", None, "name", "Maria Silva"),
        ("chave_do_produtor", {"a": [1]}, "name", "Maria Silva"),
    ],
)
def test_how_each_value_is_read(wire_name, value, field, read):
    assert getattr(wire.decode(FLAT | {wire_name: value}), field) == read


@pytest.mark.parametrize(
    ("wire_name", "value", "reason"),
    [
        ("id", None, "is required"),
        ("id", True, "must be a string, not true or false"),
        ("id", "x" * 201, "must have at most 200 characters"),
        ("id", "a\x00b", "has control characters"),
        (
            "tipo_notificacao",
            "lembrte",
            "'lembrte' is not one of lembrete, vencimento, atraso, pagamento, cobranca_criada",
        ),
        ("tipo_notificacao", "", "is required"),
        (
            "tipo_notificacao",
            "77998616740",
            "is not one of lembrete, vencimento, atraso, pagamento, cobranca_criada",
        ),
        ("tipo_notificacao", {"a": 1}, "must be a string, not an object"),
        ("telefone", None, "is required"),
        ("telefone", 77998616740, "must be a string, not a number"),
        (
            "telefone",
            "998616740@s.whatsapp.net",
            "is not a Brazilian number: its country code is not 55",
        ),
        ("nome", "", "is required for lembrete"),
        ("nome", ["Maria"], "must be a string, not a list"),
        ("nome", "Maria\x00", "has control characters"),
        ("nome", "\ud83d", "has half of a surrogate pair, which is no character"),
        ("valor", None, "is required for lembrete"),
        ("valor", 0, "must be greater than 0"),
        ("valor", True, "must be a number or a string, not true or false"),
        ("valor", {}, "must be a number or a string, not an object"),
        ("valor", "dez reais", "is not an amount; write 1234.50 or '1.234,50'"),
        ("valor", "-5", "is negative; it must be greater than 0"),
        ("valor", 0.125, "must have no more than 2 decimal places"),
        ("valor", float("inf"), "must be a finite number"),
        ("valor", 10**20, "must have no more than 14 digits in total"),
        ("vencimento", "", "is required for lembrete"),
        ("vencimento", 20261201, "must be a string, not a number"),
        ("vencimento", "30/02/2026", "is not in the calendar"),
        ("vencimento", "2026-12-01T25:00:00", "is not in the calendar"),
        ("vencimento", "0001-01-01T00:00:00+03:00", "is out of the calendar"),
        (
            "vencimento",
            "12/2026",
            "is not a date; write 2026-12-01, 01/12/2026 or 2026-12-01T18:00:00-03:00",
        ),
        (
            "valido_ate",
            "amanhã",
            "is not a date; write 2026-12-01, 01/12/2026 or 2026-12-01T18:00:00-03:00",
        ),
        ("valido_ate", False, "must be a string, not true or false"),
        ("link_pagamento", "exemplo.com.br", "is not an http or https address"),
        ("anexo", "file:///etc/passwd", "is not an http or https address"),
        ("pix_copia_cola", "a\nb", "has control characters"),
        (
            "pix_copia_cola",
            pix()[:-1],
            "is cut off or changed; copy the whole code: its last field is not a checksum (6304 and four characters)",
        ),
        ("linha_digitavel", "123", "is not a linha digitável: it has 3 digits, not 47, or 48 that begin with 8"),
        ("sem_referencia", "talvez", "must be true or false"),
        ("cobranca_ref", "inv-42", "is not a whole number"),
        ("cobranca_ref", "٤٢", "is not a whole number"),
        ("cobranca_ref", "9" * 19, "must have at most 18 characters"),
        ("cobranca_ref", True, "must be a string, not true or false"),
        ("prioridade", "alta", "is not one of urgente, normal, baixa"),
        ("texto", "\x00", "is empty"),
        ("texto", "x" * 4097, "must have at most 4096 characters"),
        ("usuario_id", 1.5, "must be a string, not a number"),
        ("cobranca", [], "must be an object, not a list"),
    ],
)
def test_a_wrong_field_is_named_as_on_the_wire(wire_name, value, reason):
    with pytest.raises(InvalidNotification) as caught:
        wire.decode(FLAT | {wire_name: value})
    assert (caught.value.field, caught.value.reason) == (wire_name, reason)


def test_the_first_problem_is_the_most_useful_and_the_others_follow():
    with pytest.raises(InvalidNotification) as caught:
        wire.decode({"valor": [], "tipo_notificacao": "x", "cobranca": {"cliente": 1}, "telefone": "12"})
    assert str(caught.value) == (
        "cliente: must be an object, not a number; id: is required; "
        "tipo_notificacao: is not one of lembrete, vencimento, atraso, pagamento, cobranca_criada; "
        "telefone: has 2 digits; a Brazilian number has a two-digit area code and 8 or 9 digits; "
        "valor: must be a number or a string, not a list"
    )


def test_all_that_a_kind_lacks_is_named_at_once():
    with pytest.raises(InvalidNotification) as caught:
        wire.decode({"id": "a", "tipo_notificacao": "pagamento", "telefone": "77998616740"})
    assert str(caught.value) == "nome: is required for pagamento; valor: is required for pagamento"


LOAD_TEST = {"id": "test_1", "tipo_notificacao": "lembrete"}


def test_the_load_tests_message_is_refused_in_production():
    with pytest.raises(InvalidNotification, match=r"^telefone: is required$"):
        wire.decode(LOAD_TEST)


@pytest.mark.parametrize(
    ("kind", "due_date"),
    [
        ("lembrete", date(2026, 12, 4)),
        ("vencimento", date(2026, 12, 1)),
        ("atraso", date(2026, 11, 21)),
        ("pagamento", date(2026, 12, 1)),
    ],
)
def test_the_sandbox_fills_in_the_fields_that_the_load_tests_message_lacks(kind, due_date):
    body = LOAD_TEST | {"tipo_notificacao": kind}
    assert wire.decode(body, sandbox_number="+5577998616740", today=date(2026, 12, 1)) == Notification(
        id="test_1",
        kind=Kind(kind),
        phone="+5577998616740",
        name="Cliente de Teste",
        amount=Decimal("100.00"),
        due_date=due_date,
        description="Cobrança de teste",
    )


def test_the_sandbox_replaces_nothing_that_was_given():
    given_all = wire.decode(FLAT, sandbox_number="+5511987654321", today=date(2026, 1, 1))
    assert given_all == wire.decode(FLAT)


def test_the_sandbox_needs_no_today():
    assert wire.decode(LOAD_TEST, sandbox_number="+5577998616740").due_date is not None


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"id": None}, "^id: is required$"),
        ({"tipo_notificacao": None}, "^tipo_notificacao: is required$"),
        ({"telefone": "123"}, "^telefone: has 3 digits"),
        ({"valor": []}, "^valor: must be a number or a string, not a list$"),
    ],
)
def test_the_sandbox_corrects_no_wrong_field(wrong, reason):
    with pytest.raises(InvalidNotification, match=reason):
        wire.decode(LOAD_TEST | wrong, sandbox_number="+5577998616740", today=date(2026, 12, 1))


FIELDS = {
    "id": "a",
    "kind": "pagamento",
    "phone": "77998616740",
    "name": "Maria",
    "amount": "10.00",
}


def test_python_fields():
    assert wire.from_fields(FIELDS) == Notification(**FIELDS)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"phone": "x"}, "phone: has characters that no phone number has"),
        ({"kind": "x" * 50}, "kind: is not one of lembrete, vencimento, atraso, pagamento, cobranca_criada"),
        ({"kind": 5}, "kind: a number is not one of lembrete, vencimento, atraso, pagamento, cobranca_criada"),
        ({"amount": "dez"}, "amount: must be a valid decimal"),
        ({"due_date": "01/12/2026"}, "due_date: must be a date, such as '2026-12-01'"),
        ({"valid_until": "2026-12-01T10:00"}, "valid_until: must have timezone info"),
        ({"name": None}, "name: is required for pagamento"),
        ({"telefone": "1"}, "telefone: unknown field; did you mean phone?"),
        ({"usuario_id": "1"}, "usuario_id: unknown field; did you mean tenant?"),
        ({"x\ud800": "1"}, "x\ufffd: has half of a surrogate pair, which is no character"),
        ({"payment_lnk": "1"}, "payment_lnk: unknown field; did you mean payment_link?"),
        ({"77998616740": "1"}, "+55 77 9****-6740: unknown field"),
        ({"x" * 99: "1"}, f"{'x' * 40}: unknown field"),
    ],
)
def test_a_wrong_field_is_named_as_in_python(change, error):
    with pytest.raises(InvalidNotification) as caught:
        wire.from_fields(FIELDS | change)
    assert str(caught.value) == error
    assert isinstance(caught.value.__cause__, ValidationError | None)


def test_a_misspelt_field_is_named_before_the_missing_one():
    with pytest.raises(InvalidNotification) as caught:
        wire.from_fields({"id": "a", "kind": "pagamento", "phnoe": "77998616740"})
    assert str(caught.value) == "phnoe: unknown field; did you mean phone?; phone: is required"


def test_encoding_leaves_out_absent_and_default_fields():
    assert wire.encode(wire.decode(FLAT)) == FLAT | {"telefone": "+5577998616740"}


def test_encoding_spells_every_field():
    body = FLAT | {
        "telefone": "+5577998616740",
        "texto": "Olá",
        "link_pagamento": "https://exemplo.com.br/42",
        "pix_copia_cola": pix(),
        "linha_digitavel": "00190500954014481606906809350314337370000000100",
        "sem_referencia": "true",
        "anexo": "https://exemplo.com.br/42.pdf",
        "valido_ate": "2026-12-01T18:00:00-03:00",
        "prioridade": "baixa",
        "instancia": "vendas",
        "usuario_id": "u1",
        "cobranca_ref": "42",
        "janela": "seg-sex 08:00-18:00",
    }
    assert set(body) == set(wire._TOP)
    assert wire.encode(wire.decode(body)) == body


lines = st.text(min_size=1, max_size=60)
keys = st.text(min_size=1, max_size=77).filter(str.isprintable)
urls = st.text(string.ascii_letters + string.digits + "/?&=%._-~ç", min_size=1).map("https://{}".format)
fields = st.fixed_dictionaries(
    {
        "id": lines,
        "kind": st.sampled_from(Kind),
        "phone": st.sampled_from(["+5577998616740", "+557732216740", "+5555999991234"]),
        "name": lines,
        "amount": st.decimals("0.01", "999999999999.99", places=2) | st.just(Decimal("1E+3")),
        "due_date": st.dates(),
    },
    optional={
        "description": lines,
        "text": st.text(min_size=1),
        "instance": lines,
        "tenant": lines,
        "payment_link": urls,
        "pix_code": keys.map(pix),
        "boleto_line": st.just("00190500954014481606906809350314337370000000100"),
        "without_reference": st.booleans(),
        "charge_ref": st.integers(1, 10**18 - 1).map(str),
        "sending_window": st.sampled_from(["lei-sp", "daily 08:00-20:00"]),
        "attachment": urls,
        # A local time that occurs twice or never equals no time in another zone.
        "valid_until": st.datetimes(timezones=st.timezones() | st.just(UTC)).filter(
            lambda at: at.replace(fold=0).utcoffset() == at.replace(fold=1).utcoffset()
        ),
        "priority": st.sampled_from(Priority),
    },
)


@given(fields)
def test_encoding_and_decoding_change_nothing(fields):
    try:
        notification = Notification(**fields)
    except ValidationError:
        return
    assert wire.decode(wire.parse(json.dumps(wire.encode(notification)))) == notification


any_text = st.text(st.characters(codec=None)) | st.sampled_from(["usuário", "validade", "Nome", "kind", "\ud800"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
json_bodies = st.dictionaries(
    st.sampled_from([*wire._TOP, "cobranca"]) | any_text,
    json_values | st.dictionaries(st.sampled_from([*wire._CHARGE, "cliente"]) | any_text, json_values, max_size=4),
    max_size=6,
)


@given(json_bodies, st.sampled_from([None, "+5577998616740"]))
def test_reading_anything_gives_a_notification_or_an_error_that_can_be_written(body, sandbox_number):
    for read in (
        lambda: wire.decode(body, sandbox_number=sandbox_number, today=date(2026, 12, 1)),
        lambda: wire.decode(wire.parse(json.dumps(body))),
        lambda: wire.from_fields(body),
    ):
        try:
            written = json.dumps(wire.encode(read()), ensure_ascii=False)
        except InvalidNotification as exc:
            written = str(exc)
        assert written.encode()


# -- keys that look like ours


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("usuario", "u1", "usuario_id"),
        ("usuario", {"id": 7}, "usuario_id"),
        ("usuarioId", 7, "usuario_id"),
        ("user_id", "u1", "usuario_id"),
        ("Usuário_ID", "u1", "usuario_id"),
        ("usario_id", "u1", "usuario_id"),
        ("tenant", "u1", "usuario_id"),
        ("validade", "2026-12-01", "valido_ate"),
        ("válido até", "2026-12-01", "valido_ate"),
        ("valid_until", "2026-12-01", "valido_ate"),
        ("instance", "loja", "instancia"),
    ],
)
def test_an_unknown_key_that_may_name_the_recipient_is_refused(key, value, meant):
    with pytest.raises(InvalidNotification) as caught:
        wire.decode(FLAT | {key: value})
    assert str(caught.value) == f"{key}: unknown field; did you mean {meant}?"
    given_too = {"usuario_id": "u1", "valido_ate": "2026-12-01", "instancia": "loja"}
    assert wire.decode(FLAT | {key: value} | given_too) == wire.decode(FLAT | given_too)


@pytest.mark.parametrize(
    ("charge", "named"),
    [
        ({"usuario_id": "u1"}, "cobranca.usuario_id"),
        ({"validade": "2026-12-01"}, "cobranca.validade"),
        ({"cliente": {**NESTED["cobranca"]["cliente"], "usuarioId": 7}}, "cobranca.cliente.usuarioId"),
    ],
)
def test_the_same_holds_below_the_top(charge, named):
    body = {**NESTED, "usuario_id": None, "cobranca": {**NESTED["cobranca"], **charge}}
    with pytest.raises(InvalidNotification, match=rf"^{named}: unknown field; did you mean"):
        wire.decode(body)


@pytest.mark.parametrize(
    ("extra", "ignored"),
    [
        ({"descrição": "Plano"}, []),  # with the field itself present
        ({"descrição": "Plano", "descricao": None}, ["descricao"]),
        ({"linkPagamento": "https://x"}, ["link_pagamento"]),
        ({"mensagem": "Oi"}, ["texto"]),
        ({"usuario": None, "validade": "", "user": False}, []),
        ({"criado_em": "2026-12-01", "tentativas": 1, "traceparent": "x", "email": "a@b", "status": "aberto"}, []),
        ({"\ud800": 1, "x" * 5000: 1}, []),
        ({"cobrança": {"valor": 1}}, ["cobranca"]),
    ],
)
def test_any_other_key_that_resembles_a_field_is_reported_and_ignored(extra, ignored):
    heard = []
    assert wire.decode(FLAT | extra, ignored=heard.append).phone == "+5577998616740"
    assert heard == ignored


def test_a_missing_field_is_named_with_the_key_that_resembles_it():
    with pytest.raises(InvalidNotification) as caught:
        wire.decode({"id": "a", "kind": "pagamento", "phone": "77998616740", "nome": "Ana", "valor": 1})
    assert str(caught.value) == (
        "tipo_notificacao: is required; kind looks like it; telefone: is required; phone looks like it"
    )


def test_errors_use_the_names_of_the_source():
    with pytest.raises(InvalidNotification, match=r"^Valor \(R\$\): is not an amount.*; vencimento: is not in"):
        wire.decode(FLAT | {"valor": "x", "vencimento": "31/02/2026"}, spelling={"valor": "Valor (R$)"})


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"telefone": "77 9861-6740", "valor": "de graca"}, "+5577998616740"),
        ({"telefone": 77998616740}, "+5577998616740"),
        ({"phone": "77998616740"}, "+5577998616740"),
        ({"cobranca": {"cliente": {"telefone": "77998616740"}}}, "+5577998616740"),
        ({"telefone": "11 98765-1101", "cobranca": {"cliente": {"telefone": "77998616740"}}}, "+5511987651101"),
        ({"telefone": None, "cobranca": {"cliente": {"telefone": "77998616740"}}}, "+5577998616740"),
        ({"telefone": ["77998616740"], "cobranca": []}, None),
        ({"texto": "ligue para 77998616740"}, None),
        ({}, None),
    ],
)
def test_the_phone_is_found_however_wrong_the_rest_is(body, found):
    assert wire.phone_of(body) == found
