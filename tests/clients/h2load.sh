#!/usr/bin/env bash
# h2load: many HTTP/2 streams on few connections; and HTTP/1.1. The counts are its own report's.
# shellcheck disable=SC2317 # `try` calls the cases
# shellcheck source=cases.sh
source "$(dirname "$0")/cases.sh"

# 2,000 requests, all answered with 200.
load() { # FLAGS AND URL…
    timeout 30 h2load --requests=2000 "$@" >"$scratch/report" 2>&1 || true
    holds "$scratch/report" '2000 succeeded, 0 failed, 0 errored, 0 timeout'
    holds "$scratch/report" 'status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx'
}

posts() {
    head -c 3000 /dev/zero >"$scratch/sent"
    load --clients=4 --max-concurrent-streams=25 --data="$scratch/sent" "$base/_sim/echo"
}

try HTTP/2 "1 connection, 100 streams" load --clients=1 --max-concurrent-streams=100 "$base/customers"
try HTTP/2 "50 connections, 2 streams each" load --clients=50 --max-concurrent-streams=2 "$base/customers"
try HTTP/2 "more streams than are allowed" load --clients=1 --max-concurrent-streams=1000 "$base/customers"
try HTTP/2 "POST, 4 connections" posts
try HTTP/1.1 "50 connections" load --h1 --clients=50 "$base/customers"
exit $failed
