"""
Opt-outs in people's texts, recognised by a small grammar of Portuguese as people type it.

Case, accents, punctuation, emoji, repeated letters and words, and common misspellings do not matter. A text is read
clause by clause, each as a set of words, so that their order does not matter:

    not + send ("não me mande mais mensagens")           stop + send, receive, messages ("para de mandar mensagem")
    not + want + receive, messages, list                 remove + me, number, list ("me tira dessa lista")
    not + allow + messages, send                         leave ("quero sair"); unsubscribe, in any form

A clause asks to stop only if the grammar knows all its words: "não me mande mais boleto errado", "vou sair agora" and
"quero cancelar o plano" are about something else, and stopping the messages of a person who asked for something else
costs them a late fee. A clause with the core of a request beside unknown words is a *maybe*, for an operator to decide.
"""

from __future__ import annotations

import enum
import functools
import re
import unicodedata
from collections.abc import Iterable
from itertools import groupby


class Wish(enum.Enum):
    """The request in a person's text."""

    STOP = "stop"  # no more messages
    WRONG_PERSON = "wrong_person"  # the phone is not the customer's
    MAYBE = "maybe"  # close to one of these, and not clear


_LONGEST = 300  # characters; longer texts are about something else
_MOST_UNKNOWN = 5  # unknown words beside the core of a request, for a *maybe*


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NOT = _words("nao n nn nunca jamais sem nem")
_WANT = _words("quero queremos queria qero qro kero querer gostaria desejo pretendo interesse interessa interessado")
_SEND = _words(
    "mandar mande manda mandem mandando mandado enviar envie envia enviem enviando envio envios escrever "
    "escreva escrevam encaminhar encaminhe encaminhem disparar disparos notificar notifique notifiquem avisar "
    "avise avisem lembrar lembre lembrem send sending text texting"
)
_BOTHER = _words(
    "chamar chame chamem chama contatar contate contatem contacte contactar contactem incomodar incomode "
    "incomodem contatado contatada contactado contactada procurado procurada incomoda incomodado incomodada "
    "perturbado perturbada perturbar perturbe perturbem perturba encher encha encham procurar procure procurem "
    "ligar ligue liguem liga falar fale falem contato contatos"
)
_RECEIVE = _words("receber recebe receba recebendo recebimento receive receiving ver ler")
_MESSAGES = _words(
    "mensagem mensagens mensage mensages mensagi mensagis mensagen mensagems mensaje mensajes mesagem mesagens "
    "menssagem menssagens msg msgs mgs msn sms torpedo torpedos notificacao notificacoes aviso avisos lembrete "
    "lembretes alerta alertas recado recados comunicado comunicados comunicacao comunicacoes propaganda "
    "propagandas spam promocao promocoes publicidade texto textos message messages notification notifications"
)
_STOP = _words(
    "parar pare parem parando pararem cessar cesse cessem interromper interrompa interrompam suspender suspenda "
    "suspendam encerrar encerre encerrem stop parasse parassem"
)
_STOP_ALONE = _words("parar pare parem para stop")  # the other verbs need an object
_ENOUGH = _words("chega basta nada zero dispenso")
_REMOVE = _words(
    "tirar tira tire tirem retirar retira retire retirem remover remove remova removam removido removida "
    "excluido excluida retirado retirada tirado tirada remocao excluir exclui exclua excluam exclusao apagar "
    "apaga apague apaguem deletar deleta delete deletem desvincular desvincule"
)
_BLOCK = _words(
    "bloquear bloqueie bloqueia bloqueiem desativar desative desativem desabilitar desabilite desligar desligue desliga"
)
_LEAVE = _words("sair")
_CANCEL = _words("cancelar cancela cancele cancelem cancel cancelamento")
_ALLOW = _words("autorizo permito aceito concordo consinto")
_REVOKE = _words("revogo revogar retiro cancelo revogacao")
_CONSENT = _words("consentimento autorizacao permissao")
_LIST = _words("lista listas list mailing transmissao grupo agenda base sistema disparo")
_NUMBER = _words("numero numeros num telefone fone celular nome contato contatos")
_ACCOUNT = _words("cadastro dados inscricao")  # the list, or the customer's account?
_ME = _words("me mim eu")
# Of a message: what it is; alone: maybe the charge.
_CHARGES = _words("cobrado cobrada cobranca cobrancas cobrar cobre cobrem cobra")
_MORE = _words("mais more nada nunca jamais")
_UNSUBSCRIBE = re.compile(r"descadast|desinscre|desincre|desassin|unsubs|desubs|optout$")

