//! Which mutant is in effect: the number in `SIDECAR_MUTANT`, or none.
//!
//! With `SIDECAR_MUTANT_REACHED` the number of each mutant that is asked about is appended once to that file. The allocator asks, too:
//! what allocates here may lead back here, and then finds no mutant in effect.

use std::{
    env,
    fs::File,
    io::Write as _,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// No mutant has one of these numbers.
const UNREAD: usize = usize::MAX;
const NONE: usize = usize::MAX - 1;

static EFFECTIVE: AtomicUsize = AtomicUsize::new(UNREAD);
static REACHED_FILE: OnceLock<File> = OnceLock::new();
static REACHED: [AtomicBool; 16_384] = [const { AtomicBool::new(false) }; 16_384];

/// Whether a mutant is in effect.
pub fn on(mutant: usize) -> bool {
    let mut effective = EFFECTIVE.load(Ordering::Relaxed);
    if effective == UNREAD {
        effective = read();
    }
    if effective == NONE {
        note(mutant);
    }
    effective == mutant
}

#[cold]
fn read() -> usize {
    EFFECTIVE.store(NONE, Ordering::Relaxed);
    let file = env::var_os("SIDECAR_MUTANT_REACHED").map(|file| File::options().append(true).create(true).open(file));
    if let Some(Ok(file)) = file {
        let _ = REACHED_FILE.set(file);
    }
    let effective = env::var("SIDECAR_MUTANT").ok().and_then(|number| number.parse().ok()).unwrap_or(NONE);
    EFFECTIVE.store(effective, Ordering::Relaxed);
    effective
}

#[cold]
fn note(mutant: usize) {
    let (Some(mut file), Some(reached)) = (REACHED_FILE.get(), REACHED.get(mutant)) else { return };
    if reached.swap(true, Ordering::Relaxed) {
        return;
    }
    let mut line = *b"00000\n";
    let mut rest = mutant;
    for digit in line[..5].iter_mut().rev() {
        *digit += u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
    }
    let _ = file.write_all(&line);
}
