//! Finds paths that the most lenient server could take for a log-in.
//!
//! Pure: no clock, no I/O. Guarantees: a path that decodes to a log-in path, by any server's rules and any number of passes, is
//! found, as [`lenient`](super::lenient) reads it; in doubt the answer is yes.

use super::lenient::{LenientPath, LenientPattern, names};

/// The paths that answer with a token, which no client may reach.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LoginPaths(Vec<LoginPath>);

impl LoginPaths {
    /// Collects paths as the upstream sees them; a query is cut off.
    pub fn new(paths: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut known: Vec<_> = paths.into_iter().map(|path| LoginPath::new(path.as_ref())).collect();
        known.sort_unstable();
        known.dedup();
        Self(known)
    }

    /// Whether a server could take `final_path` for a log-in path, however it decodes and normalizes.
    ///
    /// `final_path` is the upstream's base path and the request's path. The whole path counts: `/auth/forgot` is not
    /// `/auth`. In doubt the answer is yes.
    #[must_use]
    pub fn contains(&self, final_path: &str) -> bool {
        if is_plain(final_path) {
            let path = final_path.strip_suffix('/').unwrap_or(final_path);
            return self.0.iter().any(|known| known.joined.eq_ignore_ascii_case(path.as_bytes()));
        }
        let read = LenientPath::new(final_path);
        self.0.iter().any(|known| read.reaches(&known.pattern))
    }
}

/// Whether every byte means itself to every server, and no segment but the last is empty.
fn is_plain(path: &str) -> bool {
    let special = |byte: u8| byte <= b' ' || byte >= 0x7f || matches!(byte, b'%' | b';' | b'\\' | b'.' | b'+' | b'?' | b'#');
    let mut previous = 0;
    path.bytes().all(|byte| {
        let doubled = byte == b'/' && previous == b'/';
        previous = byte;
        !doubled && !special(byte)
    })
}

/// One log-in path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LoginPath {
    /// The segments, each after a slash, to compare plain paths with.
    joined: Vec<u8>,
    pattern: LenientPattern,
}

impl LoginPath {
    fn new(path: &str) -> Self {
        let names = names(path);
        let joined = names.iter().flat_map(|name| [b"/", name.as_slice()]).flatten().copied().collect();
        Self { joined, pattern: LenientPattern::of_names(names) }
    }
}

#[cfg(test)]
mod tests;
