from __future__ import annotations

import json

import pytest
from canaries import DESCRIPTION, LINK, NAME, PIX, TEXT, phone, search, spellings

from ifinu.cli.outline import outline


def test_fields_that_are_not_personal_are_shown_unchanged():
    body = {
        "id": "inv-42:lembrete", "tipo_notificacao": "lembrete", "usuario_id": 7, "instancia": "loja",
        "valor": "R$ 1.234,50", "vencimento": "01/12/2026",
        "valido_ate": "2026-12-01T18:00:00-03:00", "prioridade": "urgente", "tentativas": 0,
        "criado_em": "2026-11-01T10:00:00Z", "anexo": None,
    }  # fmt: skip
    assert outline(body) == body | {"anexo": "…"}


def test_the_phone_is_masked_and_other_personal_data_is_not_shown():
    personal = {"nome": NAME, "descricao": DESCRIPTION, "texto": TEXT, "link_pagamento": LINK, "pix_copia_cola": PIX}
    charge = {"cobranca": {"valor": 99.9, "descricao": DESCRIPTION, "cliente": {"nome": NAME, "telefone": phone(1)}}}
    assert outline({"telefone": spellings(1)[0], **personal}) == {
        "telefone": "+55 77 9****-0001", **dict.fromkeys(personal, "…")
    }  # fmt: skip
    assert outline(charge) == {
        "cobranca": {"valor": 99.9, "descricao": "…", "cliente": {"nome": "…", "telefone": "+55 77 9****-0001"}}
    }


@pytest.mark.parametrize("name", ["valor", "vencimento", "tipo_notificacao", "prioridade", "telefone", "valido_ate"])
@pytest.mark.parametrize("value", [NAME, [NAME], {"nome": NAME}, f"{NAME} {phone(2)}", int(phone(2)[1:]), phone(2)])
def test_personal_data_in_the_wrong_field_is_not_shown_either(name: str, value: object):
    assert search(json.dumps(outline({name: value}), ensure_ascii=False)) == []


def test_unknown_fields_are_counted():
    assert outline({"id": "1", NAME: 1, phone(3): 2}) == {"id": "1", "…": "2 more"}


@pytest.mark.parametrize("value", [NAME, [NAME], None, 3])
def test_a_charge_that_is_not_an_object_is_not_shown(value: object):
    assert outline({"cobranca": value}) == {"cobranca": "…"}
