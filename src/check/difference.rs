//! Runs `check --diff`: what a change of rules makes reachable or unreachable.

use std::io::{self, Write};

use crate::{
    config::{Api, Config},
    path::{LoginPaths, RuleSet},
};

/// How many lines of one kind an API may have.
const MAX_LINES: usize = 200;

/// Writes to `out` what the settings `new` let through and `old` did not (`+`), and the reverse (`-`), API by API.
///
/// # Errors
///
/// `out` can't be written to.
pub fn difference(old: &Config, new: &Config, out: &mut dyn Write) -> io::Result<()> {
    let position = |config: &Config, name: &str| config.apis.iter().position(|api| api.name == name);
    let mut names: Vec<&str> = new.apis.iter().map(|api| api.name.as_str()).collect();
    names.extend(old.apis.iter().map(|api| api.name.as_str()).filter(|name| position(new, name).is_none()));
    let mut lines = Vec::new();
    for name in names {
        let [before, after] = [old, new].map(|config| position(config, name).map(|api| &config.apis[api]));
        let lost = of_one("-", before, after, &old.login_paths);
        let won = of_one("+", after, before, &new.login_paths);
        let notes = notes(before, after);
        if !(lost.is_empty() && won.is_empty() && notes.is_empty()) {
            lines.push(format!("# API {name}"));
            lines.extend(notes.into_iter().chain(won).chain(lost));
        }
    }
    if lines.is_empty() {
        lines.push("# no request becomes reachable or unreachable".to_owned());
    }
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// What `one` lets through and `other` does not.
fn of_one(sign: &str, one: Option<&Api>, other: Option<&Api>, login_paths: &LoginPaths) -> Vec<String> {
    let Some(one) = one else { return Vec::new() };
    let nothing = RuleSet { allow: Some(&[]), deny: &[] };
    let of = |api: &'_ Api| (api.upstream.base_path.clone(), api.allow.clone(), api.deny.clone());
    let (base, allow, deny) = of(one);
    let (other_base, other_allow, other_deny) = other.map(of).unwrap_or_default();
    let set = RuleSet { allow: allow.as_deref(), deny: &deny };
    let other = if other.is_some() { RuleSet { allow: other_allow.as_deref(), deny: &other_deny } } else { nothing };
    let found = set.beyond(&base, &other, &other_base);
    let reachable = found.methods_by_path.iter().filter(|(path, _)| !login_paths.contains(path));
    let all: Vec<String> =
        reachable.flat_map(|(path, methods)| methods.iter().map(move |method| format!("{sign} {method} {path}"))).collect();
    let mut lines: Vec<String> = all.iter().take(MAX_LINES).cloned().collect();
    if all.len() > MAX_LINES || !found.is_complete {
        lines.push(format!("# {sign} and more: not everything is listed"));
    }
    lines
}

/// What the lists can't show.
fn notes(before: Option<&Api>, after: Option<&Api>) -> Vec<String> {
    let mut notes = Vec::new();
    let has_rules = |api: &Api| api.allow.is_some() || !api.deny.is_empty();
    if let (Some(before), Some(after)) = (before, after) {
        match (has_rules(before), has_rules(after)) {
            (false, true) => notes.push("# paths that are not canonical become unreachable".to_owned()),
            (true, false) => notes.push("# paths that are not canonical become reachable".to_owned()),
            _ => {}
        }
        if before.upstream != after.upstream {
            notes.push(format!("# upstream was {} and is {}: what is compared is below it", before.upstream, after.upstream));
        }
    }
    for (api, which) in [(before, "old"), (after, "new")] {
        if api.is_some_and(|api| api.observe) {
            notes.push(format!("# the {which} rules are observed and not enforced (observe = true)"));
        }
    }
    notes
}