# Words that do not change the meaning, anywhere in a clause.
_FILLERS = _words(
    "a o as os um uma uns umas ao aos de da do das dos d em no na nos nas p pra pro pras pros para por pelo "
    "pela e que q com comigo sobre via desde eu me mim meu minha meus minhas nosso nossa te ti se lhe nesse "
    "neste nessa nesta desse deste dessa desta desses dessas daqui aqui dai ai isso isto disso disto nisso esse "
    "essa este esta esses essas estes estas aquele voce voces vc vcs ce ces empresa loja senhor senhora sr sra "
    "gente pessoal moco moca amigo mais ms + nenhum nenhuma ninguem tipo tanta tanto tantas tantos todas todos "
    "toda todo tudo qualquer outra outras outro outros novamente novo vez vezes mesmo so tambem tb ja entao "
    "agora imediatamente urgente urgentemente logo favor porfavor gentileza pfv pf pfvr pls please obrigado "
    "obrigada obg obgd brigado grato grata agradeco oi ola opa bom boa dia tarde noite desculpa desculpe pode "
    "podem poderia poderiam podia posso precisa precisam preciso necessito solicito peco exijo ordeno tem como "
    "seja ser sejam estar ficar fazer faca facam parte participar entrar entre entrem ir nada whatsapp whats "
    "wpp zap zapzap celular telefone numero ok blz beleza certo ta tah viu entendeu ne cara mano porra poha "
    "caralho merda cacete saco inferno pqp droga poxa deus amor pedi falei disse solicitei aguento cansei sim "
    "enviadas enviados automatica automaticas automatico automaticos the to from my number of any all t "
    "favorzinho queria quero gostaria definitivo definitivamente sempre tenho lista"
)
_ABOUT_BILLS = _words(
    "boleto boletos fatura faturas conta contas carne plano planos assinatura contrato contratos compra compras "
    "pedido servico servicos internet seguro aula aulas curso matricula pagamento pagamentos pagar paguei pagou "
    "pix link codigo valor valores segunda parcela parcelas divida dividas debito desconto acordo juros multa "
    "serasa spc protesto cartao nota comprovante recibo pago paga quitei quitado quitada quitar fidelidade "
    "mensalidade emprestimo consorcio"
)
_BUT = _words("mas apenas somente exceto menos senao porem")  # turns a request into one with a condition
_AT_TIMES = _words("agora hoje amanha madrugada domingo sabado cedo noite horario almoco semana")
_GOING = _words("vou vamos irei vai")  # announces something, and requests nothing
_ASKING = _words("como onde faco fazer")

_WRONG = _words(
    "errou erraram errado errada errados erradas enganado enganada trocado trocada incorreto equivocado wrong"
)
_PERSON = _words(
    "numero num telefone fone celular contato pessoa destinatario zap whats whatsapp mensagem msg number person"
)
_IDENTITY = _words("sou chamo fui")
_NOT_A_NAME = _words(
    "obrigado obrigada palhaco palhaca trouxa besta idiota burro burra rico rica banco caloteiro caloteira "
    "devedor devedora bobo boba otario otaria contra capaz favor desse disso robo bot crianca moleque criminoso "
    "vagabundo milionario cego surdo doido doida louco louca culpado culpada assim responsavel"
)
_KNOW = _words("conheco desconheco")
_RELATION = _words(
    "ele ela dele dela ninguem pessoa pessoas cliente titular dono dona fulano esse essa aqui chama chamado "
    "chamada nome"
)
_NOT_OF_PERSONS = _words(
    "cobranca valor data vencimento endereco email casa rua cpf cnpj agencia apartamento cep preco"
)
_MISTAKE = _words("engano enganou enganaram enganado enganada")
_GONE = _words("faleceu morreu falecido falecida obito")
_LIVES = _words("mora trabalha pertence existe")

