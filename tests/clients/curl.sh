#!/usr/bin/env bash
# curl: HTTP/1.1, HTTP/1.0, and HTTP/2 by prior knowledge.
# shellcheck disable=SC2317 # `try` calls the cases
# shellcheck source=cases.sh
source "$(dirname "$0")/cases.sh"

pattern=$scratch/pattern

# curl under this protocol's flag; what it answers and reports goes to files that are there anew for each case.
ask() {
    curl --silent --show-error --max-time 20 "$flag" --dump-header "$scratch/head" --output "$scratch/body" "$@"
}

get() {
    ask "$base/_sim/echo?a=%20b&c"
    holds "$scratch/body" '"target":"/_sim/echo?a=%20b&c"'
    holds "$scratch/body" '"method":"GET"'
    holds "$scratch/body" '["authorization","Bearer '
    holds "$scratch/body" '["organization","demo"]'
    holds "$scratch/body" '"body_bytes":0'
}

download() { # QUERY
    ask "$base/_sim/download?bytes=$bytes$1"
    same "$sha256" "$(sum "$scratch/body")" "SHA-256"
}

uploaded() {
    holds "$scratch/body" "\"bytes\":$bytes,"
    holds "$scratch/body" '"pattern_ok":true'
    holds "$scratch/body" "$sha256"
}

upload() {
    ask --header 'Expect:' --data-binary "@$pattern" "$base/_sim/upload"
    uploaded
}

streamed() { # FLAGS…
    ask --upload-file - --request POST "$@" "$base/_sim/upload" <"$pattern"
    uploaded
}

expecting() {
    streamed --verbose --header 'Expect: 100-continue' --expect100-timeout 15 2>"$scratch/trace"
    holds "$scratch/trace" '< HTTP/1.1 100 Continue'
    holds "$scratch/head" 'HTTP/1.1 200'
}

# Who is refused is not asked for the body: curl's patience (15 s) is longer than this case may take.
expecting_in_vain() {
    status=$(ask --max-time 10 --verbose --header 'Expect: 100-continue' --expect100-timeout 15 --upload-file - --request POST \
        --write-out '%{http_code}' "$base/patient/auth" <"$pattern" 2>"$scratch/trace")
    same 403 "$status" status
    lacks "$scratch/trace" '100 Continue'
}

mirror() {
    ask --header 'Expect:' --data-binary "@$pattern" "$base/_sim/mirror"
    same "$sha256" "$(sum "$scratch/body")" "SHA-256"
}

head_only() { # FLAGS…
    # Twice, as with `status`.
    same '200 0 1 200 0 0 ' "$(ask "$@" --head --write-out '%{http_code} %{size_download} %{num_connects} ' \
        "$base/_sim/download?bytes=$bytes" --output "$scratch/second" "$base/_sim/download?bytes=$bytes")" \
        "status, bytes of body, new connections"
    same 2 "$(grep -ci "^content-length: $bytes" "$scratch/head")" "answers that say their length"
}

status() { # STATUS FLAGS…
    # Twice: a body where none may be would spoil the second answer.
    same "$1 1 $1 0 " "$(ask "${@:2}" --write-out '%{http_code} %{num_connects} ' "$base/_sim/status/$1" \
        --output "$scratch/second" "$base/_sim/status/$1")" "status and new connections"
}

not_modified() {
    ask --header 'If-None-Match: "invented-1"' "$base/_sim/status/304"
    grep -qi '^etag: "invented-1"' "$scratch/head" || { cat "$scratch/head"; exit 1; }
}

conflict() {
    user="{\"email\":\"curl$RANDOM$RANDOM$flag@example.test\"}"
    same 201 "$(ask --json "$user" --write-out '%{http_code}' "$base/users")" "status of the first"
    same 409 "$(ask --json "$user" --write-out '%{http_code}' "$base/users")" "status of the second"
    same '{"message":"Account Exists Already"}' "$(<"$scratch/body")" body
}

problem() {
    same 403 "$(ask --data '{}' --write-out '%{http_code}' "$base/patient/auth")" status
    grep -qi '^content-type: application/problem+json' "$scratch/head" || { cat "$scratch/head"; exit 1; }
    grep -qi '^proxy-status: careportals-sidecar; error=' "$scratch/head" || { cat "$scratch/head"; exit 1; }
    holds "$scratch/body" '"code":"login_path"'
}

trailers() { # FLAGS…
    ask --header 'TE: trailers' "$@" "$base/_sim/trailers"
    grep -qi "^x-checksum: $(sum "$scratch/body")" "$scratch/head" || { cat "$scratch/head"; exit 1; }
}

# Five events, 80 ms between two: the first must be here long before the last is sent.
events() {
    local first='' line count=0
    while IFS= read -r line; do
        [[ $line == data:* ]] || continue
        count=$((count + 1))
        : "${first:=${EPOCHREALTIME/./}}"
    done < <(curl --silent --show-error --max-time 20 --no-buffer "$flag" "$base/_sim/sse?events=5&interval_ms=80")
    same 5 "$count" events
    local took=$((${EPOCHREALTIME/./} - first))
    [ "$took" -gt 150000 ] || { echo "all events came within $took µs"; exit 1; }
}

drip() {
    ask "$base/_sim/drip?bytes=20&interval_ms=5"
    cmp "$scratch/body" <(head -c 20 "$pattern")
}

