//! What everybody did, in the order of its happening, and the promises that hold at every moment of it.
//!
//! The servers and clients tell the ledger what they see. It judges at once, so that a broken promise is found with the trace
//! that led to it.
//!
//! The ledger holds what `token`, `call`, `counts`, `pacing` (when accounts may log in) and `suspicion` (which tokens wait for their
//! successor) define. The other files judge by it: `arrivals` what servers get, `log_ins` and `outages` log-ins and the waits between
//! them, `endings` what clients and the counters say, `lines` the log, `documents` and `since` the status document.

pub(super) mod arrivals;
mod call;
mod counts;
mod documents;
mod endings;
pub(super) mod lines;
mod log_ins;
mod outages;
mod pacing;
pub(super) mod since;
mod suspicion;
mod token;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use self::{
    call::Call,
    pacing::{Pacing, SHORT_LIFE},
    suspicion::Suspicion,
    token::Token,
};
use super::{
    calls::CallId,
    servers::{ACCOUNTS, Mood, SERVERS, account_of},
};

pub(super) use self::{
    call::{Ending, Reply},
    counts::Counts,
    pacing::LogInArrival,
};

/// How long the daemon may take to see that a client has gone, or that its settings or account have changed.
const SEEN: Duration = Duration::from_secs(2);
/// How long after a change of the organization's file an old token may still be sent: the files have to come to rest, and are read.
const ORGANIZATION_NOTICED: Duration = Duration::from_secs(5);
/// For how long a usable token may be there while a request goes on waiting for one.
const TOKEN_NOTICED: Duration = Duration::from_secs(1);
/// How often an account compares its clocks, and a moment.
const SUSPEND_NOTICED: Duration = Duration::from_secs(32);
/// `login_timeout`, and a moment.
const LOG_IN_TIMEOUT: Duration = Duration::from_secs(11);

/// Everything that happened so far.
#[derive(Default)]
pub(super) struct Ledger {
    trace: Vec<String>,
    broken: Vec<String>,
    tokens: BTreeMap<String, Token>,
    calls: BTreeMap<CallId, Call>,
    /// Their connections to a server end after some bytes, in whatever way, or their clients can't see that an answer broke off.
    may_be_cut: BTreeSet<CallId>,
    log_ins: [Vec<Duration>; ACCOUNTS.len()],
    /// Since when each account is logged out.
    logged_out: [Option<Duration>; ACCOUNTS.len()],
    /// The newest token of each account that a request has carried, and when the first one did.
    newest: [Option<(u64, Duration)>; ACCOUNTS.len()],
    /// When each token was made, and how long it lives.
    lives: Vec<(Duration, Duration)>,
    /// When something happened that may lead to a log-in at once.
    causes: Vec<Duration>,
    /// When each account was logged out, and until when.
    log_outs: Vec<(usize, Duration, Option<Duration>)>,
    /// What is known of each account's present token, and of what keeps log-ins from succeeding.
    suspicion: Suspicion,
    /// When accounts may log in.
    pacing: Pacing,
    /// When each account's log-in was last answered by a refusal.
    rejected: [Option<Duration>; ACCOUNTS.len()],
    /// How often in a row calls were seen to wait in vain for a place.
    in_vain: [u32; ACCOUNTS.len()],
    /// When a server last answered a call of each account.
    answered: [Option<Duration>; ACCOUNTS.len()],
    /// When each log-in arrived, and how it was answered.
    answers: [Vec<(Duration, Mood)>; ACCOUNTS.len()],
    /// How many requests of each account were sent that the daemon refuses by itself.
    refused_here: [u64; ACCOUNTS.len()],
    /// `max_requests`.
    most_requests: usize,
    /// `max_connections`.
    places: usize,
    /// When the latest reload began.
    reloaded: Option<Duration>,
    /// When the machine was last suspended, until then.
    suspended: Option<Duration>,
    /// Nothing is wrong any more: each call that begins from now on is answered.
    well: Option<Duration>,
    /// The daemon has been told to end.
    draining: bool,
    /// Nothing counts any more.
    is_closed: bool,
    pub(super) counts: Counts,
}

impl Ledger {
    /// `most_requests`: `max_requests` of each API. `places`: the clients of an address.
    pub(super) fn new(most_requests: usize, places: usize) -> Self {
        Self { most_requests, places, ..Self::default() }
    }

    pub(super) fn note(&mut self, at: Duration, what: &str) {
        self.trace.push(format!("{:>10.3} {what}", at.as_secs_f64()));
    }

    pub(super) fn trace(&self) -> &[String] {
        &self.trace
    }

    pub(super) fn broken(&self) -> &[String] {
        &self.broken
    }

