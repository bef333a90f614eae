"""
Damage: signs in a value that a program went wrong, so that such a value never reaches a phone.

    JoÃ£o, Jo&eacute;, =C3=A3       read in the wrong encoding, or escaped once too often
    {{nome}}, %valor%, ${link}      a placeholder that was not filled in
    undefined, NaN, #N/D, null      written by a program or a spreadsheet for a missing value
    <b>                             HTML, which WhatsApp shows as it is
    U+202E in a link                a control that reorders the characters shown

Only certain damage counts: "50% de desconto", "João & Filhos <3", "AMANHÃ…" and "R$ {promo}" pass. Every check raises
a ValueError that names the mark, never the text beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html.entities import name2codepoint
from typing import NamedTuple
from urllib.parse import urlsplit


class _Mark(NamedTuple):
    """A sign of damage and its meaning; errors show the match, or `shown` where that is set."""

    pattern: re.Pattern[str]
    meaning: str
    shown: str = ""


_ENCODING = "the text was read in the wrong encoding; write and read it as UTF-8"
_ESCAPED = "the text was escaped once too often"
_UNFILLED = "a placeholder that was not filled in"
_NO_VALUE = "what a program writes where it has no value"
_SPREADSHEET = "an error of a spreadsheet's formula"
_HTML = "HTML, which WhatsApp shows as it is; write plain text"
_BIDI = "a control that shows characters in another order than they have"
_INVISIBLE = "an invisible character, which breaks a link"

# Names that templates give to values; such a name in brackets or between signs is a placeholder left unfilled.
_VALUE = (
    r"(?:(?:primeiro|first|last|customer|cliente|user|full)?[_.\s-]?(?:nome|name)|cliente|customer|valor|amount|total|"
    r"pre[cç]o|price|vencimento|due[_.\s-]?date|data|date|link|url|pix|c[oó]digo|boleto|descri[cç][aã]o|description|"
    r"empresa|loja|telefone|phone|fatura|parcela|dias|saldo|plano|produto|id)(?:[_.\s-][\w.\s-]{1,30})?"
)
_COMMON = "nome|name|cliente|valor|vencimento"  # the likeliest of them, for signs that are common in texts
_IDENTIFIER = r"[^\W\d_][^\W_]*(?:[_.][^\W_]+)+"  # cliente.nome, nome_cliente
_ENTITY = re.compile(r"&(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,8}\d{0,2});")
_TAGS = (
    "a|b|i|u|p|s|br|hr|h[1-6]|em|ul|ol|li|td|tr|th|div|img|pre|sup|sub|font|span|html|head|body|meta|link|small|table|"
    "tbody|thead|center|strong|strike|script|style|button|input|form|title"
)
# Bytes 80-BF as cp1252 shows them, and as Latin-1 does.
_BYTES = "\u0080-\u00bf€‚ƒ„†‡ˆ‰Š‹ŒŽ˜š›œžŸ"
_QUOTES = "‘’“”•"  # after Ã they may end a quotation, unless a letter follows

_ANYWHERE = (
    _Mark(re.compile("\ufffd"), _ENCODING, "U+FFFD"),
    # Ã and Â are letters: they stand alone, before letters, or before the end of a sentence.
    _Mark(re.compile(rf"[ÃÂ](?:[{_BYTES}]|[{_QUOTES}](?=[^\W\d_]))"), _ENCODING),
    _Mark(
        re.compile("â(?:\u20ac|\u201a\u00ac|\u201e\u00a2|\u0080)|ðŸ|ð\u009f|ï»¿|Ã\u0083|[A-Za-z]‡[A-Za-zÆ]|[a-z]Æ"),
        _ENCODING,
    ),
    _Mark(re.compile("├[\u00a1-\u00ff\u2502-\u257f]"), _ENCODING),
    _Mark(re.compile(r"=C3=[89AB][0-9A-F]|=\?(?i:utf-8|iso-8859-1)\?[QBqb]\?"), _ESCAPED),
    _Mark(re.compile(r"\\u00[0-9a-fA-F]{2}|\\x[0-9a-fA-F]{2}"), _ESCAPED),
    _Mark(re.compile(r"\[object \w{1,20}\]"), _NO_VALUE),
    _Mark(re.compile(r"(?<![\w-])(?:undefined|NaN|Invalid Date)(?![\w-])"), _NO_VALUE),
    _Mark(re.compile(r"(?:R\$ ?|\b[Oo]l[áa],? |\bOi,? )(?:null|NULL|None|nan)\b"), _NO_VALUE),
    _Mark(
        re.compile(
            r"#(?:N/[DA]\b|REF!|VALOR!|VALUE!|NOME\?|NAME\?|DIV/0!|NULO!|NULL!|N[ÚU]M!|DESPEJAR!|SPILL!|CALC!|C[ÁA]LC!|ERROR?!)|\bErr:5\d\d\b"
        ),
        _SPREADSHEET,
    ),
    _Mark(re.compile(r"\{\{[^{}]*\}\}|\{%[^{}]*%\}|<%[^<>]*%>|<\?(?:php|=)|\*\|[^|*]*\|\*"), _UNFILLED),
    _Mark(
        re.compile(rf"[$#]\{{[^{{}}]*\}}|\{{\s*(?:\d{{1,2}}|{_IDENTIFIER}|{_VALUE})\s*\}}", re.IGNORECASE), _UNFILLED
    ),
    _Mark(re.compile(rf"%(?:{_IDENTIFIER}|{_VALUE.replace(chr(92) + 's', '')})%", re.IGNORECASE), _UNFILLED),
    _Mark(re.compile(r"(?<![\d%])%(?:\d\$)?[sd](?![\w%])|%\(\w{1,30}\)[sd]"), _UNFILLED),
    _Mark(re.compile(rf"<(?:{_IDENTIFIER}|{_VALUE})>|\[\[[^\[\]]*\]\]", re.IGNORECASE), _UNFILLED),
    _Mark(
        re.compile(rf"(##?|__|@@)(?:{_COMMON})\1|\(\((?:{_COMMON})\)\)|(?<![\w$])\$(?:{_COMMON})\b", re.IGNORECASE),
        _UNFILLED,
    ),
    _Mark(re.compile(rf"\[(?:{_COMMON})(?: d[oae] \w{{1,20}})?\]", re.IGNORECASE), _UNFILLED),
    _Mark(re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|<!--|<!doctype|&nbsp\b", re.IGNORECASE), _HTML),
)
# The whole of a value, in any case.
_NO_VALUES = re.compile(
    r"(?:[(<]?(?:null|none|undefined|nil|nan)[)>]?\s*)+|n/[ad]|\\n|#{3,}|\?{2,}|\[object\b.*|void 0", re.IGNORECASE
)
_NAMES = frozenset({"Nan"})  # a person's name; only `nan` in small letters is `str(float('nan'))`

_IN_NAMES = (
    _Mark(re.compile(r"(?<!\S)[^\W\d_]+\?[^\W\d_]+(?!\S)"), _ENCODING, "a question mark within a word"),
    _Mark(re.compile(r"%C3%[89AB][0-9A-F]", re.IGNORECASE), _ESCAPED),
    _Mark(re.compile(r"(?<!\w)null(?!\w)"), _NO_VALUE),
)
_IN_LINKS = (
    _Mark(re.compile(r"[<>{}|\\^`]|%7B\w*%7D", re.IGNORECASE), _UNFILLED),
    _Mark(re.compile(r"(?<=[/=.])(?:null|None|undefined|NaN|nil)(?=[/?&#.]|$)"), _NO_VALUE),
    _Mark(re.compile("[\u00ad\u200b-\u200d\u2060-\u2065\ufeff]"), _INVISIBLE),
)
_BIDI_CONTROLS = _Mark(re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"), _BIDI)
# In a free text, marks of direction come along with copied words; only this one reorders it.
_OVERRIDE = _Mark(re.compile("\u202e"), _BIDI)
# The part of a mark in brackets that an error may repeat; anything else may be a person's name.
_PROGRAMS_NAME = re.compile(
    rf"[^\w\s]{{1,4}}\s?(?:[a-z_.$-]{{0,30}}\d{{0,2}}|(?i:{_VALUE}|{_TAGS})|object \w+)\s?/?(?:[^\w\s]{{1,3}}[sd]?)?"
    r"|%(?:C3%[0-9A-Fa-f]{2}|7[Bb][a-z_]{0,30}%7[Dd])"
)
_OPENING = re.compile(rf"[^\w\s]{{1,4}}(?:(?:{_TAGS})(?=\s))?", re.IGNORECASE)
_LINK = re.compile(r"\w{2,10}://\S+")
_LINE_BREAK = re.compile(r"\\(?:r\\)?n")
_PATH = re.compile(r"[A-Za-z]:\\|\\\\")

# Every mark within a value holds one of these. Most values hold none, and need no further check. As each alternative
# begins with a character, not with a class, a search skips all characters that begin none.
_INVISIBLES = map(chr, (0x061C, 0x00AD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF))
_HINTS = (
    "undefined", "NaN", "null", "NULL", "None", "nan", "Invalid Date", "Err:", r"\$(?<!R\$)", "__", "@@", r"\(\(",
    "=[C?]", *map(re.escape, "\ufffdÃÂâðï├‡Æ<{%#*[\\"), *_INVISIBLES,
)  # fmt: skip
_SUSPICIOUS = re.compile("|".join((*_HINTS, "://", r"\?", "&")))
_SUSPICIOUS_IN_LINKS = re.compile("|".join((*_HINTS, "nil", "&[nN]", *map(re.escape, ";>}|^`"))))
_HAS_HOST = re.compile(r"https?://[a-z0-9.-]+(?:[/?#]|\Z)", re.ASCII | re.IGNORECASE)


def refuse_in_text(text: str) -> None:
    """Check a free text."""
    _refuse_no_value(text)
    if _SUSPICIOUS.search(text):
        _refuse_in_suspicious(text)


def refuse_in_template(line: str) -> None:
    """Check the literal text of a template, a part of one line."""
    _refuse_entities(line)
    _refuse(line, (*_ANYWHERE, _OVERRIDE))


def refuse_in_line(text: str) -> None:
    """Check a description."""
    _refuse_no_value(text)
    if _SUSPICIOUS.search(text):
        _refuse_in_suspicious(text)
        _refuse(text, (_BIDI_CONTROLS,))


def refuse_in_name(text: str) -> None:
    """Check a person's name."""
    _refuse_no_value(text)
    if _SUSPICIOUS.search(text):
        _refuse_in_suspicious(text)
        _refuse(text, (_BIDI_CONTROLS, *_IN_NAMES))


