//! Fuzzes targets of requests against the policy: what is refused, what is sent, and what a log shows of it.
//!
//! An input is lines, each beginning with what it is: `t` target, `m` method, `a` allow, `d` deny, `p` prefix, `b` base path,
//! `l` a further log-in path, `w` path word, `e` how a log-in path is disguised, `2` HTTP/2.

use std::sync::OnceLock;

use careportals_sidecar::{
    careportals::{LOGIN_PATHS, ROUTE_WORDS},
    config::AllowedHosts,
    path::{LoginPaths, Prefix, Rule, Words, is_canonical, mask},
    proxy::{Entry, Gate, Refusal, internal::admit},
    server::Peer,
};
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header::HOST};

use crate::shared::{careless, decoded, lines, with_config};

/// More rules than a list has that is looked at rule by rule.
const RULES_MAX: usize = 24;

#[derive(Default)]
struct Input<'a> {
    target: &'a [u8],
    method: Option<Method>,
    allow: Vec<&'a str>,
    deny: Vec<&'a str>,
    prefix: Option<Prefix>,
    base: &'a str,
    logins: Vec<&'a str>,
    words: Vec<&'a str>,
    disguise: &'a [u8],
    http2: bool,
}

/// Checks one input, which may be any bytes.
pub fn check(input: &[u8]) {
    let input = read(input);
    if let Ok(text) = std::str::from_utf8(input.target) {
        check_canonical(text);
        check_mask(text, &input);
    }
    check_disguise(input.disguise);
    check_gate(&input);
}

fn read(input: &[u8]) -> Input<'_> {
    let mut read = Input::default();
    for (kind, line) in lines(input) {
        let text = std::str::from_utf8(line).unwrap_or_default();
        match kind {
            b't' => read.target = line,
            b'm' => read.method = Method::from_bytes(line).ok(),
            b'a' if read.allow.len() < RULES_MAX => read.allow.push(text),
            b'd' if read.deny.len() < RULES_MAX => read.deny.push(text),
            b'p' => read.prefix = Prefix::parse(text).ok(),
            // The settings refuse any other base path.
            b'b' if is_canonical(text) && !text.ends_with('/') && !text.contains(['?', '#']) => read.base = text,
            b'l' if read.logins.len() < 4 && text.starts_with('/') => read.logins.push(text),
            b'w' if read.words.len() < 8 => read.words.push(text),
            b'e' => read.disguise = line,
            b'2' => read.http2 = true,
            _ => {}
        }
    }
    read
}

/// Checks that a canonical path means the same in every harmless reading.
fn check_canonical(path: &str) {
    if !is_canonical(path) {
        return;
    }
    assert!(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");
    assert!(!path.contains(['\\', '?', '#']) && !path.contains("//"), "{path:?}");
    let without_end = path.strip_suffix('/').unwrap_or(path);
    let sent: Vec<&str> = without_end.split('/').skip(1).collect();
    let once: Vec<Vec<u8>> = sent.iter().map(|segment| decoded(segment.as_bytes())).collect();
    for (segment, plain) in sent.iter().zip(&once) {
        assert!(!plain.iter().any(|byte| byte.is_ascii_control() || matches!(byte, b'/' | b'\\')), "{path:?}");
        assert!(!plain.iter().any(|byte| b";?#".contains(byte)) && !plain.ends_with(b".") && !plain.ends_with(b" "), "{path:?}");
        assert_eq!(decoded(plain), *plain, "{path:?} holds an escape of an escape");
        let text = String::from_utf8_lossy(plain);
        assert!(!text.contains(['\u{ff0f}', '\u{2215}', '\u{2044}', '\u{ff0e}', '\u{2024}']), "{path:?}");
        for (at, _) in segment.match_indices('%') {
            let escaped = decoded(&segment.as_bytes()[at..at + 3]);
            let [byte] = escaped[..] else { panic!("a malformed escape in {path:?}") };
            assert!(!byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte), "{path:?}");
        }
        // Overlong UTF-8 is what `from_utf8` refuses; so is a lone byte, which is harmless.
        let overlong = |pair: &[u8]| matches!(pair, [0xe0, 0x80..=0x9f] | [0xf0, 0x80..=0x8f]);
        assert!(!plain.windows(2).any(overlong) && !plain.iter().any(|byte| matches!(byte, 0xc0 | 0xc1 | 0xf5..)), "{path:?}");
    }
    let resolved = careless(path.as_bytes(), 0);
    let named: Vec<_> = sent.iter().filter(|segment| !segment.is_empty()).collect();
    assert!(resolved.len() == named.len(), "{path:?}");
}

