//! What everybody did, in the order of its happening, and the promises that hold at every moment of it.
//!
//! The servers and clients tell the ledger what they see. It judges at once, so that a broken promise is found with the trace
//! that led to it.

use std::{collections::BTreeMap, time::Duration};

use super::world::{ACCOUNTS, account_of};

/// How long after a change of the organization's file an old token may still be sent: the files have to come to rest, and are read.
const ORGANIZATION_NOTICED: Duration = Duration::from_secs(5);
/// For how long a usable token may be there while a request goes on waiting for one.
const TOKEN_NOTICED: Duration = Duration::from_secs(1);
/// Log-ins in half a minute that back-off may lead to; each event that asks for a log-in adds [`LOG_INS_OF_EVENT`].
const LOG_INS: (usize, Duration) = (14, Duration::from_secs(30));
const LOG_INS_OF_EVENT: usize = 2;

/// Numbers a call of a client.
pub(super) type CallId = u64;

/// Everything that happened so far.
#[derive(Default)]
pub(super) struct Ledger {
    trace: Vec<String>,
    broken: Vec<String>,
    tokens: BTreeMap<String, Token>,
    calls: BTreeMap<CallId, Call>,
    log_ins: [Vec<Duration>; ACCOUNTS.len()],
    /// Since when each account is logged out.
    logged_out: [Option<Duration>; ACCOUNTS.len()],
    /// The newest token of each account that a request has carried, and when the first one did.
    newest: [Option<(u64, Duration)>; ACCOUNTS.len()],
    /// When each token was made, and how long it lives.
    lives: Vec<(Duration, Duration)>,
    /// When something happened that may lead to a log-in at once.
    causes: Vec<Duration>,
    /// Nothing is wrong any more: each call that begins from now on is answered.
    well: Option<Duration>,
    /// Nothing counts any more.
    is_closed: bool,
    pub(super) counts: Counts,
}

/// How much a simulation has done: it must not be nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) calls: u64,
    pub(super) answered: u64,
    pub(super) refused: u64,
    pub(super) cut: u64,
    pub(super) given_up: u64,
    pub(super) log_ins: u64,
    pub(super) unauthorized: u64,
    pub(super) sent_again: u64,
    pub(super) events: u64,
}

impl Counts {
    /// Whether everything that is judged has happened.
    pub(super) fn is_varied(self) -> bool {
        let Self { calls, answered, refused, cut, given_up, log_ins, unauthorized, sent_again, events } = self;
        [calls, answered, refused, cut, given_up, log_ins, unauthorized, sent_again, events].iter().all(|count| *count > 0)
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            answered: self.answered + other.answered,
            refused: self.refused + other.refused,
            cut: self.cut + other.cut,
            given_up: self.given_up + other.given_up,
            log_ins: self.log_ins + other.log_ins,
            unauthorized: self.unauthorized + other.unauthorized,
            sent_again: self.sent_again + other.sent_again,
            events: self.events + other.events,
        }
    }
}

/// A token that a server has made.
pub(super) struct Token {
    number: u64,
    pub(super) server: usize,
    pub(super) organization: String,
    /// By the right time, in seconds since 1970.
    pub(super) expires: f64,
    /// When its answer had been written whole.
    answered: Option<Duration>,
    /// From when on it must not be sent, and why.
    withdrawn: Option<(Duration, &'static str)>,
    pub(super) revoked: bool,
    /// A request that carried it was answered 401.
    refused: bool,
}

/// One request of a client.
struct Call {
    /// Carried out at most once.
    once: bool,
    arrived: u32,
    /// How often it was answered 401.
    refused: u32,
    executed: u32,
    begun: Duration,
    account: usize,
    /// The server that was configured when the call began, if no reload was under way.
    server: Option<usize>,
    ended: bool,
}

/// A request as it arrived at a server.
pub(super) struct Arrival<'a> {
    pub(super) server: usize,
    pub(super) call: CallId,
    pub(super) authorization: &'a [String],
    pub(super) organization: &'a [String],
    /// How old its connection is, and may be.
    pub(super) age: (Duration, Duration),
}

