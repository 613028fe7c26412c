# For the clients that are shell programs: `try PROTOCOL NAME COMMAND…` runs one case in a shell of its own and prints its
# line of the report. Sourced; expects the arguments of every client program: BASE_URL BYTES SHA256.
# shellcheck shell=bash disable=SC2034

set -uo pipefail

base=$1 bytes=$2 sha256=$3
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
failed=0

try() { # PROTOCOL NAME COMMAND…
    local protocol=$1 name=$2 why
    shift 2
    # `set -e` counts in the case itself only where no `if`, `&&` or `||` stands around it.
    set +e
    why=$(set -e; "$@" 2>&1)
    # shellcheck disable=SC2181 # see above
    if [ $? = 0 ]; then
        echo "ok $protocol $name"
    else
        echo "not ok $protocol $name: $(tr -s '\n\r\t ' ' ' <<<"$why" | cut -c 1-300)"
        failed=1
    fi
}

# Fails with what was wanted and what came.
same() { # WANTED GOT WHAT
    [ "$1" = "$2" ] || { echo "$3: wanted $1, got $2"; exit 1; }
}

holds() { # FILE TEXT
    grep -qF -- "$2" "$1" || { echo "no $2 in: $(head -c 600 "$1")"; exit 1; }
}

lacks() { # FILE TEXT
    ! grep -qiF -- "$2" "$1" || { echo "$2 in: $(head -c 600 "$1")"; exit 1; }
}

sum() { sha256sum "$@" | cut -d ' ' -f 1; }
