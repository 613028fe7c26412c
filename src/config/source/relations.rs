//! What several values together can get wrong.
//!
//! Pure. Judged on as much as could be read, so that one broken value does not hide the next fault.

use std::net::{IpAddr, SocketAddr};

use super::{
    faults::Diagnostic,
    login::Choice,
    partial_api::{PartialApi, no_hosts},
    reading::Values,
};
use crate::config::{Listen, Origin, Scheme};

/// Names every fault and warning.
pub(super) fn check(values: &mut Values<'_>, drafts: &[PartialApi], choices: &[Choice]) {
    for api in drafts {
        account(values, api);
        listen(values, api);
        callers(values, api);
        upstream(values, api, drafts);
        required_header(values, api);
    }
    for (at, api) in drafts.iter().enumerate() {
        for other in &drafts[..at] {
            sharing(values, api, other);
        }
    }
    telemetry(values, drafts);
    for (account, choice) in values.accounts.clone().iter().zip(choices) {
        log_in(values, account, choice, drafts);
    }
    pairs(values);
}

fn account(values: &mut Values<'_>, api: &PartialApi) {
    let Some(name) = &api.account else { return };
    let accounts = values.accounts.clone();
    if !accounts.contains(name) {
        let path = format!("apis.{}.account", api.name);
        let wrong = Diagnostic::new(format!("there is no account {}", super::faults::shown(name)));
        let wrong = match accounts.as_slice() {
            [only] => wrong.hint(format!("write account = \"{only}\"")),
            _ => wrong.did_you_mean(name, accounts.iter().map(String::as_str)),
        };
        values.fault(&path, wrong);
    }
}

fn listen(values: &mut Values<'_>, api: &PartialApi) {
    let path = format!("apis.{}.listen", api.name);
    let open: Vec<SocketAddr> = addresses(api).filter(|address| !address.ip().to_canonical().is_loopback()).collect();
    let allowed = values.switch(&format!("apis.{}.allow_non_loopback", api.name)).unwrap_or(true);
    for address in &open {
        if !allowed {
            let wrong = Diagnostic::new(format!("{address} is not a loopback address: whoever reaches it can use the token"));
            values.fault(&path, wrong.hint("listen on 127.0.0.1 or a Unix socket, or set allow_non_loopback"));
        }
    }
    if allowed && !open.is_empty() && no_hosts(values, &api.name) {
        let wrong = Diagnostic::new(
            "listens beyond loopback without `allowed_hosts`: only callers that name a loopback host will be served",
        );
        values.warn(&path, wrong.hint("name the hosts that clients use in allowed_hosts"));
    }
}

/// Groups are known on Unix sockets alone.
fn callers(values: &mut Values<'_>, api: &PartialApi) {
    let path = |key: &str| format!("apis.{}.{key}", api.name);
    let has = |values: &mut Values<'_>, key: &str| values.ids(&path(key)).is_some_and(|ids| !ids.is_empty());
    if has(values, "allow_gids") && !has(values, "allow_uids") && addresses(api).next().is_some() {
        let wrong = Diagnostic::new("lets nobody in over TCP: there only the caller's user can be known, and not its groups");
        values.warn(&path("allow_gids"), wrong.hint("name users in allow_uids, or listen on a Unix socket alone"));
    }
}

fn upstream(values: &mut Values<'_>, api: &PartialApi, drafts: &[PartialApi]) {
    let Some(upstream) = &api.upstream else { return };
    let path = format!("apis.{}.upstream", api.name);
    if upstream.origin.scheme == Scheme::Http {
        if !upstream.origin.is_loopback() {
            values.fault(&path, Diagnostic::new("plain http would show the token to the network").hint("use https"));
        } else if values.switch(&format!("apis.{}.allow_insecure_upstream", api.name)) == Some(false) {
            values.fault(
                &path,
                Diagnostic::new("plain http is refused").hint("for a loopback upstream, set allow_insecure_upstream = true"),
            );
        }
    }
    if let Some(own) = own_address(values, &upstream.origin, drafts) {
        values.fault(&path, Diagnostic::new(format!("is our own address {own}: requests would go round in a circle")));
    }
}

/// The address of ours that an origin leads to, as far as names and numbers tell.
fn own_address(values: &Values<'_>, origin: &Origin, drafts: &[PartialApi]) -> Option<SocketAddr> {
    let telemetry = values.socket("telemetry_listen").flatten();
    let is_ours = |ours: &SocketAddr| {
        let port = ours.port() != 0 && ours.port() == origin.port;
        let (ours, any) = (ours.ip().to_canonical(), ours.ip().is_unspecified());
        let host = match origin.host.parse::<IpAddr>().map(|address| address.to_canonical()) {
            // Connecting to the unspecified address reaches this machine.
            Ok(theirs) => {
                theirs == ours || (any && theirs.is_loopback()) || (theirs.is_unspecified() && (any || ours.is_loopback()))
            }
            Err(_) => origin.host == "localhost" && (any || ours.is_loopback()),
        };
        port && host
    };
    drafts.iter().flat_map(addresses).chain(telemetry).find(is_ours)
}

fn addresses(api: &PartialApi) -> impl Iterator<Item = SocketAddr> {
    api.listen.iter().filter_map(|place| if let Listen::Tcp { address, .. } = place { Some(*address) } else { None })
}

