"""
Brazilian phone numbers: any usual spelling in, E.164 out.

A Brazilian number is a two-digit area code (DDD) and a line: 9 digits beginning with 9 for a mobile, 8 digits
beginning with 2-5 for a landline (WhatsApp Business runs on those too). These may precede it, follow it or differ:

    +55, 0055, 55                 the country code
    0, (0), 0xx, 0 15             the trunk zero, alone or with the code of a long-distance carrier
    ...@s.whatsapp.net, ...@c.us  a WhatsApp address, always with the country code
    8616-7400                     a mobile from before 2016: 8 digits beginning with 6-9 get their ninth digit

Two numbers in one (3456-7890/91, 3221-6740 12) or a document (119.876.543-21) can have as many digits as a number, and
a message to it would reach a stranger. So grouped digits must be grouped as in a phone number. Ungrouped digits are
accepted: one mobile in a hundred has the check digits of a CPF.

55 is both the country and the DDD of Santa Maria (RS). Without a plus the length decides: 10 or 11 digits are
a DDD and a line, 12 or 13 begin with the country code. After a plus or 00 it is the country.

Sources: Anatel, Resolução 749/2022 (numbering plan) and 553/2010 (ninth digit). The tests compare
area codes and plain spellings with libphonenumber. It cannot replace this module: it refuses mobiles without their
ninth digit and WhatsApp addresses, accepts 0800 numbers and (11) 99999-9999, reads the `.0` of a spreadsheet as a
digit, and does not say what is wrong.
"""

from __future__ import annotations

import itertools
import re
import unicodedata

COUNTRY = "55"

_LONGEST_SPELLING = 64  # characters; a WhatsApp address has about 32
_DDD = r"(?:[14689][1-9]|2[12478]|3[1-578]|5[1345]|7[134579])"  # 67 of them
# 61 also serves the towns of Goiás around Brasília.
_DDDS = {
    "AC": "68",
    "AL": "82",
    "AM": "92 97",
    "AP": "96",
    "BA": "71 73 74 75 77",
    "CE": "85 88",
    "DF": "61",
    "ES": "27 28",
    "GO": "62 64",
    "MA": "98 99",
    "MG": "31 32 33 34 35 37 38",
    "MS": "67",
    "MT": "65 66",
    "PA": "91 93 94",
    "PB": "83",
    "PE": "81 87",
    "PI": "86 89",
    "PR": "41 42 43 44 45 46",
    "RJ": "21 22 24",
    "RN": "84",
    "RO": "69",
    "RR": "95",
    "RS": "51 53 54 55",
    "SC": "47 48 49",
    "SE": "79",
    "SP": "11 12 13 14 15 16 17 18 19",
    "TO": "63",
}
_STATES = {ddd: state for state, ddds in _DDDS.items() for ddd in ddds.split()}
# People type one digit eight times to get past a form.
_NATIONAL = re.compile(rf"{_DDD}(?!9?(\d)\1{{7}}$)(?:9\d{{8}}|[2-9]\d{{7}})")
# The usual spellings of a mobile. Each is grouped as one number is.
_USUAL = re.compile(r"(?:\+?55 ?)?(\()?(\d\d)(?(1)\)) ?(9\d{4})[ -]?(\d{4})", re.ASCII)
_E164 = re.compile(r"\+55(\d\d)(\d)\d{3,4}(\d{4})")
_SERVICE = re.compile(r"(?:300|303|500|800|900)\d{6,7}|400[34]\d{4}|\d\d400[34]\d{4}")
# Only known carriers: with any two digits, one digit too many would make somebody else's number.
_CARRIER = "1[24578]|2[135]|31|4[13]"
_WITH_ZERO = re.compile(rf"^0(?:{_CARRIER})?(?=\d{{10,11}}$)")
_ANY_CARRIER = re.compile(r"(?<!\d)0\s?xx", re.IGNORECASE)
_FLOAT = re.compile(r"\+?\d+\.0")  # how a spreadsheet prints a number
_ADDRESS = re.compile(r"(\d+)(?::\d+)?@(?:s\.whatsapp\.net|c\.us)")
_SPELLING = re.compile(r"[\s(]*(\+)?([\d\s()./-]*)")
_NOT_A_DIGIT = re.compile(r"\D+")
_DOCUMENTS = {
    "CPF": re.compile(r"\d{3}\.\d{3}\.\d{3}\D?\d{2}"),
    "CNPJ": re.compile(r"\d{2}\.\d{3}\.\d{3}\D?\d{4}\D?\d{2}"),
}
# 5511-3456 and 5511-7890, or the country, 11 and 3456-7890.
_LOCAL_AND_LOCAL = re.compile(r"55\d\d[\s.-]?\d{4}\s*/\s*\d{4}")
# Ten digits or more with at most three separators between two of them.
_IN_TEXT = re.compile(r"\+?\(?\d(?:[\s().\-\u2010-\u2015]{0,3}\d){9,}")

_SHAPE = "a Brazilian number has a two-digit area code and 8 or 9 digits"


def normalize(raw: str) -> str:
    """
    Parse a Brazilian number in any usual spelling.

    Returns:
        E.164: `+55`, the area code, and 8 (landline) or 9 (mobile) digits.

    Raises:
        ValueError: It is not a Brazilian number; the message says why, without the digits.
    """
    if (usual := _USUAL.fullmatch(raw)) and _NATIONAL.fullmatch(national := "".join(usual.groups()[1:])):
        return f"+{COUNTRY}{national}"
    national, spelling = _national(raw)
    if _SERVICE.fullmatch(national) or not _NATIONAL.fullmatch(national):
        raise ValueError(_objection(national))
    if not _is_one_number(spelling, len(national) - 2):
        raise ValueError(
            "is grouped as no single phone number is: two numbers, an extension, a document, or a digit is missing; "
            "write one number with its area code"
        )
    if len(national) == 10 and national[2] >= "6":
        national = f"{national[:2]}9{national[2:]}"
    return f"+{COUNTRY}{national}"


