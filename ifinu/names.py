"""
Keys and columns that resemble a field of the wire but are spelled differently: `usuario`, `Validade`, `descrição`.

No value is read from them. A guess only serves to ask "did you mean", and to refuse a message that is too dangerous to
send without the field that was meant.
"""

from __future__ import annotations

import difflib
import functools
import unicodedata
from collections.abc import Iterable

_LONGEST = 40  # characters of a key that may be a name
_ALIKE = 0.88  # difflib's ratio: `validado`, a flag, is not `validade`
_SHORTEST_TYPO = 5

# Field -> other names for it, as `fold` returns them: Python's names, and the commonest of other systems.
_OTHER_NAMES = {
    "id": ("idcobranca", "codigo", "idfatura", "fatura", "nossonumero", "numerodocumento"),
    "tipo_notificacao": ("kind", "tipo", "tipodenotificacao", "notificationtype"),
    "telefone": ("phone", "celular", "whatsapp", "fone", "phonenumber", "telefonecelular", "numerotelefone"),
    "nome": ("name", "cliente", "nomecliente", "nomedocliente", "sacado", "pagador", "razaosocial", "customername"),
    "valor": ("amount", "valortotal", "valorcobranca", "valortitulo", "valordotitulo", "preco", "saldo"),
    "vencimento": ("duedate", "datavencimento", "datadevencimento", "dtvencimento", "dtvenc", "venc"),
    "descricao": ("description", "desc", "historico"),
    "texto": ("text", "mensagem", "message"),
    "link_pagamento": ("paymentlink", "link", "url", "linkdepagamento", "linkboleto", "urlboleto", "invoiceurl"),
    "pix_copia_cola": ("pix", "pixcode", "copiaecola", "pixcopiaecola", "brcode", "qrcode", "codigopix"),
    "linha_digitavel": ("boletoline", "linhadigitavelboleto", "codigodebarras", "codigobarras"),
    "anexo": ("attachment", "urlanexo"),
    "valido_ate": (
        "validade", "validuntil", "validto", "validadeate", "datavalidade", "expiraem", "expiresat", "expiracao",
        "expiration",
    ),
    "prioridade": ("priority",),
    "instancia": ("instance", "instanceid", "instancename", "instanciaid", "nomeinstancia", "idinstancia"),
    "usuario_id": (
        "usuario", "idusuario", "idusuarios", "user", "userid", "iduser", "tenant", "tenantid", "inquilino",
    ),
    "cobranca": ("charge",),
}  # fmt: skip


def fold(name: str) -> str:
    """A name without case, accents, spaces and marks: `Valido Até`, `validoAte` and `valido_ate` are one."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    return "".join(c for c in plain if c.isalnum())


_FIELDS = {other: field for field, others in _OTHER_NAMES.items() for other in (fold(field), *others)}


@functools.lru_cache(maxsize=1024)
def likely(name: str) -> str | None:
    """The field of the wire that a name probably means; None if it resembles no field."""
    if len(name) > _LONGEST:
        return None
    folded = fold(name)
    if field := _FIELDS.get(folded):
        return field
    if len(folded) < _SHORTEST_TYPO:
        return None
    first = [other for other in _FIELDS if other[0] == folded[0]]
    close = difflib.get_close_matches(folded, first, n=1, cutoff=_ALIKE)
    return _FIELDS[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean acme?` for a name that resembles a known one; else empty."""
    close = difflib.get_close_matches(name, [*known], n=1)
    return f"; did you mean {close[0]}?" if close else ""