def refuse_in_link(url: str) -> None:
    """Check a link."""
    _refuse_no_value(url)
    if _SUSPICIOUS_IN_LINKS.search(url):
        _refuse_entities(url)
        _refuse(url, (*_ANYWHERE, *_IN_LINKS, _BIDI_CONTROLS))
    if not _HAS_HOST.match(url):
        _refuse_without_host(url)


def refuse_in_code(text: str) -> None:
    """Check an id, or a payment code."""
    _refuse_no_value(text)
    if not text.isascii():
        _refuse(text, (_ANYWHERE[0], _BIDI_CONTROLS))


def checking(refuse: Callable[[str], None]) -> Callable[[object], object]:
    """Make a pydantic validator of a check; a value that is not text passes, and the field's type refuses it."""

    def check(value: object) -> object:
        if isinstance(value, str):
            refuse(value)
        return value

    return check


def _refuse_no_value(text: str) -> None:
    word = text.strip()
    if _NO_VALUES.fullmatch(word) and word not in _NAMES:
        raise ValueError(f"is {word[:20]!r}, {_SPREADSHEET if word[0] == '#' else _NO_VALUE}")


def _refuse(text: str, marks: tuple[_Mark, ...]) -> None:
    for mark in marks:
        if found := mark.pattern.search(text):
            raise ValueError(f"has {mark.shown or _shown(found.group())}, {mark.meaning}")


