#!/bin/bash
# The image's entrypoint runs this script for a new volume. It creates two databases, each with a role that can access
# only that database. Run it again to complete an interrupted run, or to give the roles the pod's current passwords:
#
#   kubectl exec evolution-postgres-0 -- bash /docker-entrypoint-initdb.d/databases.sh
#
# The entrypoint sources it, since a ConfigMap's file is not executable. The parentheses protect the entrypoint's shell.
(
  set -euo pipefail

  sql() { # psql's variables; by the socket, where the image asks for no password
    psql --no-psqlrc --no-password --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres "$@"
  }

  database() { # name, the variable that has the password
    : "${!2:?}"
    sql --set name="$1" --set variable="$2" <<'SQL'
\getenv password :variable
SET log_min_error_statement = panic; -- a statement that failed would be logged, with its password
SELECT format('CREATE ROLE %I LOGIN', :'name')
  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
ALTER ROLE :"name" PASSWORD :'password';
SELECT format('CREATE DATABASE %I OWNER %I ENCODING ''UTF8''', :'name', :'name')
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
  }

  database ifinu IFINU_PASSWORD
  database evolution EVOLUTION_PASSWORD
  sql --command 'REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC'
)
