"""
Whether a text asks for no more messages.

Case, accents, punctuation, emoji and courtesies around it do not matter; what is left has to be one of the phrases
below, whole. So "SAIR!" and "por favor, parar" count, while "vou sair agora" and "não quero sair" do not: to stop the
messages of somebody who asked for something else costs them a late fee.
"""

from __future__ import annotations

import re
import unicodedata

_LONGEST = 120  # characters; nobody asks for it at greater length in these words

_PHRASES = frozenset(
    {
        "sair",
        "quero sair",
        "eu quero sair",
        "gostaria de sair",
        "sair da lista",
        "quero sair da lista",
        "me tira da lista",
        "me tire da lista",
        "parar",
        "pare",
        "parem",
        "quero parar",
        "parar mensagens",
        "parar de receber",
        "parar de receber mensagens",
        "quero parar de receber",
        "quero parar de receber mensagens",
        "pare de mandar mensagem",
        "pare de mandar mensagens",
        "pare de me mandar mensagem",
        "pare de me mandar mensagens",
        "pare de enviar mensagens",
        "parem de mandar mensagem",
        "parem de mandar mensagens",
        "parem de enviar mensagens",
        "nao quero receber mensagens",
        "nao quero mais receber",
        "nao quero mais receber mensagem",
        "nao quero mais receber mensagens",
        "nao quero mais receber suas mensagens",
        "stop",
        "descadastrar",
        "descadastre",
        "descadastro",
        "quero descadastrar",
        "quero me descadastrar",
        "me descadastrar",
        "me descadastra",
        "me descadastre",
        "descadastre me",
    }
)
_COURTESIES = (
    "oi", "ola", "bom dia", "boa tarde", "boa noite", "por favor", "por gentileza", "favor", "pfv", "pf",
    "obrigado", "obrigada", "obg", "grato", "grata",
)  # fmt: skip

_COURTESY = "|".join(_COURTESIES)
_AROUND = re.compile(rf"^(?:(?:{_COURTESY}) )*|(?: (?:{_COURTESY}))*$")
_NOT_A_WORD = re.compile(r"[^a-z0-9]+")


def asks_to_stop(text: str) -> bool:
    """Whether a text that a person wrote is an opt-out."""
    return len(text) <= _LONGEST and _AROUND.sub("", _folded(text)) in _PHRASES


def _folded(text: str) -> str:
    """Bare lower-case words, one blank between them; a letter's accents are dropped, and so is what has no width."""
    letters = "".join(
        char for char in unicodedata.normalize("NFKD", text) if unicodedata.category(char) not in ("Mn", "Cf")
    )
    return _NOT_A_WORD.sub(" ", letters.casefold()).strip()
