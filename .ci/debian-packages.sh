#!/bin/bash
# debian-packages.sh PACKAGE...: install those that are absent, ask nothing, start none of their services.
set -euo pipefail

missing=()
for package in "$@"; do
    dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
done
((${#missing[@]})) || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "as root: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 2
fi

# A database server would else start on this machine's own ports as soon as it is installed; the playground starts its own, in pods.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
echo "installing ${missing[*]}"
if ! { apt-get -qq update && apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    rm -f "$log"
    exit 1
fi
rm -f "$log"