def _refuse_in_suspicious(text: str) -> None:
    _refuse_entities(text)
    _refuse(text, (*_ANYWHERE, _OVERRIDE))
    for found in _LINE_BREAK.finditer(text):
        word = text[text.rfind(" ", 0, found.start()) + 1 : found.end()]
        if not _PATH.match(word):
            raise ValueError(f"has {found.group()!r:.8}, a line break that was escaped once too often")
    for link in _LINK.finditer(text):
        _refuse(link.group(), (_IN_LINKS[1], _IN_LINKS[2], _BIDI_CONTROLS))


def _refuse_without_host(url: str) -> None:
    try:
        host = urlsplit(url.strip()).hostname
    except ValueError:
        host = None
    if url.strip().lower().startswith(("http://", "https://")) and not host:
        raise ValueError("has no host, such as example.com")


def _refuse_entities(text: str) -> None:
    for entity in _ENTITY.finditer(text):
        if entity[1][0] == "#" or entity[1] in name2codepoint or entity[1] == "apos":
            raise ValueError(f"has '{entity[0]}', {_HTML}")


def _shown(mark: str) -> str:
    """Show a mark: short, printable, and without the text in brackets unless a program wrote that."""
    if len(mark) == 1 and not mark.isprintable():
        return f"U+{ord(mark):04X}"
    if mark[0] in "<[{%$*" and not _PROGRAMS_NAME.fullmatch(mark):
        opening = _OPENING.match(mark)
        return f"'{opening.group() if opening else mark[0]}…'"
    return "'" + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in mark[:40]) + "'"
