//! Feeds a session random events at random times and compares it with a model that knows only the rules.

use super::*;
use crate::account::snapshot::{AccountSnapshot, LoginHistory};

const ORGANIZATIONS: [&str; 2] = ["acme", "umbrella"];

/// A model of the session that holds only what the rules speak of.
struct Model {
    logged_out: bool,
    /// The latest token that a log-in brought, unless it was withdrawn.
    held: Option<(Generation, Moment)>,
    /// The organization of that token.
    held_of: &'static str,
    /// The organization that the log-in in flight has read.
    read: Option<&'static str>,
    /// A 401 waits for the log-in in flight.
    suspect: bool,
    newest: Option<Generation>,
    attempt: Option<Attempt>,
    /// No log-in may start by itself before then.
    not_before: Option<Moment>,
    /// When the latest log-in failed with an error that backoff answers.
    backing_off_since: Option<Moment>,
    /// Since when the token held, or the one that expired last, is known to be refused.
    refused_since: Option<Moment>,
    caused_by_401: u32,
}

struct Run {
    bench: Bench,
    model: Model,
    chance: fastrand::Rng,
    started: Moment,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut bench = Bench::new();
        bench.jitter = Jitter::seeded(seed);
        let model = Model {
            logged_out: true,
            held: None,
            held_of: ORGANIZATIONS[0],
            read: None,
            suspect: false,
            newest: None,
            attempt: None,
            not_before: None,
            backing_off_since: None,
            refused_since: None,
            caused_by_401: 0,
        };
        Self { started: bench.now, bench, model, chance: fastrand::Rng::with_seed(seed) }
    }

    fn pass_time(&mut self) {
        let passed = match self.chance.u32(..10) {
            0..5 => Duration::from_millis(self.chance.u64(..2000)),
            5..8 => Duration::from_secs(self.chance.u64(..120)),
            8 => Duration::from_secs(self.chance.u64(..4000)),
            _ => self.bench.session.deadline().map_or(Duration::ZERO, |deadline| deadline.since(self.bench.now)),
        };
        self.bench.now = self.bench.now + passed;
    }

    /// Answers of the upstream refuse the token that requests carry, or accept it, or say something of another one.
    fn hear_answers(&mut self) {
        let now = self.bench.now;
        let Some(held) = self.bench.session.token().map(Token::generation) else { return };
        let refusal = match self.chance.u32(..4) {
            0 => None,
            1 => Some(RefusedToken { generation: Generation(held.0 + 1), since: now }),
            _ => Some(RefusedToken { generation: held, since: self.model.refused_since.unwrap_or(now) }),
        };
        self.model.refused_since = refusal.filter(|refusal| refusal.generation == held).map(|refusal| refusal.since);
        self.bench.session.set_refusal(refusal);
        assert_eq!(self.bench.session.check_invariants(now), Ok(()), "a 401 starts no log-in");
    }

    fn draw(&mut self) -> Event {
        let generation = match self.chance.u32(..4) {
            0 => Generation(self.chance.u64(..50)),
            _ => self.model.newest.unwrap_or(Generation(0)),
        };
        match self.chance.u32(..40) {
            0 => Event::LogOut,
            1..4 => Event::LogIn,
            4 => Event::CredentialsChanged,
            5 => Event::OrganizationChanged,
            6 => Event::Resumed,
            7..15 => Event::Unauthorized(generation),
            15..17 => Event::Accepted(generation),
            17..20 => Event::RejectedAgain(generation),
            20..33 => self.ending(),
            33 => self.reading(),
            _ => Event::Tick,
        }
    }

    fn reading(&mut self) -> Event {
        let Some(attempt) = self.bench.session.attempt() else { return Event::Tick };
        let attempt = if self.chance.u32(..8) == 0 { Attempt(attempt.0.saturating_sub(1)) } else { attempt };
        let read = ORGANIZATIONS[self.chance.usize(..2)];
        Event::OrganizationRead(attempt, Some(organization(read)))
    }

    fn ending(&mut self) -> Event {
        let Some(attempt) = self.bench.session.attempt() else { return Event::Tick };
        let stale = self.chance.u32(..8) == 0;
        let attempt = if stale { Attempt(attempt.0.saturating_sub(1)) } else { attempt };
        let outcome = match self.chance.u32(..10) {
            0 => Err(refused()),
            1..3 => Err(transient()),
            3 => Err(LoginError::Throttled(Some(Duration::from_secs(self.chance.u64(..2000))))),
            _ => {
                let of = self.model.read.unwrap_or(self.model.held_of);
                Ok(token_of(of, attempt, self.bench.now, Duration::from_secs(self.chance.u64(3..5000))))
            }
        };
        Event::Ended(attempt, outcome)
    }

    fn step(&mut self, event: Event) {
        let now = self.bench.now;
        self.expect(&event);
        let cause = Cause::of(&event);
        let effect = self.bench.step(event);
        if let Some(Effect::StartLogin { attempt, .. }) = effect {
            self.check_start(attempt, cause);
        }
        self.check_served(now);
        self.hear_answers();
        self.check_wait();
    }

    /// While the token is known to be refused, the wait is short, unless the server asked for it or rejected the credentials.
    fn check_wait(&self) {
        if let (Some(failed), Some(refused)) = (self.model.backing_off_since, self.model.refused_since) {
            let due = self.bench.session.due_at().expect("a wait");
            assert!(due <= failed.max(refused) + 10 * SECOND, "{:?}", self.bench.session);
        }
    }

    /// Updates the model by the rules, before the session handles the event.
    fn expect(&mut self, event: &Event) {
        let now = self.bench.now;
        match event {
            Event::LogOut => {
                self.model.logged_out = true;
                (self.model.held, self.model.attempt, self.model.suspect) = (None, None, false);
                (self.model.backing_off_since, self.model.refused_since) = (None, None);
            }
            Event::LogIn => self.model.logged_out = false,
            Event::OrganizationRead(attempt, read) if self.model.attempt == Some(*attempt) => {
                let read = ORGANIZATIONS.into_iter().find(|name| Some(organization(name)) == *read);
                self.model.read = read;
                if read != Some(self.model.held_of) {
                    self.model.refused_since = None;
                    (self.model.held, self.model.suspect) = (None, false);
                }
            }
            Event::OrganizationChanged => {
                self.model.refused_since = None;
                (self.model.held, self.model.suspect) = (None, false);
            }
            Event::Ended(attempt, outcome) if self.model.attempt == Some(*attempt) => {
                (self.model.attempt, self.model.suspect) = (None, false);
                match outcome {
                    Ok(token) => {
                        assert!(self.model.newest.is_none_or(|newest| newest < token.generation()));
                        self.model.newest = Some(token.generation());
                        self.model.held = Some((token.generation(), token.usable_until));
                        self.model.held_of = self.model.read.unwrap_or(self.model.held_of);
                        (self.model.not_before, self.model.refused_since) = (None, None);
                    }
                    Err(LoginError::Refused(_)) => self.model.not_before = Some(now + MINUTE),
                    Err(LoginError::Throttled(Some(asked))) => {
                        self.model.not_before = Some(now + (*asked).clamp(SECOND, 15 * MINUTE));
                    }
                    Err(_) => {
                        self.model.not_before = Some(now + SECOND);
                        self.model.backing_off_since = Some(now);
                    }
                }
            }
            _ => {}
        }
    }

    fn check_start(&mut self, attempt: Attempt, cause: Cause) {
        let now = self.bench.now;
        assert!(!self.model.logged_out, "after a log-out only a log-in starts one");
        assert!(self.model.attempt.is_none_or(|before| before.0 < attempt.0), "attempts have rising numbers");
        let waited = self.model.not_before.is_none_or(|moment| now >= moment);
        assert!(cause == Cause::Asked || waited, "{cause:?} did not wait its time");
        if cause == Cause::Unauthorized && self.bench.session.replacement() == Replacement::InFlight {
            self.model.caused_by_401 += 1;
            self.model.suspect = true;
            let most = 1 + now.since(self.started).as_secs() / FLOOR.as_secs();
            assert!(u64::from(self.model.caused_by_401) <= most, "more log-ins by 401s than floors");
        }
        self.model.attempt = Some(attempt);
        self.model.read = None;
        (self.model.not_before, self.model.backing_off_since) = (None, None);
    }

    fn check_served(&mut self, now: Moment) {
        if self.bench.session.replacement() == Replacement::InFlight {
            self.model.suspect = true;
        }
        let expected = self.model.held.filter(|(_, end)| now < *end && !self.model.suspect).map(|(generation, _)| generation);
        let served = self.bench.session.usable(now).map(Token::generation);
        assert_eq!(served, expected, "{:?}", self.bench.session);
        let snapshot = AccountSnapshot::of(&self.bench.session, &LoginHistory::default());
        assert_eq!(snapshot.is_usable(now), served.is_some(), "{snapshot:?} does not show {:?}", self.bench.session);
        assert_eq!(self.bench.session.attempt(), self.model.attempt);
        assert_eq!(self.bench.session.name() == StateName::LoggedOut, self.model.logged_out);
    }
}

