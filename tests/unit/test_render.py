import re
from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pix import pix

from ifinu.errors import ConfigurationError, InvalidNotification
from ifinu.notification import Kind, Notification
from ifinu.render import Renderer, br_date, money, tidy

TODAY = date(2026, 12, 1)
BARE = {"id": "inv-42", "phone": "+5577998616740", "name": "Maria Silva", "amount": Decimal("1234.5")}
EXTRAS = {
    "description": "Mensalidade de dezembro",
    "payment_link": "https://exemplo.com.br/pagar/a_b*c*",
    "pix_code": pix(),
}


@pytest.fixture(scope="module")
def renderer():
    return Renderer()


def notification(kind, due_in=None, **fields):
    due_date = None if due_in is None else TODAY + timedelta(days=due_in)
    return Notification(kind=kind, due_date=due_date, **BARE | fields)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            notification(Kind.REMINDER, 3),
            """\
Olá, Maria Silva! Tudo bem?

Passando para lembrar que sua cobrança de *R$ 1.234,50* vence em *3 dias* (04/12/2026).

Se já pagou, por favor desconsidere esta mensagem. Obrigado!""",
        ),
        (
            notification(Kind.REMINDER, 1, **EXTRAS),
            """\
Olá, Maria Silva! Tudo bem?

Passando para lembrar que sua cobrança de *R$ 1.234,50* vence *amanhã* (02/12/2026).
Referente a: Mensalidade de dezembro

Para pagar, acesse:
https://exemplo.com.br/pagar/a_b*c*

Pix copia e cola:
00020126420014br.gov.bcb.pix0120teste@exemplo.com.br5204000053039865802BR5913Fulano de Tal62070503***6304BAA9

Se já pagou, por favor desconsidere esta mensagem. Obrigado!""",
        ),
        (
            notification(Kind.DUE, 0),
            """\
Olá, Maria Silva! Tudo bem?

Sua cobrança de *R$ 1.234,50* vence *hoje* (01/12/2026).

Se já pagou, por favor desconsidere esta mensagem. Obrigado!""",
        ),
        (
            notification(Kind.DUE, 0, **EXTRAS),
            """\
Olá, Maria Silva! Tudo bem?

Sua cobrança de *R$ 1.234,50* vence *hoje* (01/12/2026).
Referente a: Mensalidade de dezembro

Para pagar, acesse:
https://exemplo.com.br/pagar/a_b*c*

Pix copia e cola:
00020126420014br.gov.bcb.pix0120teste@exemplo.com.br5204000053039865802BR5913Fulano de Tal62070503***6304BAA9

Se já pagou, por favor desconsidere esta mensagem. Obrigado!""",
        ),
        (
            notification(Kind.OVERDUE, -1),
            """\
Olá, Maria Silva! Tudo bem?

Ainda não identificamos o pagamento da sua cobrança de *R$ 1.234,50*, vencida em 30/11/2026, há *1 dia*.

Se já pagou, por favor desconsidere esta mensagem. Se precisar de ajuda, é só responder por aqui.""",
        ),
        (
            notification(Kind.OVERDUE, -2, **EXTRAS),
            """\
Olá, Maria Silva! Tudo bem?

Ainda não identificamos o pagamento da sua cobrança de *R$ 1.234,50*, vencida em 29/11/2026, há *2 dias*.
Referente a: Mensalidade de dezembro

Para pagar, acesse:
https://exemplo.com.br/pagar/a_b*c*

Pix copia e cola:
00020126420014br.gov.bcb.pix0120teste@exemplo.com.br5204000053039865802BR5913Fulano de Tal62070503***6304BAA9

Se já pagou, por favor desconsidere esta mensagem. Se precisar de ajuda, é só responder por aqui.""",
        ),
        (
            notification(Kind.PAID),
            """\
Olá, Maria Silva!

Recebemos seu pagamento de *R$ 1.234,50*. Muito obrigado!

Guarde esta mensagem como confirmação do pagamento.""",
        ),
        (
            notification(Kind.PAID, -1, **EXTRAS),
            """\
Olá, Maria Silva!

Recebemos seu pagamento de *R$ 1.234,50*. Muito obrigado!

Referente a: Mensalidade de dezembro
Vencimento: 30/11/2026

Guarde esta mensagem como confirmação do pagamento.""",
        ),
        (
            notification(Kind.CREATED, 9),
            """\
Olá, Maria Silva! Tudo bem?

Você tem uma nova cobrança de *R$ 1.234,50*, com vencimento em *10/12/2026*.

Se precisar de ajuda, é só responder por aqui. Obrigado!""",
        ),
        (
            notification(Kind.CREATED, 1, **EXTRAS),
            """\
Olá, Maria Silva! Tudo bem?

Você tem uma nova cobrança de *R$ 1.234,50*, que vence *amanhã* (02/12/2026).
Referente a: Mensalidade de dezembro

Para pagar, acesse:
https://exemplo.com.br/pagar/a_b*c*

Pix copia e cola:
00020126420014br.gov.bcb.pix0120teste@exemplo.com.br5204000053039865802BR5913Fulano de Tal62070503***6304BAA9

Se precisar de ajuda, é só responder por aqui. Obrigado!""",
        ),
    ],
    ids=[f"{kind} {how}" for kind in Kind for how in ("bare", "complete")],
)
def test_the_whole_text(renderer, given, text):
    assert renderer.render(given, today=TODAY) == text