# Other spellings, and the words they stand for.
_SPELT = {
    "naum": "nao", "noa": "nao", "not": "nao", "dont": "nao", "don": "nao",
    "siar": "sair", "sari": "sair", "asir": "sair", "saor": "sair", "saie": "sair", "saiir": "sair", "sait": "sair",
    "prar": "parar", "praar": "parar", "parrar": "parar", "stp": "stop", "satop": "stop", "estop": "stop",
    "eh": "e", "aki": "aqui", "want": "quero",
}  # fmt: skip
_GRAMMAR = frozenset().union(
    _NOT, _WANT, _SEND, _BOTHER, _RECEIVE, _MESSAGES, _STOP, _ENOUGH, _REMOVE, _BLOCK, _LEAVE, _CANCEL, _ALLOW, _REVOKE,
    _CONSENT, _LIST, _NUMBER, _ACCOUNT, _ME, _MORE, _FILLERS,
)  # fmt: skip
# Words so long that one letter more, less or other is a misspelling and not another word.
_LONG = sorted(
    word
    for word in _SEND.union(_RECEIVE, _MESSAGES, _REMOVE, _CANCEL, _BLOCK, _STOP, _BOTHER, {"descadastrar", "whatsapp"})
    if len(word) >= 6
)
_OTHER_WORDS = _words(
    "andando mandato recebi recebeu recebemos recebo enviou enviei enviado mandou mandei avisei pareceu parado "
    "parada parados paradas perceber conceber lembrei lembrou sending tomando mandaram enviaram passando "
    "pagamento"
)

_CLAUSE = re.compile(r"[.!?;:,\n()\"]+|\s[-–—]+\s")
_SPACED = re.compile(r"\b(?:[a-z][ .\-*]{1,3}){2,}[a-z]\b")  # "S.A.I.R"
_NOT_A_WORD = re.compile(r"[^a-z0-9+]+")
_COURTESY = _words(
    "oi ola opa bom boa dia tarde noite por favor obrigado obrigada obg gentileza desculpa desculpe ok sr sra"
)


def wish_of(text: str) -> Wish | None:
    """The request in a person's text; None if it is about something else."""
    if len(text) > _LONGEST:
        return None
    clauses = [clause for part in _CLAUSE.split(_folded(text)) if (clause := _tokens(part))]
    found = [_Clause(clause) for clause in clauses]
    spoken = [clause for clause in found if not clause.is_courtesy]
    if len(spoken) > 1 and not any(clause.asks for clause in spoken):
        spoken = [_Clause([word for clause in clauses for word in clause])]  # one sentence, with commas in it
    return _together(spoken)


def _together(clauses: list[_Clause]) -> Wish | None:
    words = {word for clause in clauses for word in clause.words}
    asked = [clause.asks for clause in clauses]
    rest = [clause for clause in clauses if clause.asks is None]
    if "plain" in asked:
        conditional = words & _BUT or any(clause.words & _ABOUT_BILLS for clause in clauses)
        return Wish.MAYBE if conditional else Wish.STOP
    if "wrong" in asked:
        return Wish.WRONG_PERSON
    if "bare" in asked:  # a single word, which means something else beside others
        return Wish.MAYBE if any(clause.unknown for clause in rest) else Wish.STOP
    return Wish.MAYBE if "maybe" in asked else None


