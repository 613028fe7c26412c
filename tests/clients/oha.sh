#!/usr/bin/env bash
# oha: HTTP/1.1, and HTTP/2 by prior knowledge, on 50 connections.
# shellcheck disable=SC2317 # `try` calls the cases
# shellcheck source=cases.sh
source "$(dirname "$0")/cases.sh"

load() { # FLAGS…
    timeout 30 oha --no-tui --no-color -n 1000 "$@" "$base/_sim/echo" >"$scratch/report" 2>&1
    holds "$scratch/report" '[200] 1000 responses'
    lacks "$scratch/report" 'Error distribution'
}

try HTTP/1.1 "GET" load -c 50
try HTTP/1.1 "POST" load -c 50 -m POST -d 'a body'
try HTTP/2 "GET, 20 streams on each of 5 connections" load --http-version 2 -c 5 -p 20
try HTTP/2 "POST, 20 streams on each of 5 connections" load --http-version 2 -c 5 -p 20 -m POST -d 'a body'
exit $failed
