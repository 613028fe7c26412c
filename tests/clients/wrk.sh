#!/usr/bin/env bash
# wrk: as many HTTP/1.1 requests as go through on 50 connections, for a second.
# shellcheck disable=SC2317 # `try` calls the cases
# shellcheck source=cases.sh
source "$(dirname "$0")/cases.sh"

load() { # PATH
    timeout 20 wrk --threads 1 --connections 50 --duration 1s "$base$1" >"$scratch/report"
    holds "$scratch/report" 'Requests/sec'
    lacks "$scratch/report" 'Socket errors'
    lacks "$scratch/report" 'Non-2xx'
}

try HTTP/1.1 "small answers" load /customers
try HTTP/1.1 "answers of 100 KB" load '/_sim/download?bytes=100000'
exit $failed
