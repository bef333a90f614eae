"""
Fingerprints of a PostgreSQL database: the row count of each table, and a hash of its rows.

The hash is the sum, over the rows, of 64 bits of the MD5 of the row's text. It depends neither on the order of the rows
nor on the server, so a dumped and a restored table can be compared. It detects lost, duplicated and changed rows, but
does not protect against deliberate forgery.
"""

from __future__ import annotations

from typing import Any

from psycopg2 import sql

from ifinu.backup.manifest import TableSummary

# A row's text must not depend on the settings of a server or a role.
_SETTINGS = (
    "SET LOCAL TimeZone = 'UTC'",
    "SET LOCAL DateStyle = 'ISO, YMD'",
    "SET LOCAL IntervalStyle = 'postgres'",
    "SET LOCAL extra_float_digits = 1",
    "SET LOCAL bytea_output = 'hex'",
    "SET LOCAL xmlbinary = 'base64'",
    "SET LOCAL lc_monetary = 'C'",
    "SET LOCAL search_path = pg_catalog",
)
# The tables whose rows pg_dump dumps: not those of the system or of an extension.
_TABLES = """
SELECT namespace.nspname, class.relname
FROM pg_catalog.pg_class AS class JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE class.relkind = 'r' AND class.relpersistence <> 't'
  AND namespace.nspname <> 'information_schema' AND namespace.nspname !~ '^pg_'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS depends
                  WHERE depends.classid = 'pg_catalog.pg_class'::regclass AND depends.objid = class.oid
                    AND depends.deptype = 'e')
ORDER BY 1, 2
"""
# No column may have the name of the alias, or the alias would mean the column.
_HASH = """
SELECT count(*),
       coalesce(sum(('x' || substr(md5("the whole row"::text), 1, 16))::bit(64)::bigint::numeric), 0)::text
FROM ONLY {schema}.{table} AS "the whole row"
"""


def tables(connection: Any) -> dict[str, TableSummary]:
    """
    Compute the fingerprint of each table, by `schema.name`.

    Args:
        connection: A connection of psycopg2. Its transaction decides which rows are visible; some of its settings are
            changed until the transaction ends.

    Raises:
        psycopg2.Error: The server failed, or is away.
    """
    found = {}
    with connection.cursor() as cursor:
        for setting in _SETTINGS:
            cursor.execute(setting)
        cursor.execute(_TABLES)
        for schema, table in cursor.fetchall():
            cursor.execute(sql.SQL(_HASH).format(schema=sql.Identifier(schema), table=sql.Identifier(table)))
            rows, hash_ = cursor.fetchone()
            found[f"{schema}.{table}"] = TableSummary(rows=rows, hash=hash_)
    return found


def differences(expected: dict[str, TableSummary], found: dict[str, TableSummary]) -> list[str]:
    """Describe each table that differs, in one sentence; empty if all agree."""
    described = []
    for name in sorted(expected.keys() | found.keys()):
        before, after = expected.get(name), found.get(name)
        if after is None:
            described.append(f"table {name} is missing")
        elif before is None:
            described.append(f"table {name} was not in the backup")
        elif before.rows != after.rows:
            described.append(f"table {name} has {after.rows:,} rows, not {before.rows:,}")
        elif before.hash != after.hash:
            described.append(f"table {name} has as many rows, but their content differs")
    return described
