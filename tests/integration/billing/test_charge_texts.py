"""The texts of messages about charges, and which of them is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from bills import charge, customer, intent, tenant
from pix import pix
from sqlalchemy import Connection, event, func, select, update
from structlog.testing import capture_logs

from ifinu.billing import texts
from ifinu.billing.billing_schema import billing_tenants, charges
from ifinu.billing.messages import compose
from ifinu.billing.texts import Texts
from ifinu.errors import InvalidBilling, NotFound
from ifinu.ledger.engine import connect
from ifinu.notification import Notification, Stop
from ifinu.render import Renderer

NOW = datetime(2026, 12, 15, 12, 0, tzinfo=UTC)
SATURDAY = date(2026, 12, 12)
LINK = "https://pag.exemplo/1"


@pytest.fixture
def connection(postgres_ledger: str) -> Iterator[Connection]:
    engine = connect(postgres_ledger)
    with engine.connect() as connection:
        tenant(connection, trade_name="Academia Fit")
        customer(connection)
        yield connection
    engine.dispose()


@pytest.fixture
def written(connection: Connection) -> Callable[..., str]:
    """The text about a new charge on a day of December."""

    def write(kind: str, day: int, by: Texts | None = None, **columns: Any) -> str:
        step = columns.pop("text", None)
        number = connection.scalar(select(func.count()).select_from(charges))
        key = intent(connection, charge(connection, f"inv-{number}", **columns), kind, text=step)
        made = compose(connection, [key], datetime(2026, 12, day, 15, tzinfo=UTC), by)[key[1]]
        assert isinstance(made, Notification)
        return str(made.text)

    return write


@pytest.mark.parametrize(
    ("kind", "day", "columns", "text"),
    [
        (
            "cobranca_criada",
            1,
            {},
            """\
Olá, Maria Silva! Tudo bem?

Você tem uma nova cobrança de *R$ 100,00*, com vencimento em *10/12/2026* (quinta-feira).
Referente a: Mensalidade

Se precisar de ajuda, é só responder por aqui. Obrigado!

Academia Fit""",
        ),
        (
            "lembrete",
            7,
            {"payment_link": LINK, "pix_code": pix(), "description": None},
            """\
Olá, Maria Silva! Tudo bem?

Passando para lembrar que sua cobrança de *R$ 100,00* vence em *10/12/2026* (quinta-feira).

Para pagar, acesse:
https://pag.exemplo/1

Pix copia e cola:
00020126420014br.gov.bcb.pix0120teste@exemplo.com.br5204000053039865802BR5913Fulano de Tal62070503***6304BAA9

Se já pagou, por favor desconsidere esta mensagem. Obrigado!

Academia Fit""",
        ),
        (
            "lembrete",
            9,
            {"due": SATURDAY, "discount": 10},
            """\
Olá, Maria Silva! Tudo bem?

Passando para lembrar que sua cobrança de *R$ 100,00* vence em 12/12/2026 (sábado) e pode ser paga até *14/12/2026* \
(segunda-feira), sem juros.
Referente a: Mensalidade

Valor: R$ 100,00
Desconto até 14/12/2026: R$ 10,00
*Total em 09/12/2026: R$ 90,00*

Se já pagou, por favor desconsidere esta mensagem. Obrigado!

Academia Fit""",
        ),
        (
            "vencimento",
            10,
            {"amount": "1234.50"},
            """\
Olá, Maria Silva! Tudo bem?

Sua cobrança de *R$ 1.234,50* vence *hoje*, 10/12/2026.
Referente a: Mensalidade

Se já pagou, por favor desconsidere esta mensagem. Obrigado!

Academia Fit""",
        ),
        (
            "vencimento",
            14,
            {"due": SATURDAY},
            """\
Olá, Maria Silva! Tudo bem?

Sua cobrança de *R$ 100,00*, com vencimento em 12/12/2026 (sábado), pode ser paga *hoje, 14/12/2026*, sem juros.
Referente a: Mensalidade

Se já pagou, por favor desconsidere esta mensagem. Obrigado!

Academia Fit""",
        ),
        (
            "atraso",
            15,
            {"paid": 40, "boleto_line": "00190500954014481606906809350314337370000000100"},
            """\
Olá, Maria Silva! Tudo bem?

Ainda não identificamos o pagamento da sua cobrança de *R$ 100,00*, com vencimento em 10/12/2026.
Referente a: Mensalidade

Valor: R$ 100,00
Já pago: R$ 40,00
Multa: R$ 1,20
Juros: R$ 0,10
*Total em 15/12/2026: R$ 61,30*

Linha digitável do boleto:
00190.50095 40144.816069 06809.350314 3 37370000000100

Se o link ou o código não for mais aceito, é só responder por aqui.

Se já pagou, por favor desconsidere esta mensagem. Se precisar de ajuda, é só responder por aqui.

Academia Fit LTDA
CNPJ/CPF: 12.345.678/0001-95
Rua A, 1, São Paulo SP""",
        ),
        (
            "atraso",
            15,
            {"waives_fees": True, "pix_code": pix(), "pix_expires_at": NOW},
            """\
