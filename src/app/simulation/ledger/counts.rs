//! How much a simulation has done, so that one that does nothing is noticed.

/// How much a simulation has done: it must not be nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::app::simulation) struct Counts {
    pub(in crate::app::simulation) calls: u64,
    pub(in crate::app::simulation) answered: u64,
    pub(in crate::app::simulation) refused: u64,
    pub(in crate::app::simulation) cut: u64,
    pub(in crate::app::simulation) given_up: u64,
    pub(in crate::app::simulation) log_ins: u64,
    pub(in crate::app::simulation) unauthorized: u64,
    pub(in crate::app::simulation) sent_again: u64,
    pub(in crate::app::simulation) suspects: u64,
    pub(in crate::app::simulation) tunnels: u64,
    pub(in crate::app::simulation) lines: u64,
    pub(in crate::app::simulation) events: u64,
    /// Failed log-ins after which the next one was judged.
    pub(in crate::app::simulation) waits: u64,
}

impl Counts {
    fn all(self) -> [u64; 13] {
        let Self {
            calls,
            answered,
            refused,
            cut,
            given_up,
            log_ins,
            unauthorized,
            sent_again,
            suspects,
            tunnels,
            lines,
            events,
            waits,
        } = self;
        [calls, answered, refused, cut, given_up, log_ins, unauthorized, sent_again, suspects, tunnels, lines, events, waits]
    }

    /// Whether everything that is judged has happened.
    pub(in crate::app::simulation) fn is_varied(self) -> bool {
        self.all().iter().all(|count| *count > 0)
    }

    pub(in crate::app::simulation) fn and(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            answered: self.answered + other.answered,
            refused: self.refused + other.refused,
            cut: self.cut + other.cut,
            given_up: self.given_up + other.given_up,
            log_ins: self.log_ins + other.log_ins,
            unauthorized: self.unauthorized + other.unauthorized,
            sent_again: self.sent_again + other.sent_again,
            suspects: self.suspects + other.suspects,
            tunnels: self.tunnels + other.tunnels,
            lines: self.lines + other.lines,
            events: self.events + other.events,
            waits: self.waits + other.waits,
        }
    }
}
