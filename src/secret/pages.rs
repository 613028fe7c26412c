//! Memory for secrets: pages that are locked, left out of dumps, and wiped before they are freed.
//!
//! Guarantees: the bytes are wiped on drop, and the old copy is wiped when the buffer grows; a buffer shares its pages with
//! nothing else, so only they are locked.

use std::{
    alloc::{Layout, handle_alloc_error},
    io,
    ops::Deref,
};

use memmap2::MmapMut;
use rustix::param::page_size;
use zeroize::Zeroize as _;

/// How much of a stream is read at a time, in bytes. Most secrets are shorter, and take one page.
const PIECE: usize = 1024;

/// A buffer that grows as it is written to.
#[derive(Default)]
pub struct Pages {
    /// `None` before the first byte.
    mapping: Option<MmapMut>,
    length: usize,
}

impl Pages {
    /// Makes an empty buffer with space for `bytes` bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let mut pages = Self::default();
        pages.reserve(bytes);
        pages
    }

    /// Appends `bytes`.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.spare_capacity_mut(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Space for `at_least` bytes and perhaps more, to write into. Call [`Self::filled`] with the number of written bytes.
    pub fn spare_capacity_mut(&mut self, at_least: usize) -> &mut [u8] {
        self.reserve(at_least);
        match &mut self.mapping {
            Some(mapping) => &mut mapping[self.length..],
            None => &mut [],
        }
    }

    /// Appends the first `count` bytes of the spare capacity.
    pub fn filled(&mut self, count: usize) {
        let capacity = self.mapping.as_ref().map_or(0, |mapping| mapping.len());
        self.length = self.length.saturating_add(count).min(capacity);
    }

    /// Keeps the first `length` bytes and wipes the rest.
    pub fn truncate(&mut self, length: usize) {
        if let (Some(mapping), true) = (&mut self.mapping, length < self.length) {
            mapping[length..self.length].zeroize();
            self.length = length;
        }
    }

    /// Reads `from` to its end. More than `most` bytes are an error, `FileTooLarge`.
    pub fn read(mut from: impl io::Read, most: usize) -> io::Result<Self> {
        let mut pages = Self::default();
        while pages.len() <= most {
            match from.read(pages.spare_capacity_mut(PIECE)) {
                Ok(0) => return Ok(pages),
                Ok(count) => pages.filled(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::FileTooLarge.into())
    }

    /// Checks whether this process may lock so many pages and leave them out of dumps.
    pub fn probe(pages: usize) -> io::Result<()> {
        protect(&MmapMut::map_anon(pages.max(1).saturating_mul(page_size()))?)
    }

    fn reserve(&mut self, more: usize) {
        let present = self.mapping.as_ref().map_or(0, |mapping| mapping.len());
        let wanted = self.length.saturating_add(more);
        if wanted <= present {
            return;
        }
        let mut mapping = map(mapping_size(wanted, present, page_size()));
        // If the process may lock no more memory, the secret is still left out of dumps and wiped. The check at start decides
        // whether that is acceptable; an error here could not be reported.
        drop(protect(&mapping));
        mapping[..self.length].copy_from_slice(self);
        let length = self.length;
        // The assignment drops the old pages, which wipes them.
        *self = Self { mapping: Some(mapping), length };
    }
}

/// How large the mapping is that takes the place of one of `present` bytes and has space for `wanted`. The kernel maps and locks
/// whole pages, which have 4 KiB on x86-64, and up to 64 KiB on ARM64; all of the last one is used.
fn mapping_size(wanted: usize, present: usize, page: usize) -> usize {
    wanted.max(2 * present).next_multiple_of(page)
}

/// Maps memory. Like every allocation, it ends the process when no memory is left.
fn map(size: usize) -> MmapMut {
    MmapMut::map_anon(size).unwrap_or_else(|_| match Layout::array::<u8>(size) {
        Ok(layout) => handle_alloc_error(layout),
        Err(_) => handle_alloc_error(Layout::new::<u8>()),
    })
}

/// Leaves the pages out of dumps, which needs no privilege, and then locks them.
fn protect(mapping: &MmapMut) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    mapping.advise(memmap2::Advice::DontDump)?;
    mapping.lock()
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.mapping.as_ref().map_or(&[], |mapping| &mapping[..self.length])
    }
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl io::Write for Pages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some(mapping) = &mut self.mapping {
            // The whole mapping is wiped, since a read that failed may have left bytes in the spare capacity.
            mapping.zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn written_bytes_are_read_back_however_the_buffer_grew() {
        let mut pages = Pages::default();
        assert!(pages.is_empty());
        let mut expected = Vec::new();
        for length in [0, 1, 4095, 1, 4096, 10_000] {
            let piece = vec![u8::try_from(length % 251).unwrap(); length];
            pages.write_all(&piece).unwrap();
            expected.extend(piece);
            assert_eq!(&*pages, expected);
        }
        pages.truncate(5000);
        assert_eq!(&*pages, &expected[..5000]);
        pages.truncate(6000);
        assert_eq!(pages.len(), 5000);
    }

    #[test]
    fn bytes_in_the_spare_capacity_are_appended_and_no_more_than_there_is() {
        let mut pages = Pages::with_capacity(10);
        pages.extend(b"ab");
        pages.spare_capacity_mut(3)[..3].copy_from_slice(b"cde");
        pages.filled(3);
        assert_eq!(&*pages, b"abcde");
        let page = page_size();
        assert!(pages.spare_capacity_mut(page).len() >= page);
        pages.filled(usize::MAX);
        assert_eq!(pages.len(), 2 * page);
        assert!(Pages::default().spare_capacity_mut(0).is_empty());
    }

    #[test]
    fn a_mapping_is_whole_pages_of_the_machine_and_grows_by_doubling() {
        for page in [4096, 16_384, 65_536] {
            assert_eq!(mapping_size(1, 0, page), page);
            assert_eq!(mapping_size(page, 0, page), page);
            assert_eq!(mapping_size(page + 1, page, page), 2 * page);
            assert_eq!(mapping_size(2 * page + 1, 2 * page, page), 4 * page);
        }
        assert_eq!([4096, 16_384, 65_536].map(|page| mapping_size(5000, 0, page)), [8192, 16_384, 65_536]);
    }

    #[test]
    fn a_buffer_fills_the_last_page_of_its_mapping() {
        let mut pages = Pages::with_capacity(1);
        assert_eq!(pages.spare_capacity_mut(0).len(), page_size());
        pages.extend(&vec![7; page_size()]);
        assert!(pages.spare_capacity_mut(0).is_empty());
    }

    #[test]
    fn a_buffer_has_the_capacity_that_was_asked_for_and_doubles_when_it_is_full() {
        let page = page_size();
        assert_eq!(Pages::with_capacity(10).spare_capacity_mut(0).len(), page);
        let mut pages = Pages::with_capacity(4 * page);
        pages.filled(4 * page);
        pages.extend(b"x");
        assert_eq!(pages.spare_capacity_mut(0).len(), 4 * page - 1);
    }

    /// Gives one piece at each reading, and then its end.
    struct Pieces(Vec<io::Result<&'static [u8]>>);

    impl io::Read for Pieces {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0)?;
            into[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    #[test]
    fn a_reading_goes_on_after_an_interruption_and_ends_at_any_other_error_or_at_too_many_bytes() {
        let interrupted = || Err(io::ErrorKind::Interrupted.into());
        let whole = Pages::read(Pieces(vec![Ok(b"ab"), interrupted(), interrupted(), Ok(b"c")]), 3).unwrap();
        assert_eq!(&*whole, b"abc");
        let failed = Pages::read(Pieces(vec![Ok(b"ab"), Err(io::ErrorKind::PermissionDenied.into())]), 3);
        assert_eq!(failed.map(|_| ()).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let long = Pages::read(Pieces(vec![Ok(b"ab"), Ok(b"cd")]), 3);
        assert_eq!(long.map(|_| ()).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_check_for_more_pages_than_there_can_be_fails() {
        Pages::probe(1).unwrap();
        Pages::probe(usize::MAX).unwrap_err();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_secret_is_in_pages_that_are_locked_and_left_out_of_dumps() {
        let mut pages = Pages::default();
        pages.extend(b"secret");
        let address = pages.as_ptr().addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let contains = |line: &str| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
            Some(range.contains(&address))
        };
        let mut lines = maps.lines().skip_while(|line| contains(line) != Some(true));
        let flags = lines.find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
        for flag in ["lo", "dd"] {
            assert!(flags.split(' ').any(|set| set == flag), "{flag} in {flags}");
        }
    }
}