def digits(e164: str) -> str:
    """E.164 without its plus, as the gateway takes it."""
    return e164.removeprefix("+")


def state(e164: str) -> str:
    """The state (UF) of a number's area code, `BA` for `+5577998616740`. People move and keep their number."""
    return _STATES[e164[3:5]]


def ninth_digit_forms(e164: str) -> tuple[str, ...]:
    """
    The forms in which WhatsApp may know a number.

    Accounts made before the ninth digit keep the old address, so a look-up must try both. Only lines of 6-9
    existed then; the old form of any other mobile would be somebody's landline.

    Returns:
        Bare digits, the current form first; one form for a landline or a newer mobile.
    """
    now = digits(e164)
    ddd, line = now[2:4], now[4:]
    if len(line) == 9 and line[1] >= "6":
        return now, f"{COUNTRY}{ddd}{line[1:]}"
    return (now,)


def mask(e164: str) -> str:
    """Mask a number: `+55 77 9****-6740`. Any text but a Brazilian E.164 keeps at most two characters."""
    if match := _E164.fullmatch(e164):
        ddd, first, last = match.groups()
        return f"+{COUNTRY} {ddd} {first}{'*' * (len(e164) - 10)}-{last}"
    return "****" + (e164[-2:] if len(e164) >= 8 else "")


def mask_in(text: str) -> str:
    """Mask every possible phone in a text, such as a gateway's answer; other long numbers are masked too."""
    return _IN_TEXT.sub(lambda found: _mask_any(found.group()), text)


def _mask_any(spelling: str) -> str:
    try:
        return mask(normalize(spelling))
    except ValueError:
        return mask(spelling)


def _national(raw: str) -> tuple[str, str]:
    """
    Strip everything around area code and line.

    Returns:
        Their digits, and their spelling.

    Raises:
        ValueError: It is not a phone number, or one of another country.
    """
    text = _plain(raw)
    if address := _ADDRESS.fullmatch(text):
        return _without_country(address[1]), ""
    if "@" in text:
        raise ValueError("is an e-mail or the address of a group, not a phone number")
    if _FLOAT.fullmatch(text):
        text = text.removesuffix(".0")
    spelling = _SPELLING.fullmatch(_ANY_CARRIER.sub("0", text))
    if spelling is None:
        raise ValueError("has characters that no phone number has")
    plus, rest = spelling.groups()
    number = _NOT_A_DIGIT.sub("", rest)
    for document, written in _DOCUMENTS.items():
        if written.fullmatch(rest.strip()):
            raise ValueError(f"is written as a {document}, not as a phone number")
    if plus:
        number = _without_country(number)
    elif number.startswith("00"):
        number = _without_country(number[2:])
    elif number.startswith(COUNTRY) and len(number) >= 12:
        number = number[2:]
    return _WITH_ZERO.sub("", number), rest


def _is_one_number(spelling: str, line: int) -> bool:
    """
    Whether the digits are grouped as an area code and a line may be.

    Args:
        line: Digits of the line, 8 or 9.
    """
    if _LOCAL_AND_LOCAL.fullmatch(spelling.strip()):
        return False
    ends = [0]  # of the groups, in digits from the right
    for group in reversed(_NOT_A_DIGIT.split(spelling)):
        if group:
            ends.append(ends[-1] + len(group))
    within = [end for end in ends if 0 < end < line]
    if line in ends:  # the area code stands apart; a few digits after a whole group belong to another number
        last, before, *_ = [end - start for start, end in itertools.pairwise([0, *within, line])] + [0]
        return last >= 4 or (before < 4 and (last > 1 or before <= 1))
    # The area code is joined to its line: 7799861-6740, 779 9861-6740.
    return {end for end in within if end != 8} <= {4}


def _plain(raw: str) -> str:
    """Convert every digit, space and dash of Unicode to ASCII."""
    if len(raw) > _LONGEST_SPELLING:
        raise ValueError("is too long to be a phone number")
    text = raw.strip()
    if not text.isascii():
        text = "".join(map(_ascii, unicodedata.normalize("NFKC", text))).strip()
    if not text:
        raise ValueError("is empty")
    if not text.isprintable():
        raise ValueError("has control characters")
    return text


def _ascii(char: str) -> str:
    match unicodedata.category(char):
        case "Nd":
            return str(unicodedata.decimal(char))
        case "Pd":
            return "-"
        case "Zs":
            return " "
        case "Cf":  # direction marks and zero-width spaces, which come along when a contact is copied
            return ""
    return "-" if char == "\N{MINUS SIGN}" else char


def _without_country(number: str) -> str:
    if not number.startswith(COUNTRY):
        raise ValueError("is not a Brazilian number: its country code is not 55")
    return number[2:]


def _objection(national: str) -> str:
    count = len(national)
    if _SERVICE.fullmatch(national.removeprefix("0")):
        return "is a service number (0300, 0800, 4004 and the like), which is not a person's phone"
    if count in (8, 9):
        return f"has no area code: it has {count} digits; {_SHAPE}"
    if count not in (10, 11):
        return f"has {count} digits; {_SHAPE}"
    if not re.match(_DDD, national):
        return "has an area code (DDD) that does not exist"
    if count == 11 and national[2] != "9":
        return "has 9 digits after the area code but does not begin with 9, as every mobile does"
    if national[2] < "2":
        return "begins with 0 or 1 after the area code, as no line in Brazil does"
    return "is the same digit eight times, which is nobody's number"
