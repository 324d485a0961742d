#!/usr/bin/env bash
# One database and one role for each of the two; run once, by the image or by hand (psql's own variables: PGHOST, PGPORT).
# UTF8 whatever the server was made with: in SQL_ASCII, which a server without a locale has, one umlaut fails a run.
set -euo pipefail
for name in dagster mlflow; do
    variable=${name^^}_POSTGRES_PASSWORD
    psql --quiet --no-psqlrc --username "${POSTGRES_USER:-postgres}" --dbname postgres --set ON_ERROR_STOP=1 \
        --set name="$name" --set password="${!variable:?}" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name" ENCODING 'UTF8' TEMPLATE template0;
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
