"""
Stop words, by the corpus answers.csv.

`text` has Python's escapes for line breaks and zero-width characters; `wish` is a `Wish` or empty.
"""

import csv
import itertools
from pathlib import Path

import pytest

from ifinu.receipts.stop_words import Wish, wish_of

with Path(__file__).with_name("answers.csv").open(encoding="utf-8", newline="") as file:
    CORPUS = list(csv.DictReader(file))
ESCAPES = {"\\n": "\n", "\\u200b": "\u200b"}


def typed(text):
    for escape, char in ESCAPES.items():
        text = text.replace(escape, char)
    return text


@pytest.mark.parametrize(("text", "wish"), [(typed(row["text"]), row["wish"]) for row in CORPUS])
def test_each_answer_of_the_corpus_is_understood(text, wish):
    found = wish_of(text)
    assert (found.value if found else "none") == wish
    assert (wish_of(text) is Wish.STOP) == (wish == "stop")


def test_the_corpus_has_enough_of_each_kind():
    count = {wish: sum(row["wish"] == wish for row in CORPUS) for wish in ("stop", "wrong_person", "maybe", "none")}
    assert all(
        count[wish] >= least for wish, least in {"stop": 150, "wrong_person": 40, "maybe": 30, "none": 90}.items()
    )
    assert len({row["text"] for row in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize(
    "words",
    [
        ("não", "me", "mande", "mais", "mensagens"),
        ("não", "quero", "receber", "mais", "mensagem"),
        ("parem", "de enviar", "mensagens", "por favor"),
        ("me tira", "dessa", "lista", "agora"),
        ("remover", "meu número", "da lista"),
    ],
)
def test_a_request_is_understood_in_any_order(words):
    misread = [" ".join(order) for order in itertools.permutations(words) if wish_of(" ".join(order)) is not Wish.STOP]
    assert misread == []


@pytest.mark.parametrize("refused", ["sair", "parar", "parar de receber mensagens", "sair da lista", "me descadastrar"])
def test_a_refusal_to_stop_is_no_request(refused):
    assert not any(wish_of(f"{no} quero {refused}") is Wish.STOP for no in ("não", "nao", "ñ", "nunca"))


@pytest.mark.parametrize("text", ["sair " * 70, "x" * 1_000_000, "não me mande mais mensagens " * 20])
def test_a_long_text_asks_for_nothing(text):
    assert wish_of(text) is None


def test_each_wish_is_in_the_corpus():
    assert {row["wish"] for row in CORPUS} == {wish.value for wish in Wish} | {"none"}
