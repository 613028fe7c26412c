//! What a connection holds its place by, and so when it may be closed for another client. Pure.
//!
//! Guarantee: an admitted request in progress whose client reads is never closed for another client.

/// How long a head may take before its connection is closed for another client.
const HEAD_GRACE: u64 = 1_000_000_000;
/// How long a client may be silent after an answer: the next request may be on its way.
const IDLE_GRACE: u64 = 100_000_000;
/// How long a client may take nothing of its answer before it is cut for another one.
const STALL_GRACE: u64 = 10_000_000_000;

/// What keeps a connection from being closed for another client. Times are nanoseconds since the address was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// An admitted request is in progress.
    Busy,
    /// The client was answered at this time, and has no admitted request in progress.
    Idle(u64),
    /// It was accepted at this time, and has sent nothing yet.
    Silent(u64),
    /// A part of a head has come, its first byte at this time.
    Head(u64),
    /// An admitted request is in progress, and its client has taken nothing of the answer since this time.
    Stalled(u64),
}

impl Hold {
    /// The rank of a head that has just begun.
    pub(super) const LAST_RESORT: u8 = 3;

    const KIND_SHIFT: u32 = 61;
    pub(super) const TIME: u64 = (1 << Self::KIND_SHIFT) - 1;

    /// One number, so that a connection publishes it in one store.
    pub(super) fn pack(self) -> u64 {
        let (kind, since) = match self {
            Self::Busy => (0, 0),
            Self::Idle(since) => (1, since),
            Self::Head(since) => (2, since),
            Self::Stalled(since) => (3, since),
            Self::Silent(since) => (4, since),
        };
        (kind << Self::KIND_SHIFT) | (since & Self::TIME)
    }

    pub(super) fn unpack(packed: u64) -> Self {
        let since = packed & Self::TIME;
        match packed >> Self::KIND_SHIFT {
            0 => Self::Busy,
            1 => Self::Idle(since),
            2 => Self::Head(since),
            3 => Self::Stalled(since),
            _ => Self::Silent(since),
        }
    }

    /// Whether the connection may be closed for another client, at `now`. `first_grace`: how long it may be silent at first.
    pub(super) fn evictable(self, now: u64, first_grace: u64) -> Evictable {
        match self {
            Self::Busy => Evictable::Never,
            Self::Head(since) if since + HEAD_GRACE <= now => Evictable::Now(0, since),
            Self::Idle(since) if since + IDLE_GRACE <= now => Evictable::Now(1, since),
            Self::Silent(since) if since + first_grace <= now => Evictable::Now(1, since),
            Self::Stalled(since) if since + STALL_GRACE <= now => Evictable::Now(2, since),
            // The last resort, but before one that has just come: else a flood of partial heads would push out each of those.
            Self::Head(since) => Evictable::Now(Self::LAST_RESORT, since),
            Self::Silent(since) => Evictable::In(since + first_grace - now),
            Self::Idle(since) => Evictable::In(since + IDLE_GRACE - now),
            Self::Stalled(since) => Evictable::In(since + STALL_GRACE - now),
        }
    }
}

/// Whether a connection may be closed for another client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Evictable {
    /// Now: those with the lowest rank first, and of these the one that has been so for longest.
    Now(u8, u64),
    /// After so many nanoseconds.
    In(u64),
    Never,
}

#[cfg(test)]
mod tests {
    use super::{super::first_grace::FIRST_GRACE, *};

    #[test]
    fn what_a_connection_holds_fits_into_one_number() {
        for hold in [Hold::Busy, Hold::Idle(0), Hold::Idle(7), Hold::Head(Hold::TIME), Hold::Stalled(1 << 40), Hold::Silent(9)] {
            assert_eq!(Hold::unpack(hold.pack()), hold);
        }
    }

    #[test]
    fn a_connection_may_be_closed_as_the_table_says() {
        let now = 20 * HEAD_GRACE;
        for (hold, expected) in [
            (Hold::Busy, Evictable::Never),
            (Hold::Idle(now), Evictable::In(IDLE_GRACE)),
            (Hold::Idle(now - IDLE_GRACE), Evictable::Now(1, now - IDLE_GRACE)),
            (Hold::Idle(3), Evictable::Now(1, 3)),
            (Hold::Silent(now - FIRST_GRACE), Evictable::Now(1, now - FIRST_GRACE)),
            (Hold::Silent(now - FIRST_GRACE + 5), Evictable::In(5)),
            (Hold::Silent(now), Evictable::In(FIRST_GRACE)),
            (Hold::Head(now), Evictable::Now(3, now)),
            (Hold::Head(now - HEAD_GRACE), Evictable::Now(0, now - HEAD_GRACE)),
            (Hold::Stalled(now - STALL_GRACE), Evictable::Now(2, now - STALL_GRACE)),
            (Hold::Stalled(now - STALL_GRACE + 5), Evictable::In(5)),
        ] {
            assert_eq!(hold.evictable(now, FIRST_GRACE), expected, "{hold:?}");
        }
    }
}
