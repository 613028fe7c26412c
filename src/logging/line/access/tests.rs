//! Tests of access lines.

use std::{
    io::{self, Write},
    sync::mpsc,
    time::UNIX_EPOCH,
};

use proptest::prelude::*;

use super::*;
use crate::logging::queue::Capacity;

struct Pipe(mpsc::Sender<String>);

impl Write for Pipe {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(String::from_utf8(text.to_vec()).unwrap());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An access log and its output, one item for each buffer that is handed over.
fn access_log(shape: Shape, wanted: bool) -> (AccessLog, mpsc::Receiver<String>) {
    let (written, reader) = mpsc::channel();
    let capacity = Capacity { bytes: 1024 * 1024, entries: 1024 };
    let queue = Queue::new(capacity);
    queue.start(Pipe(written), |lines| panic!("{lines} lines lost")).unwrap();
    let wanted = if wanted { Wanted::Everything } else { Wanted::Nothing };
    (AccessLog::new(Arc::new(AccessOutput::new(queue, shape, wanted))), reader)
}

fn line<'a>(path: &'a str, method: &'a Method, words: &'a Words) -> AccessLine<'a> {
    AccessLine {
        api: "emr",
        listener: "127.0.0.1:2273",
        method,
        path,
        words,
        status: 200,
        code: None,
        would_refuse: None,
        cut: None,
        retries: 0,
        relogin: None,
        request_bytes: 0,
        response_bytes: 10_240,
        duration: Duration::from_micros(1234),
        upstream_first_byte: Some(Duration::from_nanos(900_999)),
        request_id: "0a1b2c",
        uid: None,
        pid: None,
    }
}

fn written(shape: Shape, line: &AccessLine<'_>) -> String {
    let (log, reader) = access_log(shape, true);
    log.worker().write(line, UNIX_EPOCH + Duration::from_micros(1_709_164_800_000_042));
    reader.recv().unwrap()
}

#[test]
fn a_line_is_one_json_object() {
    let words = Words::new([""; 0]);
    let plain = line("/customers/64b5f0c2a1e3d4f5a6b7c8d9?email=jane@example.com", &Method::GET, &words);
    assert_eq!(
        written(Shape::Json, &plain),
        concat!(
            r#"{"timestamp":"2024-02-29T00:00:00.000042Z","level":"INFO","message":"request","api":"emr","#,
            r#""listener":"127.0.0.1:2273","method":"GET","path":"/customers/{…}","status":200,"request_bytes":0,"#,
            r#""response_bytes":10240,"duration_us":1234,"upstream_first_byte_us":900,"request_id":"0a1b2c","#,
            r#""target":"careportals_sidecar::access"}"#,
            "\n"
        )
    );
    let full = AccessLine {
        listener: "unix:/run/my \"socket\"",
        status: 502,
        code: Some("upstream_closed"),
        would_refuse: Some("not_allowed"),
        cut: Some("client_gone"),
        retries: 2,
        relogin: Some("done"),
        upstream_first_byte: None,
        request_id: "a\"\n\\",
        uid: Some(1000),
        pid: Some(4_194_304),
        ..plain
    };
    assert_eq!(
        written(Shape::Json, &full),
        concat!(
            r#"{"timestamp":"2024-02-29T00:00:00.000042Z","level":"WARN","message":"request","api":"emr","#,
            r#""listener":"unix:/run/my \"socket\"","method":"GET","path":"/customers/{…}","status":502,"#,
            r#""code":"upstream_closed","would_refuse":"not_allowed","cut":"client_gone","retries":2,"relogin":"done","request_bytes":0,"response_bytes":10240,"duration_us":1234,"#,
            r#""request_id":"a\"\n\\","uid":1000,"pid":4194304,"target":"careportals_sidecar::access"}"#,
            "\n"
        )
    );
}

#[test]
fn a_line_is_readable_text() {
    let words = Words::new(["labs"]);
    let line = AccessLine { uid: Some(0), request_id: "a b", ..line("/labs/7", &Method::POST, &words) };
    assert_eq!(
        written(Shape::Text, &line),
        "2024-02-29T00:00:00.000Z INFO  request          api=emr listener=127.0.0.1:2273 method=POST path=/labs/{…} status=200 \
         request_bytes=0 response_bytes=10240 duration_us=1234 upstream_first_byte_us=900 request_id=\"a b\" uid=0\n"
    );
}

#[test]
fn an_unregistered_method_is_shown_as_other() {
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"] {
        assert_eq!(method_name(&Method::from_bytes(method.as_bytes()).unwrap()), method);
    }
    for method in ["get", "PURGE", "JANE", "PROPFIND"] {
        assert_eq!(method_name(&Method::from_bytes(method.as_bytes()).unwrap()), "OTHER");
    }
}

#[test]
fn lines_are_handed_over_at_the_tick() {
    let (log, reader) = access_log(Shape::Text, true);
    let words = Words::new([""; 0]);
    let mut writer = log.worker();
    writer.tick();
    for _ in 0..3 {
        writer.write(&line("/users", &Method::GET, &words), UNIX_EPOCH);
    }
    assert!(reader.try_recv().is_err());
    writer.tick();
    assert_eq!(reader.recv().unwrap().lines().count(), 3);
    writer.write(&line("/users", &Method::GET, &words), UNIX_EPOCH);
    drop(writer);
    assert_eq!(reader.recv().unwrap().lines().count(), 1);
}

