use std::{sync::mpsc, time::UNIX_EPOCH};

use tracing::{debug, error, info, info_span, trace, warn};

use super::*;
use crate::clock::{Moment, Now};

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Now {
        Now { moment: Moment::new(Duration::ZERO), wall: UNIX_EPOCH + Duration::from_micros(1_709_164_800_000_042) }
    }
}

struct StallingPipe {
    written: mpsc::Sender<Vec<u8>>,
    /// The first write waits until the sender is dropped.
    stall: Option<mpsc::Receiver<()>>,
}

impl Write for StallingPipe {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if let Some(stall) = self.stall.take() {
            let _ = stall.recv();
        }
        let _ = self.written.send(text.to_vec());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log(filter: &str, format: LogFormat) -> Log {
    Log { filter: filter.to_owned(), format, access: true }
}

fn build(log: &Log, reader: Reader) -> (Logging, mpsc::Receiver<Vec<u8>>) {
    let (written, received) = mpsc::channel();
    let pipe = StallingPipe { written, stall: None };
    let mut logging = Logging::build(log, pipe, reader, Arc::new(Fixed)).unwrap();
    logging.write().unwrap();
    (logging, received)
}

/// Everything that was written, once the logs have ended.
fn output(logging: Logging, reader: mpsc::Receiver<Vec<u8>>) -> String {
    assert_eq!(logging.dropped(), 0);
    drop(logging);
    String::from_utf8(reader.into_iter().flatten().collect()).unwrap()
}

fn logged(filter: &str, format: LogFormat, events: impl FnOnce()) -> String {
    let (logging, reader) = build(&log(filter, format), Reader::Unknown);
    dispatcher::with_default(logging.dispatch(), events);
    output(logging, reader)
}

#[test]
fn an_event_is_one_json_object() {
    let text = logged("info", LogFormat::Json, || {
        let _outer = info_span!("account", account = "crm").entered();
        let error = io::Error::other("two\n\"lines\"");
        info!(attempts = 3, wait_ms = -1_i64, ratio = 0.5, odd = f64::NAN, good = true, reason = "a b", %error, kind = ?Some(1), "Logged in");
        info!(target: "careportals_sidecar::app", "{}", "tab\tand \u{1b}[31m");
    });
    assert_eq!(
        text,
        concat!(
            r#"{"timestamp":"2024-02-29T00:00:00.000042Z","level":"INFO","message":"Logged in","attempts":3,"wait_ms":-1,"#,
            r#""ratio":0.5,"odd":"NaN","good":true,"reason":"a b","error":"two\n\"lines\"","kind":"Some(1)","account":"crm","#,
            r#""target":"careportals_sidecar::logging::tests"}"#,
            "\n",
            r#"{"timestamp":"2024-02-29T00:00:00.000042Z","level":"INFO","message":"tab\tand \u001b[31m","account":"crm","#,
            r#""target":"careportals_sidecar::app"}"#,
            "\n",
        )
    );
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

fn some_events() {
    info!(api = "emr", place = %"a b", "Listening");
    warn!(account = "crm", wait_seconds = 3, reason = "not\nyet", "Log-in\n  failed: \u{1b}[31m");
    error!("Ended");
    debug!(secret = "x", "Never");
}

#[test]
fn events_are_readable_lines_with_their_fields_below_each_other() {
    assert_eq!(
        logged("info", LogFormat::Text, some_events),
        concat!(
            "2024-02-29T00:00:00.000Z INFO  Listening        api=emr place=\"a b\"\n",
            "2024-02-29T00:00:00.000Z WARN  Log-in; failed: \\u001b[31m account=crm wait_seconds=3 reason=\"not\\nyet\"\n",
            "2024-02-29T00:00:00.000Z ERROR Ended\n",
        )
    );
}

#[test]
fn a_terminal_that_shows_colours_gets_some() {
    let (logging, received) = build(&log("info", LogFormat::Auto), Reader::Terminal { colour: true });
    dispatcher::with_default(logging.dispatch(), || warn!(account = "crm", "Log-in failed"));
    access_lines(&logging);
    let text = output(logging, received);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "\x1b[2m00:00:00\x1b[0m \x1b[33mWARN \x1b[0m Log-in failed    \x1b[2maccount=\x1b[0mcrm");
    assert!(lines[1].contains(" GET /users \x1b[32m200\x1b[0m "), "{}", lines[1]);
    let (all, off) = (lines[1].matches("\x1b[").count(), lines[1].matches("\x1b[0m").count());
    assert_eq!(all, 2 * off, "what is switched on is switched off again");
}

#[test]
fn the_journal_gets_levels_and_no_time() {
    for format in [LogFormat::Auto, LogFormat::Text] {
        let (logging, received) = build(&log("trace", format), Reader::Journal);
        dispatcher::with_default(logging.dispatch(), || {
            some_events();
            trace!("Traced");
        });
        access_lines(&logging);
        assert_eq!(
            output(logging, received),
            concat!(
                "<6>Listening api=emr place=\"a b\"\n",
                "<4>Log-in; failed: \\u001b[31m account=crm wait_seconds=3 reason=\"not\\nyet\"\n",
                "<3>Ended\n",
                "<7>Never secret=x\n",
                "<7>Traced\n",
                "<6>request api=default listener=127.0.0.1:2273 method=GET path=/users status=200 request_bytes=0 \
                 response_bytes=0 duration_us=0 request_id=x\n",
            ),
            "{format:?}"
        );
    }
}

#[test]
fn the_line_about_dropped_lines_has_a_level_in_the_journal() {
    let line = |shape| String::from_utf8(dropped_line(shape, 7, &Fixed)).unwrap();
    assert_eq!(line(Shape::Journal), "<4>log lines were dropped: the log's stream did not take them dropped=7\n");
    assert_eq!(
        line(Shape::Text),
        "2024-02-29T00:00:00.000Z WARN  log lines were dropped: the log's stream did not take them dropped=7\n"
    );
}

#[test]
fn auto_is_text_on_a_terminal_and_in_the_journal_and_json_elsewhere() {
    let terminal = Reader::Terminal { colour: false };
    for (format, reader, is_json) in [
        (LogFormat::Auto, terminal, false),
        (LogFormat::Auto, Reader::Journal, false),
        (LogFormat::Auto, Reader::Unknown, true),
        (LogFormat::Text, Reader::Unknown, false),
        (LogFormat::Json, terminal, true),
        (LogFormat::Json, Reader::Journal, true),
    ] {
        let (logging, received) = build(&log("info", format), reader);
        dispatcher::with_default(logging.dispatch(), || info!("Hello"));
        assert_eq!(output(logging, received).starts_with('{'), is_json, "{format:?} {reader:?}");
    }
}

#[test]
fn dependencies_stay_at_warn_whatever_the_filter_says() {
    for filter in ["trace", "hyper=trace", "h2=debug,info", "off", "error", "trace,hyper::proto=trace", "[headers]=trace", ""] {
        let text = logged(filter, LogFormat::Json, || {
            let span = tracing::warn_span!(target: "hyper", "headers", value = "SECRET");
            span.in_scope(|| {
                trace!(target: "hyper::proto", "SECRET");
                debug!(target: "h2", "SECRET");
                info!(target: "careportals_sidecarx", "SECRET");
                info!(target: "hyper", "SECRET");
                warn!(target: "hyper", "warned");
                warn!(target: "h2::proto::ping_pong", "SECRET");
                error!(target: "h2::codec", "failed");
            });
        });
        assert!(!text.contains("SECRET"), "{filter}: {text}");
        assert_eq!(text.lines().count(), 2, "{filter}: {text}");
    }
}

#[test]
fn the_filter_is_for_our_own_events() {
    let messages = |filter: &str| {
        let text = logged(filter, LogFormat::Text, || {
            debug!(target: "careportals_sidecar::account", "1");
            info!(target: "careportals_sidecar::account", "2");
            debug!(target: "careportals_simulator", "3");
            trace!(target: "careportals_sidecar", "4");
            error!(target: "careportals_sidecar::app", "5");
        });
        text.lines().filter_map(|line| line.rsplit(' ').next()).collect::<String>()
    };
    assert_eq!(messages("trace"), "12345");
    assert_eq!(messages("debug"), "1235");
    assert_eq!(messages("info"), "25");
    assert_eq!(messages("off"), "");
    assert_eq!(messages("warn,careportals_sidecar::account=debug"), "125");
    assert_eq!(messages("careportals_simulator=debug"), "3");
    // Blanks mean nothing, wherever they stand between parts.
    assert_eq!(messages(" info"), "25");
    assert_eq!(messages("careportals_sidecar::account=debug , warn ,"), "125");
}

#[test]
fn a_bad_filter_is_an_error_and_changes_nothing() {
    let (logging, reader) = build(&log("info", LogFormat::Text), Reader::Unknown);
    for bad in ["careportals_sidecar=loud", "a=b=c", "[", "info,=,x=9"] {
        assert!(matches!(Levels::parse(bad), Err(LogError::Filter(_))), "{bad}");
        assert!(logging.control().adopt(&log(bad, LogFormat::Text)).is_err(), "{bad}");
        let failed = Logging::build(&log(bad, LogFormat::Text), io::sink(), Reader::Unknown, Arc::new(Fixed));
        assert!(matches!(failed, Err(LogError::Filter(_))), "{bad}");
    }
    Levels::parse("info,careportals_sidecar::account=trace").unwrap();
    dispatcher::with_default(logging.dispatch(), || info!("Still here"));
    assert!(output(logging, reader).contains("Still here"));
}

#[test]
fn the_filter_can_be_changed() {
    let (logging, reader) = build(&log("warn", LogFormat::Text), Reader::Unknown);
    dispatcher::with_default(logging.dispatch(), || {
        let say = |text: &str| debug!("{text}");
        say("before");
        logging.control().adopt(&log("debug", LogFormat::Text)).unwrap();
        say("during");
        logging.control().adopt(&log("info", LogFormat::Text)).unwrap();
        say("after");
        debug!(target: "hyper", "never");
    });
    let text = output(logging, reader);
    assert!(text.ends_with(" during\n") && text.lines().count() == 1, "{text}");
}

fn access_lines(logging: &Logging) {
    access_line(logging, 200, None);
}

fn access_line(logging: &Logging, status: u16, code: Option<&str>) {
    let words = crate::path::Words::new([""; 0]);
    let line = AccessLine {
        api: "default",
        listener: "127.0.0.1:2273",
        method: &http::Method::GET,
        path: "/users",
        words: &words,
        status,
        code,
        would_refuse: None,
        cut: None,
        retries: 0,
        relogin: None,
        request_bytes: 0,
        response_bytes: 0,
        duration: Duration::ZERO,
        upstream_first_byte: None,
        request_id: "x",
        uid: None,
        pid: None,
    };
    logging.access_log().worker().write(&line, UNIX_EPOCH);
}

#[test]
fn access_lines_obey_filter_and_setting() {
    for (filter, access, expected) in [
        ("info", true, true),
        ("trace", true, true),
        ("info", false, false),
        ("warn", true, false),
        ("off", true, false),
        ("info,careportals_sidecar::access=off", true, false),
        ("careportals_sidecar::access=info", true, true),
        ("warn,careportals_sidecar=debug", true, true),
        ("hyper=trace", true, false),
    ] {
        let (logging, reader) = build(&Log { access, ..log(filter, LogFormat::Json) }, Reader::Unknown);
        access_lines(&logging);
        assert_eq!(!output(logging, reader).is_empty(), expected, "{filter} {access}");
    }
}

#[test]
fn a_filter_for_warnings_lets_the_access_lines_pass_that_are_warnings() {
    for (filter, access, expected) in [
        ("warn", true, 1),
        ("info,careportals_sidecar::access=warn", true, 1),
        ("error", true, 0),
        ("warn", false, 0),
        ("info", true, 3),
    ] {
        let (logging, reader) = build(&Log { access, ..log(filter, LogFormat::Json) }, Reader::Unknown);
        for (status, code) in [(502, Some("upstream_closed")), (502, Some("upstream_closed")), (502, None)] {
            access_line(&logging, status, code);
        }
        assert_eq!(output(logging, reader).lines().count(), expected, "{filter} {access}");
    }
}

#[test]
fn a_changed_filter_holds_for_access_lines() {
    let (logging, reader) = build(&log("warn", LogFormat::Json), Reader::Unknown);
    access_lines(&logging);
    logging.control().adopt(&log("info", LogFormat::Text)).unwrap();
    access_lines(&logging);
    logging.control().adopt(&log("error", LogFormat::Text)).unwrap();
    access_lines(&logging);
    logging.control().adopt(&Log { access: false, ..log("info", LogFormat::Json) }).unwrap();
    access_lines(&logging);
    assert_eq!(output(logging, reader).lines().count(), 1);
}

#[test]
fn a_stalled_output_loses_lines_and_says_how_many() {
    let (written, reader) = mpsc::channel();
    let (wake, stall) = mpsc::channel();
    let pipe = StallingPipe { written, stall: Some(stall) };
    let mut logging = Logging::build(&log("info", LogFormat::Json), pipe, Reader::Unknown, Arc::new(Fixed)).unwrap();
    logging.write().unwrap();
    let sent = 3000;
    dispatcher::with_default(logging.dispatch(), || {
        for number in 0..sent {
            info!(number, "Line");
        }
    });
    let dropped = logging.dropped();
    // The writer may have one line, and the others fill the queue.
    let kept = sent - dropped;
    assert!((CAPACITY.entries as u64..=CAPACITY.entries as u64 + 1).contains(&kept), "{kept}");
    drop(wake);
    assert!(logging.control.access.queue.close(Duration::from_secs(60)));
    drop(logging);
    let text = String::from_utf8(reader.into_iter().flatten().collect()).unwrap();
    let reports: Vec<&str> = text.lines().filter(|line| line.contains("were dropped")).collect();
    assert_eq!(
        reports,
        [format!(
            "{{\"timestamp\":\"2024-02-29T00:00:00.000042Z\",\"level\":\"WARN\",\"message\":\"log lines were dropped: \
             the log's stream did not take them\",\"dropped\":{dropped},\"target\":\"careportals_sidecar::logging\"}}"
        )]
    );
    assert_eq!(text.lines().count() as u64, kept + 1);
}

#[test]
fn a_stalled_output_does_not_hang_the_exit() {
    let (written, _reader) = mpsc::channel();
    let (_wake, stall) = mpsc::channel();
    let pipe = StallingPipe { written, stall: Some(stall) };
    let mut logging = Logging::build(&log("info", LogFormat::Text), pipe, Reader::Unknown, Arc::new(Fixed)).unwrap();
    logging.write().unwrap();
    dispatcher::with_default(logging.dispatch(), || info!("Line"));
    // This would hang if it waited for the writer.
    drop(logging);
}

#[test]
fn a_process_logs_once() {
    let log = log("off", LogFormat::Json);
    // Another test of this process may have started logs before.
    let first = start(&log, io::sink(), Reader::Unknown);
    assert!(matches!(start(&log, io::sink(), Reader::Unknown), Err(LogError::Started)));
    drop(first);
}
