"""
Charge files as ERPs and people write them.
"""

from __future__ import annotations

import io
import json
from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from ifinu.billing.charge_files.charge_columns import Profile, fields_of
from ifinu.billing.charge_files.charge_lines import ChargeLine, LineReader, NoCharge
from ifinu.errors import ConfigurationError, InvalidBilling
from ifinu.tables import Table

ZONE = ZoneInfo("America/Sao_Paulo")


def read(
    text: str, profile: Profile | None = None, *mapped: str, encoding: str = "utf-8"
) -> list[ChargeLine | NoCharge]:
    fields = fields_of(profile, mapped)
    table = Table(io.BytesIO(text.encode(encoding)), fields, name="file.csv")
    reader = LineReader("u1", ZONE, fields)
    return [reader.read(table.read(record), table.spelling) for record in table]


def one(text: str, profile: Profile | None = None, *mapped: str, **how: str) -> ChargeLine:
    (line,) = read(text, profile, *mapped, **how)
    assert isinstance(line, ChargeLine)
    return line


def refusal(text: str) -> InvalidBilling:
    with pytest.raises(InvalidBilling) as refused:
        read(text)
    return refused.value


def test_a_spreadsheet_of_a_school_is_read():
    line = one(
        "Matrícula;Aluno;Celular;CPF;Nº Documento;Parcela;Valor (R$);Vencimento;Situação;Observação\n"
        '7788;"Silva; Ana";(11) 98765-4321;529.982.247-25;2026/77;3/12;"1.234,56";05/12/2026;Em aberto;Mensalidade\n'
    )
    charge, customer = line.charge, line.customer
    assert (charge.id, charge.amount, charge.due_date) == ("2026/77-3/12", Decimal("1234.56"), date(2026, 12, 5))
    assert (charge.customer_id, charge.description, line.state) == ("7788", "Mensalidade", "open")
    assert (customer.name, customer.phone, customer.document) == ("Silva; Ana", "+5511987654321", "52998224725")


def test_an_export_of_protheus_is_read_with_or_without_its_profile():
    text = (
        "E1_PREFIXO;E1_NUM;E1_PARCELA;E1_CLIENTE;E1_LOJA;E1_NOMCLI;A1_CGC;A1_DDD;A1_TEL;E1_VENCTO;E1_VENCREA;"
        "E1_VALOR;E1_SALDO;E1_BAIXA;E1_NUMBCO\n"
        "FAT;000123;1;C001;01;ANA;52998224725;011;98765-4321;05/12/2026;07/12/2026;149,90;149,90;  /  /  ;123\n"
    )
    for profile in (Profile.PROTHEUS, None):
        line = one(text, profile, encoding="cp1252")
        assert (line.charge.id, line.customer.id) == ("FAT-000123-1", "C001-01")
        assert line.customer.phone == "+5511987654321"
        assert line.charge.due_date == date(2026, 12, 5)  # Monday the 7th is what the banks' calendar explains
        assert (line.charge.provider, line.charge.provider_id) == ("cnab", "123")
        assert (line.state, line.paid_at) == ("open", None)


def test_a_postponed_charge_is_due_on_its_real_due_date():
    line = one("id;cliente;cpf;valor;vencimento;vencimento real\n1;Ana;52998224725;10;05/12/2026;20/12/2026\n")
    assert line.charge.due_date == date(2026, 12, 20)


