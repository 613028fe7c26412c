#!/usr/bin/env bash
# ab, Apache's bench: HTTP/1.0, with keep-alive asked for and without.
# shellcheck disable=SC2317 # `try` calls the cases
# shellcheck source=cases.sh
source "$(dirname "$0")/cases.sh"

load() { # FLAGS…
    timeout 30 ab -q -n 1000 -c 20 "$@" "$base/customers" >"$scratch/report" 2>&1
    grep -q '^Complete requests: *1000$' "$scratch/report" || { tail -n 5 "$scratch/report"; exit 1; }
    grep -q '^Failed requests: *0$' "$scratch/report" || { grep -A 1 '^Failed' "$scratch/report"; exit 1; }
    lacks "$scratch/report" 'Non-2xx'
}

kept() {
    load -k
    grep -q '^Keep-Alive requests: *1000$' "$scratch/report" || { grep '^Keep-Alive' "$scratch/report"; exit 1; }
}

try HTTP/1.0 "a connection for each request" load
try HTTP/1.0 "keep-alive" kept
exit $failed