Olá, Maria Silva! Tudo bem?

Ainda não identificamos o pagamento da sua cobrança de *R$ 100,00*, com vencimento em 10/12/2026.
Referente a: Mensalidade

Se já pagou, por favor desconsidere esta mensagem. Se precisar de ajuda, é só responder por aqui.

Academia Fit LTDA
CNPJ/CPF: 12.345.678/0001-95
Rua A, 1, São Paulo SP""",
        ),
        (
            "pagamento",
            15,
            {"status": "paid", "paid": "102.17"},
            """\
Olá, Maria Silva!

Recebemos seu pagamento de *R$ 102,17*. Muito obrigado!

Referente a: Mensalidade
Vencimento: 10/12/2026

Guarde esta mensagem como confirmação do pagamento.

Academia Fit""",
        ),
    ],
)
def test_the_whole_text(written, kind, day, columns, text):
    assert written(kind, day, **columns) == text


def merged(connection: Connection, others: list[dict[str, Any]], **own: Any) -> tuple[int, str]:
    first = charge(connection, "inv-1", **own)
    for n, columns in enumerate(others, 2):
        kind = columns.pop("kind", "atraso")
        intent(connection, charge(connection, f"inv-{n}", **columns), kind, state="merged", leader=first)
    return intent(connection, first)


def test_the_whole_text_about_several_charges(connection):
    others = [
        {"description": None, "due": SATURDAY, "paid": 10, "pix_code": pix()},
        {"due": date(2026, 12, 19), "payment_link": LINK, "kind": "lembrete"},
    ]
    key = merged(connection, others)
    made = compose(connection, [key], NOW)[key[1]]
    assert (
        made.text
        == """\
Olá, Maria Silva! Tudo bem?

Estas são as suas cobranças em aberto; o pagamento das já vencidas ainda não foi identificado:

*1. Mensalidade*
R$ 100,00 + R$ 2,00 de multa + R$ 0,17 de juros = *R$ 102,17*
Vencimento: 10/12/2026 (quinta-feira)

*2. inv-2*
R$ 100,00 - R$ 10,00 já pago + R$ 1,80 de multa + R$ 0,03 de juros = *R$ 91,83*
Vencimento: 12/12/2026 (sábado)
Pix copia e cola: \
00020126420014br.gov.bcb.pix0120teste@exemplo.com.br5204000053039865802BR5913Fulano de Tal62070503***6304BAA9

*3. Mensalidade*
*R$ 100,00*
Vencimento: 19/12/2026 (sábado)
Pode ser paga até 21/12/2026 (segunda-feira), sem juros.
https://pag.exemplo/1

*Total em 15/12/2026: R$ 294,00*

Se já pagou, por favor desconsidere esta mensagem. Se precisar de ajuda, é só responder por aqui.

