"""The registry of numbers and tenants: in the ledger's database, with a copy in Redis that workers read."""
