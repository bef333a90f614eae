"""
What became of every notification, in PostgreSQL or SQLite.

    ifinu:eventos -> recorder -> notifications, events, receipts, opt_outs, instances -> queries

`schema` is the picture; `recorder` alone writes what happened. Importing this package imports no SQLAlchemy, so that a
worker that does not record pays nothing for it.
"""
