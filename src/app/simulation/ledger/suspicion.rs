//! Which tokens wait for their successor: from a 401 that counts until a log-in may have failed, no request may carry the token.
//!
//! The judgement is careful. It knows nothing of a floor that has doubled, so it goes by the first 401 and by each one after a
//! cure. Whatever may make a log-in fail ends it.

use std::{collections::BTreeSet, time::Duration};

use super::{CallId, Ledger};
use crate::app::simulation::servers::{ACCOUNTS, SERVERS, account_of};

/// How long the daemon may take to read a 401 that was written.
const READ: Duration = Duration::from_millis(150);
/// How long the log-in takes at most that replaces the token; a moment less than `login_timeout`.
const REPLACED: Duration = Duration::from_secs(9);

#[derive(Default)]
pub(super) struct Suspicion([Account; ACCOUNTS.len()]);

#[derive(Default)]
struct Account {
    /// The token, and from and until when it is suspect.
    suspect: Option<(u64, Duration, Duration)>,
    /// When something last happened for which a log-in may fail.
    trouble: Option<Duration>,
    /// The tokens that were refused since the floor was at its base.
    refused: BTreeSet<u64>,
}

impl Suspicion {
    /// What is wrong with sending that token.
    pub(super) fn judge(&self, at: Duration, account: usize, number: u64) -> Option<String> {
        let (suspect, from, until) = self.0[account].suspect?;
        let is_suspect = suspect == number && from < at && at < until;
        is_suspect.then(|| format!("its token is suspect since {:.3}", from.as_secs_f64()))
    }
}

impl Suspicion {
    /// When something last happened for which a log-in of the account may fail.
    pub(super) fn trouble(&self, account: usize) -> Duration {
        self.0[account].trouble.unwrap_or_default()
    }
}

impl Ledger {
    /// Something happens for which a log-in of the account may fail, and an old token may come back into use.
    pub(in crate::app::simulation) fn trouble(&mut self, at: Duration, account: usize) {
        let account = &mut self.suspicion.0[account];
        account.trouble = Some(at);
        account.suspect = None;
    }

    /// The same at a server.
    pub(in crate::app::simulation) fn trouble_at(&mut self, at: Duration, _server: usize) {
        // Either account may be logging in there.
        const { assert!(SERVERS == 2) };
        (0..ACCOUNTS.len()).for_each(|account| self.trouble(at, account));
    }

    /// A 401 for that token is written, of which the daemon may see enough.
    pub(super) fn refused(&mut self, account: usize, number: u64) {
        self.suspicion.0[account].refused.insert(number);
    }

    /// A 401 for that token was written whole. `floor`: the account's least age of a token that a 401 replaces.
    pub(in crate::app::simulation) fn refused_whole(&mut self, at: Duration, call: CallId, name: &str, floor: Duration) {
        let Some(token) = self.tokens.get(name) else { return };
        let (number, index) = (token.number, account_of(&token.organization));
        let is_newest = self.tokens.values().all(|other| account_of(&other.organization) != index || other.number <= number);
        // The daemon goes by the answer's head, which may have come long before its end, but after the call began.
        let begun = self.calls.get(&call).map_or(Duration::ZERO, |call| call.begun);
        let age = token.answered.map(|answered| begun.saturating_sub(answered));
        let counts = age.is_some_and(|age| age > floor + READ) && token.withdrawn.is_none();
        let waits = self.calls.get(&call).is_some_and(|call| call.ended.is_none());
        let account = &mut self.suspicion.0[index];
        let is_first = account.refused.iter().all(|refused| *refused == number);
        let is_well = account.trouble.is_none_or(|trouble| token.answered.is_some_and(|answered| trouble < answered));
        if account.suspect.is_none() && is_newest && counts && waits && is_first && is_well && self.logged_out[index].is_none() {
            account.suspect = Some((number, at + READ, at + REPLACED));
            self.counts.suspects += 1;
            if let Some(known) = self.calls.get_mut(&call) {
                known.made_suspect = Some(at);
            }
            self.note(at, &format!("the token {number} is suspect"));
        }
    }

    /// A call that had got one 401 was answered well, with a newer token: the floor is at its base again.
    pub(super) fn cured(&mut self, account: usize) {
        let account = &mut self.suspicion.0[account];
        if account.refused.len() == 1 {
            account.refused.clear();
        }
    }
}
