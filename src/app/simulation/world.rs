//! The state that servers, clients and events share: chance, time, what is configured, and those who judge.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio_rustls::TlsAcceptor;

use super::{
    calls::{CallId, Field, Head},
    certificate,
    clock::SimulatedClock,
    fields::Heads,
    ledger::{Ending, Ledger},
    servers::{ACCOUNTS, Mood, Reception, SERVERS},
    terms::{Limits, Terms},
    third_account::Third,
    upstreams::Upstreams,
};

/// One simulation's world.
pub(super) struct World {
    pub(super) clock: Arc<SimulatedClock>,
    pub(super) directory: PathBuf,
    chance: Mutex<fastrand::Rng>,
    ledger: Mutex<Ledger>,
    heads: Heads,
    upstreams: Upstreams,
    state: Mutex<State>,
    third: Mutex<Third>,
    numbers: AtomicU64,
    /// How many connections servers serve.
    serving: AtomicUsize,
    terms: Terms,
    tls: TlsAcceptor,
    has_clients: AtomicBool,
    is_listening: AtomicBool,
    /// Nobody calls, and time passes.
    is_quiet: AtomicBool,
    /// By how many a reload has raised `max_connections`.
    more_places: AtomicUsize,
    /// For the tasks that it starts.
    this: Weak<World>,
}

/// What events change.
pub(super) struct State {
    /// What each server does with log-ins, and with calls.
    pub(super) moods: [(Mood, Mood); SERVERS],
    /// What each server does with connections; `None`: it takes them after a while.
    pub(super) receptions: [Option<Reception>; SERVERS],
    /// How likely a new connection is to end after some bytes.
    pub(super) frailty: f64,
    pub(super) lag: Duration,
    /// How long each server keeps an idle connection.
    pub(super) idle: [Duration; SERVERS],
    /// The life of new tokens, in seconds.
    pub(super) life: f64,
    /// The server that the settings name, and whether a reload is under way.
    pub(super) server: usize,
    pub(super) reloading: bool,
    /// Those of the settings in force.
    pub(super) limits: Limits,
    pub(super) organization: String,
    pub(super) password: String,
    /// Log-ins that were asked for and are not answered yet: their numbers, accounts, and when.
    pub(super) asked: Vec<(u64, usize, Duration)>,
    /// The first account's credentials change while its next log-in is under way.
    pub(super) changes_in_log_in: bool,
    /// Each log-in fails, one in this way and another in that.
    pub(super) mixed_log_ins: bool,
    /// The machine is suspended once its next log-in was answered: for that part of the token's life.
    pub(super) suspends_in_log_in: Option<f64>,
    /// Which of the two files are not there.
    pub(super) missing: [bool; 2],
    /// Kept open, so that the daemon sees neither an end nor an answer.
    silent: Vec<Box<dyn Send>>,
    /// How many streams each HTTP/2 connection has open.
    streams: Vec<Arc<AtomicUsize>>,
}

impl World {
    pub(super) fn new(seed: u64, directory: &Path) -> Arc<Self> {
        let mut chance = fastrand::Rng::with_seed(seed);
        let terms = Terms::draw(&mut chance);
        let state = State {
            moods: [(Mood::Well, Mood::Well); SERVERS],
            receptions: [None; SERVERS],
            frailty: 0.0,
            lag: Duration::ZERO,
            idle: [Duration::from_secs(75); SERVERS],
            life: 300.0,
            server: 0,
            reloading: false,
            limits: Limits::first(terms.requests),
            organization: "acme".to_owned(),
            password: "first".to_owned(),
            asked: Vec::new(),
            changes_in_log_in: false,
            mixed_log_ins: false,
            suspends_in_log_in: None,
            missing: [false; 2],
            silent: Vec::new(),
            streams: Vec::new(),
        };
        let mut ledger = Ledger::new(terms.requests, terms.places);
        ledger.note(Duration::ZERO, &format!("{terms:?}"));
        Arc::new_cyclic(|this| Self {
            terms,
            tls: certificate::tls(),
            clock: Arc::new(SimulatedClock::new()),
            directory: directory.to_owned(),
            chance: Mutex::new(chance),
            ledger: Mutex::new(ledger),
            heads: Heads::default(),
            upstreams: Upstreams::new(terms.workers, terms.pool_idle, terms.replay_buffer * 1024),
            state: Mutex::new(state),
            third: Mutex::default(),
            numbers: AtomicU64::new(0),
            serving: AtomicUsize::new(0),
            has_clients: AtomicBool::new(true),
            is_listening: AtomicBool::new(false),
            is_quiet: AtomicBool::new(false),
            more_places: AtomicUsize::new(0),
            this: Weak::clone(this),
        })
    }