def test_exports_of_winthor_conta_azul_and_omie_are_read():
    winthor = one(
        "DUPLIC,PREST,CODCLI,CLIENTE,CGCENT,TELENT,VALOR,DTVENC,DTVENCORIG,DTPAG\n"
        "5512,1,42,Ana,52998224725,11987654321,99.50,2026-12-10,2026-12-10,\n",
        Profile.WINTHOR,
    )
    assert (winthor.charge.id, winthor.charge.amount, winthor.customer.id) == ("5512-1", Decimal("99.50"), "42")
    conta_azul = one(
        "Código de referência;Cliente/Fornecedor;CNPJ/CPF Cliente/Fornecedor;Valor original da parcela (R$);"
        "Valor da parcela em aberto (R$);Data de vencimento;Data do último pagamento;Situação\n"
        "v-9;Ana;529.982.247-25;200,00;150,00;10/12/2026;01/12/2026;Recebido parcialmente\n",
        Profile.CONTA_AZUL,
    )
    assert (conta_azul.charge.amount, conta_azul.state, conta_azul.customer.document) == (
        Decimal(150),
        "open",
        "52998224725",
    )
    omie = one(
        "Número do Documento;Parcela;Cliente (Nome Fantasia);Cliente (Razão Social);Cliente (CNPJ/CPF);Vencimento;"
        "Valor da Conta;A Receber;Último Recebimento\n"
        "77;001/002;Fit;Academia Fit LTDA;12.345.678/0001-95;10/12/2026;200,00;0,00;01/12/2026\n",
        Profile.OMIE,
    )
    assert (omie.charge.id, omie.customer.name, omie.state) == ("77-001/002", "Fit", "paid")
    assert omie.paid_at == datetime(2026, 12, 1, 12, tzinfo=ZONE)


def test_json_lines_are_read_by_the_same_names():
    body = {
        "id": "inv-42",
        "cliente": "Ana",
        "cpf": "52998224725",
        "valor": 149.9,
        "vencimento": "2026-12-10",
        "x": [1],
    }
    line = one(json.dumps(body) + "\n")
    assert (line.charge.id, line.charge.amount, line.customer.name) == ("inv-42", Decimal("149.9"), "Ana")


@pytest.mark.parametrize(
    ("status", "paid_on", "state"),
    [
        ("", "", "open"),
        ("A vencer", "", "open"),
        ("Vencido", "", "open"),
        ("Liquidado", "", "paid"),
        ("BAIXADO", "01/12/2026", "paid"),
        ("", "01/12/2026", "paid"),
        ("Cancelada", "", "cancelled"),
        ("Renegociado", "", "cancelled"),
        ("Recebida", "", "paid"),
        ("Aguardando pagamento", "", "open"),
        ("Em atraso", "", "open"),
        ("Protestado", "", None),
        ("Cancelado", "01/12/2026", "cancelled"),
        ("Estornado", "", "cancelled"),
    ],
)
def test_a_status_or_a_date_of_payment_says_what_a_line_is(status: str, paid_on: str, state: str | None):
    header = "id;cpf;cliente;valor;vencimento;situação;data de pagamento"
    text = f"{header}\n1;52998224725;Ana;10;10/12/2026;{status};{paid_on}\n"
    if state is None:
        assert refusal(text).field == "situação"
    else:
        assert one(text).state == state


def test_rows_with_totals_are_skipped():
    lines = read("título;cliente;cpf;saldo;vencimento\n1;Ana;52998224725;10,00;10/12/2026\n;Total geral;;10,00;\n")
    assert isinstance(lines[0], ChargeLine)
    assert lines[1] is NoCharge.TOTAL


def test_of_two_columns_for_one_field_the_clearer_one_is_read():
    line = one(
        "id;cpf;cliente;tel;telefone;valor total;valor;vencimento\n1;52998224725;Ana;1;11987654321;9;10;10/12/2026\n"
    )
    assert (line.customer.phone, line.charge.amount) == ("+5511987654321", Decimal(10))


def test_a_mapped_column_is_read_whatever_others_are_there():
    header = "id;cpf;cliente;Recado;telefone;valor;vencimento"
    line = one(f"{header}\n1;52998224725;Ana;11987654321;x;10;10/12/2026\n", None, "Recado=telefone")
    assert line.customer.phone == "+5511987654321"
    with pytest.raises(ConfigurationError, match="unknown field"):
        fields_of(None, ["Recado=fone fixo"])


