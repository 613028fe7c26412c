//! Where an account logs in: its own words, or what the presets of its APIs agree on.
//!
//! Pure.

use http::uri::PathAndQuery;

use super::{
    faults::{Diagnostic, Origin},
    partial_api::PartialApi,
    reading::Values,
    url::Address,
};
use crate::{
    careportals::{Preset, PresetLogin},
    config::{Endpoint, Scheme, Upstream},
};

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// A fault was named, here or where the APIs were read.
    Unknown,
    /// The organization alone is sent.
    Off,
    /// Here.
    At(Endpoint),
}

/// Decides for one account. `drafts`: every API.
pub(super) fn choose(values: &mut Values<'_>, account: &str, drafts: &[PartialApi]) -> Choice {
    let entry = format!("accounts.{account}.");
    let path = format!("{entry}login_url");
    let own: Vec<&PartialApi> = drafts.iter().filter(|api| api.account.as_deref() == Some(account)).collect();
    let choice = match values.address(&path) {
        Some(Address::Off) => Choice::Off,
        Some(address) => resolve(values, &path, &address, &own),
        None if values.is_written(&path) => Choice::Unknown,
        None => from_presets(values, account, &path, &own),
    };
    if let Choice::At(endpoint) = &choice
        && endpoint.origin.scheme == Scheme::Http
        && !endpoint.origin.is_loopback()
    {
        values.fault(&path, Diagnostic::new("log-in never goes over plain http to anything but loopback").hint("use https"));
    }
    if !values.is_written(&path) {
        match &choice {
            Choice::At(endpoint) => {
                values.show_in(&entry, "login_url", format!("\"{}{}\"", endpoint.origin, endpoint.target), Origin::Preset);
            }
            Choice::Off => values.show_in(&entry, "login_url", "\"off\"".to_owned(), Origin::Preset),
            Choice::Unknown => {}
        }
    }
    choice
}

/// The same for `refresh_url`, which has no preset.
pub(super) fn refresh(values: &mut Values<'_>, account: &str, drafts: &[PartialApi]) -> Option<Endpoint> {
    let path = format!("accounts.{account}.refresh_url");
    let address = values.address(&path)?;
    let own: Vec<&PartialApi> = drafts.iter().filter(|api| api.account.as_deref() == Some(account)).collect();
    let Choice::At(endpoint) = resolve(values, &path, &address, &own) else { return None };
    if endpoint.origin.scheme == Scheme::Http && !endpoint.origin.is_loopback() {
        values.fault(&path, Diagnostic::new("a refresh never goes over plain http to anything but loopback").hint("use https"));
    }
    Some(endpoint)
}

/// Whether the account logs in, wherever that is: then a missing user name can be told at once.
pub(super) fn is_certain(account: &str, drafts: &[PartialApi]) -> bool {
    let mut own = drafts.iter().filter(|api| api.account.as_deref() == Some(account)).peekable();
    own.peek().is_some() && own.all(|api| api.preset.is_some_and(|preset| preset.login() != PresetLogin::Off))
}

fn resolve(values: &mut Values<'_>, key: &str, address: &Address, own: &[&PartialApi]) -> Choice {
    match (address, own) {
        (Address::Off, _) => Choice::Off,
        (Address::Absolute { origin, path }, _) => {
            target(path).map_or(Choice::Unknown, |target| Choice::At(Endpoint { origin: origin.clone(), target }))
        }
        (Address::Path(path), [api]) => match &api.upstream {
            Some(upstream) => under(upstream, path),
            None => Choice::Unknown,
        },
        (Address::Path(_), own) => {
            let count = if own.is_empty() { "no API uses it" } else { "several APIs use it" };
            values.fault(
                key,
                Diagnostic::new(format!("a path needs an account with exactly one API, and {count}"))
                    .hint("write an absolute URL"),
            );
            Choice::Unknown
        }
    }
}

fn from_presets(values: &mut Values<'_>, account: &str, key: &str, own: &[&PartialApi]) -> Choice {
    if own.is_empty() {
        // An API whose account could not be read may be the one that uses it.
        if values.apis.iter().all(|api| values.text(&format!("apis.{api}.account")).is_some()) {
            let wrong = Diagnostic::new("no API uses this account, so nothing says where it logs in")
                .hint("remove it, or give it a login_url");
            values.fault(&format!("accounts.{account}"), wrong);
        }
        return Choice::Unknown;
    }
    let mut agreed: Option<(&str, Choice)> = None;
    for api in own {
        let (Some(preset), Some(upstream)) = (api.preset, &api.upstream) else { return Choice::Unknown };
        let choice = match preset.login() {
            PresetLogin::Off => Choice::Off,
            PresetLogin::Path(path) => under(upstream, path),
            PresetLogin::Url(url) => {
                if !is_upstream_of(preset, upstream) {
                    let wrong = Diagnostic::new(format!(
                        "needed, since API `{}` has the preset `{}` with another upstream",
                        api.name,
                        preset.name()
                    ));
                    values.fault(key, wrong.hint("give the account a login_url"));
                    return Choice::Unknown;
                }
                absolute(url)
            }
        };
        match &agreed {
            Some((other, earlier)) if *earlier != choice => {
                let wrong =
                    Diagnostic::new(format!("APIs `{other}` and `{}` of this account do not agree on a log-in", api.name));
                values.fault(key, wrong.hint("give the account a login_url, or each API its own account"));
                return Choice::Unknown;
            }
            Some(_) => {}
            None => agreed = Some((&api.name, choice)),
        }
    }
    agreed.map_or(Choice::Unknown, |(_, choice)| choice)
}

fn is_upstream_of(preset: Preset, upstream: &Upstream) -> bool {
    matches!(super::url::address(preset.upstream()), Ok(Address::Absolute { origin, .. }) if origin == upstream.origin && upstream.base_path.is_empty())
}

fn under(upstream: &Upstream, path: &str) -> Choice {
    target(&format!("{}{path}", upstream.base_path))
        .map_or(Choice::Unknown, |target| Choice::At(Endpoint { origin: upstream.origin.clone(), target }))
}

fn absolute(url: &str) -> Choice {
    match super::url::address(url) {
        Ok(Address::Absolute { origin, path }) => {
            target(&path).map_or(Choice::Unknown, |target| Choice::At(Endpoint { origin, target }))
        }
        _ => Choice::Unknown,
    }
}

fn target(path: &str) -> Option<PathAndQuery> {
    PathAndQuery::try_from(if path.is_empty() { "/" } else { path }).ok()
}
