//! Memory for blocks of 4 to 8 KiB, apart from smaller ones.
//!
//! Buffers of connections have that size. In the system's allocator each stands between the small blocks of its connection, which
//! stay while the connection is idle, so no page would be whole when the buffers are freed. Here all blocks have one size and
//! begin with a page, so each one that is freed can be given back.
//!
//! A child that was forked while another thread held the lock could not allocate such a block; no child of ours allocates before it
//! runs its program.
//!
//! Guarantee: no call allocates, and a block that is in use is never given out again nor given back. Where the system has no
//! address space for it, its pages are larger than a block, or all blocks are in use, the system's allocator serves.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous},
    param::page_size,
};

/// The size of a block, in bytes.
const BLOCK: usize = 8 * 1024;
/// Smaller blocks are the system's: two of them would share a page.
const SMALLEST: usize = 4 * 1024;
/// No block is aligned to more.
const ALIGNED: usize = 4 * 1024;
/// How many words of a map there are, each with a bit for each of its blocks: 512 MiB of addresses, used as they are needed.
const WORDS: usize = 1024;
const BITS: usize = u64::BITS as usize;

/// The system's allocator, but for blocks of 4 to 8 KiB.
pub(super) struct Segregated;

static BLOCKS: Mutex<Blocks> = Mutex::new(Blocks { base: Base::Unmapped, used: [0; WORDS], touched: [0; WORDS], lowest: 0 });

/// Where the addresses are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    Unmapped,
    At(usize),
    /// The system has none for us.
    Refused,
}

struct Blocks {
    base: Base,
    used: [u64; WORDS],
    /// Blocks that were used since they were given back.
    touched: [u64; WORDS],
    /// No word before this one has a free block.
    lowest: usize,
}

fn lock() -> MutexGuard<'static, Blocks> {
    // Nothing can panic while it is held.
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_ours(layout: Layout) -> bool {
    (SMALLEST..=BLOCK).contains(&layout.size()) && layout.align() <= ALIGNED
}

#[expect(unsafe_code, reason = "an allocator is unsafe to write")]
// SAFETY: a block is in use, by its bit, from when it is given out until it is freed, and its size and alignment suffice for
// all layouts that `is_ours` lets in. All else is the system's, which gets back what came from it, since addresses tell.
unsafe impl GlobalAlloc for Segregated {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_ours(layout)
            && let Some(block) = lock().take()
        {
            return ptr::with_exposed_provenance_mut(block);
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !is_ours(layout) {
            // SAFETY: as above.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: as above; a block that was used before may hold anything.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !is_ours(layout) || !lock().free(block.addr()) {
            // SAFETY: as above.
            unsafe { System.dealloc(block, layout) }
        }
    }
}

impl Blocks {
    /// Takes the free block with the lowest address.
    fn take(&mut self) -> Option<usize> {
        if self.base == Base::Unmapped {
            self.base = map(page_size());
        }
        let Base::At(base) = self.base else { return None };
        let free = self.used[self.lowest..].iter().position(|word| *word != u64::MAX);
        self.lowest = free.map_or(WORDS - 1, |after| self.lowest + after);
        let bit = self.used[self.lowest].trailing_ones() as usize;
        if bit == BITS {
            return None;
        }
        self.used[self.lowest] |= 1 << bit;
        self.touched[self.lowest] |= 1 << bit;
        Some(base + (self.lowest * BITS + bit) * BLOCK)
    }

    /// Frees a block. `false`: it is not one of these.
    fn free(&mut self, address: usize) -> bool {
        let Base::At(base) = self.base else { return false };
        let number = address.wrapping_sub(base) / BLOCK;
        let word = number / BITS;
        if word >= WORDS {
            return false;
        }
        self.used[word] &= !(1 << (number % BITS));
        self.lowest = self.lowest.min(word);
        true
    }

    /// The next blocks from `number` on, as many as follow one behind the other, that are free and hold memory; they are no
    /// longer taken for touched.
    fn untouch(&mut self, number: usize) -> Option<(usize, usize)> {
        let held = |word: usize| self.touched[word] & !self.used[word];
        let held_from = |word: usize| if word == number / BITS { held(word) & (u64::MAX << (number % BITS)) } else { held(word) };
        let word = (number / BITS..WORDS).find(|word| held_from(*word) != 0)?;
        let first = word * BITS + held_from(word).trailing_zeros() as usize;
        let holds = |number: usize| held(number / BITS) >> (number % BITS) & 1 == 1;
        let count = (first..WORDS * BITS).take_while(|number| holds(*number)).count();
        for number in first..first + count {
            self.touched[number / BITS] &= !(1 << (number % BITS));
        }
        Some((first, count))
    }
}

