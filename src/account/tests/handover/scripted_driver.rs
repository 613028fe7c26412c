//! The driver's part of a run: a script of events for the real session, whose every step is published as the driver does it.

use std::sync::Weak;

use bytes::Bytes;

use super::{
    interleaving::{Interleaving, TokenMemory},
    *,
};
use crate::account::{
    failure::Unreachable,
    session::{Effect, Event},
    snapshot::LoginHistory,
    token::Token,
};

/// The script has this many lines after the request exists.
const LINES_MAX: usize = 3;

/// A line of the script: what happens to the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    LogIn,
    Grant,
    Fail,
    Unauthorized,
    OrganizationChanged,
    LogOut,
    End,
}

const LINES: [Line; 7] =
    [Line::LogIn, Line::Grant, Line::Fail, Line::Unauthorized, Line::OrganizationChanged, Line::LogOut, Line::End];

/// What the driver does next.
#[derive(Clone, Copy, Debug)]
pub(super) enum DriverStep {
    /// It serves a request's report of a 401.
    Serve,
    Act(Line),
}

/// A driver without a loop.
pub(super) struct ScriptedDriver {
    session: Session,
    /// `None` once the account has ended.
    published: Option<Published>,
    signals: Arc<Signals>,
    requests: mpsc::Receiver<DriverRequest>,
    lines_left: usize,
    run: Weak<Interleaving>,
}

impl ScriptedDriver {
    pub(super) fn new(
        published: Published,
        signals: Arc<Signals>,
        requests: mpsc::Receiver<DriverRequest>,
        run: Weak<Interleaving>,
    ) -> Self {
        let session = Session::new(Duration::ZERO);
        Self { session, published: Some(published), signals, requests, lines_left: LINES_MAX, run }
    }

    pub(super) fn can_act(&self) -> bool {
        self.published.is_some() && (self.lines_left > 0 || !self.requests.is_empty())
    }

    pub(super) fn next_step(&self, decide: impl Fn(usize) -> usize) -> DriverStep {
        let can_serve = !self.requests.is_empty();
        if can_serve && (self.lines_left == 0 || decide(2) == 0) {
            return DriverStep::Serve;
        }
        DriverStep::Act(LINES[decide(LINES.len())])
    }

    pub(super) fn take_step(&mut self, step: DriverStep) {
        match step {
            DriverStep::Serve => self.serve(),
            DriverStep::Act(line) => {
                self.lines_left -= 1;
                self.act(line);
            }
        }
    }

    fn serve(&mut self) {
        let Ok(DriverRequest::Unauthorized(refused, answer)) = self.requests.try_recv() else {
            panic!("a request reports 401s and nothing else")
        };
        let before = self.session.attempt();
        self.step(Event::Unauthorized(refused));
        let now = self.session.attempt();
        self.run.upgrade().expect("a driver acts within its run").is_answered.store(true, Ordering::SeqCst);
        answer.send(now.is_some() && now != before).ok();
    }

    pub(super) fn act(&mut self, line: Line) {
        let held = self.session.token().map(Token::generation);
        let event = match (line, self.session.attempt(), held) {
            (Line::End, ..) => return self.end(),
            (Line::LogIn, ..) => Event::LogIn,
            (Line::OrganizationChanged, ..) => Event::OrganizationChanged,
            (Line::LogOut, ..) => Event::LogOut,
            (Line::Grant, Some(attempt), _) => Event::Ended(attempt, Ok(self.token(attempt.generation()))),
            (Line::Fail, Some(attempt), _) => Event::Ended(attempt, Err(LoginError::Unreachable(Unreachable::Cut))),
            (Line::Unauthorized, _, Some(held)) => Event::Unauthorized(held),
            (Line::Grant | Line::Fail, None, _) | (Line::Unauthorized, _, None) => Event::Tick,
        };
        self.step(event);
    }

    fn step(&mut self, event: Event) {
        self.session.set_refusal(self.signals.refusal.current());
        let effect = self.session.step(event, NOW, &mut Jitter::seeded(1));
        assert!(effect.is_none_or(|Effect::StartLogin { attempt, .. }| self.session.attempt() == Some(attempt)));
        let bearer = self.session.usable(NOW).map(|token| &token.bearer);
        let snapshot = AccountSnapshot::of(&self.session, &LoginHistory::default());
        self.log((bearer.map(|bearer| bearer.generation), snapshot.availability()));
        if let Some(published) = &self.published {
            published.publish(bearer, snapshot);
        }
    }

    /// Drops what a driver's end drops, in that order.
    pub(super) fn has_ended(&self) -> bool {
        self.published.is_none()
    }

    fn end(&mut self) {
        if let Some(published) = self.published.take() {
            let ended = published.snapshot.borrow().ended();
            self.log((None, ended.availability()));
            drop(published);
            self.requests.close();
            while self.requests.try_recv().is_ok() {}
        }
    }

    fn log(&self, published: (Option<Generation>, Availability)) {
        let run = self.run.upgrade().expect("a driver acts within its run");
        run.log.lock().unwrap().push(published);
    }

    fn token(&self, generation: Generation) -> Token {
        let memory = Bytes::from_owner(TokenMemory(Weak::clone(&self.run)));
        let end = NOW + LIFE;
        let bearer = Bearer {
            authorization: HeaderValue::from_maybe_shared(memory).ok(),
            organization: HeaderValue::from_static("acme"),
            generation,
            fingerprint: None,
            account: self.published.as_ref().expect("an account that has ended gets no token").identity,
            usable_until: Some(end),
        };
        Token { bearer: Arc::new(bearer), refresh: None, received: NOW, expires: end, life: LIFE, usable_until: end }
    }
}
