//! Judges log-ins: how many there are, when they come, and what is to follow from them.

use std::time::Duration;

use super::{Ledger, LogInArrival, Token};
use crate::app::simulation::servers::{ACCOUNTS, account_of};

/// Log-ins in half a minute that back-off may lead to; each event that asks for a log-in adds [`LOG_INS_OF_EVENT`].
const LOG_INS: (usize, Duration) = (22, Duration::from_secs(30));
const LOG_INS_OF_EVENT: usize = 2;

impl Ledger {
    /// A log-in has arrived at a server.
    pub(in crate::app::simulation) fn log_in(&mut self, at: Duration, organization: &str) -> LogInArrival {
        let account = account_of(organization);
        self.counts.log_ins += 1;
        if self.logged_out[account].is_some_and(|since| since < at) {
            self.break_promise(at, format!("the account {} logs in, and is logged out", ACCOUNTS[account]));
        }
        self.log_ins[account].push(at);
        let recent = |times: &[Duration]| times.iter().filter(|then| **then + LOG_INS.1 > at).count();
        // A token is renewed after half of its life, at the earliest.
        let renewals = self.renewals(at);
        let (count, most) = (recent(&self.log_ins[account]), LOG_INS.0 + renewals + LOG_INS_OF_EVENT * recent(&self.causes));
        if count > most {
            self.break_promise(at, format!("{count} log-ins in {:?}; back-off explains {most}", LOG_INS.1));
        }
        let (arrival, faults) = self.pacing.judge(at, organization, self.suspicion.trouble(account));
        for fault in faults {
            self.break_promise(at, fault);
        }
        arrival
    }

    /// The number of an account's log-ins so far, to be given to [`judge_notice`](Self::judge_notice).
    pub(in crate::app::simulation) fn changed(&self, account: usize) -> (usize, Duration, bool) {
        let at = self.suspicion.trouble(account);
        (self.log_ins[account].len(), at, self.logged_out[account].is_some())
    }

    /// Since `before` the account's credentials have changed, and a log-in has to have arrived, unless something kept it away.
    pub(in crate::app::simulation) fn judge_notice(
        &mut self,
        at: Duration,
        account: usize,
        before: (usize, Duration, bool),
        is_readable: bool,
    ) {
        let now = self.changed(account);
        let was_kept_away = now.1 != before.1 || before.2 || now.2 || !is_readable;
        if now.0 == before.0 && !was_kept_away {
            self.break_promise(at, format!("the credentials of {} have changed, and nobody has logged in", ACCOUNTS[account]));
        }
    }

    /// How often tokens as they were lately may be renewed.
    fn renewals(&self, at: Duration) -> usize {
        let lately = self.lives.iter().rev().take_while(|(made, _)| *made + 4 * LOG_INS.1 > at);
        let shortest = lately.map(|(_, life)| *life).min().unwrap_or(Duration::MAX);
        let times = (LOG_INS.1 * 2).as_millis() / shortest.as_millis().max(1);
        usize::try_from(times).unwrap_or(usize::MAX)
    }

    /// The log-in was answered by a status that refuses it.
    pub(in crate::app::simulation) fn reject(&mut self, at: Duration, organization: &str) {
        self.rejected[account_of(organization)] = Some(at);
    }

    /// The log-in was answered by a failure whose first byte left at `began`, and whose last one has left now. `status`: no 2xx.
    pub(in crate::app::simulation) fn failed_whole(
        &mut self,
        at: Duration,
        began: Duration,
        arrival: LogInArrival,
        status: Option<u16>,
        retry_after: Option<u32>,
    ) {
        if !self.pacing.failed(at, began, arrival, status, retry_after) {
            return;
        }
        // A token that was suspect is used again.
        let of_account = |token: &&mut Token| account_of(&token.organization) == arrival.account;
        for token in self.tokens.values_mut().filter(of_account).filter(|token| token.refused) {
            token.refused = false;
            token.answered = token.answered.map(|_| at);
        }
        // A 401 starts no other log-in while this one waits for its next attempt.
        self.trouble(at, arrival.account);
        self.counts.waits += 1;
    }

    /// The log-in was answered by that token, which was made at `made` for so many seconds.
    pub(in crate::app::simulation) fn succeeded_whole(
        &mut self,
        at: Duration,
        made: Duration,
        arrival: LogInArrival,
        name: &str,
        life: f64,
    ) {
        let was_awake = self.suspended.is_none_or(|until| until < arrival.at);
        self.pacing.succeeded(at, made, arrival, (self.tokens.get(name), life), was_awake);
    }

    /// Judges whether tokens were renewed before they ended.
    pub(in crate::app::simulation) fn judge_renewals(&mut self, at: Duration, now: f64) {
        for (account, name) in ACCOUNTS.iter().enumerate() {
            let is_overdue = self.pacing.is_overdue(at, now, account, self.suspicion.trouble(account));
            if is_overdue && self.logged_out[account].is_none() {
                self.break_promise(at, format!("the token of {name} has ended, and was not renewed"));
            }
        }
    }
}
