//! Judges how calls end: for their clients, and in the counters.

use std::{collections::BTreeMap, time::Duration};

use super::{Call, Ending, Ledger, SEEN, TOKEN_NOTICED, Token};
use crate::app::simulation::{
    calls::CallId,
    servers::{ACCOUNTS, account_of},
};

/// `token_wait`, in seconds, less a moment.
const TOKEN_WAIT: f64 = 9.9;
/// How long a call may take that is refused at once: its head may come slowly.
const AT_ONCE: Duration = Duration::from_secs(6);
/// `token_wait` and `connect_timeout`, in seconds, and the time of a head that comes slowly.
const LONGEST_TOKEN_WAIT: f64 = 20.0;
/// How long a call has to have waited, and how often it may then be seen to wait in vain.
const PLACED: Duration = Duration::from_secs(4);
const IN_VAIN: u32 = 10;

impl Ledger {
    pub(in crate::app::simulation) fn end(&mut self, call: CallId, at: Duration, now: f64, organization: &str, ending: &Ending) {
        let Some(known) = self.calls.get_mut(&call) else { return };
        known.ended = Some((at, ending.clone()));
        let (begun, server, account, once_refused) = (known.begun, known.server, known.account, known.refused == 1);
        let organization = if account == 0 { organization } else { ACCOUNTS[1] };
        let is_sent_again = known.made_suspect.is_some_and(|then| self.suspicion.trouble(account) < then);
        if is_sent_again && known.request_bytes == 0 && known.arrived == 1 && *ending == Ending::Answered(401) {
            self.break_promise(at, format!("call {call} got its 401, and was not sent again with another token"));
        }
        match ending {
            Ending::Answered(101) => self.counts.tunnels += 1,
            Ending::Answered(_) => self.counts.answered += 1,
            Ending::Refused(..) => self.counts.refused += 1,
            Ending::Cut => self.counts.cut += 1,
            Ending::GivenUp => self.counts.given_up += 1,
            Ending::Unsent => {}
        }
        if once_refused && *ending == Ending::Answered(200) {
            self.suspicion.cured(account);
        }
        let Ending::Refused(_, code) = ending else { return self.judge_fine(call, at, begun, ending, "") };
        self.judge_fine(call, at, begun, ending, code);
        if let Some(fault) = self.judge_code(call, at, now, code, organization, server) {
            self.break_promise(at, format!("call {call}: {fault}"));
        }
    }

    fn judge_fine(&mut self, call: CallId, at: Duration, begun: Duration, ending: &Ending, code: &str) {
        // A request may cross the close of an idle connection whose place somebody needs.
        let never_arrived = self.calls.get(&call).is_some_and(|call| call.arrived == 0);
        let gave_way = *ending == Ending::Cut && never_arrived && self.places < 1000;
        let may_be_cut = self.may_be_cut.contains(&call);
        let is_fine = gave_way
            || (may_be_cut && matches!(ending, Ending::Cut | Ending::Refused(502, _)))
            || matches!(ending, Ending::Answered(200 | 101) | Ending::GivenUp | Ending::Unsent)
            || matches!(code, "too_many_requests_in_flight" | "request_body_timeout")
            // An answer to HEAD has no body that would say why.
            || (code == "head" && self.most_requests < 10);
        if self.well.is_some_and(|well| well < begun) && !is_fine {
            self.break_promise(at, format!("call {call} ended as {ending:?}, and nothing is wrong"));
        }
    }

    /// The call's client will read some time after the answer has come, or sends it behind another one.
    pub(in crate::app::simulation) fn at_leisure(&mut self, call: CallId) {
        if let Some(known) = self.calls.get_mut(&call) {
            known.at_leisure = true;
        }
    }

    /// The call's answer came whole, with a body of so many bytes.
    pub(in crate::app::simulation) fn got(&mut self, call: CallId, bytes: usize) {
        if let Some(known) = self.calls.get_mut(&call) {
            known.response_bytes = Some(bytes as u64);
        }
    }

    /// The call was cut, and came whole while the daemon had time for it: a server has to have got it.
    pub(in crate::app::simulation) fn judge_cut(&mut self, at: Duration, call: CallId) {
        if self.calls.get(&call).is_some_and(|known| known.arrived == 0) {
            self.break_promise(at, format!("call {call} was cut, and no server has got it"));
        }
    }

