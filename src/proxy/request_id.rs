//! The id of a request, by which its lines in the logs of the app, of the sidecar and of CarePortals are found. Pure.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The field that carries it, in requests and in answers.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How many bytes a client's request id may have.
const CLIENTS_MAX: usize = 64;
/// How many bytes of id and path fit into the block that also counts the references to them.
const IN_PLACE: usize = 120;

/// A request's id and its path, in one allocation. Both are copies: slices of the request's head would keep all of it in memory
/// until the answer has ended.
pub(super) struct IdAndPath {
    text: Bytes,
    id_bytes: usize,
}

impl IdAndPath {
    /// Takes the client's id if it is well-formed, else one of `random` bits.
    pub(super) fn new(client: &HeaderMap, path: &str, random: impl FnOnce() -> u64) -> Self {
        let ours;
        let id = if let Some(id) = clients_id(client) {
            id.as_bytes()
        } else {
            ours = hex(random());
            &ours
        };
        let (path, length) = (path.as_bytes(), id.len() + path.len());
        let text = if length <= IN_PLACE {
            let mut text = InPlace { bytes: [0; IN_PLACE], length };
            text.bytes[..id.len()].copy_from_slice(id);
            text.bytes[id.len()..length].copy_from_slice(path);
            Bytes::from_owner(text)
        } else {
            Bytes::from([id, path].concat())
        };
        Self { text, id_bytes: id.len() }
    }

    /// As it stands in the log.
    pub(super) fn id(&self) -> &str {
        // It holds only ASCII.
        std::str::from_utf8(&self.text[..self.id_bytes]).unwrap_or_default()
    }

    /// The id as a header's value, which shares the allocation.
    pub(super) fn id_value(&self) -> HeaderValue {
        let value = HeaderValue::from_maybe_shared(self.text.slice(..self.id_bytes));
        uncompressed(value.expect("letters, digits, `.`, `_` and `-` make a value"))
    }

    /// The request's path, as the client wrote it.
    pub(super) fn path(&self) -> &str {
        // It was a `str`.
        std::str::from_utf8(&self.text[self.id_bytes..]).unwrap_or_default()
    }
}

struct InPlace {
    bytes: [u8; IN_PLACE],
    length: usize,
}

impl AsRef<[u8]> for InPlace {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The client's own id of a request: one `X-Request-Id` of at most 64 of `A-Za-z0-9._-`.
#[must_use]
pub(super) fn clients_id(client: &HeaderMap) -> Option<&str> {
    let mut values = client.get_all(X_REQUEST_ID).iter();
    let (Some(only), None) = (values.next(), values.next()) else { return None };
    let id = only.to_str().ok()?;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    ((1..=CLIENTS_MAX).contains(&id.len()) && id.bytes().all(legal)).then_some(id)
}

/// An id of `random` bits, for an answer to a request whose own id is not known.
pub(super) fn new_value(random: u64) -> HeaderValue {
    uncompressed(HeaderValue::from_bytes(&hex(random)).expect("hex digits make a value"))
}

/// Keeps the value out of HPACK's table (RFC 7541, 7.1.3): each request has another, which would displace values that come again.
fn uncompressed(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

fn hex(bits: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = bits.to_be_bytes();
    std::array::from_fn(|index| {
        let half = if index % 2 == 0 { bytes[index / 2] >> 4 } else { bytes[index / 2] & 0xf };
        DIGITS[usize::from(half)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: u64 = 0x0123_4567_89ab_cdef;

    fn of(ids: &[&'static str], path: &str) -> IdAndPath {
        let mut head = HeaderMap::new();
        for id in ids {
            head.append(X_REQUEST_ID, HeaderValue::from_static(id));
        }
        IdAndPath::new(&head, path, || RANDOM)
    }

    #[test]
    fn our_ids_are_sixteen_hex_digits() {
        assert_eq!(&hex(RANDOM), b"0123456789abcdef");
        assert_eq!(&hex(0), b"0000000000000000");
        assert_eq!(new_value(RANDOM), "0123456789abcdef");
    }

    #[test]
    fn a_clients_id_is_one_and_well_formed() {
        let id = |values: &[&str]| {
            let mut head = HeaderMap::new();
            for value in values {
                head.append(X_REQUEST_ID, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            clients_id(&head).map(str::to_owned)
        };
        let (longest, too_long) = ("a".repeat(64), "a".repeat(65));
        for good in ["1", "AZaz09._-", longest.as_str()] {
            assert_eq!(id(&[good]).as_deref(), Some(good));
        }
        for bad in ["", "a b", "a,b", "a/b", "a\"b", "\u{e4}", too_long.as_str()] {
            assert_eq!(id(&[bad]), None, "{bad}");
        }
        assert_eq!((id(&["a", "a"]), id(&[])), (None, None));
    }

    #[test]
    fn id_and_path_are_told_apart_whatever_their_length() {
        let ours = "0123456789abcdef";
        for length in [0, 1, IN_PLACE - 16, IN_PLACE - 15, 3000] {
            let path = "/\u{e4}".repeat(1000).chars().take(length).collect::<String>();
            for (ids, id) in [(&["Order_17.a-B"][..], "Order_17.a-B"), (&[], ours), (&["a b"], ours), (&["a", "a"], ours)] {
                let both = of(ids, &path);
                assert_eq!((both.id(), both.path(), both.id_value().to_str().unwrap()), (id, path.as_str(), id));
            }
        }
    }
}
