//! Judges by which fields an upstream delimits its answer. Pure.
//!
//! hyper and h2 judge only what they need themselves: not the length in an answer to HEAD, and no coding beside `chunked`. What
//! they let through a client would read in its own way. Guarantees: an answer that passes has one `Content-Length` at most, and
//! that is one decimal number; its `Transfer-Encoding` is `chunked` or absent.

use http::{
    HeaderMap, HeaderValue, Response, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::error::{Cause, SendError};

/// Judges an answer's head, and makes one of several equal lengths.
pub(super) fn settle<B>(response: &mut Response<B>) -> Result<(), SendError> {
    let version = response.version();
    let headers = response.headers_mut();
    let is_certain = coding_is_certain(headers, version) && settle_length(headers);
    if is_certain { Ok(()) } else { Err(SendError::after_sending(Cause::Protocol)) }
}

/// Whether the body is not coded, or once and by `chunked` alone. A coding below the chunks would reach the client unlabelled.
fn coding_is_certain(headers: &HeaderMap, version: Version) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(only), None) => version == Version::HTTP_11 && only.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Whether all lengths are the same decimal number of 64 bits at most (RFC 9110, 8.6). Several are made one.
fn settle_length(headers: &mut HeaderMap) -> bool {
    let (mut length, mut members) = (None, 0);
    for line in headers.get_all(CONTENT_LENGTH) {
        for member in line.as_bytes().split(|&byte| byte == b',') {
            let number = decimal(member.trim_ascii());
            if number.is_none() || (members > 0 && number != length) {
                return false;
            }
            (length, members) = (number, members + 1);
        }
    }
    if let Some(length) = length
        && members > 1
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    true
}

fn decimal(digits: &[u8]) -> Option<u64> {
    // `parse` would take a sign, and asks for UTF-8.
    let append = |number: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, append) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(version: Version, lines: &[(&'static str, &str)]) -> Result<Vec<String>, Cause> {
        let mut response = Response::builder().version(version);
        for (name, value) in lines {
            response = response.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let mut response = response.body(()).unwrap();
        settle(&mut response).map_err(|error| error.cause)?;
        let lengths = response.headers().get_all(CONTENT_LENGTH).iter();
        Ok(lengths.map(|value| value.to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn a_length_is_one_decimal_number_and_repetitions_are_made_one() {
        for (lines, expected) in [
            (vec![], None),
            (vec!["0"], Some("0")),
            (vec!["12"], Some("12")),
            (vec!["0012"], Some("0012")),
            (vec!["2, 2"], Some("2")),
            (vec!["2,2 ,\t2"], Some("2")),
            (vec!["2", "2"], Some("2")),
            (vec!["2", "02, 2"], Some("2")),
            (vec!["18446744073709551615"], Some("18446744073709551615")),
            (vec!["00000000000000000000000000000000000007"], Some("00000000000000000000000000000000000007")),
        ] {
            let lines: Vec<_> = lines.into_iter().map(|value| ("content-length", value)).collect();
            let expected: Vec<String> = expected.map(str::to_owned).into_iter().collect();
            for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
                assert_eq!(settled(version, &lines), Ok(expected.clone()), "{lines:?}");
            }
        }
    }

    #[test]
    fn any_other_length_is_no_http() {
        for lines in [
            vec![""],
            vec!["abc"],
            vec!["+2"],
            vec!["-1"],
            vec!["0x2"],
            vec!["2.0"],
            vec!["2 2"],
            vec!["2;2"],
            vec!["\"2\""],
            vec!["1_000"],
            vec!["٢"],
            vec!["18446744073709551616"],
            vec!["99999999999999999999999"],
            vec!["2, 3"],
            vec!["2", "3"],
            vec!["2,"],
            vec![",2"],
            vec!["2,,2"],
            vec!["2", ""],
            vec![","],
        ] {
            let lines: Vec<_> = lines.into_iter().map(|value| ("content-length", value)).collect();
            assert_eq!(settled(Version::HTTP_11, &lines), Err(Cause::Protocol), "{lines:?}");
        }
    }

    #[test]
    fn a_coding_is_chunked_once_or_none() {
        for coding in ["chunked", "Chunked", "CHUNKED"] {
            assert_eq!(settled(Version::HTTP_11, &[("transfer-encoding", coding)]), Ok(vec![]), "{coding}");
            assert_eq!(settled(Version::HTTP_10, &[("transfer-encoding", coding)]), Err(Cause::Protocol), "{coding}");
            let beside = [("transfer-encoding", coding), ("content-length", "2")];
            assert_eq!(settled(Version::HTTP_11, &beside), Ok(vec!["2".to_owned()]), "{coding}");
            let beside = [("transfer-encoding", coding), ("content-length", "x")];
            assert_eq!(settled(Version::HTTP_11, &beside), Err(Cause::Protocol), "{coding}");
            let twice = [("transfer-encoding", coding), ("transfer-encoding", coding)];
            assert_eq!(settled(Version::HTTP_11, &twice), Err(Cause::Protocol), "{coding}");
        }
        for coding in [
            "",
            "identity",
            "gzip",
            "gzip, chunked",
            "chunked, gzip",
            "chunked, chunked",
            "chunked,",
            ",chunked",
            "chunked;q=1",
            "xchunked",
            "chunkedx",
            "chunke",
            "\"chunked\"",
            "chunked identity",
        ] {
            assert_eq!(settled(Version::HTTP_11, &[("transfer-encoding", coding)]), Err(Cause::Protocol), "{coding}");
        }
    }
}