    /// For tasks.
    pub(super) fn itself(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    pub(super) fn terms(&self) -> Terms {
        self.terms
    }

    pub(super) fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known of the third account.
    pub(super) fn third<T>(&self, with: impl FnOnce(&mut Third, Duration) -> T) -> T {
        let at = self.clock.elapsed();
        with(&mut self.third.lock().unwrap_or_else(PoisonError::into_inner), at)
    }

    /// Whether the machine was not suspended lately.
    pub(super) fn is_awake(&self) -> bool {
        self.ledger(|ledger, at| ledger.is_awake(at))
    }

    pub(super) fn ledger<T>(&self, with: impl FnOnce(&mut Ledger, Duration) -> T) -> T {
        let at = self.clock.elapsed();
        with(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner), at)
    }

    pub(super) fn heads(&self) -> &Heads {
        &self.heads
    }

    pub(super) fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    pub(super) fn note(&self, what: &str) {
        self.ledger(|ledger, at| ledger.note(at, what));
    }

    pub(super) fn break_promise(&self, what: String) {
        self.ledger(|ledger, at| ledger.break_promise(at, what));
    }

    fn rng(&self) -> MutexGuard<'_, fastrand::Rng> {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn chance(&self, of: f64) -> bool {
        self.fraction() < of
    }

    pub(super) fn fraction(&self) -> f64 {
        self.rng().f64()
    }

    pub(super) fn draw(&self, from: RangeInclusive<usize>) -> usize {
        self.rng().usize(from)
    }

    pub(super) fn milliseconds(&self, from: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.rng().u64(from))
    }

    /// Other limits than these.
    pub(super) fn other_limits(&self, limits: Limits) -> Limits {
        limits.drawn(&mut self.rng())
    }

    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The right time, in seconds since 1970.
    pub(super) fn now(&self) -> f64 {
        self.clock.true_seconds()
    }

    pub(super) fn http_date(&self) -> String {
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs_f64(self.now()))
    }
}

/// For servers.
impl World {
    pub(super) fn moods(&self, server: usize) -> (Mood, Mood) {
        self.state(|state| state.moods[server])
    }

    pub(super) fn idle_time_out(&self, server: usize) -> Duration {
        self.state(|state| state.idle[server])
    }

    /// How old a connection may be when a request takes it: 20 % more than the settings say, and a moment.
    pub(super) fn oldest(&self) -> Duration {
        self.state(|state| state.limits.max_age).mul_f64(1.2) + Duration::from_secs(1)
    }

    /// Whether servers say for how long they keep connections.
    pub(super) fn announces(&self) -> bool {
        self.terms.announces
    }

    /// Where a new HTTP/2 connection says how many streams it has open.
    pub(super) fn new_streams(&self) -> Arc<AtomicUsize> {
        let streams = Arc::new(AtomicUsize::new(0));
        self.state(|state| state.streams.push(Arc::clone(&streams)));
        streams
    }

    /// How many streams of HTTP/2 are open.
    pub(super) fn streams(&self) -> usize {
        self.state(|state| state.streams.iter().map(|streams| streams.load(Ordering::Relaxed)).sum())
    }

    /// How old a connection may grow that is made now.
    pub(super) fn oldest_of_new(&self) -> Duration {
        // While a reload is under way, any.
        self.state(|state| if state.reloading { Duration::from_secs(300) } else { state.limits.max_age }).mul_f64(1.2)
    }

    pub(super) fn token_life(&self) -> f64 {
        self.state(|state| state.life)
    }

    pub(super) fn tls(&self) -> &TlsAcceptor {
        &self.tls
    }

    /// Judges a call's head at the server of that address.
    pub(super) fn judge_head(&self, call: CallId, head: &Head, address: SocketAddr, is_http2: bool) {
        if let Some(fault) = self.heads.judge_call(call, head, address, is_http2) {
            self.break_promise(format!("call {call}: {fault}"));
        }
    }

