"""For the Python clients: what every one of them is given, and one case after the other."""

import base64
import hashlib
import json
import sys
import time
import uuid

BASE, BYTES, SHA256 = sys.argv[1], int(sys.argv[2]), sys.argv[3]
failed = False


def attempt(protocol):
    """A decorator that runs a case at once and prints its line of the report; the docstring is its name."""

    def run(case):
        global failed
        try:
            case()
            print(f"ok {protocol} {case.__doc__}", flush=True)
        except Exception as fault:
            failed = True
            why = " ".join(f"{type(fault).__name__} {fault}".split())[:300]
            print(f"not ok {protocol} {case.__doc__}: {why}", flush=True)
        return case

    return run


def equal(got, wanted):
    assert got == wanted, f"wanted {str(wanted)[:120]!r}, got {str(got)[:120]!r}"


def check_sum(body):
    equal(hashlib.sha256(body).hexdigest(), SHA256)


def check_echo(text, target, method="GET", body=""):
    """What `/_sim/echo` must say of a request that came through."""
    echo = json.loads(text)
    equal((echo["method"], echo["target"]), (method, target))
    equal(echo["body"] if "body" in echo else base64.b64decode(echo["body_base64"]), body)
    named = lambda name: [value for known, value in echo["headers"] if known == name]
    equal([value.split()[0] for value in named("authorization")], ["Bearer"])
    equal(named("organization"), ["demo"])


def check_uploaded(text):
    """What `/_sim/upload` must say of the whole pattern."""
    equal(json.loads(text), {"bytes": BYTES, "pattern_ok": True, "sha256": SHA256})


def check_problem(status, headers, text):
    """A refusal of the sidecar's own."""
    equal((status, headers["content-type"]), (403, "application/problem+json"))
    assert headers["proxy-status"].startswith("careportals-sidecar; error="), headers["proxy-status"]
    equal(json.loads(text)["code"], "login_path")


def check_events(chunks):
    """The five events of `/_sim/sse?events=5&interval_ms=80`, and that they came one by one."""
    text, first = b"", None
    for chunk in chunks:
        first = first or time.monotonic()
        text += chunk
    equal(text.count(b"data: "), 5)
    assert time.monotonic() - first > 0.15, "all events came at once"


def pieces(body, size=50_000):
    for at in range(0, len(body), size):
        yield body[at : at + size]


def user():
    return json.dumps({"email": f"{uuid.uuid4()}@example.test"})


def end():
    sys.exit(1 if failed else 0)
