//! Finds what looks like a mistake about a value: no file, nothing in it, a mark of an editor, blanks, line breaks, quotes. The
//! words never show the value.

use std::{fs::File, path::Path, time::Duration};

use super::{SourceFault, named};
use crate::{
    config::Source,
    files,
    secret::{BYTE_ORDER_MARK, Pages},
};

/// The longest value, in bytes, that is looked at.
const VALUE_MAX: usize = 64 * 1024;
/// For how long a file is waited for. `check` must not hang.
const FILE_TIMEOUT: Duration = Duration::from_secs(2);

/// An oddity of a value: what was found, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Oddity {
    /// What was found. A word for the place stands before it.
    message: &'static str,
    hint: &'static str,
}

const MARK: Oddity =
    Oddity { message: "begins with a byte order mark, which is left out", hint: "save the file as UTF-8 without the mark" };
const MARK_IN_TEXT: Oddity = Oddity { message: "begins with a byte order mark, which is part of the value", hint: "remove it" };
const WIDE: Oddity =
    Oddity { message: "looks like UTF-16, and is read as UTF-8", hint: "save the file as UTF-8, without a byte order mark" };
const NO_TEXT: Oddity = Oddity { message: "is not UTF-8, so no log-in can hold it", hint: "save the file as UTF-8" };
const CONTROL: Oddity =
    Oddity { message: "holds a control character, which no header may", hint: "save the file again, by a text editor" };
const BLANK: Oddity =
    Oddity { message: "begins or ends with a blank, which is part of the value", hint: "remove it, unless it is meant" };
const NEWLINE: Oddity = Oddity {
    message: "begins or ends with a newline that is part of the value",
    hint: "remove it: of a file one newline at its end is left out; `printf %s` writes none",
};
const LINES: Oddity = Oddity { message: "has several lines, all of them part of the value", hint: "keep one value in a file" };
const QUOTES: Oddity =
    Oddity { message: "stands in quotes, which are part of the value", hint: "remove them, unless they are meant" };

const COPIED: Oddity =
    Oddity { message: "is `[redacted]`, which `config` shows in place of a secret", hint: "write the value itself" };

/// Looks at a value that is written down or stands in a file, and says what seems wrong, each with what to do. A command is not
/// run. It blocks, for two seconds at most.
#[must_use]
pub fn oddities(source: &Source) -> Vec<(String, &'static str)> {
    let (place, found) = match source {
        Source::Value(value) => ("the value".to_owned(), of_value(value.expose(), MARK_IN_TEXT)),
        Source::File(path) => match read(path) {
            Ok(bytes) => (format!("the value in {}", named(path)), of_file(&bytes)),
            Err(fault) => return vec![(fault.to_string(), fault.advice())],
        },
        Source::Command(_) => return Vec::new(),
    };
    found.into_iter().map(|odd| (format!("{place} {}", odd.message), odd.hint)).collect()
}

fn read(path: &Path) -> Result<Pages, SourceFault> {
    let wanted = path.to_owned();
    let read = files::within(FILE_TIMEOUT, move || {
        if !wanted.metadata()?.is_file() {
            return Ok(None);
        }
        Pages::read(File::open(&wanted)?, VALUE_MAX).map(Some)
    });
    match read {
        Ok(Some(bytes)) if is_empty(&bytes) => Err(SourceFault::EmptyFile(path.to_owned())),
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(SourceFault::NotAFile(path.to_owned())),
        Err(error) => Err(SourceFault::of_file(path, &error)),
    }
}

fn is_empty(file: &[u8]) -> bool {
    matches!(file.strip_prefix(BYTE_ORDER_MARK).unwrap_or(file), [] | [b'\n'] | [b'\r', b'\n'])
}

fn of_file(bytes: &[u8]) -> Vec<Oddity> {
    let kept = match bytes {
        [kept @ .., b'\r', b'\n'] | [kept @ .., b'\n'] => kept,
        all => all,
    };
    if kept == b"[redacted]" { vec![COPIED] } else { of_value(kept, MARK) }
}