Academia Fit LTDA
CNPJ/CPF: 12.345.678/0001-95
Rua A, 1, São Paulo SP"""
    )
    assert (made.pix_code, made.kind) == (None, "atraso")


def test_what_is_left_after_a_paid_leader_goes_as_its_own_kind(connection):
    key = merged(connection, [{"due": date(2026, 12, 19), "kind": "lembrete", "pix_code": pix()}])
    connection.execute(update(charges).where(charges.c.id == "inv-1").values(status="paid", paid=100))
    made = compose(connection, [key], NOW)[key[1]]
    assert (made.kind, made.due_date, made.pix_code) == ("lembrete", date(2026, 12, 19), pix())
    assert "vence em 19/12/2026 (sábado)" in made.text


@pytest.mark.parametrize(
    ("count", "length", "shown", "rest", "total"),
    [
        (10, 300, 10, None, "R$ 1.000,00"),
        (11, 300, 10, "E mais 1 cobrança, de R$ 100,00.", "R$ 1.100,00"),
        (30, 300, 10, "E mais 20 cobranças, que somam R$ 2.000,00.", "R$ 3.000,00"),
        (300, 12, 53, "E mais 247 cobranças, que somam R$ 24.700,00.", "R$ 30.000,00"),
    ],
)
def test_a_list_that_is_too_long_ends_in_how_many_more_there_are(connection, count, length, shown, rest, total):
    columns = {"waives_fees": True, "description": "x" * length}
    key = merged(connection, [dict(columns) for _ in range(count - 1)], **columns)
    text = compose(connection, [key], NOW)[key[1]].text
    assert len(text) <= 4096 - len("\n\n_Ref. K7Q2-M9XT_")
    assert f"*Total em 15/12/2026: {total}*" in text
    assert f"*{shown}. x" in text
    assert f"*{shown + 1}. x" not in text
    assert (rest in text) if rest else ("E mais" not in text)


def test_codes_that_follow_apart_are_announced_but_those_of_several_charges_are_in_the_text(connection, written):
    apart = Texts(Renderer(codes_apart=True))
    assert "O código para pagar vem na próxima mensagem" in written("lembrete", 7, apart, pix_code=pix())
    connection.rollback()
    tenant(connection)
    customer(connection)
    key = merged(connection, [{}], pix_code=pix())
    assert pix() in compose(connection, [key], NOW, apart)[key[1]].text


# -- whose text


@pytest.fixture
def folder(tmp_path: Path) -> Texts:
    (tmp_path / "atraso.txt.j2").write_text("Da pasta: {{ valor }}{% if atrasada %} {{ juros }}{% endif %}")
    (tmp_path / "u2").mkdir()
    (tmp_path / "u2" / "lembrete.txt.j2").write_text("De u2: {{ valor }}")
    return Texts(Renderer(tmp_path))


def test_the_first_text_that_there_is_writes_the_message(connection, written, folder):
    assert written("atraso", 15, folder) == "Da pasta: R$ 102,17 R$ 0,17"
    assert written("lembrete", 7, folder).startswith("Olá, Maria Silva!")
    connection.execute(update(billing_tenants).values(text_set="ifinu"))
    assert written("lembrete", 7, folder).startswith("🔔 *Lembrete de vencimento*")
    assert written("atraso", 15, folder).startswith("Da pasta")  # the set has none of that kind
    texts.put(connection, "u1", "lembrete", "Do tipo: {{ valor }}", NOW)
    texts.put(connection, "u1", "amigavel", "Do passo: {{ valor }}", NOW)
    assert written("lembrete", 7, folder) == "Do tipo: R$ 100,00"
    assert written("lembrete", 7, folder, text="amigavel") == "Do passo: R$ 100,00"
    assert written("lembrete", 7, folder, text="outro") == "Do tipo: R$ 100,00"
    texts.put(connection, "u1", "lembrete", "Do tipo, nova: {{ valor }}", NOW)
    assert written("lembrete", 7, folder) == "Do tipo, nova: R$ 100,00"
    texts.put(connection, "u1", "lembrete", "", NOW)
    assert written("lembrete", 7, folder).startswith("🔔")


def test_a_text_for_one_charge_leaves_several_to_ours(connection):
    texts.put(connection, "u1", "atraso", "Deve {{ valor }}.", NOW)
    key = merged(connection, [{}])
    assert "*2. Mensalidade*" in compose(connection, [key], NOW)[key[1]].text
    texts.put(connection, "u1", "atraso", "Deve {{ valor }}:{% for c in cobrancas %} {{ c.numero }}{% endfor %}", NOW)
    assert compose(connection, [key], NOW)[key[1]].text == "Deve R$ 204,34: inv-1 inv-2"


def test_a_text_that_cannot_show_a_charge_is_replaced_by_ours_and_logged(connection, written, folder):
    with capture_logs() as logged:
        assert written("atraso", 15, folder, waives_fees=True).startswith("Olá, Maria Silva!")
    assert logged == [
        {
            "event": "ifinu.text.failed",
            "log_level": "error",
            "tenant": "u1",
            "kind": "atraso",
            "error": "'juros' is undefined",
        }
    ]


def test_a_text_is_read_from_the_database_once_a_version(connection):
    texts.put(connection, "u1", "atraso", "Deve {{ valor }}.", NOW)
    keys = [intent(connection, charge(connection, f"inv-{n}")) for n in range(3)]
    ran: list[str] = []
    event.listen(connection, "before_cursor_execute", lambda *args: ran.append(args[2]))
    known = Texts()
    for count in (2, 3, 4):
        compose(connection, keys, NOW, known)
        assert len(ran) == count
    texts.put(connection, "u1", "atraso", "Deve ainda {{ valor }}.", NOW)
    ran.clear()
    assert compose(connection, keys, NOW, known)[keys[0][1]].text == "Deve ainda R$ 102,17."
    assert len(ran) == 2


# -- versions


def test_each_change_is_a_version(connection):
    assert [texts.put(connection, "u1", "atraso", body, NOW) for body in ("a", "a", "b", "", "a")] == [1, 1, 2, 3, 4]
    assert texts.put(connection, "u1", "lembrete", "c", NOW) == 1
    assert texts.get(connection, "u1", "atraso") == texts.Text("atraso", 4, "a", NOW)
    assert texts.get(connection, "u1", "atraso", 2) == texts.Text("atraso", 2, "b", NOW)
    assert texts.get(connection, "u1", "pagamento") is None
    assert [(text.name, text.version) for text in texts.every(connection, "u1")] == [("atraso", 4), ("lembrete", 1)]


def test_what_cannot_be_used_is_not_stored(connection):
    with pytest.raises(InvalidBilling, match="atraso: line 2: no value is called nme"):
        texts.put(connection, "u1", "atraso", "Olá\n{{ nme }}", NOW)
    with pytest.raises(NotFound, match="there is no tenant 'u9'"):
        texts.put(connection, "u9", "atraso", "Olá", NOW)
    assert texts.every(connection, "u1") == []


def test_even_ours_cannot_write_what_is_too_long(connection):
    key = intent(connection, charge(connection, description="x " * 3000))
    assert compose(connection, [key], NOW)[key[1]] is Stop.INVALID
