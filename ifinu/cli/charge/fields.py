"""The fields of a charge as options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ifinu.cli import billing_view

Id = Annotated[str, typer.Argument(metavar="ID", help="The tenant's id of the charge.")]
Customer = Annotated[Any, typer.Option("--customer", parser=str, metavar="ID", help="The tenant's id of the customer.")]
Amount = Annotated[
    Any, typer.Option("--amount", parser=billing_view.amount, metavar="AMOUNT", help="149.90 or '149,90'.")
]
Due = Annotated[Any, typer.Option("--due", parser=billing_view.day, metavar="DATE", help="2026-12-10 or 10/12/2026.")]
Description = Annotated[str | None, typer.Option("--description", metavar="TEXT", help="What it is for.")]
Discount = Annotated[
    Any,
    typer.Option(
        "--discount", parser=billing_view.amount, metavar="AMOUNT", help="Off, if it is paid by its last day in time."
    ),
]
Fees = Annotated[bool | None, typer.Option("--fees/--no-fees", help="Whether texts ask for fine and interest.")]
Method = Annotated[
    str | None, typer.Option("--method", metavar="METHOD", help="pix, boleto, card or other; a boleto clears two days.")
]
Link = Annotated[str | None, typer.Option("--link", metavar="URL", help="Where it can be paid.")]
Pix = Annotated[str | None, typer.Option("--pix", metavar="CODE", help="Pix copia e cola.")]
Boleto = Annotated[str | None, typer.Option("--boleto", metavar="DIGITS", help="The linha digitável.")]
BoletoPdf = Annotated[str | None, typer.Option("--boleto-pdf", metavar="URL", help="The slip as a document.")]
Provider = Annotated[str | None, typer.Option("--provider", metavar="NAME", help="Who reports its payment: asaas, …")]
ProviderId = Annotated[str | None, typer.Option("--provider-id", metavar="ID", help="The provider's id of it.")]
Notify = Annotated[bool | None, typer.Option("--notify/--silent", help="Whether anything is sent about it.")]


def given(**options: Any) -> dict[str, Any]:
    """The columns of the options that were given; '' clears one."""
    columns = {name: value if value != "" else None for name, value in options.items() if value is not None}
    if (fees := columns.pop("fees", None)) is not None:
        columns["waives_fees"] = not fees
    return columns