    pub(super) fn break_promise(&mut self, at: Duration, what: String) {
        if self.is_closed {
            return;
        }
        self.note(at, &format!("BROKEN: {what}"));
        self.broken.push(what);
    }

    /// The daemon is told to end.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    /// Judges nothing from now on.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Something happened that may lead to a log-in at once.
    pub(super) fn causes_log_in(&mut self, at: Duration) {
        self.causes.push(at);
    }

    /// Something asks the account for a log-in at once, or `later`.
    pub(super) fn excuse_log_in(&mut self, at: Duration, account: usize, later: Duration) {
        self.pacing.excuse(at, account, later);
    }

    /// The machine was suspended: what the daemon knows of tokens and waits may differ.
    pub(super) fn excuse_all(&mut self, at: Duration) {
        self.pacing.excuse_all(at);
    }

    /// Something happens for which a log-in of the account may fail, and an old token may come back into use.
    pub(super) fn trouble(&mut self, at: Duration, account: usize) {
        self.suspicion.trouble_comes(at, account);
    }

    /// The same at a server.
    pub(super) fn trouble_at(&mut self, at: Duration, _server: usize) {
        // Either account may be logging in there.
        const { assert!(SERVERS == 2) };
        (0..ACCOUNTS.len()).for_each(|account| self.trouble(at, account));
    }

    pub(super) fn made(&mut self, at: Duration, now: f64, name: String, server: usize, organization: String, expires: f64) {
        self.lives.push((at, Duration::from_secs_f64((expires - now).max(1.0))));
        let number = self.tokens.len() as u64;
        let token = Token {
            number,
            server,
            organization,
            expires,
            life: expires - now,
            late: 0.0,
            answered: None,
            withdrawn: None,
            revoked: false,
            refused: false,
        };
        self.tokens.insert(name, token);
    }

    /// The call's answer may break off, and perhaps where its client can't see it.
    pub(super) fn may_be_cut(&mut self, call: CallId) {
        self.may_be_cut.insert(call);
    }

    /// The answer with that token was written whole.
    pub(super) fn gave(&mut self, name: &str, at: Duration, arrival: LogInArrival) {
        let Some((account, life)) = self.tokens.get(name).map(|token| (account_of(&token.organization), token.life)) else {
            return;
        };
        // An answer that may have waited through a suspend may be taken for older than it is, and so may one that was held back: then
        // a token that lives for seconds may count as expired.
        let is_young = life >= SHORT_LIFE || at < arrival.at + Duration::from_secs(1);
        if !is_young {
            self.trouble(at, account);
        }
        let counts = is_young && self.suspended.is_none_or(|suspended| at >= suspended + LOG_IN_TIMEOUT);
        for (known, token) in &mut self.tokens {
            if known == name {
                token.answered = counts.then_some(at);
                token.late = at.saturating_sub(arrival.at).as_secs_f64();
            } else if account_of(&token.organization) == account {
                // The new one takes its place.
                token.answered = None;
            }
        }
    }

    /// That token must never be sent: its answer is none that counts.
    pub(super) fn never_gave(&mut self, name: &str, why: &'static str) {
        if let Some(token) = self.tokens.get_mut(name) {
            token.withdrawn = Some((Duration::ZERO, why));
        }
    }

    /// No token that was made so far may be sent from now on.
    pub(super) fn withdraw_all(&mut self, at: Duration, why: &'static str) {
        for token in self.tokens.values_mut().filter(|token| token.withdrawn.is_none()) {
            token.withdrawn = Some((at, why));
        }
    }

    /// The account was logged out: none of its tokens may be sent, and it may not log in until it is told to.
    pub(super) fn log_out(&mut self, at: Duration, account: usize) {
        self.logged_out[account] = Some(at);
        self.trouble(at, account);
        self.excuse_log_in(at, account, Duration::ZERO);
        for token in self.tokens.values_mut().filter(|token| account_of(&token.organization) == account) {
            token.withdrawn = token.withdrawn.or(Some((at, "a log-out")));
        }
    }

    /// The account is about to be logged out.
    pub(super) fn begin_log_out(&mut self, at: Duration, account: usize) {
        self.log_outs.push((account, at, None));
    }

    /// The account is told to log in.
    pub(super) fn may_log_in(&mut self, at: Duration, account: usize) {
        self.logged_out[account] = None;
        for (_, _, until) in self.log_outs.iter_mut().filter(|(of, _, until)| *of == account && until.is_none()) {
            *until = Some(at);
        }
        self.causes_log_in(at);
        self.excuse_log_in(at, account, Duration::ZERO);
    }

