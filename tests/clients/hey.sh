#!/usr/bin/env bash
# hey: HTTP/1.1 on 50 connections, kept and not kept.
# shellcheck disable=SC2317 # `try` calls the cases
# shellcheck source=cases.sh
source "$(dirname "$0")/cases.sh"

load() { # FLAGS…
    timeout 30 hey -n 1000 -c 50 "$@" "$base/_sim/echo" >"$scratch/report" 2>&1
    holds "$scratch/report" $'[200]\t1000 responses'
    lacks "$scratch/report" 'Error distribution'
}

try HTTP/1.1 "GET" load
try HTTP/1.1 "POST" load -m POST -d 'a body'
try HTTP/1.1 "a connection for each request" load -disable-keepalive
exit $failed