/// Gives the memory of free blocks back to the system.
#[expect(unsafe_code, reason = "advice to the system about memory")]
pub(super) fn give_back() {
    let mut blocks = lock();
    let Base::At(base) = blocks.base else { return };
    let mut next = 0;
    while let Some((first, count)) = blocks.untouch(next) {
        let start = ptr::with_exposed_provenance_mut(base + first * BLOCK);
        // SAFETY: the blocks are free, and stay so while the lock is held.
        // A system that does not take the advice keeps the memory.
        let _kept = unsafe { madvise(start, count * BLOCK, Advice::LinuxDontNeed) };
        next = first + count;
    }
}

/// Reserves the addresses; memory comes with the first write to each page. Where two blocks may share a page, as with ARM64's pages
/// of 16 and 64 KiB, none could be given back alone.
#[expect(unsafe_code, reason = "a mapping")]
fn map(page: usize) -> Base {
    if page > BLOCK {
        return Base::Refused;
    }
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: the system chooses addresses that nobody uses.
    let mapped = unsafe { mmap_anonymous(ptr::null_mut(), WORDS * BITS * BLOCK, ProtFlags::READ | ProtFlags::WRITE, flags) };
    mapped.map_or(Base::Refused, |start| Base::At(start.expose_provenance()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> Blocks {
        Blocks { base: Base::At(1 << 40), used: [0; WORDS], touched: [0; WORDS], lowest: 0 }
    }

    #[test]
    fn the_free_block_with_the_lowest_address_is_taken() {
        let mut blocks = blocks();
        let taken: Vec<usize> = (0..200).map(|_| blocks.take().unwrap()).collect();
        assert!(taken.iter().enumerate().all(|(number, address)| *address == (1 << 40) + number * BLOCK));
        for number in [150, 3, 77] {
            assert!(blocks.free(taken[number]));
        }
        assert_eq!([3, 77, 150, 200].map(|number| (1 << 40) + number * BLOCK), [(); 4].map(|()| blocks.take().unwrap()));
    }

    #[test]
    fn when_all_blocks_are_used_the_system_serves_until_one_is_freed() {
        let mut blocks = blocks();
        assert!((0..WORDS * BITS).all(|_| blocks.take().is_some()));
        assert_eq!((blocks.take(), blocks.take()), (None, None));
        assert!(!blocks.free(1 << 39) && !blocks.free((1 << 40) + WORDS * BITS * BLOCK), "addresses of the system");
        assert!(blocks.free((1 << 40) + 9 * BLOCK));
        assert_eq!((blocks.take(), blocks.take()), (Some((1 << 40) + 9 * BLOCK), None));
    }

    #[test]
    fn free_blocks_that_were_used_are_given_back_once() {
        let mut blocks = blocks();
        let taken: Vec<usize> = (0..70).map(|_| blocks.take().unwrap()).collect();
        assert_eq!(blocks.untouch(0), None);
        for number in (60..68).chain([1]) {
            blocks.free(taken[number]);
        }
        assert_eq!(
            [blocks.untouch(0), blocks.untouch(2), blocks.untouch(68), blocks.untouch(0)],
            [Some((1, 1)), Some((60, 8)), None, None]
        );
        blocks.take();
        blocks.free(taken[1]);
        assert_eq!((blocks.untouch(0), blocks.untouch(2)), (Some((1, 1)), None));
    }

    #[test]
    fn where_pages_are_larger_than_a_block_the_system_serves() {
        for page in [16 * 1024, 64 * 1024] {
            let mut blocks = Blocks { base: map(page), ..blocks() };
            assert_eq!((blocks.take(), blocks.untouch(0)), (None, None), "{page}");
            assert!(!blocks.free(0) && !blocks.free(1 << 40), "{page}");
        }
        assert!([4096, 8192].map(map).iter().all(|base| matches!(base, Base::At(_))), "no two blocks share such a page");
    }

    #[test]
    #[expect(unsafe_code, reason = "an allocator is unsafe to call")]
    fn a_block_is_its_owners_alone_and_may_grow_out_of_its_size() {
        let sizes = [SMALLEST - 1, SMALLEST, 5000, BLOCK, BLOCK + 1];
        let layouts = sizes.map(|size| Layout::from_size_align(size, 16).unwrap());
        for layout in layouts {
            // SAFETY: each block is freed, or grows, with the layout that it was allocated with.
            unsafe {
                let (one, other) = (Segregated.alloc(layout), Segregated.alloc_zeroed(layout));
                one.write_bytes(1, layout.size());
                let other_bytes = std::slice::from_raw_parts(other, layout.size());
                assert!(other_bytes.iter().all(|byte| *byte == 0), "{layout:?}");
                let grown = Segregated.realloc(one, layout, 2 * layout.size());
                assert!(std::slice::from_raw_parts(grown, layout.size()).iter().all(|byte| *byte == 1), "{layout:?}");
                give_back();
                assert!(std::slice::from_raw_parts(grown, layout.size()).iter().all(|byte| *byte == 1), "{layout:?}");
                Segregated.dealloc(grown, Layout::from_size_align(2 * layout.size(), 16).unwrap());
                Segregated.dealloc(other, layout);
            }
        }
    }
}
