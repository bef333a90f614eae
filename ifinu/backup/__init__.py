"""
Backups of Redis and both databases: creation, verification, restoration.

    Redis ──── replica ─╮                           ╭─ primary ──▶ Redis, paused ◀─ reconciliation ◀─ ledger
                        ├─ creation ─▶ store ─▶ verification, restoration
    PostgreSQL ─ dump ──╯             rotation      ╰─ pg_restore ─▶ PostgreSQL

A backup is a folder in the store, named after the time it was begun. It holds one file per part and `manifest.json`,
which is written last: a folder without it is an unfinished backup. Redis is copied before the ledger, so every event is
in the copied stream or already in the ledger.
"""
