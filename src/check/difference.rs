//! Runs `check --diff`: what a change of rules makes reachable or unreachable.

use std::io::{self, Write};

use crate::{
    config::{Api, Config},
    path::{LoginPaths, Prefix, RuleSet},
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
    if old.login_paths != new.login_paths {
        lines.push("# the paths that log-ins use have changed: those of now are refused, whatever the rules say".to_owned());
    }
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
    let all = reachable.flat_map(|(path, methods)| methods.iter().map(move |method| format!("{sign} {method} {path}")));
    cut(sign, all.collect(), found.is_complete)
}

/// The lines of one kind, as many as an API may have; and that there are more, if so.
fn cut(sign: &str, mut lines: Vec<String>, is_complete: bool) -> Vec<String> {
    let is_cut = lines.len() > MAX_LINES || !is_complete;
    lines.truncate(MAX_LINES);
    if is_cut {
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
        if before.prefix != after.prefix {
            let shown = |api: &Api| api.prefix.as_ref().map_or("none", Prefix::as_str).to_owned();
            notes.push(format!("# prefix was {} and is {}: what is compared is behind it", shown(before), shown(after)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture::settings;

    fn lines(old: &str, new: &str) -> Vec<String> {
        let mut out = Vec::new();
        difference(&settings(old).config.unwrap(), &settings(new).config.unwrap(), &mut out).unwrap();
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn an_api_that_comes_or_goes_is_listed_under_its_name_and_one_that_stays_is_not() {
        let api = |name: &str, port: u16| {
            format!(
                "[apis.{name}]\nupstream = \"https://api.example\"\nlisten = [\"127.0.0.1:{port}\"]\nallow = [\"GET /{name}\"]\n"
            )
        };
        let (one, two) = (api("a", 1), api("b", 2));
        let both = format!("{one}{two}");
        assert_eq!(lines(&one, &both), ["# API b", "+ GET /b"]);
        assert_eq!(lines(&both, &one), ["# API b", "- GET /b"]);
        assert_eq!(lines(&one, &two), ["# API b", "+ GET /b", "# API a", "- GET /a"]);
    }

    #[test]
    fn what_lists_can_not_show_is_noted() {
        let api = |more: &str| format!("[apis.default]\n{more}\n");
        let of_root = |more: &str| api(&format!("upstream = \"https://api.example\"\n{more}"));
        let (ruled, denying, open) = (of_root("allow = [\"GET /a\"]"), of_root("deny = [\"GET /a\"]"), of_root(""));
        let becomes = |old: &str, new: &str| lines(old, new).into_iter().find(|line| line.contains("canonical"));
        let (reachable, not) =
            ("# paths that are not canonical become reachable", "# paths that are not canonical become unreachable");
        assert_eq!(becomes(&ruled, &open).as_deref(), Some(reachable));
        assert_eq!(becomes(&denying, &open).as_deref(), Some(reachable));
        assert_eq!(becomes(&open, &denying).as_deref(), Some(not));
        assert_eq!(becomes(&open, &ruled).as_deref(), Some(not));
        assert_eq!(becomes(&ruled, &denying), None);
        let to = |path: &str| api(&format!("upstream = \"https://api.example{path}\"\nallow = [\"GET {path}/a\"]"));
        let moved = lines(&to("/v1"), &to("/v2"));
        assert!(
            moved.iter().any(|line| line.starts_with("# upstream was https://api.example/v1 and is https://api.example/v2: ")),
            "{moved:?}"
        );
        let observed = of_root("allow = [\"GET /a\"]\nobserve = true");
        let note = |which: &str| format!("# the {which} rules are observed and not enforced (observe = true)");
        assert_eq!(lines(&observed, &ruled), ["# API default".to_owned(), note("old")]);
        assert_eq!(lines(&ruled, &observed), ["# API default".to_owned(), note("new")]);
        let prefixed = of_root("allow = [\"GET /a\"]\nprefix = \"/p\"");
        assert_eq!(lines(&ruled, &prefixed)[1], "# prefix was none and is /p: what is compared is behind it");
        let based = |base: &str| api(&format!("upstream = \"https://api.example{base}\"\n"));
        let refuses = "# the paths that log-ins use have changed: those of now are refused, whatever the rules say";
        assert_eq!(lines(&based("/v1"), &based("/v2"))[0], refuses);
        assert_eq!(lines(&ruled, &ruled), ["# no request becomes reachable or unreachable"]);
    }

    #[test]
    fn more_than_two_hundred_lines_of_one_kind_are_cut_and_that_is_said() {
        for (lines, is_complete, left, is_told) in [
            (MAX_LINES, true, MAX_LINES, false),
            (MAX_LINES + 1, true, MAX_LINES, true),
            (MAX_LINES, false, MAX_LINES, true),
            (0, false, 0, true),
            (0, true, 0, false),
        ] {
            let mut shown = cut("+", vec!["+ GET /a".to_owned(); lines], is_complete);
            let told = shown.pop_if(|last| last == "# + and more: not everything is listed");
            assert_eq!((shown.len(), told.is_some()), (left, is_told), "{lines} {is_complete}");
        }
    }
}
