//! Frames that are not what they should be, or not where they should be.

use crate::harness::{
    frames::{
        BODY, COMPRESSION_ERROR, CONTINUATION, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, GOAWAY, HEADERS,
        PADDED, PING, PREFACE, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE, RST_STREAM, SETTINGS, STREAM_CLOSED, WHOLE, WINDOW_UPDATE,
        WITH_PRIORITY, frame, get_fields,
    },
    hostile_http2::{Case, Ends, case, get, play, post, refused},
};

/// One setting (RFC 9113, 6.5.1).
fn setting(number: u16, value: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

fn update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

#[test]
fn invalid_settings_end_the_connection() {
    let settings = |flags, stream, payload: &[u8]| [frame(SETTINGS, flags, stream, payload), get(1)];
    let (window, largest, push) = (4, 5, 2);
    play(
        &[
            case("of five bytes", &settings(0, 0, &[0, 4, 0, 0, 0]), Ends::Connection(FRAME_SIZE_ERROR), 0),
            case("an acknowledgement with a payload", &settings(1, 0, &setting(4, 1)), Ends::Connection(FRAME_SIZE_ERROR), 0),
            case("on a stream", &settings(0, 1, &[]), Ends::Connection(PROTOCOL_ERROR), 0),
            case("a window of 2^31", &settings(0, 0, &setting(window, 1 << 31)), Ends::Connection(FLOW_CONTROL_ERROR), 0),
            case("frames of 100 bytes", &settings(0, 0, &setting(largest, 100)), Ends::Connection(PROTOCOL_ERROR), 0),
            case("frames of 2^24 bytes", &settings(0, 0, &setting(largest, 1 << 24)), Ends::Connection(PROTOCOL_ERROR), 0),
            case("push of 2", &settings(0, 0, &setting(push, 2)), Ends::Connection(PROTOCOL_ERROR), 0),
        ],
        false,
    );
}

#[test]
fn an_invalid_preface_ends_the_connection() {
    let settings = frame(SETTINGS, 0, 0, &[]);
    let case = |name: &str, pieces: &[&[u8]], ends| Case { name: name.to_owned(), bytes: pieces.concat(), ends, reaches: 0 };
    let http1 = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    play(
        &[
            // An error by the RFC; here, nothing that anybody could gain by.
            case("no settings", &[PREFACE, &refused(1)], Ends::Answer(1, 403)),
            case("the preface twice", &[PREFACE, PREFACE, &settings, &get(1)], Ends::Connection(FRAME_SIZE_ERROR)),
            case("HTTP/1.1 after it", &[PREFACE, &settings, http1], Ends::Connection(FRAME_SIZE_ERROR)),
            case("another version", &[b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", &settings, &get(1)], Ends::Closed),
            case("another word at its end", &[b"PRI * HTTP/2.0\r\n\r\nMS\r\n\r\n", &settings, &get(1)], Ends::Closed),
            case("frames without it", &[&settings, &get(1)], Ends::Closed),
        ],
        false,
    );
}

#[test]
fn frames_of_the_wrong_size_end_the_connection() {
    // Says that it is longer than any may be; not all of it needs to come.
    let mut endless = frame(BODY, 0, 1, b"some");
    endless[..3].copy_from_slice(&[0xff, 0xff, 0xff]);
    let size = Ends::Connection(FRAME_SIZE_ERROR);
    let protocol = Ends::Connection(PROTOCOL_ERROR);
    play(
        &[
            case("a body's of 2^24 - 1 bytes", &[endless], size, 0),
            case("a body's of one byte too many", &[post(1, "/"), frame(BODY, 1, 1, &vec![0; 16_385])], size, 0),
            case("a head's of one byte too many", &[frame(HEADERS, WHOLE, 1, &vec![0; 16_385])], size, 0),
            case("PING of seven bytes", &[frame(PING, 0, 0, b"seven..")], size, 0),
            case("RST_STREAM of three", &[post(1, "/"), frame(RST_STREAM, 0, 1, &[0; 3])], size, 0),
            case("WINDOW_UPDATE of three", &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])], size, 0),
            case("GOAWAY of four", &[frame(GOAWAY, 0, 0, &[0; 4])], size, 0),
            case("PRIORITY of four", &[frame(PRIORITY, 0, 1, &[0; 4])], size, 0),
            case("a body padded beyond its end", &[post(1, "/"), frame(BODY, PADDED, 1, &[9, 1, 2])], protocol, 0),
            case("a body padded by nothing at all", &[post(1, "/"), frame(BODY, PADDED, 1, &[])], protocol, 0),
            case("a head padded beyond its end", &[frame(HEADERS, WHOLE | PADDED, 1, &[200, 0x82])], protocol, 0),
            case("a head with half a priority", &[frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[0; 3])], protocol, 0),
        ],
        true,
    );
}

