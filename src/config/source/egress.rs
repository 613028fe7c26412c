//! Reads `HTTPS_PROXY` and `NO_PROXY`.
//!
//! Pure. The proxy's URL may hold a password and is never shown.

use super::{
    faults::{Diagnostic, Fault, ValueOrigin, Warning, ensure, shown},
    render::in_toml,
    setting::Findings,
    url::{self, Address},
    variables::Environment,
};
use crate::{
    config::{Egress, EgressProxy, Exception},
    secret::{Pages, Secret},
};

/// Reads both variables. Where a name is set in both cases, the lower one wins, as it does for curl.
pub(super) fn read(environment: &Environment, findings: &mut Findings) -> Egress {
    let exceptions = exceptions(environment, findings);
    let Some((name, url)) = first(environment, findings, ["https_proxy", "HTTPS_PROXY"]) else {
        return Egress::new(None, exceptions);
    };
    findings.show(name, "\"[redacted]\"".to_owned(), ValueOrigin::Variable(name.to_owned()));
    match proxy(&url) {
        Ok(proxy) => Egress::new(Some(proxy), exceptions),
        Err(wrong) => {
            findings.faults.push(Fault::new(ValueOrigin::Variable(name.to_owned()), "", wrong));
            Egress::default()
        }
    }
}

fn exceptions(environment: &Environment, findings: &mut Findings) -> Vec<Exception> {
    let Some((name, list)) = first(environment, findings, ["no_proxy", "NO_PROXY"]) else { return Vec::new() };
    findings.show(name, in_toml(&list.as_str().into()), ValueOrigin::Variable(name.to_owned()));
    let entries = list.split(|letter: char| letter == ',' || letter.is_whitespace()).filter(|entry| !entry.is_empty());
    let read = |entry| {
        let exception = Exception::parse(entry);
        if exception.is_none() {
            // Not a fault: other programs on the machine may know more forms.
            let wrong = Diagnostic::new(format!("{} is no name, address or network, and excepts nothing", shown(entry)));
            findings.warnings.push(Warning::new(ValueOrigin::Variable(name.to_owned()), "", wrong));
        }
        exception
    };
    entries.filter_map(read).collect()
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
        Address::Absolute { origin, path } if path.is_empty() => {
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
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.extend(&[byte]);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            let wrong = Diagnostic::new("the proxy's credentials hold a broken percent escape");
            return Err(wrong.hint("write a literal % as %25"));
        };
        // Two hexadecimal digits are a byte.
        out.extend(&[u8::try_from(high * 16 + low).unwrap_or_default()]);
    }
    Ok(())
}

/// The first variable that is set. An empty one counts as not set.
fn first(environment: &Environment, findings: &mut Findings, names: [&'static str; 2]) -> Option<(&'static str, String)> {
    let name = names.into_iter().find(|name| environment.get(name).is_some_and(|value| !value.is_empty()))?;
    let text = environment.get(name)?.to_str();
    if text.is_none() {
        findings.faults.push(Fault::new(ValueOrigin::Variable(name.to_owned()), "", Diagnostic::new("is not UTF-8")));
    }
    text.map(|text| (name, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