@pytest.mark.parametrize(
    ("row", "field", "words"),
    [
        ("1;Ana;;;10;10/12/2026", "customer_id", "could identify it"),
        ("1;Ana;529.982;;10;10/12/2026", "cpf", ""),
        ("1;Ana;52998224725;123;10;10/12/2026", "celular", ""),
        ("1;Ana;52998224725;;1.234;10/12/2026", "valor", "two meanings"),
        ("1;Ana;52998224725;;0;10/12/2026", "valor", "zero"),
        ("1;Ana;52998224725;;-5,00;10/12/2026", "valor", "negative"),
        ("1;Ana;52998224725;;=A1*2;10/12/2026", "valor", "formula"),
        ("1;Ana;52998224725;;10;", "vencimento", "empty"),
        ("1;Ana;52998224725;;10;31/02/2026", "vencimento", "calendar"),
        (";Ana;52998224725;;10;10/12/2026", "id", "empty"),
    ],
)
def test_a_wrong_line_is_refused_with_its_column_and_a_reason(row: str, field: str, words: str):
    error = refusal(f"id;cliente;cpf;celular;valor;vencimento\n{row}\n")
    assert error.field == field
    assert words in error.reason
    assert "Ana" not in error.reason
    assert "52998" not in error.reason


def test_a_file_without_a_column_that_is_needed_is_refused_with_its_name():
    with pytest.raises(ConfigurationError, match="missing: id"):
        read("cliente;valor;vencimento\nAna;10;10/12/2026\n")


CUSTOMER = "id;código cliente;cliente;{};valor;vencimento\n1;k1;Ana;{};10;10/12/2026\n"


def phone_in(columns: str, cells: str, *mapped: str) -> str | None:
    return one(CUSTOMER.format(columns, cells), None, *mapped).customer.phone


@pytest.mark.parametrize(
    ("columns", "cells", "phone"),
    [
        ("telefone;celular", "(11) 3456-7890;(11) 98765-4321", "+5511987654321"),
        ("telefone;celular", "(11) 3456-7890;", "+551134567890"),
        ("celular;whatsapp", "(11) 98765-4321;(11) 98765-4322", "+5511987654322"),
        ("celular;whatsapp", "(11) 98765-4321;-", "+5511987654321"),
        ("ddd;celular;telefone", "11;98765-4321;3456-7890", "+5511987654321"),
        ("telefone", "(11) 3456-7890 / (11) 98765-4321", "+5511987654321"),
        ("telefone", "11987654321, 11987654322", "+5511987654321"),
        ("telefone", "11 3456-7890 e 98765-4321", "+551134567890"),
        ("telefone", "(11) 3456-7890/91", "+551134567890"),
        ("telefone", "0", None),
        ("telefone", "não tem", None),
        ("telefone", "(00) 00000-0000", None),
    ],
)
def test_the_phone_that_likely_has_whatsapp_is_read(columns: str, cells: str, phone: str | None):
    assert phone_in(columns, cells) == phone


def test_a_mapped_phone_takes_precedence_over_every_other():
    assert phone_in("Recado;celular", "11987654322;11987654321", "Recado=telefone") == "+5511987654322"


def test_an_error_names_the_column_of_the_phone():
    header = "id;código cliente;cliente;telefone;celular;valor;vencimento\n"
    assert refusal(header + "1;k1;Ana;1134567890;98765-4321;10;10/12/2026\n").field == "celular"


@pytest.mark.parametrize(
    ("written", "document"),
    [
        ("1234567890", "01234567890"),  # a CPF and a CNPJ that a spreadsheet stored as numbers
        ("1234567000195", "01234567000195"),
        ("191", None),
        ("000.000.000-00", ""),
        ("12.345.678/0001-95", "12345678000195"),
    ],
)
def test_documents_have_the_zeros_in_front_that_spreadsheets_cut_off(written: str, document: str | None):
    text = CUSTOMER.format("cpf/cnpj", written)
    if document is None:
        assert refusal(text).field == "cpf/cnpj"
    else:
        assert one(text).customer.document == (document or None)


def test_a_made_id_shows_neither_the_document_nor_the_phone_and_people_with_one_phone_are_two():
    text = "id;cliente;cpf;telefone;valor;vencimento\n"
    text += "1;Ana;529.982.247-25;;10;10/12/2026\n2;Bia;;11987654321;10;10/12/2026\n3;Lia;;11987654321;10;10/12/2026\n"
    ids = [line.customer.id for line in read(text) if isinstance(line, ChargeLine)]
    assert len(set(ids)) == 3
    assert not any("5299" in id_ or "98765" in id_ for id_ in ids)
    assert ids == [line.customer.id for line in read(text) if isinstance(line, ChargeLine)]