#[test]
fn a_full_buffer_is_handed_over_and_never_grows() {
    let (log, reader) = access_log(Shape::Json, true);
    let words = Words::new([""; 0]);
    let mut writer = log.worker();
    assert_eq!(writer.buffer.capacity(), 0);
    let line = line("/users", &Method::GET, &words);
    writer.write(&line, UNIX_EPOCH);
    let (address, capacity) = (writer.buffer.as_ptr(), writer.buffer.capacity());
    for _ in 0..999 {
        writer.write(&line, UNIX_EPOCH);
        assert_eq!((writer.buffer.as_ptr(), writer.buffer.capacity()), (address, capacity));
    }
    drop(writer);
    assert!(log.0.queue.close(Duration::from_secs(60)));
    let parts: Vec<String> = reader.iter().collect();
    assert!(parts.len() > 10);
    assert!(parts[..parts.len() - 1].iter().all(|part| (FULL..capacity).contains(&part.len())));
    assert_eq!(parts.concat().lines().count(), 1000);
}

#[test]
fn nothing_is_written_when_access_lines_are_off() {
    let (log, reader) = access_log(Shape::Json, false);
    let words = Words::new([""; 0]);
    let mut writer = log.worker();
    writer.write(&line("/users", &Method::GET, &words), UNIX_EPOCH);
    assert_eq!(writer.buffer.capacity(), 0);
    drop(writer);
    // The filter may change while a worker runs.
    let mut writer = log.worker();
    log.0.want(Wanted::Everything);
    writer.write(&line("/users", &Method::GET, &words), UNIX_EPOCH);
    drop(writer);
    assert_eq!(reader.recv().unwrap().lines().count(), 1);
}

#[test]
fn the_first_failure_of_our_own_for_an_api_and_a_code_in_a_minute_is_a_warning() {
    let (log, reader) = access_log(Shape::Journal, true);
    let words = Words::new([""; 0]);
    let mut workers = [log.worker(), log.worker()];
    let (closed, busy) = (Some("upstream_closed"), Some("too_many_requests_in_flight"));
    let mut expected = Vec::new();
    for (second, worker, api, status, code, priority) in [
        (100, 0, "emr", 502, closed, 4),
        (100, 1, "emr", 502, closed, 6),
        (110, 0, "emr", 503, busy, 4),
        (120, 1, "crm", 502, closed, 4),
        // Upstream's own, and refusals.
        (130, 0, "emr", 502, None, 6),
        (130, 0, "emr", 403, Some("not_allowed"), 6),
        (159, 1, "emr", 502, closed, 6),
        (160, 1, "emr", 502, closed, 4),
        (161, 0, "emr", 502, closed, 6),
        // The clock was set back.
        (10, 0, "emr", 502, closed, 4),
    ] {
        let line = AccessLine { api, status, code, ..line("/users", &Method::GET, &words) };
        workers[worker].write(&line, UNIX_EPOCH + Duration::from_secs(second));
        workers[worker].tick();
        expected.push(format!("<{priority}>request api={api} status={status}"));
    }
    drop(workers);
    assert!(log.0.queue.close(Duration::from_secs(60)));
    let shown: String = reader.iter().collect();
    let shown = shown.lines().map(|line| {
        let words =
            line.split(' ').filter(|word| word.contains(">request") || word.starts_with("api=") || word.starts_with("status="));
        words.collect::<Vec<_>>().join(" ")
    });
    assert_eq!(shown.collect::<Vec<_>>(), expected);
}

#[test]
fn a_line_that_another_worker_tells_late_makes_no_second_warning() {
    let (log, _reader) = access_log(Shape::Journal, true);
    let words = Words::new([""; 0]);
    let line = AccessLine { status: 502, code: Some("upstream_closed"), ..line("/users", &Method::GET, &words) };
    let levels =
        [1, 0, 2, 1].map(|micros| log.0.level(&line, UNIX_EPOCH + Duration::from_secs(100) + Duration::from_micros(micros)));
    assert_eq!(levels, [Level::WARN, Level::INFO, Level::INFO, Level::INFO]);
}

#[test]
fn numbers_are_written_in_full() {
    for value in [0, 7, 10, 99, 1_000_000, u64::MAX] {
        let mut text = Vec::new();
        push_number(&mut text, value);
        assert_eq!(String::from_utf8(text).unwrap(), value.to_string());
    }
    assert_eq!(micros(Duration::MAX), u64::MAX);
}

proptest! {
    #[test]
    fn any_line_is_valid_and_shows_no_more_than_it_should(path in "(/(users|[^/?#]{0,9})){0,5}(\\?SECRET)?", id in any::<String>(), listener in any::<String>()) {
        let words = Words::new([""; 0]);
        let line = AccessLine { request_id: &id, listener: &listener, ..line(&path, &Method::GET, &words) };
        let mut json = Vec::new();
        LineWriter { to: &mut json, shape: Shape::Json }.line(&line, Level::INFO, "now");
        let text = String::from_utf8(json).unwrap();
        prop_assert_eq!(text.lines().count(), 1);
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(parsed["request_id"].as_str(), Some(id.as_str()));
        prop_assert_eq!(parsed["listener"].as_str(), Some(listener.as_str()));
        let mut masked = Vec::new();
        mask(&path, &words, &mut masked);
        prop_assert_eq!(parsed["path"].as_str().map(str::as_bytes), Some(masked.as_slice()));
        for shape in [Shape::Text, Shape::Journal] {
            let mut text = Vec::new();
            LineWriter { to: &mut text, shape }.line(&line, Level::INFO, "now");
            let text = String::from_utf8(text).unwrap();
            prop_assert!(text.ends_with('\n') && !text.trim_end_matches('\n').contains(char::is_control));
        }
    }
}
