//! Finds faults that only several values together show.
//!
//! Pure. It judges whatever could be read, so that one broken value does not hide the next fault.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    account::AccountEntry,
    api::ApiEntry,
    faults::{Diagnostic, printable, shown},
    login::Choice,
    setting::{Findings, Setting, parts},
    tables::Written,
    top_level::TopLevel,
    url::Address,
};
use crate::{
    config::{AllowedHosts, BaseUrl, Endpoint, Listen, Origin, Scheme},
    origin::is_loopback,
};

/// Reports every fault and warning. `choices`: one for each account.
pub(super) fn check(written: &Written, choices: &[Choice], findings: &mut Findings) {
    let Written { top, accounts, apis } = written;
    // What is no table, or has a wrong name, may be the account or name it.
    let is_group = |path: &str| path.split('.').count() < 3 && ["account", "api"].iter().any(|group| path.starts_with(group));
    let is_hidden = findings.faults.iter().any(|fault| is_group(&fault.path));
    for api in apis {
        findings.fault(&api.account, account(api, accounts).filter(|_| !is_hidden));
        listen(api, findings);
        findings.warn(&api.allow_gids, callers(api));
        upstream(api, top, apis, findings);
        beside(&api.require_header_value, &api.require_header_name, findings);
    }
    for (index, api) in apis.iter().enumerate() {
        for other in &apis[..index] {
            sharing(api, other, findings);
        }
    }
    telemetry(top, apis, findings);
    for (account, choice) in accounts.iter().zip(choices) {
        log_in(account, choice, top, apis, findings);
    }
    if top.ca_file.set().is_some() && top.ca_only_file.set().is_some() {
        let wrong = Diagnostic::new("contradicts `ca_file`, which adds to the system's roots").hint("unset one of the two");
        findings.fault(&top.ca_only_file, wrong);
    }
    beside(&top.tls_cert_file, &top.tls_key_file, findings);
    beside(&top.tls_key_file, &top.tls_cert_file, findings);
}

fn account(api: &ApiEntry, accounts: &[AccountEntry]) -> Option<Diagnostic> {
    let name = api.account.known().filter(|name| accounts.iter().all(|account| account.name != **name))?;
    let wrong = Diagnostic::new(format!("there is no account {}", shown(name)));
    Some(match accounts {
        [only] => wrong.hint(format!("write account = \"{}\"", only.name)),
        _ => wrong.did_you_mean(name, accounts.iter().map(|account| account.name.as_str())),
    })
}

fn listen(api: &ApiEntry, findings: &mut Findings) {
    let addresses: Vec<SocketAddr> = api.addresses().collect();
    let overlap = addresses.iter().enumerate().find_map(|(index, own)| {
        let theirs = addresses[..index].iter().find(|theirs| *theirs != own && collide(*own, **theirs))?;
        Some(Diagnostic::new(format!("{own} overlaps {theirs}")).hint("name one of the two"))
    });
    findings.fault(&api.listen, overlap);
    let open: Vec<SocketAddr> = api.addresses().filter(|address| !is_loopback(address.ip())).collect();
    if api.allow_non_loopback.get() == Some(false) {
        for address in &open {
            let wrong = Diagnostic::new(format!("{address} is not a loopback address: whoever reaches it can use the token"));
            let hint = "listen on 127.0.0.1 or a Unix socket, or set `allow_non_loopback = true`";
            findings.fault(&api.listen, wrong.hint(hint));
        }
    } else if !open.is_empty() && matches!(api.allowed_hosts.known(), Some(AllowedHosts::Names(names)) if names.is_empty()) {
        let wrong = "listens beyond loopback without `allowed_hosts`: only callers that name a loopback host will be served";
        findings.warn(&api.listen, Diagnostic::new(wrong).hint("name the hosts that clients use in `allowed_hosts`"));
    }
}

/// Warns of groups that let nobody in: they are known only on Unix sockets.
fn callers(api: &ApiEntry) -> Option<Diagnostic> {
    let [uids, gids] = [&api.allow_uids, &api.allow_gids].map(|ids| ids.known().is_some_and(|ids| !ids.is_empty()));
    let wrong = "lets nobody in over TCP: there only the caller's user can be known, and not its groups";
    let hint = "name users in `allow_uids`, or listen on a Unix socket alone";
    (gids && !uids && api.addresses().next().is_some()).then(|| Diagnostic::new(wrong).hint(hint))
}

