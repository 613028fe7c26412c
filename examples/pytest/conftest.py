"""The simulator and a sidecar in front of it, for every test of the session: on free ports, gone afterwards.

The programs are those that SIMULATOR and SIDECAR name, else those on PATH.
"""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import requests

from app import Portal

# The simulator's user.
CREDENTIALS = {"organization": "demo", "username": "service@demo.example.test", "password": "demo-password-1"}
# What a test may have changed.
NORMAL = {"token_life": "1h", "latency": "0s", "login_delay": "0s", "clock_offset": 0, "login_fault": None, "fail_next_logins": None}


def program(variable, name):
    found = os.environ.get(variable) or shutil.which(name)
    if not found:
        pytest.fail(f"there is no {name}: set {variable}, or put it on PATH")
    return str(Path(found).resolve())


def until(what, holds, seconds=20):
    end = time.monotonic() + seconds
    while not (outcome := holds()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)
    return outcome


def stop(process):
    """Ends it as a supervisor would, and fails when it does not end well."""
    process.terminate()
    try:
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()


class Simulator:
    """CarePortals for tests, and the knobs at its admin port."""

    def __init__(self, folder):
        self.ca = folder / "ca.pem"
        words = [program("SIMULATOR", "careportals-simulator"), "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", f"--ca-out={self.ca}"]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        # It is ready when it prints this line, which names the ports it took.
        line = self.process.stdout.readline()
        port, admin = re.search(r"https://127\.0\.0\.1:(\d+), admin on http://(\S+)", line).groups()
        self.upstream, self.admin = f"https://localhost:{port}", f"http://{admin}"
        self.calls = requests.Session()
        self.calls.trust_env = False

    def ask(self, method, path, **options):
        answer = self.calls.request(method, f"{self.admin}{path}", timeout=5, **options)
        answer.raise_for_status()
        return answer.json()

    def settings(self, **changes):
        self.ask("POST", "/settings", json=changes)

    def revoke(self):
        self.ask("POST", "/revoke")

    def counts(self):
        return self.ask("GET", "/counts")


class Sidecar:
    """The sidecar in front of the simulator. `settings` are variables, as in docs/settings.md."""

    def __init__(self, folder, simulator, **settings):
        folder.mkdir()
        for name, value in CREDENTIALS.items():
            (folder / name).write_text(value)
        environment = {
            "CAREPORTALS_CREDENTIALS_DIR": str(folder),
            "CAREPORTALS_UPSTREAM": simulator.upstream,
            "CAREPORTALS_CA_FILE": str(simulator.ca),
            "CAREPORTALS_LISTEN": "127.0.0.1:0",
            "CAREPORTALS_TELEMETRY_LISTEN": "127.0.0.1:0",
            "CAREPORTALS_CONTROL_SOCKET": "off",
            "CAREPORTALS_LOG_FORMAT": "json",
            # A token that is refused before it is this old counts as refused for good. Tests are in a hurry.
            "CAREPORTALS__ACCOUNTS__DEFAULT__RELOGIN_FLOOR": "100ms",
            **settings,
        }
        self.log = folder / "log"
        with self.log.open("w") as file:
            words = [program("SIDECAR", "careportals-sidecar"), "run"]
            self.process = subprocess.Popen(words, env=environment, stdout=file, stderr=file)
        self.url = f"http://{self.listener('listening')}"
        self.telemetry = f"http://{self.listener('health and metrics')}"
        self.calls = requests.Session()
        self.calls.trust_env = False

    def listener(self, message):
        """The address that a log line names."""

        def found():
            assert self.process.poll() is None, f"the sidecar ended:\n{self.log.read_text()}"
            # The last line may be half written.
            lines = [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
            return next((line["listener"] for line in lines if line["message"] == message), None)

        return until(message, found)

    def is_ready(self):
        """Whether it holds a valid token."""
        return self.calls.get(f"{self.telemetry}/readyz", timeout=5).ok


@pytest.fixture(scope="session")
def shared_simulator(tmp_path_factory):
    simulator = Simulator(tmp_path_factory.mktemp("simulator"))
    yield simulator
    stop(simulator.process)


@pytest.fixture(scope="session")
def shared_sidecar(tmp_path_factory, shared_simulator):
    sidecar = Sidecar(tmp_path_factory.mktemp("sidecar") / "it", shared_simulator)
    yield sidecar
    stop(sidecar.process)


@pytest.fixture
def simulator(shared_simulator):
    """As new for each test: normal settings, counts from zero."""
    shared_simulator.settings(**NORMAL)
    shared_simulator.ask("POST", "/reset")
    return shared_simulator


@pytest.fixture
def portal(simulator, shared_sidecar):
    """The app under test, with a sidecar that is logged in."""
    until("readiness", shared_sidecar.is_ready)
    simulator.ask("POST", "/reset")
    return Portal(shared_sidecar.url)


@pytest.fixture
def new_sidecar(tmp_path, simulator):
    """Starts one more, for tests that need settings of their own or a first log-in."""
    started = []

    def start(**settings):
        started.append(Sidecar(tmp_path / f"sidecar-{len(started)}", simulator, **settings))
        return started[-1]

    yield start
    for sidecar in started:
        stop(sidecar.process)
