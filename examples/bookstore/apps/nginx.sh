#!/bin/sh
# A real nginx with a scratch directory of its own, which is gone when the pod is.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
cp "$(dirname "$0")/nginx.conf" "$scratch/nginx.conf"
nginx -p "$scratch" -c nginx.conf &
trap 'kill $!' TERM INT
wait $! || wait $! || true
