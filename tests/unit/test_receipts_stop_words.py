import pytest

from ifinu.receipts.stop_words import asks_to_stop


@pytest.mark.parametrize(
    "text",
    [
        "SAIR",
        "sair!",
        " Sair. ",
        "sAiR 🙏",
        "*SAIR*",
        '"sair"',
        "s\u200bair",  # a space without width, as some keyboards leave it
        "ＳＡＩＲ",
        "Parár.",
        "PARAR",
        "pare",
        "Parem!!!",
        "stop",
        "Descadastrar",
        "descadastre-me",
        "me descadastre, por favor",
        "Quero sair",
        "eu quero sair!",
        "quero me descadastrar",
        "por favor parar",
        "Por favor, PARAR. Obrigada!",
        "Oi, bom dia! Sair, por favor",
        "Olá\nboa tarde\nsair",
        "parar de receber mensagens",
        "Pare de me mandar mensagens",
        "não quero mais receber mensagens",
        "Nao quero receber mensagens, obg",
    ],
)
def test_these_ask_for_no_more(text):
    assert asks_to_stop(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "!!!",
        "👍",
        "por favor",
        "bom dia",
        "obrigado",
        "vou sair agora",
        "não quero sair",
        "não sair",
        "sair agora não dá",
        "posso sair do plano?",
        "quando o boleto vai sair",
        "sairei",
        "ensair",
        "parar de pagar?",
        "não parar",
        "paguei, pode parar a cobrança",
        "cancelar",  # the charge? the contract? a person has to ask
        "stop motion",
        "non-stop",
        "não quero pagar",
        "1",
        "sair " * 40,
        "x" * 1_000_000,
    ],
)
def test_these_do_not(text):
    assert not asks_to_stop(text)
