"""Finds, starts and ends the two programs."""

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

# The simulator's user.
CREDENTIALS = {"organization": "demo", "username": "service@demo.example.test", "password": "demo-password-1"}

# The programs are local, whatever proxy the environment names.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ProgramFailed(Exception):
    """A program is missing, did not start, or did not end well."""


def find_program(variable, name):
    """The path of a program: that in the environment variable, else the one on PATH."""
    found = os.environ.get(variable) or shutil.which(name)
    if not found:
        raise ProgramFailed(f"there is no {name}: put it on PATH, or set {variable} to its path")
    path = Path(found).resolve()
    if not path.is_file():
        raise ProgramFailed(f"{variable} names {found}, which is no file")
    return str(path)


def wait_until(what, holds, seconds=20):
    """Calls `holds` until it returns something true, and returns that; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (outcome := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.02)
    return outcome


def http(method, url, body=None, timeout=5):
    """Calls a local port; returns status and body, whatever the status."""
    headers = {"content-type": "application/json"} if body is not None else {}
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        with _OPENER.open(request, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.read()


class Program:
    """A program that writes its output to `log`, until `stop`."""

    def __init__(self, name, words, log, environment=None):
        self.name, self.log = name, log
        with log.open("wb") as file:
            self.process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def log_text(self):
        """What it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def lines(self):
        """The lines that it has written completely."""
        return [line[:-1] for line in self.log_text().splitlines(keepends=True) if line.endswith("\n")]

    def expect(self, what, find, seconds=20):
        """Waits until `find` finds something in a line; fails when the program ends before."""

        def found():
            ended = self.process.poll()
            outcome = next((outcome for outcome in map(find, self.lines()) if outcome), None)
            if outcome is None and ended is not None:
                raise ProgramFailed(f"{self.name} ended with {ended} before {what}:\n{self.log_text()}")
            return outcome

        try:
            return wait_until(what, found, seconds)
        except AssertionError as late:
            raise ProgramFailed(f"{self.name}: {late}\n{self.log_text()}") from None

    def stop(self):
        """Ends it as a supervisor would, and fails when it does not end well."""
        self.process.terminate()
        try:
            ended = self.process.wait(timeout=30)
        finally:
            self.process.kill()
            self.process.wait()
        if ended != 0:
            raise ProgramFailed(f"{self.name} ended with {ended}:\n{self.log_text()}")
