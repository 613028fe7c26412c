"""A tiny app: it calls CarePortals through the sidecar, knows no credential, and tells whose error it met."""

import os

import requests


class SidecarError(Exception):
    """The sidecar answered by itself: the call may not have reached CarePortals. `code` says why and never changes."""

    def __init__(self, problem, retry_after):
        super().__init__(problem.get("title"))
        self.code = problem.get("code")
        self.retry_after = retry_after


class PortalError(Exception):
    """CarePortals answered, and said no."""

    def __init__(self, status, message):
        super().__init__(f"{status}: {message}")
        self.status = status


def error_in(answer):
    """What an error says of itself: nothing, if it is not JSON but comes from a gateway on the way."""
    try:
        error = answer.json()
    except ValueError:
        error = {}
    return error if isinstance(error, dict) else {}


class Portal:
    def __init__(self, base_url=None, timeout=70):
        self.base_url = base_url or os.environ.get("CAREPORTALS_BASE_URL", "http://localhost:2273")
        self.timeout = timeout
        self.session = requests.Session()
        self.session.trust_env = False  # The sidecar is local, whatever proxy the environment names.

    def get(self, path, **query):
        answer = self.session.get(f"{self.base_url}{path}", params=query, timeout=self.timeout)
        if answer.ok:
            return answer.json()
        # Only the sidecar's own answers carry this header; a 503 of CarePortals itself does not.
        if answer.headers.get("Proxy-Status", "").startswith("careportals-sidecar"):
            raise SidecarError(error_in(answer), answer.headers.get("Retry-After"))
        raise PortalError(answer.status_code, error_in(answer).get("message", answer.reason))

    def full_name(self):
        account = self.get("/users/account")
        return f"{account['firstName']} {account['lastName']}"


if __name__ == "__main__":
    print(Portal().full_name())