/// Checks that a log shows known words and nothing else of a path.
fn check_mask(path: &str, input: &Input<'_>) {
    let rules = input.allow.iter().chain(&input.deny).filter_map(|rule| Rule::parse(rule).ok()).collect::<Vec<_>>();
    let of_rules = rules.iter().flat_map(Rule::words).chain(input.words.iter().copied());
    let further: Vec<&str> = of_rules.collect();
    let mut line = Vec::new();
    mask(path, &Words::new(&further), &mut line);
    let line = String::from_utf8(line).unwrap_or_else(|_| panic!("not UTF-8: {path:?}"));
    assert!(line.len() <= path.len() * 6 + 6 && !line.contains(['?', '#', '"', '\\', '\n']), "{path:?}: {line}");
    assert!(!line.chars().any(|shown| shown.is_control() || shown == ' '), "{path:?}: {line}");
    let asked: Vec<&str> = path.split(['?', '#']).next().unwrap_or_default().split('/').collect();
    for (segment, shown) in asked.iter().zip(line.split('/')) {
        let digits = shown.strip_prefix('v').unwrap_or_default();
        let is_version = (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        let known = shown.is_empty() || is_version || ROUTE_WORDS.contains(&shown) || further.contains(&shown);
        assert!(shown == "{…}" || shown == "…" || (known && shown == *segment), "{path:?}: {line}");
    }
}

fn login_paths() -> &'static LoginPaths {
    static PATHS: OnceLock<LoginPaths> = OnceLock::new();
    PATHS.get_or_init(|| LoginPaths::new(LOGIN_PATHS))
}

/// Checks that a log-in path is found in every disguise that some server undoes. Each byte of `how` disguises one of its bytes.
fn check_disguise(how: &[u8]) {
    let Some((first, how)) = how.split_first() else { return };
    let known = LOGIN_PATHS[usize::from(*first) % LOGIN_PATHS.len()];
    let (mut path, mut how) = (String::new(), how.iter().take(256));
    for byte in known.bytes() {
        let way = how.next().copied().unwrap_or(0);
        let plain = char::from(byte);
        match way % 16 {
            1 => path += &format!("%{byte:02x}"),
            2 => path += &format!("%{byte:02X}"),
            3 => path += &format!("%25{byte:02x}"),
            4 => path += &format!("%25%32%35{byte:02x}"),
            5 => path += &format!("%u00{byte:02x}"),
            6 => path.push(plain.to_ascii_uppercase()),
            7 if byte == b'/' => path += "//",
            8 if byte == b'/' => path += "/./",
            9 if byte == b'/' => path += "/x/../",
            10 if byte == b'/' => path += "\\",
            11 if path.is_empty() => path += "/%2e%2e/",
            12 if byte == b'/' => path += ";a=b/",
            13 if byte == b'/' => path += "%5c",
            14 => path += &format!("%c{:x}%{:02x}", u8::from(byte >= 0x40), 0x80 | (byte & 0x3f)),
            _ => path.push(plain),
        }
    }
    // A path begins with a slash, or with what some server takes for one.
    if !path.starts_with(['/', '\\', '%']) {
        path.insert(0, '/');
    }
    path += match how.next().copied().unwrap_or(0) % 10 {
        1 => "/",
        2 => ";x=/y",
        3 => "%00",
        4 => "//",
        5 => "/.",
        6 => "%2f",
        7 => "?a=b",
        8 => "+",
        9 => ".json",
        _ => "",
    };
    if how.next().copied().unwrap_or(0) % 2 == 1 {
        path.insert_str(0, "/index.php");
    }
    assert!(login_paths().contains(&path), "{known} is not recognized in {path:?}");
}