fn upstream(api: &ApiEntry, top: &TopLevel, apis: &[ApiEntry], findings: &mut Findings) {
    let setting = &api.upstream;
    let Some(BaseUrl { origin, .. }) = setting.set() else { return };
    if origin.scheme == Scheme::Http && !origin.is_loopback() {
        findings.fault(setting, Diagnostic::new("plain http would show the token to the network").hint("use https"));
    } else if origin.scheme == Scheme::Http && api.allow_insecure_upstream.get() == Some(false) {
        let hint = "write https:// if that server speaks TLS; if it does not, set `allow_insecure_upstream = true`";
        findings.fault(setting, Diagnostic::new("plain http is refused").hint(hint));
    }
    let wrong = |own| Diagnostic::new(format!("is our own address {own}: requests would go round in a circle"));
    findings.fault(setting, own_address(origin, top, apis).map(wrong));
}

/// The sidecar's own address that an origin leads to, as far as names and numbers tell.
fn own_address(origin: &Origin, top: &TopLevel, apis: &[ApiEntry]) -> Option<SocketAddr> {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    // Connecting to the unspecified address reaches this machine.
    let reached = match origin.host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(address) if address.is_unspecified() => vec![loopback[usize::from(address.is_ipv6())]],
        Ok(address) => vec![address],
        Err(_) if origin.host == "localhost" => loopback.to_vec(),
        Err(_) => Vec::new(),
    };
    // Our sockets of IPv6 serve that family alone.
    let is_met = |ours: IpAddr, theirs: &IpAddr| {
        ours == *theirs || (ours.is_unspecified() && theirs.is_loopback() && ours.is_ipv4() == theirs.is_ipv4())
    };
    let is_ours = |ours: &SocketAddr| {
        ours.port() != 0 && ours.port() == origin.port && reached.iter().any(|theirs| is_met(ours.ip(), theirs))
    };
    apis.iter().flat_map(ApiEntry::addresses).chain(top.telemetry_listen.get().flatten()).find(is_ours)
}

fn sharing(api: &ApiEntry, other: &ApiEntry, findings: &mut Findings) {
    let (setting, theirs) = (&api.listen, other.listen.known());
    let is_shared = |own: &&Listen| match own {
        Listen::Tcp { address, .. } if address.port() == 0 => false,
        // A socket's name from systemd says which API it is for, and it is known only at start.
        Listen::Systemd => false,
        own => theirs.is_some_and(|theirs| theirs.contains(own)),
    };
    if let Some(shared) = setting.known().into_iter().flatten().find(is_shared) {
        let why = match (api.prefix.known(), other.prefix.known()) {
            (Some(Some(own)), Some(Some(theirs))) if own == theirs => Some(format!("and both have the prefix {}", own.as_str())),
            (Some(Some(_)) | None, Some(Some(_)) | None) => None,
            _ => Some("and each then needs a prefix of its own".to_owned()),
        };
        let wrong = why.map(|why| Diagnostic::new(format!("shares {shared} with API {}, {why}", shown(&other.name))));
        findings.fault(setting, wrong.map(|wrong| wrong.hint("give each API its own prefix, or its own address")));
        if matches!(shared, Listen::Unix(_)) {
            shared_file(api, other, findings);
        }
    }
    let overlap = |own| other.addresses().find(|theirs| *theirs != own && collide(own, *theirs)).map(|theirs| (own, theirs));
    if let Some((own, theirs)) = api.addresses().find_map(overlap) {
        findings.fault(setting, Diagnostic::new(format!("{own} overlaps {theirs} of API {}", shown(&other.name))));
    }
}

/// Reports different modes and groups of APIs that share a Unix socket, whose file has one of each.
fn shared_file(api: &ApiEntry, other: &ApiEntry, findings: &mut Findings) {
    let wrong = Diagnostic::new(format!("is not that of API {}, with which it shares a Unix socket", shown(&other.name)));
    let wrong = wrong.hint("give both the same");
    findings.fault(&api.socket_mode, differ(&api.socket_mode, &other.socket_mode).then(|| wrong.clone()));
    findings.fault(&api.socket_group, differ(&api.socket_group, &other.socket_group).then_some(wrong));
}

