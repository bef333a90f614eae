"""
The columns of charge files, as people and ERPs name them.

Names are compared without case, accents, spaces and marks: `Nº Documento`, `no_documento` and `NO DOCUMENTO` are one. A
profile names the columns of one ERP, and takes precedence over the common names. Sources: the tables SE1, SA1 of TOTVS
Protheus; PCPREST, PCCLIENT of TOTVS Winthor; the export "Contas a receber" of Conta Azul, Omie and Bling.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

from ifinu import names
from ifinu.tables import Fields

# Field -> its names, the clearest first. The first is the field's own name in Portuguese, for `--map`.
_COMMON: Mapping[str, tuple[str, ...]] = {
    "id": (
        "id", "código", "código da cobrança", "id cobrança", "identificador", "nº documento", "n° documento",
        "no documento",
        "num documento", "número do documento", "número documento", "documento fiscal", "número", "num título",
        "número do título", "nº título", "título", "fatura", "nº fatura", "número da fatura", "invoice", "seu número",
        "charge id", "cobranca_id",
    ),
    "prefix": ("prefixo",),
    "installment": ("parcela", "nº parcela", "número da parcela", "num parcela"),
    "customer_id": (
        "código cliente", "cod cliente", "código do cliente", "id cliente", "cliente id", "cod cli", "codcli",
        "identificador do cliente", "customer id", "customer_id", "matrícula", "contrato",
    ),
    "store": ("loja",),
    "document": (
        "cpf/cnpj", "cnpj/cpf", "cpf", "cnpj", "documento", "cpf cnpj cliente", "cnpj/cpf cliente/fornecedor",
        "cpf/cnpj do cliente", "cpf ou cnpj", "cgc", "inscrição",
    ),
    "name": (
        "nome", "cliente", "nome do cliente", "nome cliente", "sacado", "pagador", "razão social", "cliente/fornecedor",
        "fornecedor/cliente", "nome do pagador", "nome do sacado", "nome fantasia", "aluno", "responsável", "name",
        "customer name",
    ),
    "phone": (
        "telefone", "fone", "tel", "telefone do cliente", "telefone principal", "contato telefone", "phone",
    ),
    "mobile": ("celular", "cel", "telefone celular", "fone celular", "celular do cliente", "mobile", "mobile phone"),
    "whatsapp": ("whatsapp", "número whatsapp", "número do whatsapp", "telefone whatsapp", "celular/whatsapp"),
    "area_code": ("ddd",),
    "email": ("e-mail", "email", "e-mail do cliente"),
    "uf": ("uf", "estado"),
    "address": ("endereço", "logradouro"),
    "amount": (
        "valor", "valor título", "valor do título", "valor original", "valor da parcela", "valor bruto",
        "valor da cobrança", "valor total", "valor (r$)", "valor documento", "amount", "value",
    ),
    "balance": (
        "saldo", "saldo devedor", "valor em aberto", "em aberto", "saldo a receber", "valor a receber",
        "balance",
    ),
    "due_date": (
        "vencimento", "data de vencimento", "data vencimento", "dt vencimento", "dt venc", "dt. venc.", "venc",
        "data de venc", "vence em", "due date", "due_date",
    ),
    "real_due_date": (
        "vencimento real", "venc real", "vencto real", "prorrogado", "prorrogado para", "vencimento prorrogado",
    ),
    "paid_on": (
        "data de pagamento", "data pagamento", "dt pagamento", "pago em", "data baixa", "data da baixa", "dt baixa",
        "data do recebimento", "data de recebimento", "data liquidação", "data de liquidação", "data de crédito",
        "data do último pagamento", "último recebimento", "paid at",
    ),
    "paid_amount": ("valor pago", "valor recebido", "valor da baixa", "valor baixado"),
    "status": ("situação", "status", "situação do título", "estado do título"),
    "description": (
        "descrição", "histórico", "observação", "referência", "produto", "serviço", "plano", "description",
    ),
    "payment_link": (
        "link", "link de pagamento", "url", "url boleto", "link boleto", "link do boleto", "invoiceurl", "bankslipurl",
        "payment link",
    ),
    "pix_code": ("pix copia e cola", "copia e cola", "pix", "qr code", "brcode", "código pix", "pix code"),
    "boleto_line": ("linha digitável", "linha digitavel boleto", "código de barras", "boleto line"),
    "method": (
        "forma de pagamento", "forma de recebimento", "meio de pagamento", "método", "método de pagamento",
        "tipo de cobrança", "method",
    ),
    "provider_id": ("nosso número", "número no banco", "id asaas", "payment id", "id no provedor"),
    "title_type": ("tipo do título", "tipo de título"),
}  # fmt: skip


class Profile(enum.StrEnum):
    """The program that wrote a file."""

    PROTHEUS = "protheus"
    WINTHOR = "winthor"
    CONTA_AZUL = "conta-azul"
    OMIE = "omie"


_OF_PROFILE: Mapping[Profile, Mapping[str, str]] = {
    Profile.PROTHEUS: {
        "E1_PREFIXO": "prefix", "E1_NUM": "id", "E1_PARCELA": "installment", "E1_CLIENTE": "customer_id",
        "E1_LOJA": "store", "E1_NOMCLI": "name", "A1_NOME": "name", "A1_CGC": "document", "A1_DDD": "area_code",
        "A1_TEL": "phone", "A1_EMAIL": "email", "A1_EST": "uf", "A1_END": "address", "E1_VALOR": "amount",
        "E1_SALDO": "balance", "E1_VENCTO": "due_date", "E1_VENCREA": "real_due_date", "E1_BAIXA": "paid_on",
        "E1_HIST": "description", "E1_TIPO": "title_type", "E1_NUMBCO": "provider_id", "E1_CODBAR": "boleto_line",
    },
    Profile.WINTHOR: {
        "DUPLIC": "id", "PREST": "installment", "CODCLI": "customer_id", "CLIENTE": "name", "CGCENT": "document",
        "TELENT": "phone", "TELCELENT": "mobile", "EMAIL": "email", "ESTENT": "uf", "ENDERENT": "address",
        "VALOR": "amount", "DTVENC": "real_due_date", "DTVENCORIG": "due_date", "DTPAG": "paid_on",
        "VPAGO": "paid_amount",
        "LINHADIG": "boleto_line", "NOSSONUMBCO": "provider_id", "CODCOB": "method",
    },
    Profile.CONTA_AZUL: {
        "Código de referência": "id", "Identificador do cliente": "customer_id", "Cliente/Fornecedor": "name",
        "CNPJ/CPF Cliente/Fornecedor": "document",
        "Valor original da parcela (R$)": "amount", "Valor da parcela em aberto (R$)": "balance",
        "Valor total recebido da parcela (R$)": "paid_amount", "Data de vencimento": "due_date",
        "Data do último pagamento": "paid_on", "Descrição": "description", "Situação": "status",
    },
    Profile.OMIE: {
        "Número do Documento": "id", "Parcela": "installment", "Cliente (Nome Fantasia)": "name",
        "Cliente (Razão Social)": "name", "Cliente (CNPJ/CPF)": "document", "Vencimento": "due_date",
        "Valor da Conta": "amount", "A Receber": "balance", "Pago ou Recebido": "paid_amount", "Situação": "status",
        "Último Recebimento": "paid_on",
    },
}  # fmt: skip
_ALWAYS = (Profile.PROTHEUS,)  # its column names resemble no others, so they are known without the profile

PHONES = frozenset({"phone", "mobile", "whatsapp"})
SHOWN: Mapping[str, str] = {field: spellings[0] for field, spellings in _COMMON.items()}
MAPPABLE = {names.fold(name): field for field in _COMMON for name in (field, SHOWN[field])}


def fields_of(profile: Profile | None, mapped: Iterable[str]) -> Fields:
    """
    The fields for which a charge file is read.

    Args:
        profile: The program that wrote it; None if it is not known.
        mapped: Options `--map "Column=field"`.

    Raises:
        ConfigurationError: An option is wrong.
    """
    known: dict[str, str] = {}
    for each in (*([profile] if profile else []), *_ALWAYS):
        for column, field in _OF_PROFILE[each].items():
            known.setdefault(names.fold(column), field)
    for field, spellings in _COMMON.items():
        for spelling in spellings:
            known.setdefault(names.fold(spelling), field)
    wanted = Fields.mapping(mapped, MAPPABLE, names.fold, SHOWN.values())
    if not PHONES.isdisjoint(wanted.values()):  # no other phone takes precedence over a mapped one
        known = {name: field for name, field in known.items() if field not in PHONES}
    return Fields(
        names=known,
        needed=[("id",), ("due_date", "real_due_date"), ("amount", "balance")],
        mapped=wanted,
        alike=names.fold,
        shown=SHOWN,
        first_wins=True,
    )
