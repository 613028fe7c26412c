//! Reads `HTTPS_PROXY` and `NO_PROXY`.
//!
//! Pure. The proxy's credentials are never shown, whichever variable holds them, and neither is a URL that can't be read.

use super::{
    environment::Environment,
    faults::{Diagnostic, Fault, ValueOrigin, Warning, ensure, shown},
    setting::{EffectiveValue, Findings},
    toml::{REDACTED, in_toml},
    url::{self, Address},
};
use crate::{
    config::{Egress, EgressProxy, Endpoint, Exception},
    secret::{Pages, Secret},
};

/// Reads both variables. Where a name is set in both cases, the lower one wins, as it does for curl.
pub(super) fn read(environment: &Environment, findings: &mut Findings) -> Egress {
    let mut exceptions = Vec::new();
    if let Some((name, list)) = first(environment, findings, ["no_proxy", "NO_PROXY"]) {
        exceptions.extend(entries(list).filter_map(Exception::parse));
        // It may be the proxy's URL, written where the exceptions belong. Its password may hold a comma.
        let list = list.rsplit_once('@').map_or_else(|| list.to_owned(), |(_, rest)| format!("{REDACTED}@{rest}"));
        show(name, &list, findings);
        for entry in entries(&list).filter(|entry| Exception::parse(entry).is_none()) {
            // Not a fault: other programs on the machine may know more forms.
            let wrong = Diagnostic::new(format!("{} is no name, address or network, and excepts nothing", shown(entry)));
            findings.warnings.push(Warning::of_variable(name, "", wrong));
        }
    }
    let proxy = first(environment, findings, ["https_proxy", "HTTPS_PROXY"]).and_then(|(name, url)| {
        let proxy = proxy(url);
        show(name, &proxy.as_ref().map_or_else(|_| REDACTED.to_owned(), without_credentials), findings);
        proxy.map_err(|wrong| findings.faults.push(Fault::of_variable(name, "", wrong))).ok()
    });
    Egress::new(proxy, exceptions)
}

fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(|letter: char| letter == ',' || letter.is_whitespace()).filter(|entry| !entry.is_empty())
}

fn show(name: &str, text: &str, findings: &mut Findings) {
    let (path, shown, origin) = (name.to_owned(), in_toml(&text.into()), ValueOrigin::Variable(name.to_owned()));
    findings.values.push(EffectiveValue { path, shown, origin, is_set: true });
}

/// The proxy's URL as `config` shows it.
fn without_credentials(proxy: &EgressProxy) -> String {
    let mark = if proxy.credentials.is_some() { format!("://{REDACTED}@") } else { "://".to_owned() };
    proxy.origin.to_string().replacen("://", &mark, 1)
}

/// Reads `http://user:password@host:port`, with the scheme's port by default. A URL without a scheme is an `http` one.
fn proxy(text: &str) -> Result<EgressProxy, Diagnostic> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let is_http = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    ensure!(is_http, "only http:// and https:// proxies are supported", hint = "use a proxy that serves CONNECT");
    let (userinfo, address) = rest.rsplit_once('@').unwrap_or(("", rest));
    // Other programs would take the host from the part before such a character (RFC 3986, 3.2).
    let is_whole = !userinfo.contains(['/', '?', '#', '\\']);
    let hint = "percent-encode it: / is %2F, ? is %3F, # is %23, \\ is %5C";
    ensure!(is_whole, "the proxy's credentials hold a character that ends a URL's host", hint = hint);
    match url::address(&format!("{scheme}://{}", address.trim_end_matches('/')))? {
        Address::Absolute(Endpoint { origin, target }) if target == "/" => {
            let credentials = if userinfo.is_empty() { None } else { Some(credentials(userinfo)?) };
            Ok(EgressProxy { origin, credentials })
        }
        _ => Err(Diagnostic::new("a proxy is a host and perhaps a port, without a path")),
    }
}

