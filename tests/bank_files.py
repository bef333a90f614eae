"""Lines of return files as banks write them."""

from __future__ import annotations


def placed(width: int, **columns: str) -> str:
    """A line with texts at columns counted from 1, such as `at_14="T"`."""
    line = [" "] * width
    for name, text in columns.items():
        at = int(name.removeprefix("at_")) - 1
        line[at : at + len(text)] = text
    return "".join(line)


HEADER_240 = placed(240, at_1="34100000")
HEADER_400 = "02RETORNO01COBRANCA" + placed(381, at_58="341")


def segments(code: str, amount: str = "000000000014990", day: str = "10122026", number: str = "inv-42") -> list[str]:
    return [
        placed(240, at_1="3410001300001T", at_16=code, at_38="00000000000000012345", at_59="DOC1", at_106=number),
        placed(240, at_1="3410001300002U", at_16=code, at_78=amount, at_138=day),
    ]


def line_400(code: str, bank_number: str = "00012345", amount: str = "0000000014990", day: str = "101226") -> str:
    return placed(
        400, at_1="1", at_38="inv-42", at_63=bank_number, at_109=code, at_111=day, at_117="DOC1", at_254=amount
    )
