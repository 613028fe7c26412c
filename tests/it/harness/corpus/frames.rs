//! Frames of HTTP/2 as the corpus writes them: `HEADERS 1 END_STREAM END_HEADERS | GET / ; x-a: b`.
//!
//! In front of the bar stand the kind, the stream and the flags; `len=9` says another length than the payload's, and `r` behind the
//! stream sets the reserved bit. Behind it stand the pieces of the payload, apart by ` ; `: `#0a0b` is octets, `#00*9` nine of one,
//! `"text"` is text, `GET /` the four pseudo-fields of a request, `name: value` one field. Fields are literals that no table keeps.

use crate::harness::frames::{
    BODY, CONTINUATION, Frame, GOAWAY, HEADERS, PING, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, fields,
    get_fields,
};

const KINDS: [(&str, u8); 10] = [
    ("DATA", BODY),
    ("HEADERS", HEADERS),
    ("PRIORITY", PRIORITY),
    ("RST_STREAM", RST_STREAM),
    ("SETTINGS", SETTINGS),
    ("PUSH_PROMISE", PUSH_PROMISE),
    ("PING", PING),
    ("GOAWAY", GOAWAY),
    ("WINDOW_UPDATE", WINDOW_UPDATE),
    ("CONTINUATION", CONTINUATION),
];

const FLAGS: [(&str, u8); 5] = [("END_STREAM", 1), ("ACK", 1), ("END_HEADERS", 4), ("PADDED", 8), ("PRIORITY", 0x20)];

const ERRORS: [(&str, u32); 14] = [
    ("NO_ERROR", 0),
    ("PROTOCOL_ERROR", 1),
    ("INTERNAL_ERROR", 2),
    ("FLOW_CONTROL_ERROR", 3),
    ("SETTINGS_TIMEOUT", 4),
    ("STREAM_CLOSED", 5),
    ("FRAME_SIZE_ERROR", 6),
    ("REFUSED_STREAM", 7),
    ("CANCEL", 8),
    ("COMPRESSION_ERROR", 9),
    ("CONNECT_ERROR", 10),
    ("ENHANCE_YOUR_CALM", 11),
    ("INADEQUATE_SECURITY", 12),
    ("HTTP_1_1_REQUIRED", 13),
];

fn number<T: Copy + TryFrom<u64>>(table: &[(&str, T)], word: &str) -> T {
    let known = table.iter().find(|(name, _)| *name == word).map(|(_, number)| *number);
    let written = || u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()?.try_into().ok();
    known.or_else(written).unwrap_or_else(|| panic!("{word:?} is no name"))
}

/// The number of an error code's name (RFC 9113, 7).
pub fn error_code(name: &str) -> u32 {
    number(&ERRORS, name)
}

/// The octets of a frame.
pub fn written(text: &str) -> Vec<u8> {
    let front = text.split(" | ").next().unwrap_or_default();
    let Frame { kind, flags, payload, .. } = read(text);
    let (mut stream, mut length) = (0, payload.len());
    for word in front.split(' ').skip(1) {
        if let Some(other) = word.strip_prefix("len=") {
            length = other.parse().unwrap();
        } else if let Some(reserved) = word.strip_suffix('r').and_then(|digits| digits.parse::<u32>().ok()) {
            stream = reserved | 1 << 31;
        } else if let Ok(plain) = word.parse() {
            stream = plain;
        }
    }
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), &payload].concat()
}

/// The frame as its receiver sees it.
pub fn read(text: &str) -> Frame {
    let (front, pieces) = text.split_once(" | ").unwrap_or((text, ""));
    let mut words = front.split(' ');
    let kind = number(&KINDS, words.next().unwrap());
    let (mut stream, mut flags) = (0, 0);
    for word in words.filter(|word| !word.starts_with("len=")) {
        match word.trim_end_matches('r').parse() {
            Ok(plain) => stream = plain,
            Err(_) => flags |= number(&FLAGS, word),
        }
    }
    let payload = pieces.split(" ; ").filter(|piece| !piece.is_empty()).flat_map(octets).collect();
    Frame { kind, flags, stream, payload }
}

fn octets(piece: &str) -> Vec<u8> {
    if let Some(digits) = piece.strip_prefix('#') {
        let (digits, times) = digits.split_once('*').map_or((digits, 1), |(digits, times)| (digits, times.parse().unwrap()));
        let octet = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap_or_else(|_| panic!("{piece:?}"));
        return (0..digits.len()).step_by(2).map(octet).collect::<Vec<u8>>().repeat(times);
    }
    if let Some(text) = piece.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        return text.as_bytes().to_vec();
    }
    match piece.split_once(": ") {
        Some((name, value)) => fields(&[(name, value)]),
        None if piece.starts_with("GET ") => get_fields(&piece[4..], &[]),
        None => {
            let (method, path) = piece.split_once(' ').unwrap_or_else(|| panic!("{piece:?} is no piece"));
            fields(&[(":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", path)])
        }
    }
}

#[test]
fn frames_are_written_as_they_are_meant() {
    assert_eq!(written("PING 0 ACK | #00*6 ; \"ab\""), b"\0\0\x08\x06\x01\0\0\0\0\0\0\0\0\0\0ab");
    assert_eq!(written("SETTINGS 1r len=9"), b"\0\0\x09\x04\0\x80\0\0\x01");
    assert_eq!(written("0xee 3 PADDED | x: y"), b"\0\0\x05\xee\x08\0\0\0\x03\0\x01x\x01y");
    assert_eq!(read("HEADERS 1 END_STREAM END_HEADERS | GET /").payload, get_fields("/", &[]));
    assert_eq!(error_code("STREAM_CLOSED"), 5);
}
