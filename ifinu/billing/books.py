"""The functions about tenants, customers and charges, each in a transaction of its connection."""

from __future__ import annotations

import functools
import inspect
from datetime import UTC, datetime
from types import ModuleType, TracebackType
from typing import Any, Self

from ifinu.billing import charges, customers, tenants
from ifinu.errors import ConfigurationError
from ifinu.ledger.engine import connect


class Books:
    """
    The charges in a database. Close it at the end, or use it in a `with`.

    Attributes:
        tenants: The functions of `ifinu.billing.tenants`, without their connection.
        customers: Likewise.
        charges: Likewise.
    """

    def __init__(self, url: str) -> None:
        self.engine = connect(url, create=False)
        if self.engine.dialect.name != "postgresql":
            raise ConfigurationError("charges need PostgreSQL; the URL names another database")
        self.tenants = Functions(self, tenants)
        self.customers = Functions(self, customers)
        self.charges = Functions(self, charges)

    def close(self) -> None:
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Functions:
    """The public functions of a module. Each call is a transaction, and `now` is the time unless it is given."""

    def __init__(self, books: Books, module: ModuleType) -> None:
        self._books = books
        self._module = module

    def __getattr__(self, name: str) -> Any:
        function = None if name.startswith("_") else getattr(self._module, name, None)
        names = list(inspect.signature(function).parameters) if inspect.isfunction(function) else []
        if function is None or names[:1] != ["connection"]:
            raise AttributeError(f"{self._module.__name__} has no function {name!r} of a connection")

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if "now" in names[len(args) + 1 :]:
                kwargs.setdefault("now", datetime.now(UTC))
            with self._books.engine.begin() as connection:
                return function(connection, *args, **kwargs)

        return call
