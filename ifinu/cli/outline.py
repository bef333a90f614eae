"""
The outline of a message: its fields, without personal data.

A value is shown only if it has the form of its field, so that a name in the place of an amount stays hidden.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ifinu import phone

_HIDDEN = "…"
_FIGURES = re.compile(r"[\d R$.,:/TZ+-]{1,40}", re.ASCII)
_WORD = re.compile(r"[a-z]{1,12}", re.ASCII)
_ANYTHING = re.compile(r".{1,200}")  # the producer's ids and names, which the logs hold too
_SHAPES = {
    "id": _ANYTHING,
    "usuario_id": _ANYTHING,
    "instancia": _ANYTHING,
    "tipo_notificacao": _WORD,
    "prioridade": _WORD,
    "valor": _FIGURES,
    "vencimento": _FIGURES,
    "data_vencimento": _FIGURES,
    "valido_ate": _FIGURES,
    "criado_em": _FIGURES,
    "tentativas": _FIGURES,
}
_PHONE = "telefone"
_PERSONAL = ("nome", "descricao", "texto", "link_pagamento", "pix_copia_cola", "linha_digitavel", "anexo")
_NESTED = ("cobranca", "cliente")


def outline(body: Mapping[str, Any]) -> dict[str, Any]:
    """
    The fields of a message in either wire form; the phone is masked, and other personal values become `…`.

    Args:
        body: The object as its producer wrote it. Unknown fields are only counted, since a key may hold anything.
    """
    shown: dict[str, Any] = {}
    for name, value in body.items():
        if name in _NESTED:
            shown[name] = outline(value) if isinstance(value, Mapping) else _HIDDEN
        elif name == _PHONE:
            shown[name] = _masked(value)
        elif name in _SHAPES:
            shown[name] = _plain(value, _SHAPES[name])
        elif name in _PERSONAL:
            shown[name] = _HIDDEN
    if others := len(body) - len(shown):
        shown[_HIDDEN] = f"{others} more"
    return shown


def _masked(value: object) -> str | None:
    if value is None:
        return None
    try:
        return phone.mask(phone.normalize(str(value)))
    except ValueError:
        return _HIDDEN


def _plain(value: object, shape: re.Pattern[str]) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return phone.mask_in(text) if (text := str(value)) != phone.mask_in(text) else value
    return phone.mask_in(value) if isinstance(value, str) and shape.fullmatch(value) else _HIDDEN