class _Clause:
    """
    The words between two punctuation marks.

    Attributes:
        unknown: The words that the grammar does not know.
        asks: `plain` with verb and object; `bare` by one word; `wrong` for a wrong recipient; `maybe`; or None.
    """

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.words = frozenset(tokens)
        self.unknown = [word for word in tokens if not _is_known(word)]
        self.is_courtesy = self.words <= _COURTESY
        self.asks = None if self.is_courtesy else self._asks()

    def _asks(self) -> str | None:
        words = self.words
        if self._is_wrong_person():
            return "wrong"
        core = self._core()
        if core is None:
            return "maybe" if self._is_close() else None
        about_bills = words & _ABOUT_BILLS
        if words & _LEAVE and (
            (words & _GOING and words & _LIST) or (words & _ASKING and len(words) <= 8 and not about_bills)
        ):
            return "maybe"
        if not self.unknown and not about_bills:
            is_for_now = words & _NOT and words & _AT_TIMES
            is_unclear = (words & _ACCOUNT and not words & (_LIST | _NUMBER)) or (
                words & _CHARGES and not words & _MESSAGES
            )
            return "maybe" if is_for_now or is_unclear else core
        if about_bills and not words & _MESSAGES:
            return None
        # A lone word, or "me" beside a verb, is not a request beside unknown words.
        return "maybe" if core == "plain" and len(self.unknown) <= _MOST_UNKNOWN and self._has_object() else None

    def _has_object(self) -> bool:
        return bool(self.words & (_MESSAGES | _LIST | _NUMBER | _BOTHER | _RECEIVE | _SEND))

    def _core(self) -> str | None:
        words = self.words
        says_not, stops = bool(words & _NOT), bool(words & _STOP) or self._stops_by_preposition()
        if any(_UNSUBSCRIBE.match(word) for word in words):
            return None if says_not else "bare"
        if says_not:
            return self._core_of_not(stops)
        if words & _REVOKE and words & _CONSENT:
            return "plain"
        if stops:
            objects = _SEND | _RECEIVE | _MESSAGES | _BOTHER | _CHARGES
            if words & objects:
                return "plain"
            return "bare" if words & _STOP_ALONE else None
        if (words & _ENOUGH or {"no", "more"} <= words) and words & _MESSAGES:
            return "plain"
        if words & (_REMOVE | _BLOCK) and words & (
            _LIST | _NUMBER | _ACCOUNT | _ME | _MESSAGES | _SEND | _RECEIVE | {"ser"}
        ):
            return "plain"
        if words & _CANCEL and words & (_MESSAGES | _SEND | _RECEIVE | _LIST):
            return "plain"
        if words & {"remover", "remova", "remove", "excluir"}:
            return "bare"
        if words & _LEAVE:
            return "plain" if words & _LIST and not words & (_GOING | _ASKING) else "bare"
        return "plain" if "paz" in words and words & _words("deixa deixe deixem deixar") else None

    def _core_of_not(self, stops: bool) -> str | None:
        words = self.words
        if words & (_GOING | {"posso", "consigo"}):
            return None  # "não posso falar agora"
        if stops or words & (_LEAVE | _REMOVE | _BLOCK | _CANCEL) or "deixe" in words or "deixem" in words:
            return None  # "não quero sair", "não para de chegar", "não deixe de avisar"
        sends = words & (_SEND | _BOTHER)
        if sends and words & _WANT and not words & (_MORE | _RECEIVE | _MESSAGES | _BOTHER):
            return None
        objects = _MESSAGES | _MORE | _RECEIVE | _CHARGES
        asks = (
            (sends and words & objects)
            or (words & _BOTHER and len(words) <= 6)
            or (words & _WANT and words & (_RECEIVE | _MESSAGES | _LIST | _CHARGES))
            or (words & _ALLOW and words & (_MESSAGES | _BOTHER | _SEND | _RECEIVE))
            or (words & {"sem", "mais", "nunca"} and words & _MESSAGES)
            or (words & _MORE and words & _CHARGES)
        )
        return "plain" if asks else None

    def _stops_by_preposition(self) -> bool:
        """Whether "para" is the verb, not the preposition; likewise "deixa de" in the sense of "stop"."""
        tokens = [
            word for word in self.tokens if word not in _COURTESY | _words("voces vcs vc pode podem e ja eu gente")
        ]
        if not tokens:
            return False
        following = tokens[1] if len(tokens) > 1 else "de"
        if tokens[0] == "para" or (tokens[0] == "p" and len(tokens) > 1):
            return following in _words("de d com por ja logo disso isso porra poha caralho") | _SEND | _MESSAGES
        if tokens[0] in _words("deixa deixe deixem deixar"):
            return following in ("de", "d")
        return any(one == "para" and two in ("de", "d") for one, two in zip(self.tokens, self.tokens[1:], strict=False))

    def _is_close(self) -> bool:
        """Whether the clause is close to a request, without having its core."""
        words = self.words
        if words & _ABOUT_BILLS or len(self.unknown) > _MOST_UNKNOWN:
            return False
        if words & _WRONG and words & _words("mandou mandaram enviou enviaram ligou ligaram"):
            return True
        if words & _NOT:
            if words & {"e"} and words & _words("a o da do") and len(self.tokens) <= 5 and len(self.unknown) == 1:
                return True  # "não é a Maria"
            return bool(words & _WANT and words & (_MORE | {"interesse", "interessa"}) and len(words) <= 6) or bool(
                words & _SEND and len(words) <= 3 and words & _ME
            )
        alone = self.words - _FILLERS - _WANT
        if (
            alone
            and alone <= _CANCEL | _BLOCK | _REMOVE | _STOP | _ENOUGH | _ACCOUNT | {"spam"}
            and not alone <= _ACCOUNT
        ):
            return True
        return bool(words & _words("denunciar denuncia denuncio spam procon lgpd anatel assedio"))

    def _is_wrong_person(self) -> bool:
        words = self.words
        if (words & _ABOUT_BILLS and "titular" not in words) or words & _NOT_OF_PERSONS:
            return False
        unknown = [word for word in self.tokens if word not in _KNOWN_OF_PERSONS]
        if words & _WRONG and words & _PERSON:
            return len(unknown) <= 3 and not words & (_SEND | {"meu", "minha"})
        if words & _MISTAKE:
            return not unknown
        if "desconheco" in words:
            return len(unknown) <= 3
        if words & _GONE:
            return len(unknown) <= 3 and len(self.tokens) <= 8
        if not words & _NOT:
            return False
        if words & _words("e eh") and ("comigo" in words or "mim" in words):
            return not unknown
        if words & _IDENTITY:
            named = self.tokens[self.tokens.index(next(iter(words & _IDENTITY))) + 1 :]
            return bool(named) and not words & _NOT_A_NAME and len(named) <= 5
        if words & _KNOW:
            return len(unknown) <= 3 and "empresa" not in words
        if {"meu", "nome", "e"} <= words or ({"e", "aqui"} <= words and len(self.tokens) <= 4):
            return len(unknown) <= 3  # "meu nome não é Maria", "Maria não é aqui"
        if words & _LIVES and words & (_RELATION | _PERSON | {"mais", "mim"}):
            return len(unknown) <= 3
        is_about_the_phone = words & (_PERSON | _words("aqui esse este")) and words & _words("e eh tem pertence")
        names_another = (
            words & _words("da do dela dele de")
            or (words & _RELATION - _words("aqui esse essa"))
            or ("aqui" in words and words & _words("a o nenhum nenhuma"))
        )
        return bool(is_about_the_phone and names_another and len(unknown) <= 3 and len(self.tokens) <= 10)


