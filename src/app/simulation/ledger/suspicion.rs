//! Which tokens wait for their successor: from a 401 that counts until a log-in may have failed, no request may carry the token.
//!
//! The judgement is careful. It knows nothing of a floor that has doubled, so it goes by the first 401 and by each one after a
//! cure. Whatever may make a log-in fail ends it.

use std::{collections::BTreeSet, time::Duration};

use crate::app::simulation::servers::ACCOUNTS;

/// How long the daemon may take to read a 401 that was written.
pub(super) const READ: Duration = Duration::from_millis(150);
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

    /// When something last happened for which a log-in of the account may fail.
    pub(super) fn trouble(&self, account: usize) -> Duration {
        self.0[account].trouble.unwrap_or_default()
    }

    /// Something happens for which a log-in of the account may fail, and an old token may come back into use.
    pub(super) fn trouble_comes(&mut self, at: Duration, account: usize) {
        let account = &mut self.0[account];
        account.trouble = Some(at);
        account.suspect = None;
    }

    /// A 401 for that token is written, of which the daemon may see enough.
    pub(super) fn refused(&mut self, account: usize, number: u64) {
        self.0[account].refused.insert(number);
    }

    /// A 401 for that token, whose answer had been written at `answered`, was written whole, and counts. Returns whether the token is
    /// suspect from now on.
    pub(super) fn begins(&mut self, at: Duration, account: usize, number: u64, answered: Option<Duration>) -> bool {
        let account = &mut self.0[account];
        let is_first = account.refused.iter().all(|refused| *refused == number);
        let is_well = account.trouble.is_none_or(|trouble| answered.is_some_and(|answered| trouble < answered));
        let begins = account.suspect.is_none() && is_first && is_well;
        if begins {
            account.suspect = Some((number, at + READ, at + REPLACED));
        }
        begins
    }

    /// A call that had got one 401 was answered well, with a newer token: the floor is at its base again.
    pub(super) fn cured(&mut self, account: usize) {
        let account = &mut self.0[account];
        if account.refused.len() == 1 {
            account.refused.clear();
        }
    }
}