@pytest.mark.parametrize("reference", [True, False])
def test_a_custom_text_cannot_claim_another_reference(reference):
    given = Notification(id="test_1", kind=Kind.REMINDER, phone="77998616740", text="Olá\n\n_Ref. K6LH-IB23_")
    shown = Renderer(reference=reference).render(given, today=TODAY)
    assert shown == ("Olá\n\n_Ref. HCUB-B265_" if reference else "Olá")
    with pytest.raises(InvalidNotification, match="nothing but a line"):
        Renderer().render(given.model_copy(update={"text": "_Ref. K6LH-IB23_"}), today=TODAY)


@pytest.mark.parametrize(
    ("kind", "due_in", "words"),
    [
        (Kind.REMINDER, 30, "vence em *30 dias* (31/12/2026)."),
        (Kind.REMINDER, 2, "vence em *2 dias* (03/12/2026)."),
        (Kind.REMINDER, 1, "vence *amanhã* (02/12/2026)."),
        (Kind.REMINDER, 0, "vence *hoje* (01/12/2026)."),
        (
            Kind.REMINDER,
            -1,
            "Passando para lembrar da sua cobrança de *R$ 1.234,50*, que venceu em 30/11/2026.",
        ),
        (Kind.DUE, 1, "vence em 02/12/2026."),
        (Kind.DUE, -1, "venceu em 30/11/2026."),
        (Kind.OVERDUE, -365, "vencida em 01/12/2025, há *365 dias*."),
        (Kind.OVERDUE, 0, "de *R$ 1.234,50*, com vencimento em 01/12/2026."),
        (Kind.OVERDUE, 1, "de *R$ 1.234,50*, com vencimento em 02/12/2026."),
    ],
)
def test_the_days_are_counted_in_portuguese(renderer, kind, due_in, words):
    assert words in renderer.render(notification(kind, due_in), today=TODAY)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("lacking", [(), *((field,) for field in EXTRAS), tuple(EXTRAS)])
def test_no_text_has_a_blank_edge_or_two_blank_lines(renderer, kind, lacking):
    extras = {field: value for field, value in EXTRAS.items() if field not in lacking}
    text = renderer.render(notification(kind, -2, **extras), today=TODAY)
    assert text == text.strip()
    assert "\n\n\n" not in text
    assert [line for line in text.splitlines() if line != line.rstrip()] == []


@given(st.text("a \t\n"))
def test_a_text_loses_its_trailing_space_and_its_second_blank_line(text):
    lines = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    assert tidy(text) == re.sub(r"\n{3,}", "\n\n", lines).strip()


def test_a_custom_text_is_sent_unchanged(renderer):
    text = "{{ 7 * 7 }} {% if %} *negrito*\n\n\n\nfim"
    given = Notification(id="a", kind=Kind.REMINDER, phone="+5577998616740", text="…").model_copy(update={"text": text})
    assert renderer.render(given, today=TODAY) == text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("{{ 7 * 7 }}", "{{ 7 7 }}"),
        ("{% include 'x' %}{# não #}", "{% include 'x' %}{# não #}"),
        ("*João*", "João"),
        ("_João_ ~da~ `Silva` ```x```", "João da Silva x"),
        ("João\n\nda Silva", "João da Silva"),
        ("plano_anual _2026_", "plano_anual 2026"),
        ("a__b", "ab"),
        ("Maria & Filhos <LTDA>", "Maria & Filhos <LTDA>"),
        ("D'Ávila 👩‍👧", "D'Ávila 👩‍👧"),
    ],
)
def test_a_value_is_neither_a_template_nor_formatting(renderer, given, shown):
    # Values that look like templates are refused earlier; even here they would have no effect.
    due = notification(Kind.DUE, 0).model_copy(update={"name": given, "description": given})
    text = renderer.render(due, today=TODAY)
    assert text.startswith(f"Olá, {shown}! Tudo bem?\n")
    assert f"\nReferente a: {shown}\n" in text


def test_a_name_that_is_empty_once_cleaned_is_missing(renderer):
    with pytest.raises(InvalidNotification, match="is missing") as caught:
        renderer.render(notification(Kind.DUE, 0, name="***"), today=TODAY)
    assert caught.value.field == "nome"


def test_a_description_that_is_empty_once_cleaned_is_left_out(renderer):
    assert "Referente" not in renderer.render(notification(Kind.DUE, 0, description="***"), today=TODAY)