_KNOWN_OF_PERSONS = _FILLERS | _NOT | _WRONG | _PERSON | _RELATION | _LIVES | _GONE | _KNOW | _IDENTITY | _words(
    "engano enganou enganaram foi esta e eh mandou mandaram enviou enviaram ligou voce para era acho houve parece"
)  # fmt: skip


@functools.cache
def _is_known(word: str) -> bool:
    return word in _GRAMMAR or word in _CHARGES or word == "paz" or word.startswith("deix") or bool(
        _UNSUBSCRIBE.match(word)
    )  # fmt: skip


def _folded(text: str) -> str:
    """The text in lower case, without accents and zero-width characters; full stops stay."""
    letters = "".join(
        char for char in unicodedata.normalize("NFKD", text) if unicodedata.category(char) not in ("Mn", "Cf")
    )
    return (
        _SPACED.sub(lambda found: re.sub(r"\W", "", found[0]), letters.casefold())
        .replace("opt-out", "optout")
        .replace("opt out", "optout")
    )


def _tokens(clause: str) -> list[str]:
    words = _NOT_A_WORD.sub(" ", clause.replace("+", " + ")).split()
    return _without_repeats(_spelt(word) for word in words)


def _without_repeats(words: Iterable[str]) -> list[str]:
    return [word for word, _ in groupby(words)]


@functools.lru_cache(maxsize=4096)
def _spelt(word: str) -> str:
    """The word of the grammar that a misspelt word means, or else the word itself."""
    if word in _SPELT:
        return _SPELT[word]
    if _is_known(word) or word in _OTHER_WORDS:
        return word
    for squeezed in (re.sub(r"(.)\1{2,}", r"\1", word), re.sub(r"(.)\1+", r"\1", word)):
        if _is_known(squeezed):
            return squeezed
        if squeezed in _SPELT:
            return _SPELT[squeezed]
    if len(word) < 5 or word in _ABOUT_BILLS:
        return word
    return next((known for known in _LONG if _is_a_slip(word, known)), word)


def _is_a_slip(word: str, known: str) -> bool:
    """Whether two words differ by one letter missing, added, replaced or swapped; a long word by two such slips."""
    most = 2 if len(known) >= 11 else 1
    if abs(len(word) - len(known)) > most or word[0] != known[0]:
        return False
    before: list[int] = []
    row = list(range(len(known) + 1))
    for i, letter in enumerate(word, 1):
        now = [i]
        for j, other in enumerate(known, 1):
            cost = min(row[j] + 1, now[j - 1] + 1, row[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == known[j - 2] and word[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            now.append(cost)
        before, row = row, now
    return row[-1] <= most
