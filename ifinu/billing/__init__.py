"""
The régua de cobrança: charges, and the right message about each on the right day.

    from ifinu import billing

    books = billing.open("postgresql+psycopg2://…")
    books.charges.pay("u1", "inv-42", via="erp")

Each such call is a transaction. To do it in your own, call the function with your SQLAlchemy connection:

    from ifinu.billing import charges

    charges.pay(connection, "u1", "inv-42", via="erp", now=datetime.now(UTC))

Messages that were queued are cancelled in Redis after the commit, by the scheduler or by `charges.apply_cancel_flags`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ifinu.billing.books import Books


def open(url: str) -> Books:  # noqa: A001 - `billing.open` reads as what it does
    """
    The charges in a database; it connects at the first call.

    Args:
        url: As `IFINU_DATABASE_URL`, of a PostgreSQL that `ifinu migrate` has prepared.

    Raises:
        ConfigurationError: It is no URL of a PostgreSQL.
    """
    from ifinu.billing.books import Books  # a worker imports this package, and needs none of it

    return Books(url)
