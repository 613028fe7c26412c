"""What the app does in good days and bad ones of CarePortals, none of which a real account would show on demand."""

import threading
import time

import pytest

from app import Portal, PortalError, SidecarError
from conftest import until


def test_a_call_is_answered(portal, simulator):
    assert portal.full_name() == "Robin Sample"
    assert simulator.counts()["by_route"] == {"GET /users/account": 1}


def test_a_query_reaches_careportals_as_it_was_meant(portal, simulator):
    portal.get("/customers/lookups", keyword="o'neil & söhne")
    (seen,) = [each for each in simulator.ask("GET", "/requests") if each["target"].startswith("/customers/lookups")]
    assert seen["target"] == "/customers/lookups?keyword=o%27neil+%26+s%C3%B6hne"


def test_a_revoked_token_goes_unnoticed(portal, simulator):
    portal.full_name()
    # Older than the floor below which the sidecar does not replace a token.
    time.sleep(0.2)
    simulator.revoke()
    assert portal.full_name() == "Robin Sample"
    counts = simulator.counts()
    assert (counts["unauthorized"], counts["login_ok"]) == (1, 1), "one 401, which the sidecar kept to itself, and one log-in"


def test_a_token_that_has_expired_goes_unnoticed(portal, simulator):
    portal.full_name()
    time.sleep(0.2)
    # Two hours later at CarePortals; tokens live for one.
    simulator.settings(clock_offset=7200)
    assert portal.full_name() == "Robin Sample"
    assert simulator.counts()["login_ok"] == 1


def test_a_slow_log_in_delays_calls_and_fails_none(portal, simulator):
    time.sleep(0.2)
    simulator.settings(login_delay="1s")
    simulator.revoke()
    names = []
    threads = [threading.Thread(target=lambda: names.append(Portal(portal.base_url).full_name())) for _ in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == ["Robin Sample"] * 8
    assert 0.9 < time.monotonic() - began < 9
    assert simulator.counts()["login_ok"] == 1, "eight callers waited for one log-in"


def test_an_outage_of_the_log_in_is_the_sidecars_error(simulator, new_sidecar):
    simulator.settings(login_fault="status:503")
    sidecar = new_sidecar(CAREPORTALS__ACCOUNTS__DEFAULT__TOKEN_WAIT="1s")
    portal = Portal(sidecar.url)
    with pytest.raises(SidecarError) as met:
        portal.full_name()
    assert met.value.code == "login_failing"
    assert int(met.value.retry_after) >= 1
    assert not sidecar.is_ready()
    assert simulator.counts()["requests"] == 0, "nothing was sent without a token"
    # It passes, and nobody has to do anything.
    simulator.settings(login_fault=None)
    until("readiness", sidecar.is_ready)
    assert portal.full_name() == "Robin Sample"


def test_wrong_credentials_are_told_apart_from_an_outage(simulator, new_sidecar):
    sidecar = new_sidecar(
        CAREPORTALS__ACCOUNTS__DEFAULT__TOKEN_WAIT="1s",
        CAREPORTALS__ACCOUNTS__DEFAULT__PASSWORD="not the password",
    )
    with pytest.raises(SidecarError) as met:
        Portal(sidecar.url).full_name()
    assert met.value.code == "login_rejected"


def test_an_error_of_careportals_is_not_the_sidecars(portal, simulator):
    with pytest.raises(PortalError) as met:
        portal.get("/_sim/status/503")
    assert met.value.status == 503
    with pytest.raises(PortalError) as met:
        portal.get("/customers/000000000000000000000000")
    assert met.value.status == 404


def test_an_error_that_is_not_json_is_told_like_any_other(portal):
    # More than one head may hold: refused before there is anybody who could answer in JSON.
    portal.session.headers.update({f"x-{number}": "1" for number in range(200)})
    with pytest.raises(PortalError) as met:
        portal.full_name()
    assert met.value.status == 431