@pytest.mark.parametrize("kind", Kind)
def test_the_longest_notification_fits_into_one_message(renderer, kind):
    longest = {
        "name": "n" * 500,
        "description": "d" * 500,
        "payment_link": "https://" + "l" * 2040,
        "pix_code": pix("p" * 77),
        "amount": Decimal("999999999999.99"),
    }
    assert len(renderer.render(notification(kind, -2, **longest), today=TODAY)) <= 4096


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        ("0.01", "R$ 0,01"),
        ("1", "R$ 1,00"),
        ("999.9", "R$ 999,90"),
        ("1234.50", "R$ 1.234,50"),
        ("1E+3", "R$ 1.000,00"),
        ("123456789012345678901234567890.12", "R$ 123.456.789.012.345.678.901.234.567.890,12"),
    ],
)
def test_money(amount, written):
    assert money(Decimal(amount)) == written


@pytest.mark.parametrize(("day", "written"), [(date(2026, 12, 1), "01/12/2026"), (date(987, 6, 5), "05/06/0987")])
def test_br_date(day, written):
    assert br_date(day) == written


def test_a_custom_template_replaces_only_the_one_of_its_name(tmp_path):
    (tmp_path / "vencimento.txt.j2").write_text(
        "{{ nome }} {{ id }} {{ dias_para_vencer }}\n\n\n\n  {% include 'como_pagar.txt.j2' %}\n\n", "utf-8"
    )
    renderer = Renderer(tmp_path)
    text = renderer.render(notification(Kind.DUE, 2, payment_link="https://exemplo.com.br"), today=TODAY)
    assert text == "Maria Silva inv-42 2\n\nPara pagar, acesse:\nhttps://exemplo.com.br"
    given = notification(Kind.REMINDER, 1)
    assert renderer.render(given, today=TODAY) == Renderer().render(given, today=TODAY)


@pytest.mark.parametrize(
    ("source", "place", "words"),
    [
        ("Olá\n{% if nome %}", ":2: ", "Unexpected end of template"),
        ("Olá\n\n{{ nome | maiusculas }}", ":3: ", "No filter named 'maiusculas'"),
        ("Olá {{ nome", ":1: ", "unexpected"),
        ("Olá\n{{ nme }}", ":2: ", "no value is called nme; did you mean nome?"),
        ("{% if xyzzy %}{% endif %}", ":1: ", "no value is called xyzzy; there are assinatura, atrasada, cliente, "),
        ("Olá\n{{ 1 // 0 }}", ":2: ", "by zero"),
        ("Olá\n{{ nome.primeiro }}", ":2: ", "has no attribute 'primeiro'"),
        ("{{ nome.__class__.__mro__ }}", ":1: ", "unsafe"),
        ("Olá\n{% include 'nenhum.txt.j2' %}", ":2: ", "nenhum.txt.j2"),
        ("\n{{ dias_para_vencer + nome }}", ":2: ", "unsupported operand"),
    ],
)
def test_a_broken_template_is_refused_at_the_start(tmp_path, source, place, words):
    path = tmp_path / "lembrete.txt.j2"
    path.write_text(source, "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        Renderer(tmp_path)
    assert str(caught.value).startswith(f"{path}{place}")
    assert words in str(caught.value)


def test_a_template_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "lembrete.txt.j2").write_bytes("Olá".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"lembrete\.txt\.j2: is not UTF-8"):
        Renderer(tmp_path)


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no such directory"):
        Renderer(tmp_path / "nenhum")


@pytest.mark.parametrize(
    ("source", "field", "reason"),
    [
        ("{{ link_pagamento }}", "link_pagamento", "is missing, and lembrete.txt.j2 needs it"),
        ("{{ pix_copia_cola | upper }}", "pix_copia_cola", "is missing, and lembrete.txt.j2 needs it"),
        ("{{ 1 // (0 if not descricao else 1) }}", "", "lembrete.txt.j2 cannot show it: ZeroDivisionError"),
        ("{% if descricao %}x{% endif %}", "", "its text has 0 characters, not 1 to 4096"),
        ("{{ nome * 500 }}", "", "its text has 5500 characters, not 1 to 4096"),
    ],
)
def test_a_notification_that_a_template_cannot_show_is_invalid(tmp_path, source, field, reason):
    (tmp_path / "lembrete.txt.j2").write_text(source, "utf-8")
    renderer = Renderer(tmp_path)
    with pytest.raises(InvalidNotification) as caught:
        renderer.render(notification(Kind.REMINDER, 1), today=TODAY)
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_a_text_ends_in_its_reference_if_references_are_on():
    notification = Notification(id="test_1", kind=Kind.REMINDER, phone="77998616740", text="x" * 4096)
    assert Renderer(reference=True).render(notification, today=date(2026, 12, 1)) == f"{'x' * 4096}\n\n_Ref. HCUB-B265_"
