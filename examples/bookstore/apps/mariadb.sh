#!/bin/sh
# A real MariaDB in a fraction of a second: no InnoDB, no grant tables (the mesh decides who may connect), a data directory of its own
# that is gone when the pod is.
set -eu
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
cp "$(dirname "$0")/books.sql" "$data/init.sql"
chown -R nobody "$data"
mariadbd --no-defaults --user=nobody --datadir="$data" --socket="$data/socket" --pid-file="$data/pid" --bind-address='*' --port=3306 \
    --skip-grant-tables --skip-name-resolve --innodb=OFF --default-storage-engine=Aria --init-file="$data/init.sql" &
trap 'kill $!' TERM INT
wait $! || wait $! || true
