"""The simulator, and a handle to its admin port."""

import json
import re
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

from .programs import CREDENTIALS, Program, find_program, http


class AdminError(ValueError):
    """The simulator refused a route or a setting; the message says what is wrong and what to write."""


@dataclass(frozen=True)
class Request:
    """A request that arrived at CarePortals. Log-ins are not among them."""

    method: str
    # As it arrived, with the query string.
    target: str
    # Of the response; None while there is none.
    status: "int | None"
    # Names are in lower case. They hold the token.
    headers: "list[tuple[str, str]]" = field(repr=False)
    body_bytes: int = 0

    @property
    def path(self):
        return self.target.split("?")[0]

    @property
    def query(self):
        """The query parameters, decoded: a list of values for each name."""
        return urllib.parse.parse_qs(urllib.parse.urlsplit(self.target).query, keep_blank_values=True)

    def header(self, name):
        """The first value of a header, or None."""
        return next((value for known, value in self.headers if known == name.lower()), None)


class Simulator:
    """A running simulator. `folder` is for its files; `flags` are those of its README."""

    def __init__(self, folder, flags=()):
        folder = Path(folder)
        # Whoever trusts this certificate authority trusts this simulator.
        self.ca_file = folder / "ca.pem"
        words = [
            find_program("SIMULATOR", "careportals-simulator"),
            "--listen=127.0.0.1:0",
            "--admin=127.0.0.1:0",
            f"--ca-out={self.ca_file}",
            *map(str, flags),
        ]
        self._program = Program("the simulator", words, folder / "simulator.log")
        try:
            # It is ready when it prints this line, which names the ports that it took.
            pattern = re.compile(r"listens on https://127\.0\.0\.1:(\d+), admin on http://(\S+)$")
            port, admin = self._program.expect("it listened", pattern.search).groups()
        except BaseException:
            self._program.process.kill()
            self._program.process.wait()
            raise
        # What CarePortals' base URL is elsewhere.
        self.base_url = f"https://localhost:{port}"
        self.admin_url = f"http://{admin}"
        self.credentials = dict(CREDENTIALS)
        self._at_start = self.settings_in_effect()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._program.stop()

    def log_text(self):
        """What it has printed: one line for each request, if it was started with `--log`."""
        return self._program.log_text()

    def ask(self, method, path, body=None):
        """One call of the admin port; the JSON of its answer."""
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        status, answer = http(method, f"{self.admin_url}{path}", sent)
        try:
            told = json.loads(answer)
        except ValueError:
            told = {"message": answer.decode("utf-8", "replace")}
        if status != 200:
            raise AdminError(told["message"])
        return told

    # --- what it answers ---

    def route(self, path, method="GET", **members):
        """Adds a route: `status`, `body`, `text`, `headers`, `access`, `latency`, `fault`, as in the simulator's README.

        Without an answer of its own it changes a route that is there: its latency or its fault.
        """
        self.routes([{"method": method, "path": path, **members}])

    def routes(self, routes):
        """Adds routes, all or none: a list of objects, or the path of a JSON file."""
        document = Path(routes).read_bytes() if isinstance(routes, (str, Path)) else routes
        return self.ask("POST", "/routes", document)["routes"]

    def openapi(self, file):
        """Adds the routes of an OpenAPI 3 document; returns what became no route, and why."""
        return self.ask("POST", "/openapi", Path(file).read_bytes())["skipped"]

    def fault(self, path, fault, method="GET", times=None):
        """Makes a route fail, for all calls or the next `times`: `status:503`, `retry-after:429:7`, `truncated`, `hang` and others."""
        self.route(path, method, fault=fault if times is None else {"times": times, "fault": fault})

    def remove_routes(self):
        """Takes away the routes and faults that were added since the start."""
        self.ask("DELETE", "/routes")

    # --- how it behaves ---

    def settings(self, **changes):
        """Changes settings, all or none: `token_life="30s"`, `latency`, `login_delay`, `login_fault`, `clock_offset` and others."""
        self.ask("POST", "/settings", changes)

    def settings_in_effect(self):
        return self.ask("GET", "/settings")["settings"]

    def fail_next_logins(self, times, fault):
        self.settings(fail_next_logins={"times": times, "fault": fault})

    def revoke(self, organization=None):
        """Revokes the tokens issued so far, of all organizations or of one."""
        query = "" if organization is None else "?" + urllib.parse.urlencode({"organization": organization})
        self.ask("POST", f"/revoke{query}")

    def drop_connections(self):
        """Closes every connection abruptly, as a restart does."""
        self.ask("POST", "/drop-connections")

    # --- what arrived ---

    def counts(self):
        """What happened since the last `reset`: `logins`, `login_ok`, `requests`, `unauthorized`, `by_route` and others."""
        return self.ask("GET", "/counts")

    def unknown_routes(self):
        """The calls that nothing here answers, by method and path, with their number."""
        return self.counts()["unknown_routes"]

    def requests(self, path=None):
        """The requests since the last `reset`, oldest first; only those to `path`, if it is given."""
        seen = self.ask("GET", "/requests")
        requests = [
            Request(each["method"], each["target"], each["status"], [tuple(pair) for pair in each["headers"]], each["body_bytes"])
            for each in seen
        ]
        return [request for request in requests if path is None or request.path == path]

    def logins(self):
        """The log-ins since the last `reset`, as the admin port shows them: without passwords."""
        return self.ask("GET", "/logins")

    # --- between tests ---

    def reset(self):
        """Counts from zero, and forgets requests and log-ins."""
        self.ask("POST", "/reset")

    def restore(self):
        """Everything as it was at the start: settings, credentials, routes, counts."""
        self.remove_routes()
        self.settings(**self._at_start, fail_next_logins=None, credentials=self.credentials)
        self.reset()
