"""What the app does in good days and bad ones of CarePortals, none of which a real account would show on demand."""

import threading
import time

import pytest

from app import Portal, PortalError, SidecarError


def test_a_call_is_answered(portal, careportals):
    assert portal.full_name() == "Robin Sample"
    assert careportals.counts()["by_route"] == {"GET /users/account": 1}


def test_a_query_reaches_careportals_as_it_was_meant(portal, careportals):
    portal.get("/customers/lookups", keyword="o'neil & söhne")
    (seen,) = careportals.requests("/customers/lookups")
    assert seen.target == "/customers/lookups?keyword=o%27neil+%26+s%C3%B6hne"


def test_a_revoked_token_goes_unnoticed(portal, careportals):
    portal.full_name()
    # Older than the floor below which the sidecar does not replace a token.
    time.sleep(0.2)
    careportals.revoke()
    assert portal.full_name() == "Robin Sample"
    counts = careportals.counts()
    assert (counts["unauthorized"], counts["login_ok"]) == (1, 1), "one 401, which the sidecar kept to itself, and one log-in"


def test_a_token_that_has_expired_goes_unnoticed(portal, careportals):
    portal.full_name()
    time.sleep(0.2)
    # Two hours later at CarePortals; tokens live for one.
    careportals.settings(clock_offset=7200)
    assert portal.full_name() == "Robin Sample"
    assert careportals.counts()["login_ok"] == 1


def test_a_slow_log_in_delays_calls_and_fails_none(portal, careportals):
    time.sleep(0.2)
    careportals.settings(login_delay="1s")
    careportals.revoke()
    names = []
    threads = [threading.Thread(target=lambda: names.append(Portal(portal.base_url).full_name())) for _ in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == ["Robin Sample"] * 8
    assert 0.9 < time.monotonic() - began < 9
    assert careportals.counts()["login_ok"] == 1, "eight callers waited for one log-in"


def test_an_outage_of_the_log_in_is_the_sidecars_error(careportals, start_sidecar):
    careportals.settings(login_fault="status:503")
    sidecar = start_sidecar(CAREPORTALS__ACCOUNTS__DEFAULT__TOKEN_WAIT="1s")
    portal = Portal(sidecar.base_url)
    with pytest.raises(SidecarError) as met:
        portal.full_name()
    assert met.value.code == "login_failing"
    assert int(met.value.retry_after) >= 1
    assert not sidecar.is_ready()
    assert careportals.counts()["requests"] == 0, "nothing was sent without a token"
    # It passes, and nobody has to do anything.
    careportals.settings(login_fault=None)
    sidecar.wait_ready()
    assert portal.full_name() == "Robin Sample"


def test_wrong_credentials_are_told_apart_from_an_outage(careportals, start_sidecar):
    sidecar = start_sidecar(
        CAREPORTALS__ACCOUNTS__DEFAULT__TOKEN_WAIT="1s",
        CAREPORTALS__ACCOUNTS__DEFAULT__PASSWORD="not the password",
    )
    with pytest.raises(SidecarError) as met:
        Portal(sidecar.base_url).full_name()
    assert met.value.code == "login_rejected"


def test_a_call_that_the_simulator_does_not_know_gets_a_route(portal, careportals):
    careportals.route("/customers/{id}/notes", body=[{"customer": "{{path.id}}", "text": "Called back"}])
    assert portal.get("/customers/7/notes") == [{"customer": "7", "text": "Called back"}]


def test_an_error_of_careportals_is_not_the_sidecars(portal, careportals):
    careportals.fault("/users/account", "status:503")
    with pytest.raises(PortalError) as met:
        portal.full_name()
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