gzip_body() {
    ask --compressed "$base/_sim/gzip"
    holds "$scratch/body" '"gzipped":true'
}

kept_alive() { # FLAGS…
    same '1 0 0 0 0 ' "$(curl --silent --show-error --max-time 20 "$flag" "$@" --write-out '%{stderr}%{num_connects} ' \
        --data x "$base/_sim/echo?[1-5]" 2>&1 >/dev/null)" "new connections of five requests"
}

parallel() {
    curl --silent --show-error --max-time 20 "$flag" --parallel --parallel-max 50 --output "$scratch/parallel#1" \
        --data 'number=many' "$base/_sim/echo?number=[1-50]" 2>&1
    for number in {1..50}; do
        holds "$scratch/parallel$number" "\"target\":\"/_sim/echo?number=$number\""
        holds "$scratch/parallel$number" '"body":"number=many"'
    done
}

# An answer that comes before the upload's end.
early() { # FLAGS…
    same 413 "$(ask --upload-file - --request POST "$@" --write-out '%{http_code}' "$base/_sim/early?status=413" \
        < <(head -c 8000000 /dev/zero))" status
}

# A body that upstream cut must not look whole.
cut_short() { # QUERY
    if ask "$base/_sim/reset?after=1000$1"; then
        echo "a cut body looked whole: $(stat -c %s "$scratch/body") bytes"
        exit 1
    fi
    grep -q '^HTTP/[0-9.]* 200' "$scratch/head" || { echo "no answer at all"; exit 1; }
    cmp --bytes="$(stat -c %s "$scratch/body")" "$scratch/body" "$pattern"
}

# Absolute form: to curl we are a proxy.
absolute_form() {
    ask --proxy "$base" "http://localhost/_sim/echo?absolute"
    holds "$scratch/body" '"target":"/_sim/echo?absolute"'
    same 421 "$(ask --proxy "$base" --write-out '%{http_code}' "http://elsewhere.example/")" "status of another host"
    same 400 "$(ask --proxy "$base" --write-out '%{http_code}' --header 'Host: localhost' "http://elsewhere.example/")" \
        "status of another host than in Host"
}

# By itself curl offers `Upgrade: h2c` when told `--http2`, and has to do with HTTP/1.1.
upgrade_to_h2c() {
    same '200 1.1' "$(flag=--http2 ask --write-out '%{http_code} %{http_version}' "$base/_sim/echo")" "status and version"
    lacks "$scratch/body" '"upgrade"'
    lacks "$scratch/body" '"http2-settings"'
}

each_protocol() { # PROTOCOL, with $flag and $keep_alive set
    try "$1" "GET" get
    try "$1" "download" download ''
    try "$1" "download of unannounced length" download '&chunked=1'
    try "$1" "upload" upload
    try "$1" "mirror, both ways at once" mirror
    since_8 "$1" "HEAD, twice" head_only --header "$keep_alive"
    try "$1" "304" not_modified
    try "$1" "409" conflict
    try "$1" "problem+json" problem
    try "$1" "server-sent events" events
    try "$1" "drip" drip
    try "$1" "gzip" gzip_body
    since_8 "$1" "50 in parallel" parallel
    try "$1" "a body cut short" cut_short ''
    try "$1" "a body of unannounced length cut short" cut_short '&chunked=1'
}

# A case that curl 7.88 fails over HTTP/2 by prior knowledge, whatever the server: it gets error 16 for the second request on
# a connection, and discards an answer when the rest of its upload is declined (RST_STREAM with NO_ERROR).
since_8() { # PROTOCOL NAME COMMAND…
    if [ "$1" = HTTP/2 ] && [[ $(curl --version) == "curl 7."* ]]; then
        echo "skip $1 $2: takes curl 8"
    else
        try "$@"
    fi
}

curl --silent --show-error --max-time 20 --output "$pattern" "$base/_sim/download?bytes=$bytes"

flag=--http1.1 keep_alive=
each_protocol HTTP/1.1
for code in 204 304 404 500; do try HTTP/1.1 "$code, twice" status $code; done
try HTTP/1.1 "chunked upload, Expect: 100-continue" expecting
try HTTP/1.1 "chunked upload without Expect" streamed --header 'Expect:'
try HTTP/1.1 "Expect: 100-continue, refused" expecting_in_vain
try HTTP/1.1 "trailers" trailers --header 'Connection: TE'
try HTTP/1.1 "keep-alive" kept_alive
try HTTP/1.1 "413 before the upload's end" early --header 'Expect:'
try HTTP/1.1 "absolute form" absolute_form
try HTTP/1.1 "Upgrade: h2c is served as HTTP/1.1" upgrade_to_h2c

flag=--http1.0 keep_alive='Connection: keep-alive'
each_protocol HTTP/1.0
for code in 204 304 404; do try HTTP/1.0 "$code, twice" status $code --header "$keep_alive"; done
try HTTP/1.0 "keep-alive where asked for" kept_alive --header "$keep_alive"

if curl --version | grep -q ' HTTP2 '; then
    flag=--http2-prior-knowledge keep_alive=
    each_protocol HTTP/2
    for code in 204 304 404 500; do since_8 HTTP/2 "$code, twice" status $code; done
    try HTTP/2 "streamed upload" streamed
    try HTTP/2 "trailers" trailers
    since_8 HTTP/2 "one connection" kept_alive
    since_8 HTTP/2 "413 before the upload's end" early
fi

exit $failed
