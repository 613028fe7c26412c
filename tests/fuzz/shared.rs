//! What several checks need: inputs taken apart, a configuration to start from, and readings that are not the sidecar's.

use std::{
    cell::RefCell,
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use careportals_sidecar::{
    clock::Clock,
    config::{
        Config, Log,
        source::{Input, load},
    },
    logging::{Logging, Reader},
};

/// Lines, each with its first byte apart.
pub fn lines(input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    input.split(|&byte| byte == b'\n').filter_map(|line| line.split_first().map(|(&kind, rest)| (kind, rest)))
}

/// What the environment alone comes to; nothing else is read.
pub fn config(variables: &[(&str, &str)]) -> Config {
    let environment = variables.iter().copied().collect();
    let loaded = load(Input {
        config_flag: None,
        default_file: PathBuf::new(),
        needs_file_keys: false,
        flags: Vec::new(),
        environment,
        defaults: &[],
    });
    loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.faults))
}

/// The least that the daemon starts with.
pub const LEAST: [(&str, &str); 3] =
    [("CAREPORTALS_ORGANIZATION", "acme"), ("CAREPORTALS_USERNAME", "user"), ("CAREPORTALS_PASSWORD", "password")];

thread_local! {
    static CONFIG: RefCell<Config> = RefCell::new(config(&LEAST));
}

/// Lends a configuration to change. Each check sets all keys that matter to it.
pub fn with_config<T>(what: impl FnOnce(&mut Config) -> T) -> T {
    CONFIG.with_borrow_mut(what)
}

/// Logs of this process's own, one after the other: while two begin at once, tracing may decide for both what one of them
/// wants.
pub fn logs(log: &Log, writer: impl Write + Send + 'static, reader: Reader, clock: Arc<dyn Clock>) -> Logging {
    static BEGINNING: Mutex<()> = Mutex::new(());
    let _alone = BEGINNING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut logs = Logging::build(log, writer, reader, clock).expect("a filter");
    logs.write().expect("a log thread");
    logs
}

/// A name in lower case, with `-` for `_`.
pub fn folded(name: &[u8]) -> String {
    name.iter().map(|byte| if matches!(*byte, b'_' | b'.') { '-' } else { char::from(byte.to_ascii_lowercase()) }).collect()
}

/// Whether a folded name is `x-original-` and what a server may take for the request's own. Other such names are an app's.
pub fn is_original(name: &str) -> bool {
    const OWN: [&str; 13] = [
        "url",
        "uri",
        "request-uri",
        "path",
        "query",
        "host",
        "port",
        "scheme",
        "proto",
        "prefix",
        "method",
        "ip",
        "remote-addr",
    ];
    name.strip_prefix("x-original-").is_some_and(|rest| OWN.contains(&rest) || rest.starts_with("forwarded-"))
}

/// One pass of percent-decoding as most servers do it: what is malformed stays.
pub fn decoded(text: &[u8]) -> Vec<u8> {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
    while at < text.len() {
        match (text[at], hex(text.get(at + 1)), hex(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// A path as a server takes it that decodes `passes` times, ignores case, parameters, empty segments and a slash at the
/// end, takes `\` for `/`, and resolves dots (RFC 3986, 5.2.4).
pub fn careless(path: &[u8], passes: usize) -> Vec<Vec<u8>> {
    let path = path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    let text = (0..passes).fold(path.to_vec(), |text, _| decoded(&text)).to_ascii_lowercase();
    let mut segments: Vec<Vec<u8>> = Vec::new();
    for segment in text.split(|byte| matches!(byte, b'/' | b'\\')) {
        match segment.split(|&byte| byte == b';').next().unwrap_or_default() {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            name => segments.push(name.to_vec()),
        }
    }
    segments
}
