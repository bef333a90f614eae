"""
Backups of Redis and the databases: created, verified and restored.

    Redis ─ replica ──╮                                    ╭─ primary ─▶ Redis, paused ◀─ reconciliation ─ ledger
                      ├─ creation ─▶ store ─ verification ─┤
    PostgreSQL ─ dump ╯     manifest, rotation             ╰─ pg_restore ─▶ PostgreSQL

A backup is a folder of the store, named after its time, with one file per part. `manifest.json` is written last: a
folder without it is an unfinished backup. Redis is copied before the ledger, so that every event is in one of the two:
those that the ledger had not recorded by then are in the copy of Redis.
"""
