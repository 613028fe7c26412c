//! From values to [`Config`].
//!
//! Pure. Builds nothing as long as one value is missing or wrong, and names a fault for each that is missing.

use std::num::NonZeroUsize;

use http::HeaderName;

use super::{
    egress,
    faults::{Diagnostic, Fault, Origin},
    login::{self, Choice},
    partial_api::PartialApi,
    reading::Values,
    relations,
    values::header_map,
    variables::Environment,
};
use crate::{
    careportals::LOGIN_PATHS,
    config::{
        Account, AccountId, Api, ClientCertificate, Config, ControlSocket, Cookies, Endpoint, Hardening, Http2, Limits,
        LogFormat, Login, RequireHeader, RestartOnly, Source, Timeouts, Tls, TlsVersion,
    },
    path::LoginPaths,
};

/// The configuration, unless something is wrong.
pub(super) fn config(values: &mut Values<'_>, environment: &Environment) -> Option<Config> {
    let drafts: Vec<PartialApi> = values.apis.iter().map(|name| PartialApi::read(values, name)).collect();
    let choices: Vec<Choice> = values.accounts.clone().iter().map(|name| login::choose(values, name, &drafts)).collect();
    let refreshes: Vec<Option<Endpoint>> =
        values.accounts.clone().iter().map(|name| login::refresh(values, name, &drafts)).collect();
    relations::check(values, &drafts, &choices);
    let endpoints: Vec<&Endpoint> = choices
        .iter()
        .filter_map(|choice| if let Choice::At(endpoint) = choice { Some(endpoint) } else { None })
        .chain(refreshes.iter().flatten())
        .collect();
    let egress = egress::read(values, environment);
    let login_paths = login_paths(&drafts, &endpoints);

    // All of them before any `?`, so that every fault is named.
    let names = values.accounts.clone();
    let mut accounts: Vec<Option<Account>> = Vec::new();
    for ((name, choice), refresh) in names.iter().zip(choices).zip(refreshes) {
        if choice == Choice::Unknown && login::is_certain(name, &drafts) {
            required(values, name, "username");
            required(values, name, "password");
        }
        accounts.push(account(values, name, choice, refresh));
    }
    let apis: Vec<Option<Api>> = drafts.into_iter().map(|draft| api(values, &names, draft)).collect();
    Some(Config {
        accounts: accounts.into_iter().collect::<Option<_>>()?,
        apis: apis.into_iter().collect::<Option<_>>()?,
        login_paths,
        restart_only: restart_only(values, environment)?,
        log_filter: values.text("log")?,
        access_log: values.text("access_log")? == "on",
        drain_delay: values.duration("drain_delay")?,
        drain_timeout: values.duration("drain_timeout")?,
        tls: tls(values)?,
        egress,
        socket_names: socket_names(environment),
    })
}

/// `sd_listen_fds_with_names(3)`.
fn socket_names(environment: &Environment) -> Vec<String> {
    let names = environment.get("LISTEN_FDNAMES").and_then(|names| names.to_str()).unwrap_or_default();
    names.split(':').map(str::to_owned).collect()
}

fn login_paths(drafts: &[PartialApi], endpoints: &[&Endpoint]) -> LoginPaths {
    // Under an upstream's base path, too: what is matched is the path that the upstream sees.
    let bases = drafts.iter().filter_map(|api| api.upstream.as_ref()).map(|upstream| upstream.base_path.as_str()).chain([""]);
    let known = bases.flat_map(|base| LOGIN_PATHS.iter().map(move |path| format!("{base}{path}")));
    LoginPaths::new(known.chain(endpoints.iter().map(|endpoint| endpoint.target.path().to_owned())))
}

fn restart_only(values: &Values<'_>, environment: &Environment) -> Option<RestartOnly> {
    Some(RestartOnly {
        workers: values.number("workers").and_then(count).and_then(NonZeroUsize::new),
        log_format: match values.text("log_format")?.as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => LogFormat::Auto,
        },
        telemetry_listen: values.socket("telemetry_listen")?,
        quitquitquit: values.switch("quitquitquit")?,
        control_socket: ControlSocket::of(values.text("control_socket").as_deref(), environment),
        control_allow_uids: values.ids("control_allow_uids")?,
        hardening: match values.text("hardening")?.as_str() {
            "required" => Hardening::Required,
            "off" => Hardening::Off,
            _ => Hardening::Auto,
        },
    })
}

fn tls(values: &Values<'_>) -> Option<Tls> {
    Some(Tls {
        ca_file: values.path("ca_file"),
        ca_only_file: values.path("ca_only_file"),
        min_version: if values.text("tls_min")? == "1.3" { TlsVersion::Tls13 } else { TlsVersion::Tls12 },
        client_certificate: match (values.path("tls_cert_file"), values.path("tls_key_file")) {
            (Some(certificates), Some(key)) => Some(ClientCertificate { certificates, key }),
            _ => None,
        },
    })
}

