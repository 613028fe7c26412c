//! What a browser says of itself in a request's head, and what follows from it. Pure.
//!
//! A page can't remove these fields from its requests, nor change them (Fetch, 2.2.2), so they tell a page's request from a
//! program's.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, Uri, Version, header::HOST};

use super::HeadField;
use crate::proxy::headers::HostAndPort;

/// The fields of a head that browsers add by themselves.
pub struct BrowserMarks<'a> {
    origin: HeadField<'a>,
    referer: HeadField<'a>,
    /// There is a `Sec-Fetch-Site` other than `none` (typed, bookmarked, from another program) and `same-origin`.
    foreign_site: bool,
    /// There is a `Sec-Fetch-Site` or a `Sec-Fetch-Dest`. Node's `fetch` sends `Sec-Fetch-Mode` too, so that one does not count.
    fetches: bool,
    navigates: bool,
}

impl<'a> BrowserMarks<'a> {
    /// A head without a mark.
    pub(super) const NONE: Self =
        Self { origin: HeadField::Absent, referer: HeadField::Absent, foreign_site: false, fetches: false, navigates: false };

    /// The marks of a whole head.
    #[must_use]
    pub fn of(headers: &'a HeaderMap) -> Self {
        let mut marks = Self::NONE;
        for (name, value) in headers {
            marks.add(name.as_str(), value.as_bytes());
        }
        marks
    }

    /// Takes one more field of the head into account.
    pub(super) fn add(&mut self, name: &str, value: &'a [u8]) {
        match name {
            "origin" => self.origin.add(value),
            "referer" => self.referer.add(value),
            "sec-fetch-site" => {
                self.fetches = true;
                self.foreign_site |= !matches!(value, b"none" | b"same-origin");
            }
            "sec-fetch-dest" => self.fetches = true,
            // Frames were told by `nested-navigate` once.
            "sec-fetch-mode" => self.navigates |= value.windows(8).any(|part| part.eq_ignore_ascii_case(b"navigate")),
            _ => {}
        }
    }

    /// Whether a browser sent the request: there is a mark.
    #[must_use]
    pub fn are_there(&self) -> bool {
        let there = |field: HeadField<'_>| !matches!(field, HeadField::Absent);
        self.fetches || there(self.origin) || there(self.referer)
    }

    /// Whether the request opens a page in a browser: by a link, a form, a frame or the address bar.
    #[must_use]
    pub fn navigates(&self) -> bool {
        self.navigates
    }

    /// Whether the request names one origin, and that is in `allowed`.
    pub(super) fn is_of_one_of(&self, allowed: &[String]) -> bool {
        let HeadField::Once(origin) = self.origin else { return false };
        allowed.iter().any(|allowed| origin.eq_ignore_ascii_case(allowed.as_bytes()))
    }

    /// Whether a page of another origin than that of `host` sent the request, as far as the browser says.
    pub(super) fn are_foreign_to(&self, host: HeadField<'_>) -> bool {
        let is_own = |field: HeadField<'_>, is_own: fn(&[u8], &[u8]) -> bool| match (field, host) {
            (HeadField::Absent, _) => true,
            (HeadField::Once(value), HeadField::Once(host)) => is_own(value, host),
            (HeadField::Once(_) | HeadField::Several, _) => false,
        };
        self.foreign_site || !is_own(self.origin, is_origin_of) || !is_own(self.referer, is_url_at)
    }
}

/// Whether `origin` is that of a page under `host`.
fn is_origin_of(origin: &[u8], host: &[u8]) -> bool {
    let Some((scheme, authority)) = origin.split_at_checked(7) else { return false };
    scheme.eq_ignore_ascii_case(b"http://") && authority.eq_ignore_ascii_case(host)
}

/// Whether `url` is that of a page under `host`. User information makes it another host, and so does `\`.
fn is_url_at(url: &[u8], host: &[u8]) -> bool {
    let Some(after_scheme) = url.get(7..) else { return false };
    let end = after_scheme.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(after_scheme.len());
    is_origin_of(&url[..7 + end], host)
}

/// Whether the request names a host of loopback's, at any port: `localhost`, `127.0.0.0/8` or `[::1]`. A page can let a name of
/// its own lead here (DNS rebinding), but not one of these.
#[must_use]
pub fn names_loopback(uri: &Uri, version: Version, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (host, several) = (hosts.next(), hosts.next().is_some());
    let host = match (uri.authority().filter(|_| version == Version::HTTP_2), host) {
        (Some(authority), None) => authority.as_str().as_bytes(),
        (None, Some(host)) => host.as_bytes(),
        (Some(authority), Some(host)) if authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) => host.as_bytes(),
        (Some(_), Some(_)) | (None, None) => return false,
    };
    !several && is_of_loopback(host) && uri.authority().is_none_or(|authority| is_of_loopback(authority.as_str().as_bytes()))
}

fn is_of_loopback(text: &[u8]) -> bool {
    HostAndPort::parse(text).is_some_and(|named| is_loopback(named.host, named.bracketed))
}

/// Whether `host`, as it was written but for its brackets, is loopback's.
pub(super) fn is_loopback(host: &[u8], bracketed: bool) -> bool {
    if !bracketed && host.eq_ignore_ascii_case(b"localhost") {
        return true;
    }
    let Ok(host) = std::str::from_utf8(host) else { return false };
    if bracketed {
        host.parse() == Ok(Ipv6Addr::LOCALHOST)
    } else {
        host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
    }
}
