//! What a log-in sends, where it sends it, and where in the answer it finds the token.

use careportals_simulator::LoginFault;
use serde_json::json;

use crate::harness::{ORGANIZATION, PASSWORD, Request, Setup, Sidecar, USERNAME, revoke, simulator, until};

#[test]
fn a_log_in_posts_the_credentials_with_the_organization_and_nothing_else() {
    let simulator = simulator();
    let _sidecar = Sidecar::start(&simulator).ready();
    let logins = simulator.control().logins();
    let [login] = logins.as_slice() else { panic!("{logins:?}") };
    assert_eq!((login.path.as_str(), login.organization.as_str()), ("/patient/auth", ORGANIZATION));
    assert_eq!(login.body, json!({ "username": USERNAME, "password": PASSWORD }));
    let value = |name: &str| login.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!(value("content-type"), Some("application/json"));
    assert_eq!(value("host"), Some(simulator.base_url().strip_prefix("https://").unwrap()));
    assert_eq!(value("authorization"), None);
}

#[test]
fn the_token_is_found_in_every_known_field_and_as_a_bare_string() {
    let simulator = simulator();
    let field = |name: &str| LoginFault::Field(name.to_owned());
    for fault in [field("access_token"), field("accessToken"), field("jwt"), LoginFault::BareString] {
        simulator.control().set_login_fault(Some(fault.clone()));
        let answer = Sidecar::start(&simulator).get("/users/account");
        assert_eq!(answer.status, 200, "{fault:?}: {answer:?}");
    }
}

#[test]
fn token_pointer_says_where_the_token_is() {
    let simulator = simulator();
    simulator.control().set_login_fault(Some(LoginFault::Field("session/key".to_owned())));
    let mut setup = Setup::new(&simulator);
    setup.account("token_pointer", "/session~1key");
    let answer = setup.start().get("/users/account");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn fields_headers_and_additions_of_the_log_in_can_be_set() {
    let simulator = simulator();
    simulator.control().set_login_fields("login", "secret");
    let mut setup = Setup::new(&simulator);
    setup
        .account("login_fields__username", "login")
        .account("login_fields__password", "secret")
        .account("login_extra", r#"{ remember = true, device = { kind = "server" } }"#)
        .account("login_headers", r#"{ x-portal = "north" }"#);
    let answer = setup.start().get("/_sim/echo");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.echoed("x-portal").is_empty(), "it belongs to the log-in alone");
    let login = &simulator.control().logins()[0];
    let body = json!({ "login": USERNAME, "secret": PASSWORD, "remember": true, "device": { "kind": "server" } });
    assert_eq!(login.body, body);
    assert!(login.headers.contains(&("x-portal".to_owned(), "north".to_owned())));
}

#[test]
fn a_log_in_path_goes_to_the_upstream() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LOGIN_URL", "/auth/login");
    let _sidecar = setup.start().ready();
    assert_eq!(simulator.control().logins()[0].path, "/auth/login");
}

#[test]
fn an_absolute_log_in_url_gets_the_credentials_and_the_upstream_the_token() {
    let portal = simulator();
    let upstream = simulator();
    let mut setup = Setup::new(&upstream);
    setup.file("ca.pem", &format!("{}{}", portal.ca_pem(), upstream.ca_pem()));
    setup.variable("CAREPORTALS_LOGIN_URL", &format!("{}/auth", portal.base_url()));
    let sidecar = setup.start();
    // Another portal's token is nothing to the upstream, but it has come.
    assert_eq!(sidecar.send(&Request::get("/users/account")).status, 401);
    let token = portal.control().last_token().unwrap();
    let seen = upstream.control().requests();
    assert_eq!(seen[0].values("authorization"), [format!("Bearer {token}")]);
    assert_eq!((portal.control().counts().logins, portal.control().counts().requests), (1, 0));
    assert_eq!(upstream.control().counts().logins, 0);
    assert_eq!(portal.control().logins()[0].path, "/auth");
}

#[test]
fn a_refresh_token_is_used_first_and_a_log_in_is_the_fallback() {
    let simulator = simulator();
    let control = simulator.control();
    control.set_login_fault(Some(LoginFault::WithRefreshToken));
    let mut setup = Setup::new(&simulator);
    setup.account("refresh_url", &format!("{}/auth/refresh", simulator.base_url())).account("relogin_floor", "100ms");
    let sidecar = setup.start().ready();
    for refreshes in 1..=2 {
        revoke(&simulator);
        assert_eq!(sidecar.get("/users/account").status, 200);
        let counts = control.counts();
        assert_eq!((counts.logins, counts.refreshes, counts.refresh_ok), (1, refreshes, refreshes));
    }
    revoke(&simulator);
    control.revoke_refresh_tokens();
    assert_eq!(sidecar.get("/users/account").status, 200);
    let counts = control.counts();
    assert_eq!((counts.logins, counts.refreshes, counts.refresh_ok), (2, 3, 2));
    until("two log-ins have succeeded", || control.counts().login_ok == 2);
}

#[test]
fn without_refresh_url_a_refresh_token_is_left_alone() {
    let simulator = simulator();
    let control = simulator.control();
    control.set_login_fault(Some(LoginFault::WithRefreshToken));
    let mut setup = Setup::new(&simulator);
    setup.account("relogin_floor", "100ms");
    let sidecar = setup.start().ready();
    revoke(&simulator);
    assert_eq!(sidecar.get("/users/account").status, 200);
    assert_eq!((control.counts().logins, control.counts().refreshes), (2, 0));
}