/// How a call ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// CarePortals' answer came whole.
    Answered(u16),
    /// The daemon's own answer: status and code.
    Refused(u16, String),
    /// The connection ended before an answer, or in it.
    Cut,
    /// The client gave up.
    GivenUp,
    /// The connection was closed before the client sent anything.
    Unsent,
}

impl Ledger {
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

    /// Judges nothing from now on.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Something happened that may lead to a log-in at once.
    pub(super) fn causes_log_in(&mut self, at: Duration) {
        self.causes.push(at);
    }

    /// A log-in has arrived at a server.
    pub(super) fn log_in(&mut self, at: Duration, organization: &str) {
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
    }

    /// How often tokens as they were lately may be renewed.
    fn renewals(&self, at: Duration) -> usize {
        let lately = self.lives.iter().rev().take_while(|(made, _)| *made + 4 * LOG_INS.1 > at);
        let shortest = lately.map(|(_, life)| *life).min().unwrap_or(Duration::MAX);
        let times = (LOG_INS.1 * 2).as_millis() / shortest.as_millis().max(1);
        usize::try_from(times).unwrap_or(usize::MAX)
    }

    pub(super) fn made(&mut self, at: Duration, now: f64, name: String, server: usize, organization: String, expires: f64) {
        self.lives.push((at, Duration::from_secs_f64((expires - now).max(1.0))));
        let number = self.tokens.len() as u64;
        let token =
            Token { number, server, organization, expires, answered: None, withdrawn: None, revoked: false, refused: false };
        self.tokens.insert(name, token);
    }

