"""
Backups: what is in Redis and in the databases, copied whole, checked, and brought back.

    Redis ─ replica ──╮                        ╭─ primary ─▶ Redis, paused ◀─ recalling ─ what the ledger knows
                      ├─ taking ─▶ store ─ checking ─ restoring
    PostgreSQL ─ dump ╯   manifest, retention  ╰─ pg_restore ─▶ PostgreSQL

A backup is a folder of the store, named after its time: one file a part, and last of all `manifest.json`. Without it a
folder is the remains of a backup that was not finished. Redis is copied first, so that the ledger is never behind it:
whatever Redis had told the ledger by then is in one of the two.
"""
