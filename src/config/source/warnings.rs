//! Warns of settings that are right, and yet don't do what their user may think: rules that can never decide, protections that
//! are off.
//!
//! Pure.

use http::Method;

use super::{api::ApiEntry, faults::Diagnostic, setting::Findings, top_level::TopLevel};
use crate::{
    careportals::LOGIN_PATHS,
    config::{AllowedHosts, Hardening, Listen},
    origin::is_loopback,
    path::{LoginPaths, Rule},
};

/// Reports every such setting.
pub(super) fn find(top: &TopLevel, apis: &[ApiEntry], login_paths: &LoginPaths, findings: &mut Findings) {
    for api in apis {
        let wrong = "the rules are judged and counted, and NOT ENFORCED: whatever `allow` and `deny` say, requests pass";
        findings.warn(&api.observe, (api.observe.get() == Some(true)).then(|| Diagnostic::new(wrong)));
        rules(api, login_paths, findings);
        findings.warn(&api.allow, nothing_passes(api));
        findings.warn(&api.upstream, ends_in_login_path(api));
        findings.warn(&api.allowed_hosts, any_host(api));
        findings.warn(&api.socket_mode, open_socket(api));
    }
    if top.quitquitquit.get() == Some(true) && top.telemetry_listen.get() == Some(None) {
        let wrong = Diagnostic::new("has no effect, since `telemetry_listen` is off");
        findings.warn(&top.quitquitquit, wrong.hint("give `telemetry_listen` a loopback address"));
    }
    beyond_loopback(top, apis, findings);
}

fn nothing_passes(api: &ApiEntry) -> Option<Diagnostic> {
    let is_meant = api.observe.get() == Some(true) || !api.allow.set()?.is_empty();
    let wrong = "is empty: every request is refused";
    (!is_meant).then(|| Diagnostic::new(wrong).hint("name what passes, or leave it out: then all but log-in paths passes"))
}

fn ends_in_login_path(api: &ApiEntry) -> Option<Diagnostic> {
    let base = api.upstream.set()?.base_path.as_str();
    let path = LOGIN_PATHS.into_iter().filter(|path| base.ends_with(path)).max_by_key(|path| path.len())?;
    let wrong = format!("ends in {path}, which is a log-in path: requests, and the log-in too, go to paths below it");
    Some(Diagnostic::new(wrong).hint(format!("write it without {path}")))
}

fn rules(api: &ApiEntry, login_paths: &LoginPaths, findings: &mut Findings) {
    let base = api.upstream.set().map(|upstream| upstream.base_path.as_str()).unwrap_or_default();
    let allow = api.allow.set().map(Vec::as_slice).unwrap_or_default();
    let deny = api.deny.known().map(Vec::as_slice).unwrap_or_default();
    for (at, rule) in allow.iter().enumerate() {
        let other = swallowing(allow, at, Rule::allows_all_of).map(|other| format!("`{other}` lets all of it through already"));
        let denied =
            || deny.iter().find(|denying| denying.denies_all_of(rule)).map(|by| format!("`{by}` in `deny` refuses all of it"));
        let is_log_in = || rule.only_path().is_some_and(|path| login_paths.contains(&path));
        let wrong = beside(api, rule, base, rule.may_allow_under(base))
            .or_else(|| is_log_in().then(|| Diagnostic::new("log-in paths are refused whatever the rules say")))
            .or_else(|| denied().or(other).map(Diagnostic::new));
        findings.warn(&api.allow, wrong.map(|wrong| wrong.about(format!("`{rule}` has no effect"))));
    }
    for (at, rule) in deny.iter().enumerate() {
        let other = swallowing(deny, at, Rule::denies_all_of).map(|other| format!("`{other}` refuses all of it already"));
        let wrong = beside(api, rule, base, rule.may_deny_under(base)).or_else(|| other.map(Diagnostic::new));
        findings.warn(&api.deny, wrong.map(|wrong| wrong.about(format!("`{rule}` has no effect"))));
    }
}

/// Why no request can match the rule, if its method and the way to the upstream show that. `may_match`: whether it matches
/// anything below `base`.
fn beside(api: &ApiEntry, rule: &Rule, base: &str, may_match: bool) -> Option<Diagnostic> {
    if rule.method().is_some_and(|method| matches!(*method, Method::CONNECT | Method::TRACE)) {
        return Some(Diagnostic::new("CONNECT and TRACE are never served"));
    }
    let prefix = api.prefix.set().filter(|prefix| prefix.strip(&rule.path()).is_some() && prefix.strip(base).is_none());
    if let Some(prefix) = prefix {
        let wrong = format!("the prefix {} is cut off before rules are judged", prefix.as_str());
        return Some(Diagnostic::new(wrong).hint("write the path as upstream gets it, without the prefix"));
    }
    let wrong = || format!("the path that is judged begins with {base}, the path of `upstream`");
    (!may_match).then(|| Diagnostic::new(wrong()).hint(format!("write {base}{} if you mean that", rule.path())))
}

/// The rule that makes the one at `at` superfluous. Of two that are alike it is the first.
fn swallowing(rules: &[Rule], at: usize, covers: impl Fn(&Rule, &Rule) -> bool) -> Option<&Rule> {
    let rule = &rules[at];
    let swallows = |(other, by): &(usize, &Rule)| covers(by, rule) && (*other < at || !covers(rule, by));
    rules.iter().enumerate().find(swallows).map(|(_, by)| by)
}

fn any_host(api: &ApiEntry) -> Option<Diagnostic> {
    let listens = api.listen.known()?.iter().any(|listen| !matches!(listen, Listen::Unix(_)));
    let is_open = listens && matches!(api.allowed_hosts.known(), Some(AllowedHosts::Any));
    let wrong = "lets clients call by any name: a web page can then reach the sidecar by a name of its own (DNS rebinding)";
    is_open.then(|| Diagnostic::new(wrong).hint("name the hosts that clients use"))
}

fn open_socket(api: &ApiEntry) -> Option<Diagnostic> {
    let listens = api.listen.known()?.iter().any(|listen| matches!(listen, Listen::Unix(_)));
    let is_open = api.socket_mode.known()? & 0o002 != 0;
    let names_callers = !(api.allow_uids.known()?.is_empty() && api.allow_gids.known()?.is_empty());
    let wrong = "lets every user of this machine call with the account's token";
    (listens && is_open && !names_callers)
        .then(|| Diagnostic::new(wrong).hint("name callers in `allow_uids`, or use 0660 with `socket_group`"))
}

/// What is risky only where other machines reach it.
fn beyond_loopback(top: &TopLevel, apis: &[ApiEntry], findings: &mut Findings) {
    let is_open = |address: std::net::SocketAddr| !is_loopback(address.ip());
    let telemetry = top.telemetry_listen.get().flatten().is_some_and(is_open);
    if top.quitquitquit.get() == Some(true) && telemetry {
        let wrong = "is on, and `telemetry_listen` is reachable from other machines";
        findings.warn(&top.quitquitquit, Diagnostic::new(wrong).hint("let `telemetry_listen` be a loopback address"));
    }
    let listens = apis.iter().any(|api| api.addresses().any(is_open));
    if top.hardening.get() == Some(Hardening::Off) && (telemetry || listens) {
        let wrong = "is off, and the daemon is reachable from other machines";
        findings.warn(&top.hardening, Diagnostic::new(wrong).hint("leave it at \"auto\""));
    }
}
