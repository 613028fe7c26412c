//! When an account may log in, and when it has to.
//!
//! After a failure not before the time that its server asked for, a minute after a refusal, and never at once. After a success only
//! when the token has lived for half of its life, or when a 401 named it and it was older than the floor. What asks for a log-in at
//! once excuses it: a command, other credentials, a reload to another server, a suspend. A token is renewed before it ends, if nothing
//! keeps log-ins from succeeding.
//!
//! Only answers count that came whole and in time.

use std::time::Duration;

use super::Token;
use crate::app::simulation::servers::{ACCOUNTS, account_of};

/// The shortest wait after a failure, and after a refusal.
const BACKOFF: Duration = Duration::from_secs(1);
const AFTER_REFUSAL: Duration = Duration::from_secs(60);
/// No server may ask for a longer wait.
const LONGEST_ASKED: Duration = Duration::from_secs(900);
/// How long a log-in may be on its way that something asked for: files come to rest, and connections take their time.
const ON_ITS_WAY: Duration = Duration::from_secs(9);
/// How long a server may take, so that the daemon has surely waited for its answer: `login_timeout` includes the way there.
const IN_TIME: Duration = Duration::from_millis(4500);
/// A token may be taken for older than it is, by the time that the connection took, and by a second, since dates have whole ones.
const OLDER: Duration = Duration::from_millis(2700);
/// How long a 401 may be on its way.
const LATE: Duration = Duration::from_millis(1500);
/// So many failures in a row do not come within so short a time, but for once in some ten thousand times: the waits grow.
const FAILURES: (usize, Duration) = (6, Duration::from_millis(8500));
/// A token of a shorter life may end while its successor is fetched.
pub(super) const SHORT_LIFE: f64 = 8.0;

#[derive(Default)]
pub(super) struct Pacing([Account; ACCOUNTS.len()]);

#[derive(Default)]
struct Account {
    /// How many log-ins have arrived.
    arrived: u64,
    /// None may arrive before that.
    not_before: Option<Wait>,
    /// Until then one may arrive at any time.
    excused: Duration,
    /// Until then a log-in may bring a token that had begun before a suspend: the daemon takes that time for part of its life.
    woken: Duration,
    /// What the latest log-in has brought, until another one arrives.
    brought: Option<Brought>,
    /// The log-in that a server is answering, and when it arrived.
    in_flight: Option<(u64, Duration)>,
    /// When the latest log-ins arrived that failed, one after the other.
    failed: Vec<Duration>,
}

/// A wait after a failure.
struct Wait {
    until: Duration,
    /// `None`: the answer was of no use.
    status: Option<u16>,
    retry_after: Option<u32>,
}

/// A token that has to be renewed.
struct Brought {
    number: u64,
    made: Duration,
    renewed_from: Duration,
    /// By the right time.
    expires: f64,
    life: f64,
    /// A 401 that counts named it.
    refused: bool,
}

/// A log-in that has arrived.
#[derive(Clone, Copy)]
pub(in crate::app::simulation) struct LogInArrival {
    pub(super) account: usize,
    number: u64,
    pub(super) at: Duration,
}

impl Brought {
    fn of(token: &Token, made: Duration, life: f64, held_back: Duration) -> Self {
        // Dates are whole seconds.
        let least = (life - 1.0).max(0.0);
        let after = (least / 2.0).max((0.72 * least).min(least - 30.0));
        let renewed_from = (made + Duration::from_secs_f64(after)).saturating_sub(OLDER + held_back);
        Self { number: token.number, made, renewed_from, expires: token.expires, life, refused: false }
    }
}

impl Pacing {
    /// Judges when a log-in arrives. `trouble`: when something last happened for which it may fail. Returns what is wrong with it.
    pub(super) fn judge(&mut self, at: Duration, organization: &str, trouble: Duration) -> (LogInArrival, Vec<String>) {
        let index = account_of(organization);
        let account = &mut self.0[index];
        account.arrived += 1;
        let number = account.arrived;
        let failed: Vec<Duration> = account.failed.iter().rev().take(FAILURES.0).copied().collect();
        let (not_before, brought) = (account.not_before.take(), account.brought.take());
        let arrival = LogInArrival { account: index, number, at };
        let in_flight = account.in_flight.replace((number, at));
        let mut faults = Vec::new();
        if at <= account.excused {
            return (arrival, faults);
        }
        let name = ACCOUNTS[index];
        if let Some(wait) = not_before.filter(|wait| at < wait.until) {
            let early = wait.until.saturating_sub(at).as_secs_f64();
            let (status, asked) = (wait.status, wait.retry_after);
            faults.push(format!("the account {name} logs in {early:.3} s early, after {status:?}, {asked:?}"));
        }
        // Trouble keeps log-ins from arriving, so that a later one may come at any time.
        if let Some((_, then)) = in_flight.filter(|(_, then)| at < *then + IN_TIME && trouble < *then) {
            let before = at.saturating_sub(then).as_secs_f64();
            faults.push(format!("the account {name} logs in, and has begun to {before:.3} s before"));
        }
        let woken = account.woken;
        let is_unasked =
            |brought: &Brought| !brought.refused && brought.made > woken && at < brought.renewed_from && trouble < brought.made;
        if let Some(brought) = brought.filter(is_unasked) {
            let early = brought.renewed_from.saturating_sub(at).as_secs_f64();
            faults.push(format!("the account {name} renews its token {early:.3} s early, and nothing asked for that"));
        }
        if failed.len() == FAILURES.0 && failed.last().is_some_and(|first| *first + FAILURES.1 > at) {
            faults.push(format!("the account {name} logs in again and again, and the waits do not grow: {failed:?}"));
        }
        (arrival, faults)
    }

