//! Makes the [`Config`] of what was written.
//!
//! Pure. It builds nothing as long as one value is missing or wrong, and reports a fault for each that is missing.

use serde_json::Value;

use super::{
    account::AccountEntry,
    api::ApiEntry,
    egress,
    environment::Environment,
    faults::{Diagnostic, Fault, ValueOrigin},
    layers::Merged,
    login::{self, Choice},
    named_variables::CREDENTIALS_DIR,
    relations,
    setting::{Findings, Section, Setting, parts},
    tables::Written,
    warnings,
};
use crate::{
    careportals::{LOGIN_PATHS, PRESETS, Preset},
    config::{Account, AccountId, Api, Config, Endpoint, Login, Reloadable, RequireHeader, RestartOnly, Source, Tls},
    path::LoginPaths,
};

/// Gives each API without an `upstream` that of its preset.
pub(super) fn derive_upstreams(merged: &mut Merged, apis: &[String]) {
    for api in apis {
        let written = merged.values.get(&format!("apis.{api}.preset"));
        let name = written.map_or(Some(PRESETS[0].name), |(name, _)| name.as_str());
        if let Some(preset) = name.and_then(Preset::from_name) {
            let upstream = (Value::from(preset.upstream), ValueOrigin::Preset);
            merged.values.entry(format!("apis.{api}.upstream")).or_insert(upstream);
        }
    }
}

/// Leaves out what is faulty, so that the rest can be built: values of keys, and the log-ins of accounts.
/// `faulty`: the paths of their keys.
pub(super) fn leave_out(merged: &mut Merged, faulty: Vec<String>, accounts: &[String]) {
    // A value counts as written, whoever wrote it.
    let origin = ValueOrigin::Variable(String::new());
    for path in faulty {
        let (section, entry, key) = parts(&path);
        let mut put = |key, text: &str| merged.values.insert(section.path(entry, key), (text.into(), origin.clone()));
        match (section, key, accounts.first()) {
            (Section::Account, ..) => drop((put("organization", "none"), put("login_url", "off"))),
            (Section::Api, "account", Some(first)) => drop(put(key, first)),
            _ => drop(merged.values.remove(&path)),
        }
    }
}

/// The configuration, unless something is wrong.
pub(super) fn config(written: Written, environment: &Environment, findings: &mut Findings) -> Option<Config> {
    let Written { accounts, apis, .. } = &written;
    let is_known = apis.iter().all(|api| accounts.iter().any(|account| api.account.known() == Some(&account.name)));
    let choices: Vec<Choice> = accounts.iter().map(|account| login::choose(account, apis, is_known, findings)).collect();
    let refreshes: Vec<Option<Endpoint>> =
        accounts.iter().map(|account| login::refresh(account, apis, is_known, findings)).collect();
    relations::check(&written, &choices, findings);
    let Written { top, mut accounts, mut apis } = written;
    let egress = egress::read(environment, findings);
    let login_paths = login_paths(&apis, &choices, &refreshes);
    warnings::find(&top, &apis, &login_paths, findings);

    // Build all of them before any `?`, so that every fault is reported.
    let mut built: Vec<Option<Account>> = Vec::new();
    for ((entry, choice), refresh) in accounts.iter_mut().zip(choices).zip(refreshes) {
        if choice == Choice::Unknown && login::is_certain(entry, &apis) {
            required(&mut entry.username, findings);
            required(&mut entry.password, findings);
        }
        built.push(account(entry, choice, refresh, findings));
    }
    let apis: Vec<Option<Api>> = apis.iter_mut().map(|entry| api(entry, &accounts)).collect();
    Some(Config {
        accounts: built.into_iter().collect::<Option<_>>()?,
        apis: apis.into_iter().collect::<Option<_>>()?,
        login_paths,
        restart_only: RestartOnly::of(&top)?,
        reloadable: Reloadable::of(&top)?,
        tls: Tls::of(&top, environment)?,
        egress,
        socket_names: socket_names(environment),
    })
}

/// Reads what `sd_listen_fds_with_names(3)` describes.
fn socket_names(environment: &Environment) -> Vec<String> {
    let names = environment.get("LISTEN_FDNAMES").and_then(|names| names.to_str()).unwrap_or_default();
    names.split(':').map(str::to_owned).collect()
}

fn login_paths(apis: &[ApiEntry], choices: &[Choice], refreshes: &[Option<Endpoint>]) -> LoginPaths {
    let chosen = choices.iter().filter_map(|choice| if let Choice::At(endpoint) = choice { Some(endpoint) } else { None });
    let chosen = chosen.chain(refreshes.iter().flatten()).map(|endpoint| endpoint.target.path().to_owned());
    // Under an upstream's base path, too: the path that the upstream sees is compared.
    let bases = apis.iter().filter_map(|api| api.upstream.set()).map(|upstream| upstream.base_path.as_str()).chain([""]);
    let known = bases.flat_map(|base| LOGIN_PATHS.iter().map(move |path| format!("{base}{path}")));
    LoginPaths::new(known.chain(chosen))
}

fn account(entry: &mut AccountEntry, choice: Choice, refresh_url: Option<Endpoint>, findings: &mut Findings) -> Option<Account> {
    let organization = required(&mut entry.organization, findings);
    let login = match choice {
        Choice::Off => None,
        Choice::Unknown => return None,
        Choice::At(url) => {
            let [username, password] = [&mut entry.username, &mut entry.password].map(|source| required(source, findings));
            Some(Login::of(entry, url, refresh_url, username?, password?)?)
        }
    };
    Some(Account { name: entry.name.clone(), organization: organization?, login })
}

/// Takes a source that must be there.
fn required(setting: &mut Setting<Option<Source>>, findings: &mut Findings) -> Option<Source> {
    let source = setting.take();
    let (_, account, key) = parts(&setting.path);
    // A table whose name or syntax is wrong may hold it, or the directory that a variable does not name.
    let is_told = |fault: &Fault| match &fault.origin {
        _ if fault.suggests(key) && parts(&fault.path).1 == account => true,
        ValueOrigin::File { line, .. } => *line > 0 && matches!(setting.place, ValueOrigin::File { line: 0, .. }),
        ValueOrigin::Variable(name) => name == CREDENTIALS_DIR && account == "default",
        _ => false,
    };
    let (wrong, hint) = match &setting.place {
        _ if source.is_some() || setting.is_written() || findings.faults.iter().any(is_told) => return source,
        ValueOrigin::Variable(name) if account == "default" => {
            ("is not set", format!("set it, {name}_FILE or CAREPORTALS_CREDENTIALS_DIR, or write a settings file"))
        }
        ValueOrigin::Variable(name) => ("is not set", format!("set it or {name}__FILE")),
        _ => ("is missing", format!("write {key} = {{ file = \"…\" }} under [accounts.{account}]")),
    };
    findings.fault(setting, Diagnostic::new(wrong).hint(hint));
    source
}

fn api(entry: &mut ApiEntry, accounts: &[AccountEntry]) -> Option<Api> {
    let value = entry.require_header_value.take();
    let require_header = entry.require_header_name.take().map(|name| RequireHeader { name, value });
    let account = accounts.iter().position(|account| Some(&account.name) == entry.account.known())?;
    Api::of(AccountId(account), entry, require_header)
}
