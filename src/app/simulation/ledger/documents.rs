//! Judges the status document (`docs/control.md`): the times of tokens, and the states of accounts and APIs.

use std::time::{Duration, SystemTime};

use super::{Ending, Ledger};
use crate::{
    app::simulation::servers::{ACCOUNTS, account_of},
    logging::parse_rfc3339,
    status::{AccountDocument, ApiDocument},
};

/// How exact the times of tokens are, in seconds: `Date` and `exp` are of whole seconds, and an answer is on its way for a while.
const EXACT: f64 = 3.5;
/// For how long an API is busy for sure after it has refused a request: a moment less than ten seconds.
const BUSY: Duration = Duration::from_millis(8500);
const MOMENT: Duration = Duration::from_millis(1500);

/// By the right clock, in seconds since 1970. `ahead`: by how much the daemon's clock is.
pub(super) fn right_time(text: Option<&str>, ahead: f64) -> Option<f64> {
    let time = parse_rfc3339(text?)?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(time.as_secs_f64() - ahead)
}

impl Ledger {
    /// Judges what the document says of an account.
    pub(in crate::app::simulation) fn judge_account(
        &mut self,
        at: Duration,
        account: usize,
        document: &AccountDocument,
        ahead: f64,
    ) {
        let [expires, renewed] = [&document.expires_at, &document.refresh_at].map(|time| right_time(time.as_deref(), ahead));
        let state = document.state.as_deref().unwrap_or_default();
        let of_account = self.tokens.values().filter(|token| account_of(&token.organization) == account);
        let (mut is_known, mut is_in_time) = (expires.is_none(), renewed.is_none());
        for token in of_account.filter(|token| expires.is_some_and(|expires| (token.expires - expires).abs() < EXACT)) {
            is_known = true;
            let (made, life) = (token.expires - token.life, token.life);
            let [first, last] = [0.72, 0.88].map(|share| made + (life / 2.0).max((life * share).min(life - 30.0)));
            is_in_time |= renewed.is_some_and(|renewed| first - EXACT < renewed && renewed < last + EXACT);
        }
        // An answer that may have waited through a suspend is taken for older than it is, and never for younger.
        let of_account = self.tokens.values().filter(|token| account_of(&token.organization) == account);
        let mut uncertain = of_account.filter(|token| token.answered.is_none());
        if self.suspended.is_some() && uncertain.any(|token| expires.is_some_and(|expires| expires < token.expires + EXACT)) {
            (is_known, is_in_time) = (true, true);
        }
        let has_begun = document.login_began_at.is_some();
        let fault = [
            (!is_known, "no server has made a token that expires then"),
            (state == "ready" && !is_in_time, "its token is not renewed in time"),
            (state == "ready" && expires.is_none(), "it is ready, and its token does not expire"),
            (has_begun && !matches!(state, "logging_in" | "refreshing"), "a log-in is under way"),
            (state == "logging_in" && !has_begun, "no log-in is under way"),
            (state == "backing_off" && document.retry_at.is_none(), "it waits for nothing"),
            (matches!(state, "logged_out" | "logging_in") && document.usable, "it has no token"),
        ];
        if let Some((_, fault)) = fault.into_iter().find(|(is_wrong, _)| *is_wrong) {
            self.break_promise(at, format!("the status of {}: {fault}: {document:?}", ACCOUNTS[account]));
        }
    }

    /// Judges what the document says of an API and its account.
    pub(in crate::app::simulation) fn judge_api(
        &mut self,
        at: Duration,
        account: usize,
        document: &ApiDocument,
        of_account: &AccountDocument,
    ) {
        let state = document.state.as_deref().unwrap_or_default();
        // A suspend passes for a part of that time, and a reload forgets.
        let was_awake = self.suspended.is_none_or(|until| until + BUSY + MOMENT < at);
        let was_refused = |within: Duration| {
            self.calls.values().any(|call| {
                let is_prompt = !call.at_leisure && call.request_bytes == 0;
                call.account == account
                    && is_prompt
                    && matches!(&call.ended, Some((ended, Ending::Refused(_, code)))
                        if code == "too_many_requests_in_flight" && *ended + within > at
                            && self.reloaded.is_none_or(|reloaded| reloaded + MOMENT < *ended))
            })
        };
        let fault = [
            ((state == "no_token") == of_account.usable, "there is a token, or is none"),
            (state == "served" && was_awake && was_refused(BUSY), "it has refused a request just now"),
            (state == "busy" && self.most_requests > 10, "it can't be busy"),
            (document.errors != Some(document.errors_by_code.values().sum()), "its errors are others in all"),
            (document.errors > document.requests, "it has more errors than requests"),
            ((state == "served") != document.reason.is_none(), "there is a reason, or is none"),
        ];
        if let Some((_, fault)) = fault.into_iter().find(|(is_wrong, _)| *is_wrong) {
            self.break_promise(at, format!("the status of the API {}: {fault}: {document:?}", ACCOUNTS[account]));
        }
    }
}