/// Why a log-in may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// An administrator, changed sources or a resume asked for it.
    Asked,
    Unauthorized,
    Time,
}

impl Cause {
    fn of(event: &Event) -> Self {
        match event {
            Event::LogIn | Event::CredentialsChanged | Event::OrganizationChanged | Event::Resumed => Self::Asked,
            Event::Unauthorized(_) => Self::Unauthorized,
            _ => Self::Time,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "how a run is played again")]
fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|value: String| value.parse().expect("a number"));
    match number("SIDECAR_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIDECAR_SIM_SEEDS").unwrap_or(256),
    }
}

#[test]
fn random_lives_keep_every_rule() {
    for seed in seeds() {
        let played = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            for _ in 0..2000 {
                run.pass_time();
                let event = run.draw();
                run.step(event);
            }
            run.model.newest
        });
        let newest = played.unwrap_or_else(|_| panic!("replay with SIDECAR_SIM_SEED={seed}"));
        assert!(newest.is_some(), "seed {seed} saw no token at all");
    }
}

/// One path always answers 401 and is hit every second among good traffic, for two days.
#[test]
fn a_path_that_always_answers_401_costs_one_log_in_an_hour_at_last() {
    let mut bench = Bench::logging_in();
    let month = Duration::from_secs(30 * 24 * 3600);
    bench.end_with_token(month);
    let mut log_ins = Vec::new();
    for second in 0..2 * 24 * 3600_u64 {
        bench.now = bench.now + SECOND;
        let refused = bench.generation();
        if bench.step(Event::Unauthorized(refused)).is_some() {
            log_ins.push(second);
            bench.end_with_token(month);
            bench.quiet(Event::RejectedAgain(bench.generation()));
        }
        assert!(bench.serves());
    }
    let gaps: Vec<u64> = log_ins.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps[..8], [60, 120, 240, 480, 960, 1920, 3600, 3600]);
    assert!(log_ins.len() < 7 + 48, "{}", log_ins.len());
}