def test_a_date_that_a_program_printed_as_midnight_utc_is_that_day():
    body = {"id": "1", "cliente": "Ana", "cpf": "52998224725", "valor": 10, "vencimento": "2026-12-10T00:00:00Z"}
    assert one(json.dumps(body) + "\n").charge.due_date == date(2026, 12, 10)


def test_of_several_e_mail_addresses_the_first_is_read_and_a_note_is_none():
    assert one(CUSTOMER.format("email", '"a@x.com; b@x.com"')).customer.email == "a@x.com"
    assert one(CUSTOMER.format("email", "não tem")).customer.email is None


@pytest.mark.parametrize("name", ["undefined", "NULL", "Jo\ufffdo", "JoÃ£o", "{{nome}}", "Jos&eacute;"])
def test_a_damaged_name_is_refused(name: str):
    refused = refusal(f'id;código cliente;cliente;valor;vencimento\n1;k1;"{name}";10;10/12/2026\n')
    assert refused.field == "cliente"


@pytest.mark.parametrize(
    "row", [";;TOTAL;;10,00;", ";;;;10,00;", "Subtotal;;;;10,00;", "Total: 1 título;;;;;", "Página 1 de 3;;;;;"]
)
def test_sums_and_notes_under_the_table_are_skipped(row: str):
    assert read(f"id;cpf;cliente;celular;valor;vencimento\n{row}\n") == [NoCharge.TOTAL]


@pytest.mark.parametrize("row", ["9;;;;10,00;", ";529.982.247-25;Ana;;10,00;", ";;;;10,00;10/12/2026"])
def test_a_row_that_may_be_a_charge_is_refused_and_not_skipped(row: str):
    refusal(f"id;cpf;cliente;celular;valor;vencimento\n{row}\n")


@pytest.mark.parametrize("kind", ["NCC", "RA ", "PR", "AB-", "IR-"])
def test_titles_of_protheus_that_nobody_owes_are_no_charges(kind: str):
    header = "E1_NUM;E1_TIPO;E1_CLIENTE;E1_NOMCLI;E1_VENCTO;E1_VALOR"
    assert read(f"{header}\n123;{kind};C1;ANA;20261210;10.00\n") == [NoCharge.CREDIT]
    assert one(f"{header}\n123;NF ;C1;ANA;20261210;10.00\n").charge.id == "123"


def test_exports_of_bling_and_asaas_are_read():
    bling = one(
        '"ID";"Fornecedor/Cliente";"CNPJ/CPF";"Data Vencimento";"Data Liquidação";"Valor documento";"Saldo";"Situação";'
        '"Forma de recebimento"\n"16";"Maria";"529.982.247-25";"10/12/2026";"00/00/0000";"100,00";"40,00";'
        '"parcialmente recebido";"Boleto"\n'
    )
    assert (bling.charge.id, bling.charge.amount, bling.state, bling.charge.method) == ("16", 40, "open", "boleto")
    asaas = one(
        "Identificador,Nome,CPF ou CNPJ,Fone,Celular,Valor,Forma de pagamento,Situação,Vencimento,Data de pagamento\n"
        "pay_1,Maria,52998224725,,11987654321,149.90,Pix,Aguardando pagamento,10/12/2026,\n"
    )
    assert (asaas.charge.id, asaas.charge.amount, asaas.customer.phone) == ("pay_1", Decimal("149.9"), "+5511987654321")


def test_a_customer_within_an_object_of_json_is_read():
    body = {
        "id": "c1", "valor": 89.9, "vencimento": "2026-12-10T00:00:00Z", "status": "PENDENTE",
        "cliente": {"id": "k7", "nome": "João", "telefone": "(11) 98765-1101", "status": "ATIVO"},
    }  # fmt: skip
    line = one(json.dumps(body) + "\n")
    assert (line.charge.id, line.customer.id, line.customer.name) == ("c1", "k7", "João")
    assert (line.customer.phone, line.state) == ("+5511987651101", "open")
