#!/usr/bin/env bash
# CarePortals through the sidecar, with curl (7.84 or later) and jq: curl.sh FILE
set -euo pipefail

# The three lines that matter.
base=${CAREPORTALS_BASE_URL:-http://127.0.0.1:2273}
status=$(curl --silent --show-error --output /dev/null --write-out '%{http_code}' "$base/users/account")
echo "account: $status"

# The rest shows escaping, bodies, streams, a Unix socket, and whose error an error is.
curl=(curl --silent --show-error ${CAREPORTALS_SOCKET:+--unix-socket "$CAREPORTALS_SOCKET"})
body=$(mktemp)
trap 'rm "$body"' EXIT

# A field of the answer; what is no JSON comes from a gateway on the way.
told() { jq -er --arg name "$1" '.[$name] | strings' "$body" 2>/dev/null || echo "no $1"; }

# A call with curl's own options. Then $status is set and the answer in the file $body.
call() {
    local outcome retry proxy
    outcome=$("${curl[@]}" --output "$body" --write-out '%{http_code}|%header{retry-after}|%header{proxy-status}' "$@")
    IFS='|' read -r status retry proxy <<<"$outcome"
    [ "$status" -ge 400 ] || return 0
    if [[ $proxy == careportals-sidecar* ]]; then
        echo "error: sidecar $status $(told code): $(told detail)${retry:+ (retry after $retry s)}" >&2
    else
        echo "error: CarePortals $status: $(told message)" >&2
    fi
    exit 1
}

call "$base/customers/lookups" --get --data-urlencode keyword=+15550100150
echo "query: $status $(jq -r '.[0] | .firstName + " " + .lastName' "$body")"

call "$base/v2/carts" --json '{"items": [{"product": "Crème", "quantity": 2}]}'
echo "post: $status $(jq -r '"\(.status), \(.items[0].quantity) x \(.items[0].product)"' "$body")"

# --data-binary @FILE would read it into memory first.
call "$base/_sim/upload" --request POST --header 'content-type: application/octet-stream' --upload-file "$1"
echo "upload: $status $(jq -r '"\(.bytes) bytes, \(.sha256)"' "$body")"

# Of an error --fail tells the status alone: the body is not for the loop.
"${curl[@]}" --fail --no-buffer "$base/_sim/sse?events=3&interval_ms=100" | while read -r line; do
    [[ $line != data:* ]] || echo "stream: ${line#data: }"
done

# Nobody has this id.
call "$base/customers/000000000000000000000000"
