"""What is wrong with a text about a charge."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ifinu.billing.texts import SETS, builtin, faults, lint
from ifinu.notification import Kind

SUPPLIER = "{{ empresa }} {{ documento }} {{ endereco }}"
PARTS = '{{ valor_original }} {{ valor_pago or "" }} {{ multa or "" }} {{ juros or "" }} = {{ valor }}'


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("text_set", [None, *SETS])
def test_what_comes_with_ifinu_is_right(kind, text_set):
    assert lint(builtin(kind, text_set), kind) == []


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("{% if %}", Kind.DUE, ["line 1: Expected an expression, got 'end of statement block'"]),
        ("Olá\n{{ nme }}", Kind.DUE, ["line 2: no value is called nme; did you mean nome?"]),
        ("Olá, {nome}", Kind.DUE, ["line 1: has '{nome}', a placeholder"]),
        (
            "{{ link_pagamento }}",
            Kind.DUE,
            ["fails with a charge without description, link and codes, kind vencimento"],
        ),
        ("{{ 'x' * 5000 }}", Kind.DUE, ["fails with a charge, kind vencimento: its text has 5000 characters, not 1"]),
        ("{{ descricao or '' }} {{ 'x' * 4000 }}", Kind.DUE, ["fails with a charge, kind vencimento: its text has 4"]),
        (
            "{{ cobrancas[0].x }}",
            Kind.DUE,
            ["fails with a charge, kind vencimento: 'dict object' has no attribute 'x'"],
        ),
        ("{% for c in cobrancas %}{{ vencimento }}{% endfor %}", Kind.DUE, ["fails with several charges, kind venc"]),
        ("{# nada #}", Kind.DUE, ["fails with a charge, kind vencimento: its text has 0 characters"]),
        ("{{ nome }} deve {{ valor }}", Kind.DUE, []),
        ("{{ nome }} deve", Kind.DUE, []),
        ("{{ nome }} deve {{ valor_original }}", Kind.DUE, ["does not say the total: print {{ valor }}"]),
        (
            "{{ valor }}, com {{ desconto or '' }} de desconto",
            Kind.DUE,
            [
                "its parts do not add up to the total: print {{ valor_original }} too, or include contas.txt.j2",
                "its parts do not add up to the total: print {{ valor_pago }} too",
            ],
        ),
        ("{{ valor }}{% include 'contas.txt.j2' %}", Kind.DUE, []),
        ("Pagou {{ valor }}", Kind.PAID, []),
        (f"{SUPPLIER} {PARTS}", Kind.OVERDUE, []),
        (f"{SUPPLIER} {{{{ valor }}}}", Kind.OVERDUE, ["print {{ valor_original }}", "_pago", "multa", "juros"]),
        (
            PARTS,
            Kind.OVERDUE,
            [
                "does not name the supplier: print {{ razao_social }} or {{ empresa }} (CDC 42-A)",
                "does not say the supplier's CPF or CNPJ: print {{ documento }} (CDC 42-A)",
                "does not say the supplier's address: print {{ endereco }} (CDC 42-A)",
            ],
        ),
        ("{{ nome }}: {{ valor }} de 123.456.789-09", Kind.DUE, ["has a CPF"]),
    ],
)
def test_lint(body, kind, words):
    found = lint(body, kind)
    assert len(found) == len(words), found
    assert all(part in problem for part, problem in zip(words, found, strict=True)), found


def test_an_atraso_of_a_tenant_without_document_and_address_is_wrong_however_it_is_written():
    bare = SimpleNamespace(legal_name="Ana", trade_name=None, document=None, address=None, signature=None)
    assert lint(builtin(Kind.OVERDUE), Kind.OVERDUE, bare) == [
        "the tenant has no CPF or CNPJ, which an atraso has to say (CDC 42-A)",
        "the tenant has no address, which an atraso has to say (CDC 42-A)",
    ]
    assert lint(builtin(Kind.DUE), Kind.DUE, bare) == []


def test_the_cpf_of_a_supplier_may_be_in_a_text():
    person = SimpleNamespace(legal_name="Ana", trade_name=None, document="123.456.789-09", address="R", signature=None)
    body = f"{PARTS} Ana {{{{ endereco }}}} 123.456.789-09"
    assert lint(body, Kind.OVERDUE, person) == []


def test_a_text_of_a_step_is_tried_with_each_kind():
    assert faults("{{ multa }}", None) == ["fails with a charge, kind lembrete: 'multa' is undefined"]
    assert faults("{{ nome }}", None) == []
