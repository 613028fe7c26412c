"""The fixtures, with the real programs."""

import os
import stat

import pytest

from careportals_testing import AdminError, ProgramFailed, Simulator, find_program, wait_until
from careportals_testing.programs import http


def get(sidecar, path):
    return http("GET", f"{sidecar.base_url}{path}")


def test_a_call_goes_through_the_sidecar_and_is_seen(careportals, sidecar):
    status, body = get(sidecar, "/customers/lookups?keyword=o%27neil")
    assert (status, body) == (200, b"[]")
    (seen,) = careportals.requests("/customers/lookups")
    assert (seen.method, seen.query, seen.status) == ("GET", {"keyword": ["o'neil"]}, 200)
    assert seen.header("Organization") == "demo"
    assert seen.header("authorization").startswith("Bearer ey")
    assert "Bearer" not in repr(seen), "a failing test prints no token"
    assert careportals.requests("/elsewhere") == []
    assert sidecar.environment == {"CAREPORTALS_BASE_URL": sidecar.base_url}


def test_a_test_sets_routes_and_faults(careportals, sidecar):
    careportals.route("/notes/{id}", body={"id": "{{path.id}}"})
    assert get(sidecar, "/notes/7")[1] == b'{"id":"7"}'
    careportals.fault("/notes/{id}", "status:402", times=1)
    assert [get(sidecar, "/notes/7")[0] for _ in range(2)] == [402, 200]
    careportals.settings(token_life="5s", login_fault="status:503")
    careportals.ask("POST", "/settings", {"credentials": {**careportals.credentials, "password": "another"}})


def test_the_next_test_finds_everything_as_at_the_start(careportals, sidecar):
    assert careportals.ask("GET", "/routes")["routes"] == []
    assert careportals.settings_in_effect()["token_life"] == "1h"
    assert careportals.counts()["requests"] == 0
    careportals.revoke()
    wait_until("a call with a new token", lambda: get(sidecar, "/users/account")[0] == 200)


def test_what_is_wrong_is_told(careportals):
    with pytest.raises(AdminError, match=r'route 1 \(GET /a\), member "fault": expected a text'):
        careportals.route("/a", body=1, fault=5)
    with pytest.raises(AdminError, match="no such setting; there are token_life"):
        careportals.settings(lifetime="5s")


def test_routes_come_from_files(careportals, sidecar, tmp_path):
    (tmp_path / "routes.json").write_text('[{"path": "/a", "text": "a"}]')
    (tmp_path / "api.yaml").write_text("openapi: 3.1.0\npaths:\n  /b:\n    get: {responses: {200: {description: B}}}\n")
    assert careportals.routes(tmp_path / "routes.json") == ["GET /a"]
    assert careportals.openapi(tmp_path / "api.yaml") == []
    assert (get(sidecar, "/a"), get(sidecar, "/b")) == ((200, b"a"), (200, b""))
    get(sidecar, "/c")
    assert careportals.unknown_routes() == {"GET /c": 1}


def test_a_sidecar_of_its_own_has_settings_of_its_own(careportals, start_sidecar):
    careportals.fail_next_logins(1, "status:502")
    sidecar = start_sidecar(CAREPORTALS_API="patient")
    sidecar.wait_ready()
    assert [login["status"] for login in careportals.logins()] == [502, 201]
    assert {login["path"] for login in careportals.logins()} == {"/auth/login"}


def test_the_password_is_for_nobody_else(sidecar, tmp_path_factory):
    for folder in tmp_path_factory.getbasetemp().glob("sidecar*/credentials"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_program_that_does_not_start_says_why(tmp_path, monkeypatch):
    with pytest.raises(ProgramFailed, match="unexpected argument '--nonsense'"):
        Simulator(tmp_path, ["--nonsense"])
    monkeypatch.setenv("SIMULATOR", os.fspath(tmp_path / "nothing"))
    with pytest.raises(ProgramFailed, match="SIMULATOR names .*, which is no file"):
        find_program("SIMULATOR", "careportals-simulator")
    monkeypatch.delenv("SIMULATOR")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ProgramFailed, match="put it on PATH, or set SIMULATOR"):
        find_program("SIMULATOR", "careportals-simulator")


def test_options_of_a_project(pytester):
    pytester.makefile(".json", routes='[{"path": "/mine", "body": 1}]')
    pytester.makeini(
        """
        [pytest]
        careportals_routes = routes.json
        careportals_flags = --token-life 5m --log
        careportals_fail_on_unknown_routes = true
        """
    )
    pytester.makepyfile(
        """
        from careportals_testing.programs import http

        def test_known(careportals, sidecar):
            assert http("GET", sidecar.base_url + "/mine") == (200, b"1")
            assert careportals.settings_in_effect()["token_life"] == "5m"
            assert "GET /mine 200" in careportals.log_text()

        def test_unknown(sidecar):
            http("GET", sidecar.base_url + "/not/mine")
        """
    )
    result = pytester.runpytest_subprocess(*plugin())
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*the simulator answers none of GET /not/mine; add a route, or correct the call*"])


def test_a_missing_program_fails_the_tests_in_one_line(pytester, monkeypatch):
    monkeypatch.setenv("SIMULATOR", "/nowhere")
    pytester.makepyfile("def test_it(careportals): pass")
    result = pytester.runpytest_subprocess(*plugin())
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["SIMULATOR names /nowhere, which is no file"])


def plugin():
    """How an inner pytest finds the fixtures: by itself, unless plugins have to be named."""
    return ["-p", "careportals_testing.plugin"] if os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD") else []
