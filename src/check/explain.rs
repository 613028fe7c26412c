//! Runs `check --explain`: what becomes of one request, by the gates and the routing of the running proxy.
//!
//! It knows method and target alone. Guarantees: what it says of them is what a daemon with these settings does.

use std::{
    fmt,
    io::{self, Write},
};

use http::{Method, Uri};

use crate::{
    config::{Api, Config, Listen, source::Loaded},
    path::Rule,
    proxy::{Entry, Explanation, Gate, ProxyError, Refusal, choose},
};

/// Why a request can't be explained.
#[derive(Debug, PartialEq, Eq)]
pub enum ExplainError {
    /// The text is not a method and a target.
    NoRequest,
    /// No API has this name.
    NoApi(String),
}

impl fmt::Display for ExplainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRequest => f.write_str("write the request as a method and a target, like 'GET /customers/1?x=1'"),
            Self::NoApi(name) => write!(f, "there is no API {name:?}"),
        }
    }
}

/// Writes to `out` what becomes of `request` (`METHOD /target`) at each address, or at those of the API `only`. Returns
/// whether it passes at each of them.
///
/// # Errors
///
/// `out` can't be written to; the inner error: there is nothing to explain.
pub fn explain(
    config: &Config,
    loaded: &Loaded,
    request: &str,
    only: Option<&str>,
    out: &mut dyn Write,
) -> io::Result<Result<bool, ExplainError>> {
    let Some((method, target)) = request.split_once(' ') else { return Ok(Err(ExplainError::NoRequest)) };
    let asked = |apis: &[usize]| only.is_none_or(|name| apis.iter().any(|api| config.apis[*api].name == name));
    let listeners: Vec<_> = listeners(config).into_iter().filter(|(_, apis)| asked(apis)).collect();
    if listeners.is_empty() {
        return Ok(Err(ExplainError::NoApi(only.unwrap_or_default().to_owned())));
    }
    // The parser of the running proxy makes the same of both. It also refuses DEL, which the type of a target takes.
    let parsed = (Method::from_bytes(method.as_bytes()), target.parse::<Uri>());
    let (Ok(method), Ok(uri), false) = (parsed.0, parsed.1, target.contains('\x7f')) else {
        writeln!(out, "refused with 400: the HTTP parser does not take this method or this target")?;
        return Ok(Ok(false));
    };
    let mut all_pass = true;
    for (addresses, apis) in listeners {
        let gates: Vec<(usize, Gate)> =
            apis.into_iter().map(|api| (api, Gate::new(config, &config.apis[api], None, Entry::Tcp))).collect();
        let (index, gate) = choose(uri.path(), &gates, |(_, gate)| gate).unwrap_or(&gates[0]);
        let (api, explained) = (&config.apis[*index], gate.explain(&method, &uri));
        all_pass &= explained.refusal.is_none();
        let at = addresses.join(", ");
        answer(api, loaded, &method, &explained, &at, out)?;
    }
    Ok(Ok(all_pass))
}

/// The addresses, those with the same APIs together, and their APIs.
fn listeners(config: &Config) -> Vec<(Vec<String>, Vec<usize>)> {
    let mut by_address: Vec<(Option<&Listen>, String, Vec<usize>)> = Vec::new();
    for (index, api) in config.apis.iter().enumerate() {
        for listen in &api.listen {
            // Which socket of a service manager's, or which free port, is for which API shows only at start.
            let is_own = match listen {
                Listen::Tcp { address, .. } => address.port() == 0,
                Listen::Unix(_) => false,
                Listen::Systemd => true,
            };
            let known = by_address.iter_mut().find(|(known, ..)| !is_own && *known == Some(listen));
            match known {
                Some((.., apis)) => apis.push(index),
                None => by_address.push(((!is_own).then_some(listen), listen.to_string(), vec![index])),
            }
        }
    }
    let mut listeners: Vec<(Vec<String>, Vec<usize>)> = Vec::new();
    for (_, address, apis) in by_address {
        match listeners.iter_mut().find(|(_, known)| *known == apis) {
            Some((addresses, _)) => addresses.push(address),
            None => listeners.push((vec![address], apis)),
        }
    }
    listeners
}

