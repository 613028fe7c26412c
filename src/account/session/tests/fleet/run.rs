//! Plays a fleet in virtual time: an event queue, one session for each sidecar, and the log-in server that they share.
//!
//! No thread, no clock and no sleep. Every sidecar draws its own random numbers from a seed, so a scenario gives the same curve
//! each time. Guarantees, of each scenario that is played: every session keeps its invariants, and no log-in comes earlier than
//! a `Retry-After` allowed.

use std::{cmp::Reverse, collections::BinaryHeap, ops::Range, sync::Arc};

use super::super::*;
use crate::account::token::Bearer;

/// How long every outage lasts.
pub(super) const OUTAGE: Duration = Duration::from_secs(30 * 60);
/// The default of `login_timeout`, after which a log-in that hangs is given up.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a log-in takes that is answered, in milliseconds.
const LATENCY_MS: Range<u64> = 50..150;
/// A longer `Retry-After` is cut to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(15 * 60);
/// Every sidecar has a request at least this often, so that it notices a refused token.
const REQUEST_EVERY: Duration = Duration::from_secs(10);
/// A shorter time without a token is that of a log-in that succeeds.
const UNNOTICED: Duration = Duration::from_secs(1);
const START: Moment = Moment::new(Duration::ZERO);

/// A fleet, its server and what happens to both. All times count from the start.
#[derive(Clone)]
pub(super) struct Scenario {
    pub(super) sidecars: u32,
    /// Each sidecar starts at a random time in here.
    pub(super) starts: Range<Duration>,
    /// The life of every token.
    pub(super) life: Duration,
    /// When the log-in server fails, and how.
    pub(super) outage: Option<(Duration, LoginError)>,
    pub(super) limit: Option<Limit>,
    /// When the upstream starts to refuse all tokens that were issued before.
    pub(super) revoked_at: Option<Duration>,
    /// From when on the curve is judged.
    pub(super) judged_from: Duration,
    pub(super) ends: Duration,
    /// Has each sidecar come back exactly when `Retry-After` says, for comparison.
    pub(super) comes_back_exactly: bool,
}

/// How many log-ins the server takes in each second, and what its 429 asks for beyond.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    pub(super) a_second: u32,
    pub(super) retry_after: Option<Duration>,
}

/// What the server saw, and what became of the sidecars.
pub(super) struct Curve {
    /// The log-ins that came in each second.
    pub(super) attempts: Vec<u32>,
    /// Those of them that brought a token.
    pub(super) log_ins: Vec<u32>,
    /// When the last sidecar got a token after it had none, or after a log-in that failed.
    pub(super) recovered_at: Duration,
    /// Sidecars that had no token for longer than a log-in takes.
    pub(super) without_token: u32,
    /// The longest time of one of them.
    pub(super) longest_without: Duration,
    /// Sidecars that have no token at the end.
    pub(super) unready: u32,
    /// Log-ins that waited for a `Retry-After`.
    pub(super) waited_as_asked: u32,
}

impl Curve {
    /// The attempts or log-ins of a time, one number for each second.
    pub(super) fn during(series: &[u32], time: Range<Duration>) -> &[u32] {
        &series[second(time.start)..second(time.end).min(series.len())]
    }
}

/// The index of a second.
fn second(time: Duration) -> usize {
    usize::try_from(time.as_secs()).expect("a simulation is shorter than memory is large")
}

/// Something that happens to a sidecar.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Occurrence {
    Start,
    /// Its timer goes off, unless it was set anew meanwhile.
    Timer,
    /// The log-in of that number is answered, or given up.
    Answer(u64),
    /// A request of its gets a 401.
    Unauthorized,
    /// The time is over that the answer to the log-in of that number asked for.
    Asked(u64),
}

/// One sidecar, as its driver runs it.
struct Sidecar {
    session: Session,
    jitter: Jitter,
    /// Its start, and the times that its log-ins take.
    chance: fastrand::Rng,
    timer: Option<Moment>,
    /// How the log-in in flight will end.
    outcome: Option<Result<(), LoginError>>,
    /// The server asked for no log-in before then.
    asked_until: Option<Moment>,
    without_since: Option<Moment>,
    was_without: bool,
}

