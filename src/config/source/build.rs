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
    relations,
    setting::{Findings, Setting},
    tables::Written,
    warnings,
};
use crate::{
    careportals::{LOGIN_PATHS, Preset},
    config::{Account, AccountId, Api, Config, Endpoint, Login, Reloadable, RequireHeader, RestartOnly, Source, Tls},
    path::LoginPaths,
};

/// Gives each API without an `upstream` that of its preset.
pub(super) fn derive_upstreams(merged: &mut Merged, apis: &[String]) {
    for api in apis {
        let preset = match merged.get(&format!("apis.{api}.preset")) {
            Some((name, _)) => name.as_str().and_then(Preset::from_name),
            None => Some(Preset::default()),
        };
        if let Some(preset) = preset {
            merged.derive(format!("apis.{api}.upstream"), Value::from(preset.upstream()));
        }
    }
}

/// The configuration, unless something is wrong.
pub(super) fn config(written: Written, environment: &Environment, findings: &mut Findings) -> Option<Config> {
    let Written { accounts, apis, .. } = &written;
    let exists = |name: &String| accounts.iter().any(|account| account.name == *name);
    let is_known = apis.iter().all(|api| api.table.account.known().is_some_and(exists));
    let choices: Vec<Choice> = accounts.iter().map(|account| login::choose(account, apis, is_known, findings)).collect();
    let refreshes: Vec<Option<Endpoint>> = accounts.iter().map(|account| login::refresh(account, apis, findings)).collect();
    relations::check(&written, &choices, findings);
    let Written { top, mut accounts, mut apis } = written;
    let egress = egress::read(environment, findings);
    let login_paths = login_paths(&apis, &choices, &refreshes);
    warnings::find(&top, &apis, &login_paths, findings);

    // Build all of them before any `?`, so that every fault is reported.
    let mut built: Vec<Option<Account>> = Vec::new();
    for ((entry, choice), refresh) in accounts.iter_mut().zip(choices).zip(refreshes) {
        if choice == Choice::Unknown && login::is_certain(entry, &apis) {
            required(&entry.name, "username", &mut entry.table.username, findings);
            required(&entry.name, "password", &mut entry.table.password, findings);
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
        tls: Tls::of(&top)?,
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
    let bases = apis.iter().filter_map(|api| api.table.upstream.set()).map(|upstream| upstream.base_path.as_str()).chain([""]);
    let known = bases.flat_map(|base| LOGIN_PATHS.iter().map(move |path| format!("{base}{path}")));
    LoginPaths::new(known.chain(chosen))
}

fn account(entry: &mut AccountEntry, choice: Choice, refresh_url: Option<Endpoint>, findings: &mut Findings) -> Option<Account> {
    let AccountEntry { name, table, .. } = entry;
    let organization = required(name, "organization", &mut table.organization, findings);
    let login = match choice {
        Choice::Off => None,
        Choice::Unknown => return None,
        Choice::At(url) => {
            let username = required(name, "username", &mut table.username, findings);
            let password = required(name, "password", &mut table.password, findings);
            Some(Login::of(table, url, refresh_url, username?, password?)?)
        }
    };
    Some(Account { name: name.clone(), organization: organization?, login })
}

/// Takes a source that must be there.
fn required(account: &str, key: &str, setting: &mut Setting<Option<Source>>, findings: &mut Findings) -> Option<Source> {
    let source = setting.take();
    // A table whose name or syntax is wrong may hold it.
    let is_told = |fault: &Fault| matches!(fault.origin, ValueOrigin::File { line: 1.., .. });
    let (wrong, hint) = match &setting.place {
        _ if source.is_some() || setting.is_written() => return source,
        ValueOrigin::File { line: 0, .. } if findings.faults.iter().any(is_told) => return source,
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
    let table = &mut entry.table;
    let value = table.require_header_value.take();
    let require_header = table.require_header_name.take().map(|name| RequireHeader { name, value });
    let account = accounts.iter().position(|account| Some(&account.name) == table.account.known())?;
    Api::of(entry.name.clone(), AccountId(account), table, require_header)
}
