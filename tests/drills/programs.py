"""What the drills share: the programs, free ports, waiting, and a simulator with its admin port."""

import json
import os
import random
import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# The simulator's first user.
ORGANIZATION, USERNAME, PASSWORD = "demo", "service@demo.example.test", "demo-password-1"


def build(*variables):
    """Builds the programs, unless the environment names others by these variables."""
    if any(variable not in os.environ for variable in variables or ("SIDECAR", "SIMULATOR")):
        subprocess.run(["cargo", "build", "--release", "--locked", "--workspace", "--bins"], cwd=ROOT, check=True)


def program(variable):
    built = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / f"careportals-{variable.lower()}"
    return Path(os.environ.get(variable, built)).resolve()


def free_port():
    """A port that no client gets from the kernel, so that a server which ends can have it again."""
    while True:
        port = random.randrange(12000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def until(what, holds, seconds=20):
    end = time.monotonic() + seconds
    while not (outcome := holds()):
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {seconds} s")
        time.sleep(0.02)
    return outcome


def table(columns, rows):
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


class Simulator:
    """CarePortals, as a process of its own."""

    def __init__(self, folder, *flags):
        log = folder / "simulator"
        words = [program("SIMULATOR"), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--ca-out", folder / "ca.pem", *flags]
        self.process = subprocess.Popen([*map(str, words)], stdin=subprocess.DEVNULL, stdout=log.open("wb"), stderr=subprocess.STDOUT)
        found = until("the simulator", lambda: re.search(r"https://127\.0\.0\.1:(\d+), admin on (\S+)", log.read_text()))
        self.port, self.address = int(found[1]), found[2]

    def admin(self, method, path, body=None):
        sent = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.address + path, sent, method=method), timeout=60) as answer:
            return json.load(answer)

    def end(self):
        self.process.kill()
        self.process.wait()