    /// Why that code is wrong in the present state.
    fn judge_code(
        &self,
        call: CallId,
        at: Duration,
        now: f64,
        code: &str,
        organization: &str,
        server: Option<usize>,
    ) -> Option<String> {
        let known = self.calls.get(&call).filter(|known| !known.at_leisure)?;
        let (begun, account) = (known.begun, known.account);
        match code {
            "too_many_requests_in_flight" => {
                let others = self.open_calls(account, begun).saturating_sub(1);
                return (others < self.most_requests)
                    .then(|| format!("{others} others are in flight, and it is refused as too many"));
            }
            "logged_out" => {
                let is_logged_out = |(of, from, until): &(usize, Duration, Option<Duration>)| {
                    *of == account && *from <= at && until.is_none_or(|until| until + SEEN > begun)
                };
                let was_early =
                    self.log_outs.iter().any(|log_out| is_logged_out(log_out) && log_out.1 + SEEN < begun && log_out.2.is_none());
                let waited = at.saturating_sub(begun);
                if was_early
                    && waited > AT_ONCE
                    && known.arrived == 0
                    && self.places > 1000
                    && self.suspended.is_none_or(|until| until < begun)
                {
                    return Some(format!("the account was logged out before, and it has waited for {waited:?}"));
                }
                return (!self.log_outs.iter().any(is_logged_out)).then(|| "the account was not logged out".to_owned());
            }
            "login_rejected" if self.rejected[account].is_none() => {
                return Some("no log-in was rejected".to_owned());
            }
            "token_pending" | "login_failing" | "login_rejected" | "no_organization" => {}
            _ => return None,
        }
        let waited = at.saturating_sub(begun).as_secs_f64();
        let was_awake = self.suspended.is_none_or(|until| until < begun);
        if waited > LONGEST_TOKEN_WAIT && known.arrived == 0 && self.places > 1000 && was_awake {
            return Some(format!("it has waited for a token for {waited:.3} s"));
        }
        // A body of which a part is no longer at hand can't go to the account that a reload puts in the place of its own.
        let may_go_on = (known.arrived == 0 || known.request_bytes == 0) && !self.draining;
        if code == "token_pending" && may_go_on && waited < TOKEN_WAIT {
            return Some(format!("it has waited for a token for {waited:.3} s only"));
        }
        // A token that was refused may come back into use; then it waits for the next log-in all the same.
        if known.refused > 0 {
            return None;
        }
        let answered = self.usable_since(account, at, now, organization, server)?;
        Some(format!("it ends after {waited:.3} s as {code}: a token was there at {:.3}", answered.as_secs_f64()))
    }

    /// Since when the account has had a token that requests may carry, if that was noticed.
    fn usable_since(
        &self,
        account: usize,
        at: Duration,
        now: f64,
        organization: &str,
        server: Option<usize>,
    ) -> Option<Duration> {
        // One that came later has replaced those before.
        let of_account = |token: &&Token| account_of(&token.organization) == account && token.answered.is_some();
        let token = self.tokens.values().filter(of_account).max_by_key(|token| token.number)?;
        let good = !token.refused && token.withdrawn.is_none() && token.expires > now + token.late + 5.0;
        let is_usable = good && server == Some(token.server) && token.organization == organization;
        token.answered.filter(|answered| is_usable && *answered + TOKEN_NOTICED < at)
    }

    /// How many calls of the account are open, or have ended a moment before `begun`.
    pub(in crate::app::simulation) fn open_calls(&self, account: usize, begun: Duration) -> usize {
        let is_open = |ended: &Option<(Duration, Ending)>| ended.as_ref().is_none_or(|(ended, _)| *ended + SEEN > begun);
        self.calls.values().filter(|call| call.account == account && is_open(&call.ended)).count()
    }

    /// Judges whether a call of the account waits for a place while one could be had: only requests in progress hold theirs, of which
    /// the daemon has `taken`. It is looked at again and again.
    pub(in crate::app::simulation) fn judge_places(&mut self, at: Duration, account: usize, taken: usize) {
        let open = || self.calls.values().filter(|call| call.account == account && call.ended.is_none());
        let waiting = open().filter(|call| call.arrived == 0 && !call.at_leisure && call.begun + PLACED < at).count();
        let in_progress = open().filter(|call| call.arrived > 0).count().max(taken);
        let is_in_vain = waiting > taken && in_progress < self.places;
        self.in_vain[account] = if is_in_vain { self.in_vain[account] + 1 } else { 0 };
        if self.in_vain[account] == IN_VAIN {
            self.break_promise(at, format!("{waiting} calls wait for a place, and {taken} of {} are in use", self.places));
        }
    }

