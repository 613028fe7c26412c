//! Runs `check --online`: it resolves each API's host, connects, verifies TLS, reads the values of required headers, logs in,
//! and compares clocks.
//!
//! Guarantees: each check prints one line, with advice if it failed. It binds nothing, discards the tokens that it gets, and
//! prints no secret, unless a failed command wrote one to its standard error: that is printed, without control characters.

use std::{
    fmt,
    io::{self, Write},
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    account::{LoginConnectors, LoginError, try_log_in, try_organization},
    app::StartError,
    clock::{self, SystemClock},
    config::{Account, AccountId, Config, Egress, Endpoint, Http2, Login, Origin},
    connect::{CLOCK_ADVICE, ConnectError, Connector, Diagnosis, Offer, Protocol},
    proxy,
    resources::Runtime,
    sources::SourceFault,
    tls::ClientTls,
};

/// Clocks that differ by more fail the check, because tokens then seem to live longer or shorter than they do.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(30);

/// Makes every check and prints its outcome to `out`. Returns whether all passed, and whether `out` could be written to: the
/// checks go on where nobody reads. It blocks for as long as the settings' time-outs allow.
///
/// # Errors
///
/// A host can't have a certificate, or the system refused what a runtime needs. A check that failed is no error.
pub fn online(config: &Arc<Config>, tls: &ClientTls, out: &mut dyn Write) -> Result<(bool, io::Result<()>), StartError> {
    let runtime = Runtime::new().map_err(StartError::System)?;
    let mut report = Report { out, all_passed: true, printed: Ok(()) };
    runtime.block_on(async {
        for api in &config.apis {
            let connector = connector(&api.upstream.origin, tls, &config.egress, api.connections.connect_timeout)?;
            let subject = format!("api {}: {}", api.name, api.upstream.origin);
            let outcome = check_connection(&connector, api.connections.http2).await;
            report.line(&subject, outcome.as_deref().map_err(String::as_str));
            if let Some(source) = api.require_header.as_ref().and_then(|required| required.value.as_ref()) {
                let outcome = proxy::try_source(source).await;
                let shown = outcome.as_ref().map(|()| "there is one").map_err(|fault| format!("{fault}; {}", fault.advice()));
                let subject = format!("api {}: require_header.value", api.name);
                report.line(&subject, shown.as_ref().copied().map_err(String::as_str));
                report.stderr_of(outcome.err().as_ref());
            }
        }
        for (index, account) in config.accounts.iter().enumerate() {
            check_account(config, AccountId(index), account, tls, &mut report).await?;
        }
        Ok((report.all_passed, report.printed))
    })
}

async fn check_account(
    config: &Arc<Config>,
    id: AccountId,
    account: &Account,
    tls: &ClientTls,
    report: &mut Report<'_>,
) -> Result<(), StartError> {
    let Some(login) = &account.login else {
        let outcome = try_organization(Arc::clone(config), id).await;
        let failed = |error: &LoginError| format!("{error}; {}", advice(error));
        let shown = outcome.as_ref().map(|()| "does not log in; its organization is there").map_err(failed);
        report.line(&format!("account {}", account.name), shown.as_ref().copied().map_err(String::as_str));
        report.stderr_of(outcome.err().as_ref().and_then(LoginError::source_fault));
        return Ok(());
    };
    let connectors = login_connectors(login, tls, &config.egress)?;
    let route = connectors.login.proxy().map_or_else(String::new, |proxy| format!(" through the egress proxy {proxy}"));
    let subject = format!("account {}: log-in at {}{}{route}", account.name, login.url.origin, login.url.target);
    let begun = clock::instant();
    match try_log_in(Arc::clone(config), id, connectors, Arc::new(SystemClock)).await {
        Err(error) => {
            report.line(&subject, Err(&format!("{error}; {} (after {})", advice(&error), took(begun.elapsed()))));
            report.stderr_of(error.source_fault());
        }
        Ok(tried) => {
            report.line(&subject, Ok(&format!("token for {}, in {}", in_words(tried.life), took(begun.elapsed()))));
            let clocks = compare_clocks(tried.server_date, tried.received);
            report.line(&format!("account {}: clocks", account.name), clocks.as_deref().map_err(String::as_str));
        }
    }
    Ok(())
}