fn answer(
    api: &Api,
    loaded: &Loaded,
    method: &Method,
    explained: &Explanation<'_>,
    at: &str,
    out: &mut dyn Write,
) -> io::Result<()> {
    let no_api = explained.refusal == Some(Refusal::NoApi);
    let whose = if no_api { String::new() } else { format!("API {}, ", api.name) };
    let named = |refusal: Refusal| {
        let code = ProxyError::Refused(refusal).code();
        format!("{} {}", code.status().as_u16(), code.as_str())
    };
    match (explained.refusal, explained.would_refuse) {
        (Some(refusal), _) => writeln!(out, "refused with {}: {whose}at {at}", named(refusal))?,
        (None, Some(refusal)) => {
            let why = named(refusal);
            writeln!(out, "passes, since the rules are observed and not enforced (else {why}): {whose}at {at}")?;
        }
        (None, None) => writeln!(out, "passes: {whose}at {at}")?,
    }
    let origin = |list: &str| {
        let key = format!("apis.{}.{list}", api.name);
        let value = loaded.values.iter().find(|value| value.path == key);
        value.map_or(key.clone(), |value| format!("{key}, {}", value.origin))
    };
    let by = |list: &str, rule: &Rule| format!("{list} \"{rule}\" ({})", origin(list));
    let decided = match (explained.refusal.or(explained.would_refuse), explained.rule) {
        (Some(Refusal::Denied), Some(rule)) => by("deny", rule),
        (_, Some(rule)) => by("allow", rule),
        (Some(Refusal::NotAllowed), None) => format!("none of allow matches ({})", origin("allow")),
        (Some(refusal), None) => format!("none: {}", ProxyError::Refused(refusal).code().title()),
        (None, None) if api.deny.is_empty() => "none: without `allow` and `deny` everything passes but log-in paths".to_owned(),
        (None, None) => format!("none of deny matches ({})", origin("deny")),
    };
    writeln!(out, "  rule: {decided}")?;
    if let Some(target) = &explained.target {
        let would = if explained.refusal.is_some() { "would receive" } else { "receives" };
        writeln!(out, "  upstream {would}: {method} {}{target}", api.upstream.origin)?;
    }
    if explained.refusal.is_none() {
        writeln!(out, "  not judged here: {}", unjudged(api))?;
    }
    Ok(())
}

/// What else has to be right, that method and target don't show.
fn unjudged(api: &Api) -> String {
    let mut conditions = vec!["Host".to_owned(), "marks of a web page".to_owned()];
    if let Some(required) = &api.require_header {
        conditions.push(format!("the header {} (require_header)", required.name));
    }
    if !(api.allow_uids.is_empty() && api.allow_gids.is_empty()) {
        conditions.push("the caller (allow_uids, allow_gids)".to_owned());
    }
    conditions.push("framing of the body".to_owned());
    conditions.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture::settings;

    fn explained(apis: &str, request: &str) -> (bool, String) {
        let loaded = settings(apis);
        let mut out = Vec::new();
        let passes = explain(loaded.config.as_ref().unwrap(), &loaded, request, None, &mut out).unwrap().unwrap();
        (passes, String::from_utf8(out).unwrap())
    }

    #[test]
    fn addresses_whose_socket_is_known_only_at_start_are_never_taken_for_one() {
        let two = |listen: &str| {
            let api = |name: &str| {
                format!("[apis.{name}]\nupstream = \"https://api.example\"\nlisten = [\"{listen}\"]\nprefix = \"/{name}\"\n")
            };
            explained(&format!("{}{}", api("a"), api("b")), "GET /a/x")
        };
        for own in ["127.0.0.1:0", "systemd"] {
            let (passes, said) = two(own);
            assert!(!passes && said.contains(&format!("passes: API a, at {own}\n")), "{said}");
            assert!(said.contains(&format!("refused with 404 no_api: at {own}\n")), "b has an address of its own: {said}");
        }
        for shared in ["127.0.0.1:1", "unix:/run/a.sock"] {
            let (passes, said) = two(shared);
            assert!(passes && !said.contains("no_api"), "{said}");
        }
    }

    #[test]
    fn addresses_with_the_same_apis_are_told_of_once() {
        let (passes, said) = explained(
            "[apis.default]\nupstream = \"https://api.example\"\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n",
            "GET /x",
        );
        assert!(passes && said.starts_with("passes: API default, at 127.0.0.1:1, 127.0.0.1:2\n"), "{said}");
        assert_eq!(said.matches("passes:").count(), 1, "{said}");
    }

    #[test]
    fn what_let_a_request_through_and_what_is_not_judged_is_told() {
        for (api, rule, unjudged) in [
            (
                "",
                "none: without `allow` and `deny` everything passes but log-in paths",
                "Host, marks of a web page, framing of the body",
            ),
            ("deny = [\"GET /y\"]", "none of deny matches (apis.default.deny, ", "Host, "),
            ("allow = [\"GET /x\"]", "allow \"GET /x\" (apis.default.allow, ", "Host, "),
            (
                "require_header = { name = \"x-key\" }",
                "none: ",
                "Host, marks of a web page, the header x-key (require_header), framing of the body",
            ),
            ("allow_uids = [1]", "none: ", "Host, marks of a web page, the caller (allow_uids, allow_gids), framing of the body"),
            ("allow_gids = [1]", "none: ", "Host, marks of a web page, the caller (allow_uids, allow_gids), framing of the body"),
        ] {
            let (passes, said) = explained(
                &format!("[apis.default]\nupstream = \"https://api.example\"\nlisten = [\"unix:/run/a.sock\"]\n{api}\n"),
                "GET /x",
            );
            assert!(passes && said.contains(&format!("\n  rule: {rule}")), "{api}: {said}");
            assert!(said.contains(&format!("\n  not judged here: {unjudged}")), "{api}: {said}");
        }
        let (passes, said) = explained("[apis.default]\nupstream = \"https://api.example\"\ndeny = [\"GET /x\"]\n", "GET /x");
        assert!(!passes && said.contains("  upstream would receive: GET ") && !said.contains("not judged"), "{said}");
    }
}