#[test]
fn frames_where_they_may_not_be_end_the_connection() {
    let protocol = Ends::Connection(PROTOCOL_ERROR);
    let block = get_fields("/", &[]);
    let begun = || frame(HEADERS, END_STREAM, 1, &block[..10]);
    let rest = |stream| frame(CONTINUATION, END_HEADERS, stream, &block[10..]);
    let promise = [&2_u32.to_be_bytes()[..], &block].concat();
    play(
        &[
            case("a body on stream 0", &[frame(BODY, 1, 0, b"body")], protocol, 0),
            case("a body before its head", &[frame(BODY, 1, 1, b"body"), get(1)], protocol, 0),
            case("a head on stream 0", &[frame(HEADERS, WHOLE, 0, &block)], protocol, 0),
            case("a stream of the server's", &[frame(HEADERS, WHOLE, 2, &block)], protocol, 0),
            case("RST_STREAM on stream 0", &[frame(RST_STREAM, 0, 0, &[0; 4])], protocol, 0),
            case("RST_STREAM before the head", &[frame(RST_STREAM, 0, 1, &[0; 4]), get(1)], protocol, 0),
            case("WINDOW_UPDATE before the head", &[update(1, 1), get(1)], protocol, 0),
            case("PING on a stream", &[frame(PING, 0, 1, b"on a one")], protocol, 0),
            case("GOAWAY on a stream", &[frame(GOAWAY, 0, 1, &[0; 8])], protocol, 0),
            case("PRIORITY on stream 0", &[frame(PRIORITY, 0, 0, &[0; 5])], protocol, 0),
            case("PUSH_PROMISE", &[frame(PUSH_PROMISE, END_HEADERS, 1, &promise)], protocol, 0),
            case("CONTINUATION of nothing", &[rest(1)], protocol, 0),
            case("CONTINUATION after the end", &[refused(1), rest(1)], protocol, 0),
            case("CONTINUATION on another stream", &[begun(), rest(3)], protocol, 0),
            case("a body in a head", &[begun(), frame(BODY, 0, 1, b"body"), rest(1)], protocol, 0),
            case("another head in a head", &[begun(), get(3), rest(1)], protocol, 0),
            case("PING in a head", &[begun(), frame(PING, 0, 0, &[0; 8]), rest(1)], protocol, 0),
            case("an unknown kind in a head", &[begun(), frame(0xee, 0, 1, b"?"), rest(1)], protocol, 0),
        ],
        false,
    );
}

#[test]
fn streams_are_used_once_and_in_ascending_order() {
    let reset = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let depends = |on: u32| [&on.to_be_bytes()[..], &[1]].concat();
    let after = Ends::Either(&[PROTOCOL_ERROR, STREAM_CLOSED]);
    play(
        &[
            case("a lower number", &[refused(5), get(3)], after, 0),
            case("a number again", &[refused(1), get(1)], after, 0),
            case("a number again after a reset", &[post(1, "/"), reset(1), get(1)], after, 0),
            case("a body after the end", &[refused(1), frame(BODY, 1, 1, b"more")], after, 0),
            case(
                "a body after a reset, and on",
                &[post(1, "/"), reset(1), frame(BODY, 1, 1, b"more"), get(3)],
                Ends::Answer(3, 200),
                1,
            ),
            case("PRIORITY on itself", &[frame(PRIORITY, 0, 1, &depends(1))], Ends::Either(&[PROTOCOL_ERROR]), 0),
            case(
                "a head that depends on itself",
                &[frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[depends(1), get_fields("/", &[])].concat())],
                Ends::Either(&[PROTOCOL_ERROR]),
                0,
            ),
            case("unknown kinds", &[frame(0xee, 0xff, 0, b"?"), frame(0xfe, 0xff, 7, b"?"), get(1)], Ends::Answer(1, 200), 1),
            case("GOAWAY and on", &[frame(GOAWAY, 0, 0, &[0; 8]), refused(1)], Ends::Closed, 0),
        ],
        true,
    );
}

#[test]
fn a_window_update_of_nothing_or_too_much_is_an_error() {
    let most = 0x7fff_ffff;
    play(
        &[
            case("the connection's by nothing", &[update(0, 0), get(1)], Ends::Connection(PROTOCOL_ERROR), 0),
            case("the connection's over 2^31", &[update(0, most), get(1)], Ends::Connection(FLOW_CONTROL_ERROR), 0),
            case("a stream's by nothing", &[post(1, "/"), update(1, 0)], Ends::Either(&[PROTOCOL_ERROR]), 0),
            case("a stream's over 2^31", &[post(1, "/"), update(1, most)], Ends::Stream(1, FLOW_CONTROL_ERROR), 0),
            case(
                "all streams' over 2^31 by a setting",
                &[post(1, "/"), update(1, most - 65_535), frame(SETTINGS, 0, 0, &setting(4, 65_536))],
                Ends::Connection(FLOW_CONTROL_ERROR),
                0,
            ),
        ],
        true,
    );
}

#[test]
fn invalid_field_blocks_end_the_connection() {
    let compression = Ends::Connection(COMPRESSION_ERROR);
    let head = |name: &str, more: &[u8]| {
        case(name, &[frame(HEADERS, WHOLE, 1, &[&get_fields("/", &[]), more].concat())], compression, 0)
    };
    play(
        &[
            head("index 0", &[0x80]),
            head("an index beyond both tables", &[0xff, 0xff, 0x03]),
            head("an index that overflows", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            head("a name that is not in any table", &[0x7f, 0xff, 0x07, 0x01, b'v']),
            head("a length that overflows", &[0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            head("a name that ends too soon", &[0x00, 0x05, b'x', b'-']),
            head("a value that is missing", &[0x00, 0x01, b'x']),
            head("half an index", &[0xff]),
            head("a table of 4 GiB", &[0x3f, 0xe0, 0xff, 0xff, 0xff, 0x0f]),
            head("a size of the table after the fields", &[0x20]),
            head("Huffman's end of string", &[0x00, 0x01, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
            head("Huffman's padding of zeros", &[0x00, 0x01, b'x', 0x81, 0x00]),
        ],
        false,
    );
}