/// The log-in server.
struct Server<'a> {
    scenario: &'a Scenario,
    /// The present second, and the log-ins that came in it.
    second: (u64, u32),
}

impl Server<'_> {
    fn answer(&mut self, at: Duration) -> Result<(), LoginError> {
        if let Some((from, error)) = &self.scenario.outage
            && (*from..*from + OUTAGE).contains(&at)
        {
            return Err(error.clone());
        }
        let Some(limit) = self.scenario.limit else { return Ok(()) };
        if self.second.0 != at.as_secs() {
            self.second = (at.as_secs(), 0);
        }
        self.second.1 += 1;
        if self.second.1 > limit.a_second { Err(LoginError::Throttled(limit.retry_after)) } else { Ok(()) }
    }
}

/// A scenario in progress.
struct Fleet<'a> {
    scenario: &'a Scenario,
    sidecars: Vec<Sidecar>,
    server: Server<'a>,
    /// What is to happen, the next first; the number keeps the order of what happens at the same time.
    queue: BinaryHeap<Reverse<(Moment, u64, usize, Occurrence)>>,
    queued: u64,
    /// A token of the scenario's life. Every log-in brings one like it.
    token: Token,
    curve: Curve,
}

/// Plays a scenario to its end.
pub(super) fn play(scenario: &Scenario) -> Curve {
    let mut fleet = Fleet::new(scenario);
    let end = START + scenario.ends;
    while let Some(Reverse((now, _, sidecar, occurrence))) = fleet.queue.pop() {
        if now >= end {
            break;
        }
        fleet.happens(sidecar, occurrence, now);
    }
    let unready = fleet.sidecars.iter().filter(|sidecar| sidecar.session.usable(end).is_none()).count();
    fleet.curve.unready = u32::try_from(unready).expect("no more than there are sidecars");
    fleet.curve
}