/// What to do about it, for somebody who runs this command already.
fn advice(error: &LoginError) -> &'static str {
    let advice = error.advice();
    advice.split_once(": `careportals-sidecar check --online`").map_or(advice, |(advice, _)| advice)
}

fn login_connectors(login: &Login, tls: &ClientTls, egress: &Egress) -> Result<LoginConnectors, StartError> {
    let to = |endpoint: &Endpoint| connector(&endpoint.origin, tls, egress, login.timeout);
    Ok(LoginConnectors { login: to(&login.url)?, refresh: login.refresh_url.as_ref().map(to).transpose()? })
}

fn connector(origin: &Origin, tls: &ClientTls, egress: &Egress, limit: Duration) -> Result<Connector, StartError> {
    Connector::new(origin, tls, egress, limit).ok_or_else(|| StartError::Host(origin.clone()))
}

async fn check_connection(connector: &Connector, http2: Http2) -> Result<String, String> {
    let offer = if http2 == Http2::Auto { Offer::Http1And2 } else { Offer::Http1 };
    let begun = clock::instant();
    let diagnosed = connector.diagnose(offer).await;
    let failed = |error: ConnectError| format!("{error}; {} (after {})", error.advice(), took(begun.elapsed()));
    let Diagnosis { addresses, name, open, handshake, tls, protocol } = diagnosed.map_err(failed)?;
    let addresses = if addresses == 1 { "1 address".to_owned() } else { format!("{addresses} addresses") };
    let (name, open) = (took(name), took(open));
    let way = match connector.proxy() {
        None => format!("resolves to {addresses} ({name}), connects without a proxy ({open})"),
        Some(proxy) => format!("through the egress proxy {proxy} ({addresses}, {name}): connects ({open})"),
    };
    let tls = match tls {
        None => "plain http".to_owned(),
        Some((version, roots)) => format!("certificate accepted, by a root of {roots}; {version} ({})", took(handshake)),
    };
    let http = if protocol == Protocol::Http2 { "HTTP/2" } else { "HTTP/1.1" };
    Ok(format!("{way}, {tls}, {http}"))
}

fn compare_clocks(server: Option<SystemTime>, ours: SystemTime) -> Result<String, String> {
    let Some(server) = server else { return Ok("the server sent no Date; ours is used".to_owned()) };
    let (apart, which) = match server.duration_since(ours) {
        Ok(ahead) => (ahead, "behind"),
        Err(error) => (error.duration(), "ahead of"),
    };
    if apart <= CLOCK_TOLERANCE {
        return Ok(format!("agree within {}", in_words(apart + Duration::from_secs(1))));
    }
    Err(format!("ours is {} {which} the server's; {CLOCK_ADVICE}", in_words(apart)))
}

/// A duration as short as a connection's.
fn took(duration: Duration) -> String {
    match duration.as_millis() {
        milliseconds @ 0..1000 => format!("{milliseconds} ms"),
        milliseconds => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
    }
}

/// A duration in the largest unit of which it has two, rounded to the nearest.
fn in_words(duration: Duration) -> String {
    let seconds = duration.saturating_add(Duration::from_millis(500)).as_secs();
    let rounded = |unit: u64| seconds.saturating_add(unit / 2) / unit;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", rounded(60)),
        7200..172_800 => format!("{} h", rounded(3600)),
        _ => format!("{} days", rounded(86_400)),
    }
}

/// Prints the outcomes and remembers whether all were good, and why they can't be printed.
struct Report<'a> {
    out: &'a mut dyn Write,
    all_passed: bool,
    printed: io::Result<()>,
}