/// Whether both are right, and not alike.
fn differ<T: PartialEq>(own: &Setting<T>, theirs: &Setting<T>) -> bool {
    own.known().zip(theirs.known()).is_some_and(|(own, theirs)| own != theirs)
}

/// Whether the two are the same, or one is every address of its family, which includes the other.
fn collide(left: SocketAddr, right: SocketAddr) -> bool {
    let family = left.is_ipv4() == right.is_ipv4();
    let port = left.port() == right.port() && left.port() != 0;
    family && port && (left == right || left.ip().is_unspecified() || right.ip().is_unspecified())
}

fn telemetry(top: &TopLevel, apis: &[ApiEntry], findings: &mut Findings) {
    let setting = &top.telemetry_listen;
    let Some(telemetry) = setting.get().flatten() else { return };
    if let Some(api) = apis.iter().find(|api| api.addresses().any(|own| collide(own, telemetry))) {
        let wrong = Diagnostic::new(format!("the telemetry address {telemetry} is also where API {} listens", shown(&api.name)));
        let wrong = wrong.hint("choose another port for one of the two");
        if setting.is_written() { findings.fault(setting, wrong) } else { findings.fault(&api.listen, wrong) }
    }
}

fn log_in(account: &AccountEntry, choice: &Choice, top: &TopLevel, apis: &[ApiEntry], findings: &mut Findings) {
    findings.fault(&account.login_extra, twice_in_login(account));
    one_field_for_both(account, findings);
    let (login, refresh) = (&account.login_url, &account.refresh_url);
    if *choice == Choice::Off && refresh.is_written() {
        findings.warn(refresh, Diagnostic::new("has no effect, since log-in is off"));
    }
    for setting in [login, refresh] {
        // A fault names an own address as upstream already, and a path follows from it.
        let Some(Address::Absolute(Endpoint { origin, .. })) = setting.set() else { continue };
        let wrong = |own| Diagnostic::new(format!("is our own address {own}, which refuses log-in paths"));
        findings.fault(setting, own_address(origin, top, apis).map(wrong));
    }
    if !matches!(choice, Choice::At(_)) {
        return;
    }
    let known = apis.iter().all(|api| api.account.known().is_some());
    if known && !apis.iter().any(|api| api.account.known() == Some(&account.name)) {
        findings.warn(login, Diagnostic::new("no API uses this account"));
    }
}

/// The fault of a log-in whose body would have a member twice, which servers read in different ways.
fn twice_in_login(account: &AccountEntry) -> Option<Diagnostic> {
    let (username, password) = (account.login_fields_username.known()?, account.login_fields_password.known()?);
    let extra = account.login_extra.known()?;
    let taken = [("username", username), ("password", password)].into_iter().find(|(_, field)| extra.contains_key(*field))?;
    // Not in backticks: those name keys, also where the user writes variables.
    let wrong = Diagnostic::new(format!("has \"{}\", which is the field of the {}", printable(taken.1), taken.0));
    Some(wrong.hint(format!("leave it out: `login_fields.{}` names that field, and its value is the account's", taken.0)))
}

/// Reports one field for user name and password, which would be in the body twice.
fn one_field_for_both(account: &AccountEntry, findings: &mut Findings) {
    let (username, password) = (&account.login_fields_username, &account.login_fields_password);
    if username.known().is_none() || username.known() != password.known() {
        return;
    }
    let (setting, other) = if password.is_written() { (password, "user name") } else { (username, "password") };
    let wrong = Diagnostic::new(format!("is the field of the {other}, too: the log-in's body would have it twice"));
    findings.fault(setting, wrong.hint("give user name and password a field each"));
}

/// Reports a setting that stands without another that it needs.
fn beside<T, U>(setting: &Setting<T>, needed: &Setting<U>, findings: &mut Findings) {
    let wrong = || Diagnostic::new(format!("needs `{}` beside it", parts(&needed.path).2));
    findings.fault(setting, (setting.is_written() && setting.known().is_some() && !needed.is_written()).then(wrong));
}
