//! Judges since when the status document says that something is so (`docs/control.md`): a time stays as long as what it is about.
//!
//! The document is looked at again and again. Where something may have ended and begun anew between two looks, nothing is judged.

use std::time::Duration;

use super::{Ending, LOG_IN_TIMEOUT, Ledger, documents::right_time};
use crate::{
    app::simulation::servers::{ACCOUNTS, account_of},
    status::{AccountDocument, ApiDocument},
};

/// What was done a moment before a look may show after it.
const MOMENT: Duration = Duration::from_millis(1500);
/// How exact times are, in seconds.
const EXACT: f64 = 1.5;
/// A shortage of permits lasts for so long after the last request that was refused, less a moment.
const SHORTAGE: f64 = 9.5;

/// The latest look at both documents of an account.
#[derive(Default)]
pub(in crate::app::simulation) struct Looks([Option<Look>; ACCOUNTS.len()]);

struct Look {
    at: Duration,
    /// By the right time.
    now: f64,
    /// By how much the wall clock is ahead.
    ahead: f64,
    account: AccountDocument,
    api: ApiDocument,
}

impl Ledger {
    /// Looks at what the status document says of an account and its API. `looks`: the ones before.
    pub(in crate::app::simulation) fn judge_since(
        &mut self,
        looks: &mut Looks,
        (at, now): (Duration, f64),
        index: usize,
        (account, api): (&AccountDocument, &ApiDocument),
        ahead: f64,
    ) {
        let before = looks.0[index].take();
        let look = Look { at, now, ahead, account: account.clone(), api: api.clone() };
        let faults =
            before.map(|before| [self.judge_api_since(index, &before, &look), self.judge_account_since(index, &before, &look)]);
        for fault in faults.into_iter().flatten().flatten() {
            self.break_promise(at, format!("{}: {fault}", ACCOUNTS[index]));
        }
        looks.0[index] = Some(look);
    }

    /// Something has happened since then that may have the account begin anew.
    fn was_disturbed(&self, since: Duration) -> bool {
        self.causes.iter().chain(&self.reloaded).any(|cause| *cause + 2 * MOMENT > since)
            || self.suspended.is_some_and(|until| until + MOMENT > since)
    }

    fn judge_api_since(&self, index: usize, before: &Look, look: &Look) -> Option<String> {
        let from = before.at.saturating_sub(MOMENT);
        let since = |look: &Look| right_time(look.api.since.as_deref(), look.ahead);
        let (Some(then), Some(now)) = (since(before), since(look)) else {
            return Some(format!("the status does not say since when: {:?}", look.api));
        };
        let (state_before, state) = (before.api.state.as_deref()?, look.api.state.as_deref()?);
        let is_same_clock = (before.ahead - look.ahead).abs() < 0.1;
        if self.suspended.is_some_and(|until| until + MOMENT > from) || self.reloaded.is_some_and(|then| then + MOMENT > from) {
            return None;
        }
        if state == state_before {
            if look.api.since == before.api.since {
                return None;
            }
            let of_account = || self.calls.values().filter(|call| call.account == index);
            let ended = of_account().any(|call| call.ended.as_ref().is_none_or(|(ended, _)| *ended > from));
            let has_come = |from: Duration| {
                of_account().any(|call| match &call.ended {
                    Some((at, Ending::Refused(502, code))) => *at > from && code.starts_with("upstream"),
                    // Its client reads slowly.
                    None => call.arrived > 0,
                    Some(_) => false,
                })
            };
            let may_be_new = match state {
                // Only an answer ends an outage, be it one that is not HTTP.
                "unreachable" => self.answered[index].is_some_and(|answered| answered > from) || has_come(from),
                // The clock may have been set since it began.
                "busy" => !is_same_clock || (now - then).abs() > SHORTAGE,
                "no_token" => self.has_new_token(index, from) || self.was_disturbed(from),
                _ => ended || self.was_disturbed(from),
            };
            return (!may_be_new)
                .then(|| format!("its API is {state} since {:?}, and was so since {:?}", look.api.since, before.api.since));
        }
        if !is_same_clock {
            return None;
        }
        // What was hidden by another state may have begun before.
        let was_hidden = matches!(state_before, "no_token" | "unreachable" | "failing");
        // These are so from the first of several events on, and are known to be so with a later one.
        let is_found_later = matches!(look.api.reason.as_deref(), Some("status 401 and no other" | "HTTP response timeout"));
        let is_early = now < before.now - EXACT && !was_hidden && !is_found_later;
        let is_late = now > look.now + EXACT;
        (is_early || is_late).then(|| {
            let apart = now - look.now;
            format!("its API was {state_before} a moment ago, and is {state} since {:?}: {apart:.3} s from now", look.api.since)
        })
    }

    fn judge_account_since(&self, index: usize, before: &Look, look: &Look) -> Option<String> {
        let from = before.at.saturating_sub(MOMENT);
        let (old, new) = (&before.account, &look.account);
        if new.trouble.is_some() != new.since.is_some() && new.state.as_deref() != Some("logged_out") {
            return Some(format!("the status says of it that there is trouble, or since when, and not both: {new:?}"));
        }
        if self.was_disturbed(from) || self.has_new_token(index, from) {
            return None;
        }
        let is_logged_out = |document: &AccountDocument| document.state.as_deref() == Some("logged_out");
        let fails = |document: &AccountDocument| {
            document.last_error_at.is_some() && document.trouble.as_deref().is_some_and(|trouble| trouble != "token_refused")
        };
        let goes_on = (is_logged_out(old) && is_logged_out(new)) || (fails(old) && fails(new));
        (goes_on && old.since != new.since)
            .then(|| format!("its trouble began at {:?}, and now at {:?}: {new:?}", old.since, new.since))
    }

    /// Whether a server has given the account a token since then, or shortly before: it may be on its way for some time.
    fn has_new_token(&self, account: usize, from: Duration) -> bool {
        // After a suspend it is not known which of them count.
        let was_suspended = self.suspended.is_some_and(|until| until + LOG_IN_TIMEOUT + 2 * MOMENT > from);
        let of_account = self.tokens.values().filter(|token| account_of(&token.organization) == account);
        was_suspended || of_account.filter_map(|token| token.answered).any(|answered| answered + 2 * MOMENT > from)
    }
}
