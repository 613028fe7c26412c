"""The app under test, before the simulated CarePortals. The fixtures `careportals` and `sidecar` are those of careportals-testing."""

import pytest

from app import Portal

# Where plugins are not loaded by themselves.
pytest_plugins = ["careportals_testing.plugin"]


@pytest.fixture
def portal(sidecar):
    """The app, with a sidecar that is logged in."""
    return Portal(sidecar.base_url)
