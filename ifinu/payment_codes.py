"""
Payment codes that people copy into their bank's app: Pix "copia e cola", and the linha digitável of a boleto.

A code with one wrong character cannot be paid, or pays somebody else, so each is verified by its check digits.

Sources: "Manual de Padrões para Iniciação do Pix" of Banco Central do Brasil (BR Code, after EMV QRCPS-MPM); FEBRABAN's
"Layout Padrão de Arrecadação/Recebimento com Utilização do Código de Barras", and its specification of the bank slip.
"""

from __future__ import annotations

import binascii
import re

_PIX_BEGINS = "000201"
_PIX_ACCOUNTS = range(26, 52)  # the ids under which an arrangement may describe the payee's account
_PIX_DOMAIN = "br.gov.bcb.pix"
_CHECKSUM = re.compile(r"6304([0-9A-Fa-f]{4})\Z", re.ASCII)
_NOT_DIGITS = re.compile(r"[\s.\-]+")
_CUT = "is cut off or changed; copy the whole code"


def pix_code(text: str) -> str:
    """
    Check a Pix "copia e cola".

    Returns:
        The code without surrounding space.

    Raises:
        ValueError: The text is not a Pix code, or was cut off or changed; the message never repeats it.
    """
    code = text.strip()
    if not code.startswith(_PIX_BEGINS):
        raise ValueError(f"is not a Pix code; a 'copia e cola' begins with {_PIX_BEGINS}")
    checksum = _CHECKSUM.search(code)
    if checksum is None:
        raise ValueError(f"{_CUT}: its last field is not a checksum (6304 and four characters)")
    if binascii.crc_hqx(code[:-4].encode(), 0xFFFF) != int(checksum[1], 16):
        raise ValueError(f"{_CUT}: its checksum does not match")
    fields = _fields(code)
    if fields.get("53") != "986" or fields.get("58") != "BR":
        raise ValueError("is not a Pix code: it is not in Brazilian reais (field 53), or not of Brazil (field 58)")
    accounts = (_fields(fields[f"{id_:02}"]) for id_ in _PIX_ACCOUNTS if f"{id_:02}" in fields)
    if not any(account.get("00", "").lower() == _PIX_DOMAIN for account in accounts):
        raise ValueError(f"is not a Pix code: no account in it is of {_PIX_DOMAIN}")
    return code


def boleto_line(text: str) -> str:
    """
    Check the "linha digitável" of a boleto, or of a utility bill.

    Args:
        text: 47 digits (boleto) or 48 (utilities and taxes); dots, hyphens and spaces are ignored.

    Returns:
        The digits alone.

    Raises:
        ValueError: The text is not such a line, or a digit is wrong; the message never repeats it.
    """
    digits = _NOT_DIGITS.sub("", text)
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("is not a linha digitável: it may have digits, dots, hyphens and spaces only")
    match len(digits):
        case 47:
            wrong = _wrong_in_boleto(digits)
        case 48 if digits.startswith("8"):
            wrong = _wrong_in_bill(digits)
        case 44:
            raise ValueError("is the number of the bar code (44 digits); give the linha digitável, which has 47 or 48")
        case count:
            raise ValueError(f"is not a linha digitável: it has {count} digits, not 47, or 48 that begin with 8")
    if wrong:
        raise ValueError(f"has a wrong digit: the check digit of {wrong} does not match; copy the whole line")
    return digits


def spaced(line: str) -> str:
    """
    Write a linha digitável the way a bill prints it.

    Args:
        line: 47 or 48 digits, as `boleto_line` returns them.
    """
    if len(line) == 47:
        a, b, c, check, rest = line[:10], line[10:21], line[21:32], line[32], line[33:]
        return f"{a[:5]}.{a[5:]} {b[:5]}.{b[5:]} {c[:5]}.{c[5:]} {check} {rest}"
    return " ".join(f"{line[start : start + 11]}-{line[start + 11]}" for start in range(0, 48, 12))


def _fields(text: str) -> dict[str, str]:
    """
    The fields of an EMV text: two digits of id, two of length, the value.

    Lengths count characters; some issuers count bytes of UTF-8, so both are tried.

    Raises:
        ValueError: The fields do not fill the text.
    """
    for spelling in (text, text.encode().decode("latin-1")):
        fields = {}
        rest = spelling
        while (head := rest[:4]).isascii() and head.isdigit() and len(head) == 4 and len(rest) >= 4 + int(head[2:]):
            fields[head[:2]] = rest[4 : 4 + int(head[2:])]
            rest = rest[4 + int(head[2:]) :]
        if not rest:
            return fields
    raise ValueError(f"{_CUT}: the lengths of its fields do not fit")


def _wrong_in_boleto(digits: str) -> str:
    for name, start, end in (("its first field", 0, 9), ("its second field", 10, 20), ("its third field", 21, 31)):
        if _modulo_10(digits[start:end]) != digits[end]:
            return name
    barcode = digits[:4] + digits[33:] + digits[4:9] + digits[10:20] + digits[21:31]  # without its own check digit
    check = 11 - _weighted(barcode) % 11
    return "" if str(check if check < 10 else 1) == digits[32] else "the whole line"


def _wrong_in_bill(digits: str) -> str:
    check = _modulo_10 if digits[2] in "67" else _modulo_11  # the third digit selects the rule
    blocks = [digits[start : start + 12] for start in range(0, 48, 12)]
    for place, block in enumerate(blocks, start=1):
        if check(block[:11]) != block[11]:
            return f"block {place}"
    barcode = "".join(block[:11] for block in blocks)
    return "" if check(barcode[:3] + barcode[4:]) == barcode[3] else "the whole line"


def _modulo_10(digits: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        tens, ones = divmod(int(digit) * (1 if place % 2 else 2), 10)
        total += tens + ones
    return str(-total % 10)


def _modulo_11(digits: str) -> str:
    rest = _weighted(digits) % 11
    return "0" if rest < 2 else str(11 - rest)


def _weighted(digits: str) -> int:
    """The sum of the digits, weighted from the right by 2 to 9, repeating."""
    return sum(int(digit) * (2 + place % 8) for place, digit in enumerate(reversed(digits)))