/// Checks that the path that is sent is the one that was judged, and that an independent reading of the policy allows it.
fn check_gate(input: &Input<'_>) {
    let Ok(uri) = Uri::try_from(input.target) else { return };
    let logins = LoginPaths::new(LOGIN_PATHS.iter().copied().chain(input.logins.iter().copied()));
    let parse = |rules: &[&str]| rules.iter().filter_map(|rule| Rule::parse(rule).ok()).collect::<Vec<_>>();
    let (allow, deny) = (parse(&input.allow), parse(&input.deny));
    let gate = with_config(|config| {
        config.login_paths = logins.clone();
        let api = &mut config.apis[0];
        api.prefix.clone_from(&input.prefix);
        input.base.clone_into(&mut api.upstream.base_path);
        api.allow = (!allow.is_empty()).then(|| allow.clone());
        api.deny.clone_from(&deny);
        api.allowed_hosts = AllowedHosts::Names(Vec::new());
        Gate::new(config, &config.apis[0], None, Entry::Tcp)
    });
    let method = input.method.clone().unwrap_or(Method::GET);
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_static("localhost"));
    let version = if input.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let here = "127.0.0.1:1".parse().expect("an address");
    let judged = admit(&gate, &method, &uri, version, &headers, &Peer::tcp(here, here));
    // HTTP/2 has other targets, and those who ask for an explanation name none of them.
    let is_of_the_server = method == Method::OPTIONS && uri.path() == "*";
    if !input.http2 && !is_of_the_server {
        let explained = gate.explain(&method, &uri);
        assert_eq!(explained.refusal, judged.as_ref().err().copied(), "{method} {uri} is explained otherwise than judged");
    }
    let has_rules = !allow.is_empty() || !deny.is_empty();
    let target = match judged {
        Ok(target) => target,
        Err(refusal) => {
            assert!(has_rules || !matches!(refusal, Refusal::NotCanonical | Refusal::NotAllowed), "{refusal:?} without rules");
            return;
        }
    };
    assert!(method != Method::CONNECT && method != Method::TRACE);
    let (sent, path) = (target.as_str(), target.path());
    check_sent(input, &uri, sent);
    assert!(!logins.contains(path), "{path:?} reaches a log-in");
    for login in LOGIN_PATHS.iter().chain(&input.logins) {
        let known = careless(login.as_bytes(), 8);
        for passes in 0..8 {
            // An empty path is the root, which the settings never allow as a log-in.
            assert!(
                known.is_empty() || careless(path.as_bytes(), passes) != known,
                "{path:?} is {login:?} after {passes} passes"
            );
        }
    }
    if has_rules {
        assert!(is_canonical(path), "{path:?} was judged though it can be read in two ways");
        let speaks = |rules: &[&str]| rules.iter().any(|rule| Rule::parse(rule).is_ok() && matches(rule, &method, path));
        assert!(allow.is_empty() || speaks(&input.allow), "{method} {path:?} is not allowed by {:?}", input.allow);
        for rule in input.deny.iter().filter(|rule| Rule::parse(rule).is_ok()) {
            assert!(!denies(rule, &method, path), "{method} {path:?} is denied by {rule:?}");
        }
    }
}

/// Checks that the sent target is the base path and then the requested target without the prefix, byte for byte.
fn check_sent(input: &Input<'_>, uri: &Uri, sent: &str) {
    let asked = uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let text = input.prefix.as_ref().map_or(asked, |prefix| {
        let rest = asked.strip_prefix(prefix.as_str()).unwrap_or_else(|| panic!("{asked:?} passes without its prefix"));
        assert!(rest.is_empty() || rest.starts_with(['/', '?']), "{asked:?} is not under the prefix");
        rest
    });
    let root = if text.starts_with(['/', '*']) { "" } else { "/" };
    assert!(sent == format!("{}{root}{text}", input.base) || (sent == "*" && text == "*"), "{asked:?} became {sent:?}");
}

/// Whether a rule of `deny` matches some careless reading of the request.
fn denies(rule: &str, method: &Method, path: &str) -> bool {
    fn fits(patterns: &[Vec<u8>], segments: &[Vec<u8>]) -> bool {
        match (patterns, segments) {
            ([], _) => segments.is_empty(),
            ([star, rest @ ..], _) if star == b"**" => (0..=segments.len()).any(|taken| fits(rest, &segments[taken..])),
            ([pattern, rest @ ..], [segment, after @ ..]) => (pattern == b"*" || pattern == segment) && fits(rest, after),
            _ => false,
        }
    }
    let mut words = rule.split_ascii_whitespace();
    let (only, pattern) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let named = if method.as_str().eq_ignore_ascii_case("HEAD") { &["HEAD", "GET"][..] } else { &[method.as_str()] };
    if only != "*" && !named.iter().any(|name| name.eq_ignore_ascii_case(only)) {
        return false;
    }
    let patterns = careless(pattern.as_bytes(), 8);
    (0..8).any(|passes| {
        let segments = careless(path.as_bytes(), passes);
        let few = segments.len() <= 24 && patterns.iter().filter(|pattern| *pattern == b"**").count() <= 3;
        few && fits(&patterns, &segments)
    })
}

/// Matches a rule in the simplest way: it tries all ways to spread `**`.
fn matches(rule: &str, method: &Method, path: &str) -> bool {
    fn fits(patterns: &[&str], segments: &[&str]) -> bool {
        match patterns.split_first() {
            None => segments.is_empty(),
            Some((&"**", rest)) => (0..=segments.len()).any(|taken| fits(rest, &segments[taken..])),
            Some((pattern, rest)) => segments.split_first().is_some_and(|(segment, after)| {
                let same = decoded(pattern.as_bytes()) == decoded(segment.as_bytes());
                (same || (*pattern == "*" && !segment.is_empty())) && fits(rest, after)
            }),
        }
    }
    let mut words = rule.split_ascii_whitespace();
    let (only, pattern) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let patterns: Vec<&str> = pattern.split('/').skip(1).collect();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    // More ways would take too long, and no setting has as many.
    if patterns.iter().filter(|pattern| **pattern == "**").count() > 3 || segments.len() > 24 {
        return Rule::parse(rule).is_ok_and(|rule| rule.matches(method, path));
    }
    (only == "*" || only == method.as_str()) && fits(&patterns, &segments)
}
