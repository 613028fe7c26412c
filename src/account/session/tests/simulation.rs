//! Feeds a session random events at random times and compares it with a model that knows only the rules.

use super::{model::Model, *};

const ORGANIZATIONS: [&str; 2] = ["acme", "umbrella"];

struct Run {
    bench: Bench,
    model: Model,
    chance: fastrand::Rng,
    started: Moment,
    caused_by_401: u32,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut bench = Bench::new();
        bench.jitter = Jitter::seeded(seed);
        Self { started: bench.now, bench, model: Model::new(), chance: fastrand::Rng::with_seed(seed), caused_by_401: 0 }
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
        self.model.hear(refusal);
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
            15..17 => Event::Verdict(ProbationOutcome::Accepted, generation),
            17..19 => Event::Verdict(ProbationOutcome::RejectedAgain, generation),
            19 => Event::Verdict(ProbationOutcome::Worked, generation),
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
                let read = |name: &&'static str| self.bench.session.organization == Some(organization(name));
                let of = ORGANIZATIONS.into_iter().find(read).unwrap_or(ORGANIZATIONS[0]);
                Ok(token_of(of, attempt, self.bench.now, Duration::from_secs(self.chance.u64(3..5000))))
            }
        };
        Event::Ended(attempt, outcome)
    }

    fn step(&mut self, event: Event) {
        let now = self.bench.now;
        let is_401 = matches!(event, Event::Unauthorized(_));
        let started = self.model.step(&mut self.bench.session, event, now, &mut self.bench.jitter);
        if is_401 && started && self.bench.session.replacement() == Replacement::InFlight {
            self.caused_by_401 += 1;
            let most = 1 + now.since(self.started).as_secs() / FLOOR.as_secs();
            assert!(u64::from(self.caused_by_401) <= most, "more log-ins by 401s than floors");
        }
        self.hear_answers();
        self.model.check_schedule(&self.bench.session, now);
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
            bench.quiet(Event::Verdict(ProbationOutcome::RejectedAgain, bench.generation()));
        }
        assert!(bench.serves());
    }
    let gaps: Vec<u64> = log_ins.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps[..8], [60, 120, 240, 480, 960, 1920, 3600, 3600]);
    assert!(log_ins.len() < 7 + 48, "{}", log_ins.len());
}