    /// The log-in was answered by a failure whose first byte left at `began`, and whose last one has left now. `status`: no 2xx. Returns
    /// whether it counts.
    pub(super) fn failed(
        &mut self,
        at: Duration,
        began: Duration,
        arrival: LogInArrival,
        status: Option<u16>,
        retry_after: Option<u32>,
    ) -> bool {
        let account = &mut self.0[arrival.account];
        account.in_flight.take_if(|(number, _)| *number == arrival.number);
        if account.arrived != arrival.number || at > arrival.at + IN_TIME || at <= account.excused {
            return false;
        }
        let asked = retry_after.filter(|seconds| *seconds > 0 && matches!(status, Some(429 | 503)));
        let wait = match (asked, status) {
            (Some(seconds), _) => Duration::from_secs(seconds.into()).min(LONGEST_ASKED),
            (None, None | Some(408 | 421 | 425 | 429 | 500..)) => BACKOFF,
            (None, Some(_)) => AFTER_REFUSAL,
        };
        account.not_before = Some(Wait { until: began + wait, status, retry_after });
        account.failed.push(arrival.at);
        true
    }

    /// The log-in was answered by that token, which was made at `made` for so many seconds. `was_awake`: the machine was not suspended
    /// since the log-in arrived.
    pub(super) fn succeeded(
        &mut self,
        at: Duration,
        made: Duration,
        arrival: LogInArrival,
        (token, life): (Option<&Token>, f64),
        was_awake: bool,
    ) {
        let account = &mut self.0[arrival.account];
        account.in_flight.take_if(|(number, _)| *number == arrival.number);
        let is_latest = account.arrived == arrival.number && at <= arrival.at + IN_TIME && was_awake;
        account.failed.clear();
        // By when the daemon had its answer: its `Date` may have been written when the request arrived.
        let held_back = at.max(made).saturating_sub(arrival.at);
        account.brought = token.filter(|_| is_latest).map(|token| Brought::of(token, made, life, held_back));
    }

    /// A 401 for that token is written.
    pub(super) fn refused(&mut self, at: Duration, token: &Token, floor: Duration) {
        let brought = self.0[account_of(&token.organization)].brought.as_mut();
        if let Some(brought) = brought.filter(|brought| brought.number == token.number) {
            brought.refused |= at + LATE + OLDER > brought.made + floor;
        }
    }

    /// Whether the account's token has ended, and had to be renewed before. `trouble`: as for a log-in that arrives.
    pub(super) fn is_overdue(&mut self, at: Duration, now: f64, index: usize, trouble: Duration) -> bool {
        let account = &mut self.0[index];
        let ended = account.brought.take_if(|brought| brought.expires < now);
        ended.is_some_and(|brought| trouble < brought.made && brought.life >= SHORT_LIFE) && at > account.excused
    }

    /// Other settings may cure what answers without a token come from.
    pub(super) fn forget_answers_of_no_use(&mut self) {
        for account in &mut self.0 {
            if account.not_before.take_if(|wait| wait.status.is_none()).is_some() {
                account.failed.clear();
            }
        }
    }

    /// Something asks the account for a log-in at once, or `later`.
    pub(super) fn excuse(&mut self, at: Duration, account: usize, later: Duration) {
        let account = &mut self.0[account];
        account.excused = account.excused.max(at + later + ON_ITS_WAY);
        // That log-in may fail on its way, and nobody here would see it.
        account.not_before = None;
        account.failed.clear();
    }

    /// The machine was suspended: what the daemon knows of tokens and waits may differ.
    pub(super) fn excuse_all(&mut self, at: Duration) {
        for account in &mut self.0 {
            let until = at + ON_ITS_WAY;
            *account = Account { arrived: account.arrived, excused: until, woken: until, ..Account::default() };
        }
    }
}
