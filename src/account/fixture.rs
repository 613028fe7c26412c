//! Settings for this folder's tests.

use std::time::Duration;

use http::{HeaderMap, StatusCode, uri::PathAndQuery};

use crate::{
    config::{Account, Config, Endpoint, Login, Origin, Scheme, Source, fixture},
    secret::Secret,
};

/// One account, `crm`, that logs in with literals at a port where nobody listens.
pub(super) fn config() -> Config {
    Config { accounts: vec![account()], ..fixture::config() }
}

fn account() -> Account {
    Account { name: "crm".to_owned(), organization: Source::Value(Secret::from("acme")), login: Some(login()) }
}

fn login() -> Login {
    Login {
        url: endpoint(9, "/auth"),
        refresh_url: None,
        username: Source::Value(Secret::from("ann")),
        password: Source::Value(Secret::from("s3cret")),
        username_field: "username".to_owned(),
        password_field: "password".to_owned(),
        extra: serde_json::Map::new(),
        headers: HeaderMap::new(),
        timeout: Duration::from_secs(10),
        token_wait: Duration::from_secs(10),
        relogin_floor: Duration::from_secs(30),
        relogin_on: vec![StatusCode::UNAUTHORIZED],
        assumed_life: Duration::from_secs(3600),
        token_pointer: None,
    }
}

/// Plain HTTP on loopback.
pub(super) fn endpoint(port: u16, target: &'static str) -> Endpoint {
    let origin = Origin { scheme: Scheme::Http, host: "127.0.0.1".to_owned(), port };
    Endpoint { origin, target: PathAndQuery::from_static(target) }
}