    /// The answer with that token was written whole.
    pub(super) fn gave(&mut self, name: &str, at: Duration) {
        if let Some(token) = self.tokens.get_mut(name) {
            token.answered = Some(at);
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
        for token in self.tokens.values_mut().filter(|token| account_of(&token.organization) == account) {
            token.withdrawn = token.withdrawn.or(Some((at, "a log-out")));
        }
    }

    /// The account is told to log in.
    pub(super) fn may_log_in(&mut self, at: Duration, account: usize) {
        self.logged_out[account] = None;
        self.causes_log_in(at);
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

    /// The server refuses each token that it has made so far.
    pub(super) fn revoke(&mut self, server: usize) {
        self.tokens.values_mut().filter(|token| token.server == server).for_each(|token| token.revoked = true);
    }

    /// Nothing is wrong any more.
    pub(super) fn expect_answers(&mut self, at: Duration) {
        self.well = Some(at);
    }

    pub(super) fn begin(&mut self, call: CallId, once: bool, at: Duration, account: usize, server: Option<usize>) {
        self.counts.calls += 1;
        self.calls.insert(call, Call { once, arrived: 0, refused: 0, executed: 0, begun: at, account, server, ended: false });
    }

    /// Judges a request's head. Returns whether the server accepts its token.
    pub(super) fn arrive(&mut self, at: Duration, now: f64, arrival: &Arrival<'_>) -> bool {
        let Arrival { server, call, authorization, organization, age } = arrival;
        let mut faults = Vec::new();
        let mut accepted = false;
        match self.calls.get_mut(call) {
            Some(known) => {
                known.arrived += 1;
                if known.refused > 1 {
                    faults.push("it is sent again after the second 401".to_owned());
                }
                if known.arrived > 3 {
                    faults.push("it was sent more than three times".to_owned());
                }
                if known.server.is_some() && age.0 > age.1 {
                    faults.push(format!(
                        "its connection is {:.1} s old, and may be {:.1} s",
                        age.0.as_secs_f64(),
                        age.1.as_secs_f64()
                    ));
                }
                if known.server.is_some_and(|expected| expected != *server) {
                    faults.push(format!("it went to server {server}, which was no longer configured when it began"));
                }
            }
            None => faults.push("nobody has made this call".to_owned()),
        }
        let names: Vec<_> = authorization.iter().map(|value| value.strip_prefix("Bearer ").unwrap_or(value)).collect();
        match (names.as_slice(), organization) {
            ([name], [organization]) => match self.tokens.get(*name) {
                Some(token) => {
                    if token.server != *server {
                        faults.push(format!("server {server} got a token of server {}", token.server));
                    }
                    if token.organization != *organization {
                        faults.push(format!("a token of {:?} travels with {organization:?}", token.organization));
                    }
                    if token.expires <= now {
                        faults.push(format!("its token expired {:.3} s ago", now - token.expires));
                    }
                    if let Some((from, why)) = token.withdrawn.filter(|(from, _)| *from <= at) {
                        faults.push(format!("its token was withdrawn at {:.3}: {why}", from.as_secs_f64()));
                    }
                    let account = account_of(&token.organization);
                    if self.calls.get(call).is_some_and(|known| known.account != account) {
                        faults.push(format!("it carries a token of the account {}", ACCOUNTS[account]));
                    }
                    match self.newest[account] {
                        Some((newest, since)) if newest > token.number && since < at => {
                            faults.push("its token is older than one that was used before".to_owned());
                        }
                        Some((newest, _)) if newest >= token.number => {}
                        _ => self.newest[account] = Some((token.number, at)),
                    }
                    accepted = token.server == *server && !token.revoked;
                }
                None => faults.push(format!("no server has made the token {name:?}")),
            },
            _ => faults.push(format!("it has {} tokens and {} organizations", names.len(), organization.len())),
        }
        for fault in faults {
            self.break_promise(at, format!("call {call}: {fault}"));
        }
        accepted
    }

    /// A reload has begun: what is under way may go to either server, and may wait for a token that will not come.
    pub(super) fn reload(&mut self) {
        self.calls.values_mut().filter(|call| !call.ended).for_each(|call| call.server = None);
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

    /// The server answers a request with 401.
    pub(super) fn refuse(&mut self, call: CallId, name: &str) {
        self.counts.unauthorized += 1;
        if let Some(known) = self.calls.get_mut(&call) {
            known.refused += 1;
        }
        if let Some(token) = self.tokens.get_mut(name) {
            token.refused = true;
        }
    }

    pub(super) fn end(&mut self, call: CallId, at: Duration, now: f64, organization: &str, ending: &Ending) {
        let Some(known) = self.calls.get_mut(&call) else { return };
        known.ended = true;
        let (begun, server, account) = (known.begun, known.server, known.account);
        let organization = if account == 0 { organization } else { ACCOUNTS[1] };
        match ending {
            Ending::Answered(_) => self.counts.answered += 1,
            Ending::Refused(..) => self.counts.refused += 1,
            Ending::Cut => self.counts.cut += 1,
            Ending::GivenUp => self.counts.given_up += 1,
            Ending::Unsent => {}
        }
        let is_fine = matches!(ending, Ending::Answered(200) | Ending::GivenUp | Ending::Unsent);
        if self.well.is_some_and(|well| well < begun) && !is_fine {
            self.break_promise(at, format!("call {call} ended as {ending:?}, and nothing is wrong"));
        }
        let Ending::Refused(_, code) = ending else { return };
        // One that came later has replaced those before.
        let of_account = |token: &&Token| account_of(&token.organization) == account && token.answered.is_some();
        let newest = self.tokens.values().filter(of_account).max_by_key(|token| token.number);
        let usable = |token: &&Token| {
            let in_time = token.answered.is_some_and(|answered| answered + TOKEN_NOTICED < at);
            let good = !token.revoked && !token.refused && token.withdrawn.is_none() && token.expires > now + 5.0;
            in_time && good && Some(token.server) == server && token.organization == organization
        };
        if server.is_some()
            && code == "token_pending"
            && let Some(token) = newest.filter(usable)
        {
            let answered = token.answered.unwrap_or_default().as_secs_f64();
            let waited = at.saturating_sub(begun).as_secs_f64();
            self.break_promise(at, format!("call {call} waited {waited:.3} s in vain: a token was there at {answered:.3}"));
        }
    }

    /// The calls that have not ended.
    pub(super) fn unfinished(&self) -> Vec<CallId> {
        self.calls.iter().filter(|(_, call)| !call.ended).map(|(id, _)| *id).collect()
    }
}

const OTHER_ORGANIZATION: &str = "the organization has changed";
