//! Several accounts and APIs in one settings file, and an account that does not log in.

use std::sync::atomic::{AtomicBool, Ordering};

use careportals_simulator::{LoginFault, Simulator};

use crate::harness::{
    Crowd, LOGGED_IN, ORGANIZATION, Request, SetAtEnd, Setup, Sidecar, outgrow_the_floor, revoke, simulator, until,
};

#[test]
fn two_apis_of_one_account_share_its_log_in() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = start(&simulator, &[DEMO], &[("north", "demo"), ("south", "demo")]);
    for api in ["north", "south"] {
        let answer = sidecar.connect_to(api).send(&Request::get("/_sim/echo"));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.echoed("authorization"), [format!("Bearer {}", control.last_token().unwrap())]);
    }
    assert_eq!(control.counts().logins, 1);
    // A 401 at one of them renews the token of both.
    revoke(&simulator);
    assert_eq!(sidecar.connect_to("north").send(&Request::get("/users/account")).status, 200);
    assert_eq!(sidecar.connect_to("south").send(&Request::get("/users/account")).status, 200);
    assert_eq!((control.counts().logins, control.counts().unauthorized), (2, 1));
}

#[test]
fn tenants_are_never_mixed_whatever_happens_to_their_tokens() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = start(&simulator, &[DEMO, OTHER], &[("demo", "demo"), ("other", "other")]);
    let revocations = ["other", "demo", "other"];
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for organization in ["demo", "other", "demo", "other"] {
            let (sidecar, over) = (&sidecar, &over);
            scope.spawn(move || {
                let mut connection = sidecar.connect_to(organization);
                while !over.load(Ordering::Relaxed) {
                    let answer = connection.send(&Request::get("/_sim/echo"));
                    assert_eq!(answer.status, 200, "{answer:?}");
                    assert_eq!(answer.echoed("organization"), [organization]);
                }
            });
        }
        let _over = SetAtEnd(&over);
        for (logins, organization) in (2..).zip(revocations) {
            sidecar.wait_for_logs(LOGGED_IN, logins);
            outgrow_the_floor();
            control.revoke_tokens_of(organization);
        }
        until("five log-ins have succeeded", || control.counts().login_ok == 5);
    });
    // One tenant's token with the other's name is refused: of each client, only what was revoked may have been.
    let counts = control.counts();
    assert_eq!((counts.malformed, counts.logins), (0, 5));
    assert!(counts.unauthorized <= 2 * revocations.len() as u64, "{counts:?}");
    for login in control.logins() {
        assert_eq!(login.username, format!("service@{}.example.test", login.organization));
    }
}

#[test]
fn an_account_that_fails_takes_no_other_down() {
    let simulator = simulator();
    let wrong = Account { password: "not-the-password", ..OTHER };
    let sidecar = start(&simulator, &[DEMO, wrong], &[("demo", "demo"), ("other", "other")]);
    sidecar.wait_for_log("log-in failed");
    for answer in Crowd::send_to(sidecar.address_of("other"), 5, &Request::get("/users/account")).answers() {
        assert_eq!((answer.status, answer.problem().as_str()), (503, "login_rejected"));
    }
    Crowd::send_to(sidecar.address_of("demo"), 5, &Request::get("/users/account")).succeeds();
}

#[test]
fn one_accounts_log_in_does_not_wait_for_anothers() {
    let (simulator, slow) = (simulator(), simulator());
    slow.control().set_login_fault(Some(LoginFault::Hang));
    let mut setup = Setup::empty();
    setup.settings(&format!(
        "{}{}login_url = \"{}/auth\"\n{}{}",
        DEMO.toml(),
        OTHER.toml(),
        slow.base_url(),
        api("demo", "demo", &simulator.base_url()),
        api("other", "other", &simulator.base_url()),
    ));
    setup.trust(&format!("{}{}", simulator.ca_pem(), slow.ca_pem()));
    let sidecar = setup.start();
    until("one log-in has begun", || slow.control().counts().logins == 1);
    assert_eq!(sidecar.connect_to("demo").send(&Request::get("/users/account")).status, 200);
}

#[test]
fn an_account_without_log_in_is_ready_unless_its_organization_is_missing() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let file = setup.dir.path().join("organization");
    setup.variable("CAREPORTALS_LOGIN_URL", "off").without("CAREPORTALS_USERNAME").without("CAREPORTALS_PASSWORD");
    setup.without("CAREPORTALS_ORGANIZATION").variable("CAREPORTALS_ORGANIZATION_FILE", file.to_str().unwrap());
    setup.with_telemetry();
    let sidecar = setup.start();
    sidecar.wait_for_log("no organization yet");
    for path in ["/readyz", "/readyz/default"] {
        let answer = sidecar.telemetry(path);
        assert_eq!((answer.status, answer.json()["reasons"][0]["code"].as_str()), (503, Some("no_organization")), "{answer:?}");
    }
    assert_eq!(sidecar.telemetry("/livez").status, 200);
    std::fs::write(&file, "").unwrap();
    sidecar.wait_for_logs("no organization yet", 2);
    std::fs::write(&file, ORGANIZATION).unwrap();
    until("it is ready", || sidecar.telemetry("/readyz").status == 200);
    assert_eq!(sidecar.telemetry("/readyz/default").status, 200);
}

#[test]
fn an_account_whose_log_in_is_off_adds_its_organization_only() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LOGIN_URL", "off").without("CAREPORTALS_USERNAME").without("CAREPORTALS_PASSWORD");
    only_the_organization(&simulator, &setup.start());
}

#[test]
fn the_public_api_needs_no_log_in() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_API", "public").without("CAREPORTALS_USERNAME").without("CAREPORTALS_PASSWORD");
    only_the_organization(&simulator, &setup.start());
}

fn only_the_organization(simulator: &Simulator, sidecar: &Sidecar) {
    let control = simulator.control();
    let own = Request::get("/v2/products").header("Authorization", "Bearer mine").header("organization", "other");
    let answer = sidecar.send(&own);
    assert_eq!(answer.status, 200, "{answer:?}");
    // What asks for a token says so to the client, and is not sent again.
    let refused = sidecar.get("/users/account");
    assert_eq!((refused.status, refused.header("proxy-status")), (401, None));
    let seen = control.requests();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!(seen.values("organization"), [ORGANIZATION]);
        assert!(seen.values("authorization").is_empty());
    }
    assert_eq!(control.counts().logins, 0);
}

#[derive(Clone, Copy)]
struct Account {
    name: &'static str,
    password: &'static str,
}

const DEMO: Account = Account { name: "demo", password: "demo-password-1" };
const OTHER: Account = Account { name: "other", password: "other-password-1" };

impl Account {
    fn toml(self) -> String {
        let Self { name, password } = self;
        format!(
            "[accounts.{name}]\norganization = \"{name}\"\nusername = \"service@{name}.example.test\"\n\
             password = \"{password}\"\nrelogin_floor = \"100ms\"\n"
        )
    }
}

fn api(name: &str, account: &str, upstream: &str) -> String {
    format!("[apis.{name}]\naccount = \"{account}\"\nupstream = \"{upstream}\"\nlisten = [\"127.0.0.1:0\"]\n")
}

fn start(simulator: &Simulator, accounts: &[Account], apis: &[(&str, &str)]) -> Sidecar {
    let mut setup = Setup::empty();
    let accounts: String = accounts.iter().map(|account| account.toml()).collect();
    let apis: String = apis.iter().map(|(name, account)| api(name, account, &simulator.base_url())).collect();
    setup.settings(&format!("{accounts}{apis}"));
    setup.trust(simulator.ca_pem());
    setup.start()
}