fn account(values: &mut Values<'_>, name: &str, choice: Choice, refresh_url: Option<Endpoint>) -> Option<Account> {
    let organization = required(values, name, "organization");
    let login = match choice {
        Choice::Off => None,
        Choice::At(url) => Some(login(values, name, url, refresh_url)?),
        Choice::Unknown => return None,
    };
    Some(Account { name: name.to_owned(), organization: organization?, login })
}

fn login(values: &mut Values<'_>, name: &str, url: Endpoint, refresh_url: Option<Endpoint>) -> Option<Login> {
    let at = |key: &str| format!("accounts.{name}.{key}");
    let username = required(values, name, "username");
    let password = required(values, name, "password");
    Some(Login {
        url,
        refresh_url,
        username: username?,
        password: password?,
        username_field: values.text(&at("login_fields.username"))?,
        password_field: values.text(&at("login_fields.password"))?,
        extra: values.json(&at("login_extra"))?,
        headers: header_map(&values.headers(&at("login_headers"))?),
        timeout: values.duration(&at("login_timeout"))?,
        token_wait: values.duration(&at("token_wait"))?,
        relogin_floor: values.duration(&at("relogin_floor"))?,
        relogin_on: values.statuses(&at("relogin_on"))?,
        assumed_life: values.duration(&at("assumed_life"))?,
        token_pointer: values.text(&at("token_pointer")),
    })
}

/// A source that must be there.
fn required(values: &mut Values<'_>, account: &str, key: &str) -> Option<Source> {
    let path = format!("accounts.{account}.{key}");
    let source = values.take_source(&path);
    if source.is_none() && !values.is_written(&path) {
        let origin = values.origin(&path);
        let fault = if account == "default" && origin == Origin::Default {
            let variable = format!("CAREPORTALS_{}", key.to_uppercase());
            let wrong = Diagnostic::new("is not set")
                .hint(format!("set it, {variable}_FILE or CAREPORTALS_CREDENTIALS_DIR, or write a settings file"));
            Fault::new(Origin::Variable(variable), path, wrong)
        } else {
            Fault::new(origin, path, Diagnostic::new("is missing").hint(format!("write {key} = {{ file = \"…\" }}")))
        };
        values.faults.push(fault);
    }
    source
}

fn api(values: &mut Values<'_>, accounts: &[String], draft: PartialApi) -> Option<Api> {
    let at = |key: &str| format!("apis.{}.{key}", draft.name);
    let require_header = require_header(values, values.header_name(&at("require_header.name")), &at("require_header.value"));
    let place = accounts.iter().position(|name| Some(name) == draft.account.as_ref())?;
    Some(Api {
        account: AccountId(place),
        upstream: draft.upstream?,
        allow: values.rules(&at("allow")),
        deny: values.rules(&at("deny"))?,
        cookies: if values.text(&at("cookies"))? == "pass" { Cookies::Pass } else { Cookies::Strip },
        headers: values.headers(&at("headers"))?,
        allowed_hosts: values.hosts(&at("allowed_hosts"))?,
        allowed_origins: values.texts(&at("allowed_origins"))?,
        require_header,
        replay_buffer: values.number(&at("replay_buffer")).and_then(count)?,
        retry_idempotency_key: values.switch(&at("retry_idempotency_key"))?,
        path_words: values.texts(&at("path_words"))?,
        socket_mode: values.number(&at("socket_mode")).and_then(|mode| u32::try_from(mode).ok())?,
        socket_group: values.text(&at("socket_group")),
        allow_uids: values.ids(&at("allow_uids"))?,
        allow_gids: values.ids(&at("allow_gids"))?,
        http2: if values.text(&at("http2"))? == "auto" { Http2::Auto } else { Http2::Off },
        limits: Limits {
            max_requests: values.number(&at("max_requests")).and_then(count)?,
            max_connections: values.number(&at("max_connections")).and_then(count)?,
            max_header_bytes: values.number(&at("max_header_bytes")).and_then(count)?,
            max_headers: values.number(&at("max_headers")).and_then(count)?,
        },
        timeouts: timeouts(values, &draft.name)?,
        allow_non_loopback: values.switch(&at("allow_non_loopback"))?,
        name: draft.name,
        listen: draft.listen,
        prefix: draft.prefix,
    })
}

fn require_header(values: &mut Values<'_>, name: Option<HeaderName>, path: &str) -> Option<RequireHeader> {
    let value = values.take_source(path);
    name.map(|name| RequireHeader { name, value })
}

fn timeouts(values: &Values<'_>, api: &str) -> Option<Timeouts> {
    let at = |key: &str| values.duration(&format!("apis.{api}.{key}"));
    Some(Timeouts {
        head: at("head_timeout")?,
        connect: at("connect_timeout")?,
        response: at("response_timeout")?,
        body_idle: at("body_idle")?,
        stream_idle: at("stream_idle")?,
        client_idle: at("client_idle")?,
        pool_idle: at("pool_idle")?,
        connection_max_age: at("connection_max_age")?,
    })
}

fn count(number: u64) -> Option<usize> {
    usize::try_from(number).ok()
}