    /// The organization has changed: soon no token of another one may be sent.
    pub(super) fn organization_changed(&mut self, at: Duration, organization: &str) {
        for token in self.tokens.values_mut().filter(|token| account_of(&token.organization) == 0) {
            if token.organization == organization {
                // It may have come back to this one before it was noticed.
                token.withdrawn = token.withdrawn.filter(|(_, why)| *why != OTHER_ORGANIZATION);
                // If it was noticed, this token has gone.
                token.answered = None;
            } else if token.withdrawn.is_none() {
                token.withdrawn = Some((at + ORGANIZATION_NOTICED, OTHER_ORGANIZATION));
            }
        }
    }

    /// The machine is suspended, and notices nothing for that time.
    pub(super) fn suspend(&mut self, at: Duration, time: Duration) {
        self.suspended = Some(at + time);
        self.excuse_all(at + time);
        // What has just ended may not have been noticed.
        for (ended, _) in self.calls.values_mut().filter_map(|call| call.ended.as_mut()).filter(|(ended, _)| *ended + SEEN > at) {
            *ended += time;
        }
        for (from, _) in self.tokens.values_mut().filter_map(|token| token.withdrawn.as_mut()).filter(|(from, _)| *from > at) {
            *from += time;
        }
    }

    /// Whether the machine was not suspended lately.
    pub(super) fn is_awake(&self, at: Duration) -> bool {
        self.suspended.is_none_or(|until| until + SUSPEND_NOTICED + LOG_IN_TIMEOUT < at)
    }

    /// The organization's file has gone: the account may drop its tokens, and does not see what the file said.
    pub(super) fn organization_lost(&mut self, at: Duration) {
        self.server_changed();
        for token in self.tokens.values_mut() {
            token.withdrawn = token.withdrawn.filter(|(from, why)| *from <= at || *why != OTHER_ORGANIZATION);
        }
    }

    /// The server refuses each token that it has made so far.
    pub(super) fn revoke(&mut self, server: usize) {
        self.tokens.values_mut().filter(|token| token.server == server).for_each(|token| token.revoked = true);
    }

    /// Nothing is wrong any more.
    pub(super) fn expect_answers(&mut self, at: Duration) {
        self.well = Some(at);
    }

    /// Something is wrong again.
    pub(super) fn expect_trouble(&mut self) {
        self.well = None;
    }

    /// Whether nothing is wrong any more.
    pub(super) fn is_well(&self) -> bool {
        self.well.is_some()
    }

    pub(super) fn begin(
        &mut self,
        at: Duration,
        call: CallId,
        once: bool,
        bytes: usize,
        (account, server): (usize, Option<usize>),
    ) {
        self.counts.calls += 1;
        let known = Call {
            once,
            arrived: 0,
            refused: 0,
            failed: 0,
            reply: Reply::None,
            is_uncertain: false,
            made_suspect: None,
            refused_token: None,
            executed: 0,
            begun: at,
            account,
            server,
            at_leisure: false,
            request_bytes: bytes as u64,
            response_bytes: None,
            ended: None,
        };
        self.calls.insert(call, known);
    }

    /// A reload has begun: what is under way may go to either server, and may wait for a token that will not come.
    pub(super) fn reload(&mut self, at: Duration) {
        self.trouble(at, 0);
        self.reloaded = Some(at);
        self.pacing.forget_answers_of_no_use();
        // One that its client gave up may have waited to be accepted, and is sent later.
        let may_be_sent = |call: &&mut Call| matches!(call.ended, None | Some((_, Ending::GivenUp)));
        self.calls.values_mut().filter(may_be_sent).for_each(|call| call.server = None);
    }

    /// A reload has changed the first account's server: its tokens have gone with it.
    pub(super) fn server_changed(&mut self) {
        let of_first = |token: &&mut Token| account_of(&token.organization) == 0;
        self.tokens.values_mut().filter(of_first).for_each(|token| token.answered = None);
    }

    /// The server carries a call out.
    pub(super) fn execute(&mut self, call: CallId, at: Duration) {
        let Some(known) = self.calls.get_mut(&call) else { return };
        known.executed += 1;
        if known.executed > 1 {
            self.counts.sent_again += 1;
        }
        if known.once && known.executed > 1 {
            let times = known.executed;
            self.break_promise(at, format!("call {call} is not idempotent, and was carried out {times} times"));
        }
    }

    /// Each API allows so many requests in flight.
    pub(super) fn allows_requests(&mut self, requests: usize) {
        self.most_requests = requests;
    }

    /// A client sends a request that the daemon has to refuse, and which is no call.
    pub(super) fn sends_refused(&mut self, account: usize) {
        self.refused_here[account] += 1;
    }

    /// The calls that have not ended.
    pub(super) fn unfinished(&self) -> Vec<CallId> {
        self.calls.iter().filter(|(_, call)| call.ended.is_none()).map(|(id, _)| *id).collect()
    }
}

const OTHER_ORGANIZATION: &str = "the organization has changed";
