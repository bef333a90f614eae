"""
The ledger: the history of every notification, in PostgreSQL or SQLite.

    ifinu:eventos -> recorder -> notifications, events, receipts, opt_outs, instances -> queries

`schema` defines the tables; only `recorder` writes events to them. Importing this package does not import SQLAlchemy,
which a worker that does not record can do without.
"""