    /// Judges the trailers of a call that has come whole at a server.
    pub(super) fn judge_trailers(&self, call: CallId, trailers: &[Field], is_http2: bool) {
        if let Some(fault) = self.heads.judge_trailers(call, trailers, is_http2) {
            self.break_promise(format!("call {call}: {fault}"));
        }
    }

    pub(super) fn log_in_time(&self) -> Duration {
        self.terms.log_in
    }

    /// Whether these are good credentials: those that the files hold now.
    pub(super) fn knows(&self, organization: &str, body: &str) -> bool {
        if organization == ACCOUNTS[1] {
            return body.contains("\"other-word\"");
        }
        self.state(|state| organization == state.organization && body.contains(&format!("\"{}\"", state.password)))
    }
}

/// For the network.
impl World {
    pub(super) fn begin_serving(&self) {
        self.serving.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end_serving(&self) {
        self.serving.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many connections servers serve.
    pub(super) fn serving(&self) -> usize {
        self.serving.load(Ordering::Relaxed)
    }

    pub(super) fn keep_silent(&self, stream: Box<dyn Send>) {
        self.state(|state| state.silent.push(stream));
    }
}

/// For clients.
impl World {
    /// The socket of an account's API.
    pub(super) fn listener(&self, account: usize) -> PathBuf {
        self.directory.join(format!("{}.sock", ACCOUNTS[account]))
    }

    /// Whether no client ever waits for a place.
    pub(super) fn has_room(&self) -> bool {
        self.terms.places > 1000
    }

    pub(super) fn next_call(&self) -> CallId {
        self.next_number()
    }

    /// `bytes`: how long its body is.
    pub(super) fn begin_call(&self, call: CallId, once: bool, bytes: usize, account: usize) {
        let server = self.configured_server(account);
        self.ledger(|ledger, at| ledger.begin(at, call, once, bytes, (account, server)));
        let times = self.state(|state| {
            let Limits { response_timeout, body_idle, .. } = state.limits;
            if state.reloading { Limits::any() } else { [response_timeout, body_idle].map(|time| (time, time)) }
        });
        self.upstreams.call_begins(call, account, !once, times);
    }

    /// The server that the settings name for the account; `None` while a reload is under way.
    pub(super) fn configured_server(&self, account: usize) -> Option<usize> {
        self.state(|state| (!state.reloading).then_some(if account == 0 { state.server } else { 1 }))
    }

    pub(super) fn end_call(&self, call: CallId, ending: &Ending) {
        let organization = self.state(|state| state.organization.clone());
        let now = self.now();
        let was_frail = self.upstreams.was_frail(call);
        self.ledger(|ledger, at| {
            if was_frail {
                ledger.may_be_cut(call);
            }
            ledger.end(call, at, now, &organization, ending);
        });
        self.upstreams.call_ends(call, *ending == Ending::GivenUp);
    }

    /// Judges the head and the trailers of a call's whole answer at its client.
    pub(super) fn judge_answer(&self, call: CallId, method: &str, fields: &[Field], trailers: &[Field]) {
        let of_fields = self.heads.judge_answer(call, method, fields);
        let fault = of_fields.or_else(|| self.heads.judge_answer_trailers(call, method, trailers));
        if let Some(fault) = fault {
            self.break_promise(format!("call {call}: {fault}"));
        }
    }

    pub(super) fn has_clients(&self) -> bool {
        self.has_clients.load(Ordering::Relaxed)
    }

    pub(super) fn end_clients(&self) {
        self.has_clients.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_listening(&self) -> bool {
        self.is_listening.load(Ordering::Relaxed)
    }

    pub(super) fn set_listening(&self, listening: bool) {
        self.is_listening.store(listening, Ordering::Relaxed);
    }

    /// `max_connections` of the settings.
    pub(super) fn places(&self) -> usize {
        self.terms.places + self.more_places.load(Ordering::Relaxed)
    }

    /// The settings will allow so many more connections.
    pub(super) fn allow_more(&self, places: usize) {
        self.more_places.fetch_add(places, Ordering::Relaxed);
    }

    /// Whether time passes while nobody calls.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_quiet.load(Ordering::Relaxed)
    }

    pub(super) fn be_quiet(&self, quiet: bool) {
        self.is_quiet.store(quiet, Ordering::Relaxed);
    }

    /// Ends what holds connections open.
    pub(super) fn release_silent(&self) {
        self.state(|state| state.silent.clear());
    }
}