    /// Whether the last answer of an account's API refused the token.
    pub(in crate::app::simulation) fn was_refused_last(&self, account: usize) -> bool {
        let ended = self.calls.values().filter(|call| call.account == account).filter_map(|call| call.ended.as_ref());
        let answered = ended.filter(|(_, ending)| matches!(ending, Ending::Answered(_)));
        answered.max_by_key(|(at, _)| *at).is_some_and(|(_, ending)| *ending == Ending::Answered(401))
    }

    /// When the last call has ended that has.
    pub(in crate::app::simulation) fn last_end(&self) -> Duration {
        self.calls.values().filter_map(|call| Some(call.ended.as_ref()?.0)).max().unwrap_or_default()
    }

    /// Judges the account's state in the status document while it is logged out, and while it is not.
    pub(in crate::app::simulation) fn judge_logged_out(&mut self, at: Duration, account: usize, state: Option<&str>) {
        let says_so = state == Some("logged_out");
        let is_so = self.logged_out[account].is_some_and(|since| since + SEEN < at);
        let was_so = self.log_outs.iter().any(|(of, _, until)| *of == account && until.is_none_or(|until| until + SEEN > at));
        if (is_so && !says_so) || (says_so && !was_so) {
            self.break_promise(at, format!("the status says that {} is {state:?}; logged out: {is_so}", ACCOUNTS[account]));
        }
    }

    /// Whether the account's last calls came after everything was well again, and were answered.
    pub(in crate::app::simulation) fn was_served(&self, account: usize) -> bool {
        let Some(well) = self.well else { return false };
        let since = || self.calls.values().filter(|call| call.account == account && call.begun > well);
        let is_served = |call: &Call| matches!(call.ended, Some((_, Ending::Answered(200))));
        since().next().is_some() && since().all(is_served)
    }

    /// Judges whether the daemon says rightly that it is ready. `server`: as for a call that begins now. The last: whether a third
    /// account has all that it needs, or surely has not.
    pub(in crate::app::simulation) fn judge_ready(
        &mut self,
        at: Duration,
        now: f64,
        ready: bool,
        of: &[(&str, Option<usize>); ACCOUNTS.len()],
        (has_third, lacks_third): (bool, bool),
    ) {
        let holds = |account: usize| {
            let is_good = |token: &Token| token.expires > now && token.withdrawn.is_none_or(|(from, _)| from > at);
            self.tokens.values().any(|token| account_of(&token.organization) == account && is_good(token))
        };
        let without = (0..ACCOUNTS.len()).find(|account| !holds(*account));
        let all_usable = (0..ACCOUNTS.len()).all(|account| {
            let (organization, server) = of[account];
            self.usable_since(account, at, now, organization, server).is_some()
        });
        match (ready, without) {
            (true, Some(account)) => {
                self.break_promise(at, format!("the daemon is ready, and {} has no token", ACCOUNTS[account]));
            }
            (true, None) if lacks_third => {
                self.break_promise(at, "the daemon is ready, and the third account has no token".to_owned());
            }
            (false, None) if all_usable && has_third => {
                self.break_promise(at, "the daemon is not ready, and has its tokens".to_owned());
            }
            _ => {}
        }
    }

    /// Judges how many requests of the account the daemon has counted, and how many of them with each code of its own.
    pub(in crate::app::simulation) fn judge_counters(
        &mut self,
        at: Duration,
        account: usize,
        requests: u64,
        errors: &BTreeMap<String, u64>,
    ) {
        let of_account = || self.calls.values().filter(|call| call.account == account).filter_map(|call| call.ended.as_ref());
        let most = of_account().filter(|(_, ending)| *ending != Ending::Unsent).count() as u64 + self.refused_here[account];
        let least = of_account().filter(|(_, ending)| matches!(ending, Ending::Answered(_) | Ending::Refused(..))).count() as u64;
        let mut codes: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, ending) in of_account() {
            if let Ending::Refused(500.., code) = ending {
                *codes.entry(code).or_default() += 1;
            }
        }
        codes.remove("head");
        let missing = codes.iter().find(|(code, count)| errors.get(**code).is_none_or(|counted| counted < count));
        let missing =
            missing.map(|(code, count)| format!("{count} calls were refused as {code}, and the counters say {errors:?}"));
        if requests < least || requests > most {
            self.break_promise(at, format!("the daemon has counted {requests} requests; there were {least} to {most}"));
        }
        if let Some(missing) = missing {
            self.break_promise(at, missing);
        }
    }
}
