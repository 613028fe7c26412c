//! Fuzzes log lines: in each form there is one line without control characters, and nothing of a request that names a person.
//!
//! An input is lines, each beginning with what it is: `m` method, `t` path, `i` request id, `l` listener, `c` code, `w` path
//! word, `e` an event's text, `n` number. The path is asked for with a query that must not be seen.

use std::{
    io::{self, Write},
    sync::{Arc, mpsc},
    time::{Duration, SystemTime},
};

use careportals_sidecar::{
    careportals::ROUTE_WORDS,
    clock::{Clock, Moment, Now},
    config::{Log, LogFormat},
    logging::{AccessLine, AccessWriter, Logging, Reader},
    path::Words,
};
use http::Method;
use serde_json::Value;

use crate::shared::{lines, logs};

const QUERY: &str = "?patient=jane.d0e";

#[derive(Default)]
struct Input<'a> {
    method: Option<Method>,
    path: &'a str,
    id: &'a str,
    listener: &'a str,
    code: Option<&'a str>,
    words: Vec<&'a str>,
    event: &'a str,
    number: u64,
}

/// Checks one input, which may be any bytes.
pub fn check(input: &[u8]) {
    let input = read(input);
    FORMS.with(|forms| {
        for form in forms {
            check_access(form, &input);
            check_event(form, &input);
        }
    });
}

fn read(input: &[u8]) -> Input<'_> {
    let mut read = Input::default();
    for (kind, line) in lines(input) {
        let text = std::str::from_utf8(line).unwrap_or_default();
        match kind {
            b'm' => read.method = Method::from_bytes(line).ok(),
            b't' => read.path = text,
            b'i' => read.id = text,
            b'l' => read.listener = text,
            b'c' => read.code = Some(text),
            b'w' if read.words.len() < 8 => read.words.push(text),
            b'e' => read.event = text,
            b'n' => read.number = text.parse().unwrap_or(0),
            _ => {}
        }
    }
    read
}

/// Logs in one form, and their output.
struct Form {
    is_json: bool,
    is_terminal: bool,
    logging: Logging,
    written: mpsc::Receiver<Vec<u8>>,
}

thread_local! {
    static FORMS: [Form; 4] = [
        Form::start(LogFormat::Json, Reader::Unknown),
        Form::start(LogFormat::Text, Reader::Unknown),
        Form::start(LogFormat::Auto, Reader::Journal),
        Form::start(LogFormat::Auto, Reader::Terminal { colour: false }),
    ];
}

struct Pipe(mpsc::Sender<Vec<u8>>);

impl Write for Pipe {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        // The receiver is dropped only when the process ends.
        let _ = self.0.send(text.to_vec());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A clock that stands still, so that an input always gives the same result.
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Now {
        Now { moment: Moment::new(Duration::ZERO), wall: SystemTime::UNIX_EPOCH }
    }
}

impl Form {
    fn start(format: LogFormat, reader: Reader) -> Self {
        let (writer, written) = mpsc::channel();
        let log = Log { filter: "trace".to_owned(), format, access: true };
        let logging = logs(&log, Pipe(writer), reader, Arc::new(Stopped));
        let is_terminal = matches!(reader, Reader::Terminal { .. });
        Self { is_json: format == LogFormat::Json, is_terminal, logging, written }
    }

    /// Takes the one line that was written.
    fn line(&self) -> String {
        let mut text = self.written.recv_timeout(Duration::from_secs(10)).expect("a line");
        while text.last() != Some(&b'\n') {
            text.extend(self.written.recv_timeout(Duration::from_secs(10)).expect("the rest of a line"));
        }
        let text = String::from_utf8(text).expect("a line is text");
        let line = text.strip_suffix('\n').expect("a line ends");
        let odd = |shown: char| shown.is_control() || matches!(shown, '\u{2028}' | '\u{2029}');
        assert!(!line.contains(odd), "more than a line, or what a terminal might obey: {line:?}");
        line.to_owned()
    }

    fn writer(&self) -> AccessWriter {
        self.logging.access_log().worker()
    }
}

