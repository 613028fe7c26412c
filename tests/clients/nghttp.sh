#!/usr/bin/env bash
# nghttp: HTTP/2 by prior knowledge, with windows, padding and trailers as wanted. It ends with 0
# whatever happened, so every case looks at what came.
# shellcheck disable=SC2317 # `try` calls the cases
# shellcheck source=cases.sh
source "$(dirname "$0")/cases.sh"

ask() { timeout 20 nghttp "$@" >"$scratch/body" 2>"$scratch/errors"; }

get() {
    ask "$base/_sim/echo?a=%20b&c"
    holds "$scratch/body" '"target":"/_sim/echo?a=%20b&c"'
    holds "$scratch/body" '["organization","demo"]'
}

download() { # QUERY
    ask "$base/_sim/download?bytes=$bytes$1"
    same "$sha256" "$(sum "$scratch/body")" "SHA-256"
}

upload() {
    timeout 20 nghttp "$base/_sim/download?bytes=$bytes" >"$scratch/pattern"
    ask "$@" --data="$scratch/pattern" "$base/_sim/upload"
    holds "$scratch/body" "\"bytes\":$bytes,"
    holds "$scratch/body" "$sha256"
}

# 2 to the power of BITS bytes, for the stream and for the connection.
small_window() { # BITS
    ask --window-bits="$1" --connection-window-bits="$1" "$base/_sim/download?bytes=$bytes"
    same "$sha256" "$(sum "$scratch/body")" "SHA-256"
}

multiplied() {
    ask --null-out --stat --multiply=50 "$base/_sim/echo"
    same 50 "$(grep -c ' 200 .*/_sim/echo' "$scratch/body")" "answers with 200"
}

trailers_down() {
    ask --verbose --no-push -H 'te: trailers' "$base/_sim/trailers"
    holds "$scratch/body" 'x-checksum: '
}

trailers_up() {
    echo body >"$scratch/sent"
    # Without a length: HTTP/1.1, which may be what goes on from here, has trailers only after chunks.
    ask --no-content-length --data="$scratch/sent" --trailer='x-up: there' -H 'trailer: x-up' "$base/_sim/trailers"
    holds "$scratch/body" '[["x-up","there"]]'
}

problem() {
    ask --verbose "$base/patient/auth"
    holds "$scratch/body" ':status: 403'
    holds "$scratch/body" '"code":"login_path"'
}

try HTTP/2 "GET" get
try HTTP/2 "download" download ''
try HTTP/2 "download of unannounced length" download '&chunked=1'
try HTTP/2 "download through a window of 64 KiB" small_window 16
try HTTP/2 "download through a window of 1 KiB" small_window 10
try HTTP/2 "upload" upload
try HTTP/2 "upload of unannounced length" upload --no-content-length
try HTTP/2 "upload in padded frames" upload --padding=100
try HTTP/2 "50 streams at once" multiplied
try HTTP/2 "trailers down" trailers_down
try HTTP/2 "trailers up" trailers_up
try HTTP/2 "problem+json" problem
exit $failed