/// `mark`: what to say of a byte order mark.
fn of_value(value: &[u8], mark: Oddity) -> Vec<Oddity> {
    if value.starts_with(b"\xff\xfe") || value.starts_with(b"\xfe\xff") {
        return vec![WIDE];
    }
    let (has_mark, value) = match value.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    if std::str::from_utf8(value).is_err() {
        return vec![NO_TEXT];
    }
    let is_newline = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let ends = [value.first(), value.last()];
    let has_end = |wanted: fn(&u8) -> bool| ends.into_iter().flatten().any(wanted);
    let inner = value.trim_ascii();
    let found = [
        (has_mark, mark),
        // A blank no-break space, as web pages have it.
        (has_end(is_blank) || value.starts_with(b"\xc2\xa0") || value.ends_with(b"\xc2\xa0"), BLANK),
        (has_end(is_newline), NEWLINE),
        (inner.iter().any(is_newline), LINES),
        (is_quoted(inner), QUOTES),
        (value.iter().any(|byte| byte.is_ascii_control() && !is_newline(byte) && !is_blank(byte)), CONTROL),
    ];
    found.into_iter().filter_map(|(is_there, oddity)| is_there.then_some(oddity)).collect()
}

fn is_quoted(value: &[u8]) -> bool {
    let pairs =
        [("\"", "\""), ("'", "'"), ("`", "`"), ("\u{201c}", "\u{201d}"), ("\u{201e}", "\u{201c}"), ("\u{2018}", "\u{2019}")];
    pairs.iter().any(|(open, close)| value.strip_prefix(open.as_bytes()).is_some_and(|rest| rest.ends_with(close.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn each_oddity_is_named_and_a_plain_value_has_none() {
        let cases: [(&[u8], &[Oddity]); 24] = [
            (b"secr\xffet\n", &[NO_TEXT]),
            (b"sec\0ret", &[CONTROL]),
            (b"sec\x7fret \n", &[BLANK, CONTROL]),
            (b"[redacted]\n", &[COPIED]),
            (b"secret", &[]),
            (b"secret\n", &[]),
            (b"secret\r\n", &[]),
            (b"it's \"here\"", &[]),
            (b"\"", &[]),
            (b"a b", &[]),
            (b"\xef\xbb\xbfsecret", &[MARK]),
            (b"\xef\xbb\xbf\"secret\" \n", &[MARK, BLANK, QUOTES]),
            (b"\xff\xfes\0e\0", &[WIDE]),
            (b"\xfe\xff\0s\0e", &[WIDE]),
            (b" secret\n", &[BLANK]),
            (b"secret \n", &[BLANK]),
            (b"secret\t", &[BLANK]),
            (b"secret\xc2\xa0", &[BLANK]),
            (b"secret\n\n", &[NEWLINE]),
            (b"\nsecret", &[NEWLINE]),
            (b"secret\r", &[NEWLINE]),
            (b"one\ntwo\n", &[LINES]),
            (b"'secret'\n", &[QUOTES]),
            ("\u{201c}secret\u{201d}".as_bytes(), &[QUOTES]),
        ];
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("value");
        let shown = |odd: &Oddity| (format!("the value in {} {}", path.display(), odd.message), odd.hint);
        for (bytes, expected) in cases {
            std::fs::write(&path, bytes).unwrap();
            let expected: Vec<_> = expected.iter().map(shown).collect();
            assert_eq!(oddities(&Source::File(path.clone())), expected, "{bytes:?}");
        }
        assert_eq!(oddities(&Source::Command(vec!["echo".into(), "\" x\"".into()])), []);
    }

    #[test]
    fn a_file_that_gives_nothing_is_told() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("value");
        let told = || oddities(&Source::File(path.clone())).into_iter().map(|(message, _)| message).collect::<String>();
        let shown = path.display();
        assert_eq!(told(), format!("{shown} does not exist; it is watched, and used as soon as it appears"));
        for empty in ["", "\n", "\r\n", "\u{feff}", "\u{feff}\n"] {
            std::fs::write(&path, empty).unwrap();
            assert_eq!(told(), format!("{shown} is empty"), "{empty:?}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(told(), format!("{shown} is not a regular file"));
    }

    #[test]
    fn of_a_value_that_is_written_down_no_newline_is_left_out() {
        let of = |text: &str| oddities(&Source::Value(Secret::from(text)));
        let odd = |odd: Oddity| [(format!("the value {}", odd.message), odd.hint)];
        assert_eq!(of("secret"), []);
        assert_eq!(of("secret\n"), odd(NEWLINE));
        assert_eq!(of("\u{feff}secret"), odd(MARK_IN_TEXT));
        assert_eq!(of("\"secret\""), odd(QUOTES));
    }
}