impl<'a> Fleet<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let seconds = vec![0; second(scenario.ends) + 1];
        let curve = Curve {
            attempts: seconds.clone(),
            log_ins: seconds,
            recovered_at: Duration::ZERO,
            without_token: 0,
            longest_without: Duration::ZERO,
            unready: 0,
            waited_as_asked: 0,
        };
        let server = Server { scenario, second: (0, 0) };
        let token = token(Attempt(1), START, scenario.life);
        let queue = BinaryHeap::new();
        let mut fleet = Self { scenario, sidecars: Vec::new(), server, queue, queued: 0, token, curve };
        let mut seeds = fastrand::Rng::with_seed(1);
        for number in 0..scenario.sidecars as usize {
            let mut chance = fastrand::Rng::with_seed(seeds.u64(..));
            let Range { start, end } = scenario.starts;
            let starts = start + end.saturating_sub(start).mul_f64(chance.f64());
            fleet.push(START + starts, number, Occurrence::Start);
            if let Some(revoked_at) = scenario.revoked_at {
                fleet.push(START + revoked_at + REQUEST_EVERY.mul_f64(chance.f64()), number, Occurrence::Unauthorized);
            }
            fleet.sidecars.push(Sidecar {
                session: Session::new(FLOOR),
                jitter: Jitter::seeded(seeds.u64(..)),
                chance,
                timer: None,
                outcome: None,
                asked_until: None,
                without_since: None,
                was_without: false,
            });
        }
        fleet
    }

    fn push(&mut self, at: Moment, sidecar: usize, occurrence: Occurrence) {
        self.queued += 1;
        self.queue.push(Reverse((at, self.queued, sidecar, occurrence)));
    }

    fn happens(&mut self, number: usize, occurrence: Occurrence, now: Moment) {
        let sidecar = &mut self.sidecars[number];
        let session = &mut sidecar.session;
        let event = match occurrence {
            Occurrence::Start => Event::LogIn,
            Occurrence::Timer if sidecar.timer != Some(now) => return,
            Occurrence::Timer => Event::Tick,
            Occurrence::Unauthorized => {
                let Some(generation) = session.token().map(Token::generation) else { return };
                session.set_refusal(Some(RefusedToken { generation, since: now }));
                Event::Unauthorized(generation)
            }
            // The log-in that failed is still the latest, so the session waits.
            Occurrence::Asked(attempt) if session.attempts == attempt && session.last_error().is_some() => Event::LogIn,
            Occurrence::Asked(_) => return,
            Occurrence::Answer(attempt) => {
                let outcome = sidecar.outcome.take().expect("a log-in is answered once");
                self.answered(number, Attempt(attempt), outcome, now)
            }
        };
        self.step(number, event, now);
    }

    /// Notes the answer to a log-in, and makes it what the session hears of.
    fn answered(&mut self, number: usize, attempt: Attempt, outcome: Result<(), LoginError>, now: Moment) -> Event {
        let sidecar = &mut self.sidecars[number];
        let outcome = match outcome {
            Ok(()) => {
                if sidecar.session.is_retrying() || sidecar.without_since.is_some() {
                    self.curve.recovered_at = self.curve.recovered_at.max(now.since(START));
                }
                Ok(self.granted(attempt, now))
            }
            Err(error) => {
                if let Some(asked) = error.retry_after() {
                    let until = now + asked.min(RETRY_AFTER_MAX);
                    sidecar.asked_until = Some(until);
                    if self.scenario.comes_back_exactly {
                        self.push(until, number, Occurrence::Asked(attempt.0));
                    }
                }
                Err(error)
            }
        };
        Event::Ended(attempt, outcome)
    }

    /// The scenario's token, as if it were issued now.
    fn granted(&self, attempt: Attempt, now: Moment) -> Token {
        let Token { bearer, received, expires, life, usable_until, .. } = &self.token;
        let usable_until = now + usable_until.since(*received);
        let bearer = Bearer {
            authorization: None,
            organization: bearer.organization.clone(),
            generation: attempt.generation(),
            fingerprint: None,
            account: bearer.account,
            usable_until: Some(usable_until),
        };
        let expires = now + expires.since(*received);
        Token { bearer: Arc::new(bearer), refresh: None, received: now, expires, life: *life, usable_until }
    }

    fn step(&mut self, number: usize, event: Event, now: Moment) {
        let sidecar = &mut self.sidecars[number];
        let effect = sidecar.session.step(event, now, &mut sidecar.jitter);
        assert_eq!(sidecar.session.check_invariants(now), Ok(()));
        if let Some(Effect::StartLogin { attempt, .. }) = effect {
            self.started(number, attempt, now);
        }
        let sidecar = &mut self.sidecars[number];
        let deadline = sidecar.session.deadline();
        if sidecar.timer != deadline {
            sidecar.timer = deadline;
            if let Some(deadline) = deadline {
                self.push(deadline, number, Occurrence::Timer);
            }
        }
        self.watch(number, now);
    }

    fn started(&mut self, number: usize, attempt: Attempt, now: Moment) {
        let sidecar = &mut self.sidecars[number];
        if let Some(asked_until) = sidecar.asked_until.take() {
            assert!(now >= asked_until, "sidecar {number} came {:?} too early", asked_until.since(now));
            self.curve.waited_as_asked += 1;
        }
        let at = now.since(START);
        self.curve.attempts[second(at)] += 1;
        let outcome = self.server.answer(at);
        self.curve.log_ins[second(at)] += u32::from(outcome.is_ok());
        let takes = match outcome {
            Err(LoginError::TimedOut) => LOGIN_TIMEOUT,
            _ => Duration::from_millis(sidecar.chance.u64(LATENCY_MS)),
        };
        sidecar.outcome = Some(outcome);
        self.push(now + takes, number, Occurrence::Answer(attempt.0));
    }

    /// Notes whether the sidecar has a token.
    fn watch(&mut self, number: usize, now: Moment) {
        let sidecar = &mut self.sidecars[number];
        if sidecar.session.usable(now).is_none() {
            sidecar.without_since.get_or_insert(now);
        } else if let Some(since) = sidecar.without_since.take() {
            let without = now.since(since);
            if now.since(START) >= self.scenario.judged_from && without > UNNOTICED {
                self.curve.without_token += u32::from(!sidecar.was_without);
                sidecar.was_without = true;
                self.curve.longest_without = self.curve.longest_without.max(without);
            }
        }
    }
}