/// Decodes `user:password`, which may be percent-encoded (RFC 3986, 3.2.1).
fn credentials(userinfo: &str) -> Result<Secret, Diagnostic> {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let mut decoded = Pages::with_capacity(userinfo.len() + 1);
    unescape(user, &mut decoded)?;
    ensure!(!decoded.contains(&b':'), "the proxy's user name holds a colon, which Basic authentication can't carry");
    decoded.extend(b":");
    unescape(password, &mut decoded)?;
    let secret = Secret::from(decoded);
    ensure!(!secret.expose().iter().any(u8::is_ascii_control), "the proxy's credentials hold a control character");
    Ok(secret)
}

fn unescape(text: &str, out: &mut Pages) -> Result<(), Diagnostic> {
    let mut parts = text.split('%');
    out.extend(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let wrong = || Diagnostic::new("the proxy's credentials hold a broken percent escape").hint("write a literal % as %25");
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or_else(wrong)?;
        out.extend(&[byte]);
        out.extend(&part.as_bytes()[2..]);
    }
    Ok(())
}

/// The first variable that is set. An empty one counts as not set.
fn first<'a>(environment: &'a Environment, findings: &mut Findings, names: [&'a str; 2]) -> Option<(&'a str, &'a str)> {
    let is_set = |name: &&str| environment.get(name).is_some_and(|value| !value.is_empty());
    let name = names.into_iter().find(is_set)?;
    let text = environment.get(name)?.to_str();
    if text.is_none() {
        findings.faults.push(Fault::of_variable(name, "", Diagnostic::new("is not UTF-8")));
    }
    text.map(|text| (name, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::Fault;

    #[test]
    fn a_proxy_has_a_scheme_a_host_a_port_and_credentials() {
        for (url, origin, credentials) in [
            ("http://proxy.example:3128", "http://proxy.example:3128", None),
            ("proxy.example:3128", "http://proxy.example:3128", None),
            ("HTTP://Proxy.Example/", "http://proxy.example", None),
            ("https://proxy.example", "https://proxy.example", None),
            ("http://[fd00::1]:8080", "http://[fd00::1]:8080", None),
            ("http://ann:s3cret@proxy.example", "http://proxy.example", Some("ann:s3cret")),
            ("http://ann@proxy.example", "http://proxy.example", Some("ann:")),
            ("http://@proxy.example", "http://proxy.example", None),
            ("http://a%40b:p%3Aw%25@proxy.example", "http://proxy.example", Some("a@b:p:w%")),
            ("http://ann:p@ss@proxy.example", "http://proxy.example", Some("ann:p@ss")),
        ] {
            let proxy = proxy(url).unwrap_or_else(|_| panic!("{url}"));
            assert_eq!(proxy.origin.to_string(), origin, "{url}");
            assert_eq!(proxy.credentials.as_ref().and_then(Secret::expose_str), credentials, "{url}");
            let shown = credentials.map_or(origin.to_owned(), |_| origin.replace("://", "://[redacted]@"));
            assert_eq!(without_credentials(&proxy), shown, "{url}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_credentials() {
        for url in [
            "socks5://ann:s3cret@proxy.example",
            "http://ann:s3cret@proxy.example/path",
            "http://ann:s3cret@",
            "http://ann:s3cret%zz@proxy.example",
            "http://ann:s3cret%0a@proxy.example",
            "http://a%3Aann:s3cret@proxy.example",
            "http://ann:s3cret@proxy.example:x",
            "http://ann:s3cret@proxy.example?q",
            "http://ann:s3cret/@proxy.example",
            "http://ann:s3cret?x@proxy.example",
            "http://ann:s3cret#@proxy.example",
            "http://ann:s3cret\\@proxy.example",
        ] {
            let Err(wrong) = proxy(url) else { panic!("{url}") };
            let shown = Fault::new(ValueOrigin::Variable("HTTPS_PROXY".to_owned()), "", wrong).to_string();
            assert!(!shown.contains("s3cret") && !shown.contains("ann:"), "{shown}");
        }
    }
}
