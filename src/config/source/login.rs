//! Decides where an account logs in: at its own `login_url`, or where the presets of its APIs agree.
//!
//! Pure.

use super::{
    account::AccountEntry,
    api::ApiEntry,
    faults::{Diagnostic, ValueOrigin, ensure, shown},
    setting::{EffectiveValue, Findings, Setting},
    url::{self, Address},
};
use crate::config::{BaseUrl, Endpoint, Scheme};

/// Where an account logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Unknown, because of a fault that was found.
    Unknown,
    /// The account does not log in: the organization alone is sent.
    Off,
    /// The account logs in at this URL.
    At(Endpoint),
}

/// Decides for one account, and has `config` show the outcome where nobody wrote it. `is_known`: whether the account of each API is
/// known.
pub(super) fn choose(account: &AccountEntry, apis: &[ApiEntry], is_known: bool, findings: &mut Findings) -> Choice {
    let setting = &account.login_url;
    let own = own(account, apis);
    if setting.is_written() {
        return setting.set().map_or(Choice::Unknown, |address| resolve(setting, address, (&own, is_known), findings));
    }
    // An API whose account is unknown may be the one that is meant to use it.
    let agreed = if own.is_empty() && !is_known { Ok(Choice::Unknown) } else { agreed(&own) };
    let choice = agreed.unwrap_or_else(|wrong| {
        findings.fault(setting, wrong);
        Choice::Unknown
    });
    let shown = match &choice {
        Choice::Unknown => return choice,
        Choice::Off => "\"off\"".to_owned(),
        Choice::At(Endpoint { origin, target }) => format!("\"{origin}{target}\""),
    };
    // The value stands behind the others of its account.
    let entry = format!("accounts.{}.", account.name);
    let end = findings.values.iter().rposition(|value| value.path.starts_with(&entry)).map_or(0, |at| at + 1);
    let (path, origin) = (setting.path.clone(), ValueOrigin::Preset);
    findings.values.insert(end, EffectiveValue { path, shown, origin, is_set: true });
    choice
}

/// Decides where a refresh token becomes a token. No preset says that.
pub(super) fn refresh(account: &AccountEntry, apis: &[ApiEntry], is_known: bool, findings: &mut Findings) -> Option<Endpoint> {
    let setting = &account.refresh_url;
    let choice = resolve(setting, setting.set()?, (&own(account, apis), is_known), findings);
    if let Choice::At(endpoint) = choice { Some(endpoint) } else { None }
}

/// Whether the account logs in, wherever that is. Then a missing user name is a fault in any case.
pub(super) fn is_certain(account: &AccountEntry, apis: &[ApiEntry]) -> bool {
    let own = own(account, apis);
    let logs_in = |api: &&ApiEntry| api.preset.known().is_some_and(|preset| preset.login != "off");
    !own.is_empty() && own.iter().all(logs_in)
}

/// The APIs that use the account.
fn own<'a>(account: &AccountEntry, apis: &'a [ApiEntry]) -> Vec<&'a ApiEntry> {
    apis.iter().filter(|api| api.account.known() == Some(&account.name)).collect()
}

/// `own`: the APIs that use the account, and whether the account of each API is known.
fn resolve(setting: &Setting<Option<Address>>, address: &Address, own: (&[&ApiEntry], bool), findings: &mut Findings) -> Choice {
    let choice = match (address, own.0) {
        (Address::Path(_), [] | [_, _, ..]) => {
            if !own.0.is_empty() || own.1 {
                let count = if own.0.is_empty() { "no API uses it" } else { "several APIs use it" };
                let wrong = Diagnostic::new(format!("a path needs an account with exactly one API, and {count}"));
                findings.fault(setting, wrong.hint("write an absolute URL"));
            }
            Choice::Unknown
        }
        (address, own) => at(address, own.first().and_then(|api| api.upstream.set())),
    };
    if matches!(&choice, Choice::At(Endpoint { origin, .. }) if origin.scheme == Scheme::Http && !origin.is_loopback()) {
        findings.fault(setting, Diagnostic::new("never goes over plain http to anything but loopback").hint("use https"));
    }
    choice
}

/// Where the presets of all these APIs log in.
fn agreed(own: &[&ApiEntry]) -> Result<Choice, Diagnostic> {
    let mut agreed: Option<(&str, Choice)> = None;
    for api in own {
        let (Some(preset), Some(upstream)) = (api.preset.get(), api.upstream.set()) else { return Ok(Choice::Unknown) };
        let address = url::address_or_off(preset.login)?;
        let is_known = !matches!(address, Address::Absolute(_)) || url::upstream(preset.upstream).as_ref() == Ok(upstream);
        let wrong = || format!("needed, since API {} has the preset `{}` with another upstream", shown(&api.name), preset.name);
        ensure!(is_known, wrong(), hint = "set `login_url`");
        let choice = at(&address, Some(upstream));
        let (other, earlier) = agreed.get_or_insert((&api.name, choice.clone()));
        let wrong = || format!("APIs {} and {} of this account do not agree on a log-in", shown(other), shown(&api.name));
        ensure!(*earlier == choice, wrong(), hint = "set `login_url`, or give each API its own account");
    }
    let wrong = || Diagnostic::new("no API uses this account, so nothing says where it logs in");
    agreed.map(|(_, choice)| choice).ok_or_else(|| wrong().hint("remove it, or set its `login_url`"))
}

/// What an address means for an API with this upstream.
fn at(address: &Address, upstream: Option<&BaseUrl>) -> Choice {
    match address {
        Address::Off => Choice::Off,
        Address::Absolute(endpoint) => Choice::At(endpoint.clone()),
        Address::Path(path) => upstream.and_then(|api| api.endpoint(path.path())).map_or(Choice::Unknown, Choice::At),
    }
}
