"""The fixtures. They start the programs once for the session, on free ports, and end them afterwards."""

import pytest

from . import ProgramFailed, Sidecar, Simulator


def pytest_addoption(parser):
    parser.addini("careportals_routes", "a JSON file of routes for the simulator, from the root directory")
    parser.addini("careportals_openapi", "an OpenAPI 3 document whose paths the simulator answers, from the root directory")
    parser.addini("careportals_flags", "more flags for the simulator", type="args")
    parser.addini(
        "careportals_fail_on_unknown_routes",
        "fail a test whose app calls something that the simulator does not answer",
        type="bool",
        default=False,
    )


def _started(start):
    """What `start` starts; a failure without the stack of this file."""
    try:
        return start()
    except ProgramFailed as failed:
        pytest.fail(str(failed), pytrace=False)


@pytest.fixture(scope="session")
def careportals_session(pytestconfig, tmp_path_factory):
    """The simulator of the session. Tests use `careportals`."""
    flags = list(pytestconfig.getini("careportals_flags"))
    for option, flag in (("careportals_openapi", "--openapi"), ("careportals_routes", "--routes")):
        file = pytestconfig.getini(option)
        if file:
            flags.append(f"{flag}={pytestconfig.rootpath / file}")
    simulator = _started(lambda: Simulator(tmp_path_factory.mktemp("careportals"), flags))
    yield simulator
    simulator.stop()


@pytest.fixture(scope="session")
def sidecar_session(tmp_path_factory, careportals_session):
    """The sidecar of the session. Tests use `sidecar`."""
    sidecar = _started(lambda: Sidecar(tmp_path_factory.mktemp("sidecar"), careportals_session))
    yield sidecar
    sidecar.stop()


@pytest.fixture
def careportals(pytestconfig, careportals_session):
    """A simulated CarePortals, as new for each test: settings, routes and credentials of the start, counts from zero."""
    careportals_session.restore()
    yield careportals_session
    if pytestconfig.getini("careportals_fail_on_unknown_routes"):
        unknown = careportals_session.unknown_routes()
        if unknown:
            pytest.fail(f"the simulator answers none of {', '.join(unknown)}; add a route, or correct the call", pytrace=False)


@pytest.fixture
def sidecar(careportals, sidecar_session):
    """A sidecar before `careportals` that is logged in."""
    sidecar_session.wait_ready()
    # Its log-in and its calls before the test are not the test's.
    careportals.reset()
    return sidecar_session


@pytest.fixture
def start_sidecar(tmp_path_factory, careportals):
    """Starts one more sidecar, for a test that needs settings of its own or a first log-in: `start_sidecar(NAME="value")`."""
    started = []

    def start(**settings):
        started.append(_started(lambda: Sidecar(tmp_path_factory.mktemp("sidecar"), careportals, **settings)))
        return started[-1]

    yield start
    for sidecar in started:
        sidecar.stop()