fn sharing(values: &mut Values<'_>, api: &PartialApi, other: &PartialApi) {
    let path = format!("apis.{}.listen", api.name);
    let same = |left: &Listen, right: &Listen| match (left, right) {
        (Listen::Tcp { address: left, .. }, Listen::Tcp { address: right, .. }) => left == right && left.port() != 0,
        // Which API a socket from systemd is for, its name says, and that is known only at start.
        (Listen::Systemd, Listen::Systemd) => false,
        (left, right) => left == right,
    };
    if let Some(place) = api.listen.iter().find(|place| other.listen.iter().any(|theirs| same(place, theirs))) {
        let keyed = match (&api.prefix, &other.prefix) {
            (Some(own), Some(theirs)) if own != theirs => None,
            (Some(own), Some(_)) => Some(format!("and both have the prefix {}", own.as_str())),
            _ => Some("and each then needs a prefix of its own".to_owned()),
        };
        if let Some(why) = keyed {
            let wrong = Diagnostic::new(format!("shares {place} with API `{}`, {why}", other.name));
            values.fault(&path, wrong.hint("give each API its own prefix, or its own address"));
        }
        if matches!(place, Listen::Unix(_)) {
            shared_file(values, api, other);
        }
    }
    let overlap =
        addresses(api).find_map(|own| addresses(other).find(|theirs| overlaps(own, *theirs)).map(|theirs| (own, theirs)));
    if let Some((own, theirs)) = overlap {
        values.fault(&path, Diagnostic::new(format!("{own} overlaps {theirs} of API `{}`", other.name)));
    }
}

/// A Unix socket's file has one mode and one group.
fn shared_file(values: &mut Values<'_>, api: &PartialApi, other: &PartialApi) {
    let at = |name: &str, key: &str| format!("apis.{name}.{key}");
    let mode = |values: &Values<'_>, name: &str| values.number(&at(name, "socket_mode"));
    let group = |values: &Values<'_>, name: &str| values.text(&at(name, "socket_group"));
    let differing = [
        ("socket_mode", mode(values, &api.name) != mode(values, &other.name)),
        ("socket_group", group(values, &api.name) != group(values, &other.name)),
    ];
    for (key, _) in differing.into_iter().filter(|(_, differs)| *differs) {
        let wrong = Diagnostic::new(format!("is not that of API `{}`, with which it shares a Unix socket", other.name));
        values.fault(&at(&api.name, key), wrong.hint("give both the same"));
    }
}

/// One of the two is every address of its family, the other's included.
fn overlaps(left: SocketAddr, right: SocketAddr) -> bool {
    let family = left.is_ipv4() == right.is_ipv4();
    let port = left.port() == right.port() && left.port() != 0;
    family && port && left != right && (left.ip().is_unspecified() || right.ip().is_unspecified())
}

fn telemetry(values: &mut Values<'_>, drafts: &[PartialApi]) {
    let Some(telemetry) = values.socket("telemetry_listen").flatten() else { return };
    let clashes = |own: &SocketAddr| overlaps(*own, telemetry) || (*own == telemetry && own.port() != 0);
    if let Some(api) = drafts.iter().find(|api| addresses(api).any(|own| clashes(&own))) {
        let path = if values.is_written("telemetry_listen") {
            "telemetry_listen".to_owned()
        } else {
            format!("apis.{}.listen", api.name)
        };
        let wrong = Diagnostic::new(format!("the telemetry address {telemetry} is also where API `{}` listens", api.name));
        values.fault(&path, wrong.hint("choose another port for one of the two"));
    }
}

fn log_in(values: &mut Values<'_>, account: &str, choice: &Choice, drafts: &[PartialApi]) {
    let path = format!("accounts.{account}.login_url");
    let known = drafts.iter().all(|api| api.account.is_some());
    let used = drafts.iter().any(|api| api.account.as_deref() == Some(account));
    match choice {
        Choice::At(endpoint) => {
            if let Some(own) = own_address(values, &endpoint.origin, drafts) {
                // An upstream that is ours was named already; its log-in path follows from it.
                if values.is_written(&path) {
                    values.fault(&path, Diagnostic::new(format!("is our own address {own}, which refuses log-in paths")));
                }
            }
            if known && !used {
                values.warn(&format!("accounts.{account}"), Diagnostic::new("no API uses this account"));
            }
        }
        Choice::Off => {
            let refresh = format!("accounts.{account}.refresh_url");
            if values.is_written(&refresh) {
                values.warn(&refresh, Diagnostic::new("has no effect, since log-in is off"));
            }
        }
        Choice::Unknown => {}
    }
}

fn required_header(values: &mut Values<'_>, api: &PartialApi) {
    let [name, value] = ["name", "value"].map(|key| format!("apis.{}.require_header.{key}", api.name));
    if values.is_written(&value) && !values.is_written(&name) {
        values.fault(&value, Diagnostic::new("needs `require_header.name` beside it"));
    }
}

fn pairs(values: &mut Values<'_>) {
    if values.is_written("ca_file") && values.is_written("ca_only_file") {
        values.fault(
            "ca_only_file",
            Diagnostic::new("contradicts `ca_file`, which adds to the system's roots").hint("unset one of the two"),
        );
    }
    for (present, absent) in [("tls_cert_file", "tls_key_file"), ("tls_key_file", "tls_cert_file")] {
        if values.is_written(present) && !values.is_written(absent) {
            values.fault(present, Diagnostic::new(format!("needs `{absent}` beside it")));
        }
    }
}
