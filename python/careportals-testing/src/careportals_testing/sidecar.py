"""The sidecar before a simulator."""

import json
import os
from pathlib import Path

from .programs import Program, find_program, http, wait_until


class Sidecar:
    """A running sidecar. `folder` is for its files; `settings` are variables, as in the sidecar's docs/settings.md."""

    def __init__(self, folder, simulator, **settings):
        folder = Path(folder)
        credentials = folder / "credentials"
        credentials.mkdir(mode=0o700)
        for name, value in simulator.credentials.items():
            (credentials / name).write_text(value, encoding="utf-8")
        environment = {
            "CAREPORTALS_CREDENTIALS_DIR": str(credentials),
            "CAREPORTALS_UPSTREAM": simulator.base_url,
            "CAREPORTALS_CA_FILE": str(simulator.ca_file),
            "CAREPORTALS_LISTEN": "127.0.0.1:0",
            "CAREPORTALS_TELEMETRY_LISTEN": "127.0.0.1:0",
            "CAREPORTALS_CONTROL_SOCKET": "off",
            "CAREPORTALS_LOG_FORMAT": "json",
            # A token that is refused before it is this old counts as refused for good. Tests are in a hurry.
            "CAREPORTALS__ACCOUNTS__DEFAULT__RELOGIN_FLOOR": "100ms",
            **settings,
        }
        # Nothing else of the environment: a variable for the sidecar in production must not reach the one under test.
        for name in ("PATH", "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE"):
            if name in os.environ:
                environment.setdefault(name, os.environ[name])
        words = [find_program("SIDECAR", "careportals-sidecar"), "run"]
        self._program = Program("the sidecar", words, folder / "sidecar.log", environment)
        try:
            self.base_url = f"http://{self._listener('listening')}"
            self.telemetry_url = f"http://{self._listener('health and metrics')}"
        except BaseException:
            self._program.process.kill()
            self._program.process.wait()
            raise
        # For the app under test, if it runs as a process of its own.
        self.environment = {"CAREPORTALS_BASE_URL": self.base_url}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def _listener(self, message):
        """The address that a line of the log names."""

        def address(line):
            try:
                event = json.loads(line)
            except ValueError:
                return None
            return event["listener"] if event.get("message") == message else None

        return self._program.expect(f"the line {message!r}", address)

    def is_ready(self):
        """Whether it holds a valid token."""
        return http("GET", f"{self.telemetry_url}/readyz")[0] == 200

    def wait_ready(self, seconds=20):
        """Waits until it holds a valid token."""
        wait_until("the sidecar's readiness", self.is_ready, seconds)

    def log_text(self):
        """Its log, one JSON object a line."""
        return self._program.log_text()

    def stop(self):
        self._program.stop()
