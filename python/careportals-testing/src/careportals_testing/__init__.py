"""Starts a simulated CarePortals, and the sidecar before it, for an app's tests.

`plugin` has the pytest fixtures. The classes can be used without them:

    with Simulator(folder) as careportals, Sidecar(other_folder, careportals) as sidecar:
        sidecar.wait_ready()
        print(sidecar.environment)
"""

from .programs import CREDENTIALS, ProgramFailed, find_program, wait_until
from .sidecar import Sidecar
from .simulator import AdminError, Request, Simulator

__all__ = [
    "CREDENTIALS",
    "AdminError",
    "ProgramFailed",
    "Request",
    "Sidecar",
    "Simulator",
    "find_program",
    "wait_until",
]