impl Report<'_> {
    fn line(&mut self, subject: &str, outcome: Result<&str, &str>) {
        self.all_passed &= outcome.is_ok();
        let (word, said) = match outcome {
            Ok(good) => ("ok", good),
            Err(bad) => ("failed", bad),
        };
        self.print(format_args!("{word}: {subject}: {said}"));
    }

    /// Prints what a command wrote to its standard error, if that is why the check failed.
    fn stderr_of(&mut self, fault: Option<&SourceFault>) {
        if let Some(stderr) = fault.and_then(SourceFault::stderr) {
            self.print(format_args!("  the command's standard error: {stderr}"));
        }
    }

    fn print(&mut self, line: fmt::Arguments<'_>) {
        if self.printed.is_ok() {
            self.printed = writeln!(self.out, "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_of_clocks_says_which_one_is_ahead() {
        let ours = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let minute = Duration::from_secs(60);
        assert!(compare_clocks(Some(ours + minute), ours).unwrap_err().starts_with("ours is 60 s behind"));
        assert!(compare_clocks(Some(ours - minute), ours).unwrap_err().starts_with("ours is 60 s ahead of"));
        assert_eq!(compare_clocks(Some(ours + Duration::from_secs(29)), ours).unwrap(), "agree within 30 s");
        assert_eq!(compare_clocks(Some(ours), ours + Duration::from_millis(300)).unwrap(), "agree within 1 s");
        assert_eq!(compare_clocks(Some(ours + CLOCK_TOLERANCE), ours).unwrap(), "agree within 31 s");
        assert!(compare_clocks(Some(ours - CLOCK_TOLERANCE - Duration::from_nanos(1)), ours).is_err());
        assert!(
            compare_clocks(Some(ours), ours + Duration::from_millis(599_700)).unwrap_err().starts_with("ours is 10 min ahead of")
        );
        assert!(compare_clocks(None, ours).is_ok());
    }

    #[test]
    fn no_advice_leads_back_to_this_command() {
        assert!(LoginError::TimedOut.advice().contains("check --online"));
        assert_eq!(advice(&LoginError::TimedOut), "check network, DNS, egress proxy and `login_url`");
    }

    #[test]
    fn durations_are_printed_in_a_readable_unit() {
        for (milliseconds, words) in [
            (0, "0 s"),
            (499, "0 s"),
            (119_499, "119 s"),
            (119_500, "2 min"),
            (599_700, "10 min"),
            (569_499, "9 min"),
            (7_200_000, "2 h"),
            (8_999_000, "2 h"),
            (9_000_000, "3 h"),
            (2_591_999_000, "30 days"),
        ] {
            assert_eq!(in_words(Duration::from_millis(milliseconds)), words);
        }
        for (milliseconds, words) in [(0, "0 ms"), (999, "999 ms"), (1000, "1.0 s"), (2345, "2.3 s"), (61_000, "61.0 s")] {
            assert_eq!(took(Duration::from_millis(milliseconds)), words);
        }
    }

    #[test]
    fn a_failed_check_fails_all_and_a_commands_standard_error_stands_below_it() {
        let told = |fault: Option<&SourceFault>, outcomes: &[Result<&str, &str>]| {
            let mut out = Vec::new();
            let mut report = Report { out: &mut out, all_passed: true, printed: Ok(()) };
            for outcome in outcomes {
                report.line("a", *outcome);
            }
            report.stderr_of(fault);
            assert!(report.printed.is_ok());
            (report.all_passed, String::from_utf8(out).unwrap())
        };
        assert_eq!(told(None, &[Ok("b"), Ok("c")]), (true, "ok: a: b\nok: a: c\n".to_owned()));
        assert_eq!(told(None, &[Err("b"), Ok("c")]), (false, "failed: a: b\nok: a: c\n".to_owned()));
        assert_eq!(told(Some(&SourceFault::Empty), &[]), (true, String::new()));
        let stderr = Some("sealed".to_owned());
        let failed = SourceFault::CommandFailed { program: "op".to_owned(), status: Some(3), stderr };
        let below = "failed: a: b\n  the command's standard error: sealed\n".to_owned();
        assert_eq!(told(Some(&failed), &[Err("b")]), (false, below));
    }
}