fn check_access(form: &Form, input: &Input<'_>) {
    let (method, words) = (input.method.clone().unwrap_or(Method::GET), Words::new(&input.words));
    let path = format!("{}{QUERY}", input.path);
    let number = Duration::from_nanos(input.number);
    // Of what fails with a code of ours the first is a warning.
    let status = if input.code.is_some() { 502 } else { 200 };
    let line = AccessLine {
        api: "emr",
        listener: input.listener,
        method: &method,
        path: &path,
        words: &words,
        status,
        code: input.code,
        would_refuse: None,
        cut: None,
        retries: 1,
        relogin: Some("done"),
        request_bytes: input.number,
        response_bytes: input.number,
        duration: number,
        upstream_first_byte: input.number.is_multiple_of(2).then_some(number),
        request_id: input.id,
        uid: u32::try_from(input.number).ok(),
        pid: i32::try_from(input.number).ok(),
    };
    let mut writer = form.writer();
    writer.write(&line, SystemTime::UNIX_EPOCH + number);
    drop(writer);
    let shown = form.line();
    // An input that holds the same text elsewhere shows it there.
    let elsewhere = |text: &str| text.contains("jane.d0e");
    let said = elsewhere(input.id)
        || elsewhere(input.listener)
        || input.code.is_some_and(elsewhere)
        || input.words.iter().any(|word| elsewhere(word));
    assert!(said || !shown.contains("jane.d0e"), "the query is shown: {shown}");
    if form.is_json {
        let value: Value = serde_json::from_str(&shown).unwrap_or_else(|error| panic!("{error}: {shown}"));
        let field = |name: &str| value[name].as_str().unwrap_or_else(|| panic!("no {name}: {shown}")).to_owned();
        assert_eq!((field("request_id").as_str(), field("listener").as_str()), (input.id, input.listener));
        assert_eq!(value["request_bytes"].as_u64(), Some(input.number));
        check_method(&method, &field("method"));
        check_path(input, &field("path"));
    } else if form.is_terminal {
        assert!(shown.chars().count() <= 100, "{shown}");
        let mut words = shown.splitn(3, ' ').skip(1);
        check_method(&method, words.next().unwrap_or_default());
        // A path that is cut ends in the middle of a segment.
        let path = words.next().and_then(|rest| rest.split_once(&format!(" {status} "))).map(|(path, _)| path);
        let path = path.unwrap_or_else(|| panic!("no path: {shown}"));
        let whole = path.strip_suffix('…').map_or(path, |path| path.rsplit_once('/').map_or("", |(whole, _)| whole));
        check_path(input, whole);
    } else {
        // Only fields of a known form stand before the path. A listener without quotes can't hold ` path=`.
        let quoted = !input.listener.is_empty()
            && input.listener.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'=' && byte != b'\\');
        if quoted || input.listener.is_empty() {
            let path = shown.split(" path=").nth(1).and_then(|rest| rest.split(' ').next());
            check_path(input, path.unwrap_or_else(|| panic!("no path: {shown}")));
        }
    }
}

fn check_method(method: &Method, shown: &str) {
    let registered = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    assert!(shown == "OTHER" || (registered.contains(&shown) && shown == method.as_str()), "{method} is shown as {shown}");
}

fn check_path(input: &Input<'_>, shown: &str) {
    assert!(!shown.contains(['?', '#', '"', '\\', ' ']), "{shown}");
    let asked = input.path.split(['?', '#']).next().unwrap_or_default();
    for (segment, shown) in asked.split('/').zip(shown.split('/')) {
        let digits = shown.strip_prefix('v').unwrap_or_default();
        let is_version = (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        let known = shown.is_empty() || is_version || ROUTE_WORDS.contains(&shown) || input.words.contains(&shown);
        assert!(shown == "{…}" || shown == "…" || (known && shown == segment), "{asked:?} is shown as {shown:?}");
    }
}

fn check_event(form: &Form, input: &Input<'_>) {
    let (text, number) = (input.event, input.number);
    let quoted = format!("{text:?}");
    tracing::dispatcher::with_default(form.logging.dispatch(), || {
        let (whole, even) = (number.cast_signed(), number.is_multiple_of(2));
        // A level is a constant of its event.
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(target: "careportals_sidecar::fuzz", text, debug = ?text, shown = %text, number, whole, even, float = f64::from_bits(number), "{text}")
            };
        }
        match number % 5 {
            1 => log!(error),
            2 => log!(warn),
            3 => log!(debug),
            4 => log!(trace),
            _ => log!(info),
        }
    });
    let line = form.line();
    if form.is_json {
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!((value["text"].as_str(), value["shown"].as_str()), (Some(text), Some(text)));
        assert_eq!(value["debug"].as_str(), Some(quoted.as_str()));
        assert_eq!((value["number"].as_u64(), value["whole"].as_i64()), (Some(number), Some(number.cast_signed())));
        assert_eq!(value["even"].as_bool(), Some(number.is_multiple_of(2)));
        assert!(value["message"].is_string());
    }
}
