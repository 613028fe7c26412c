//! Judges what servers see of the daemon's connections: for how long they are kept, which requests they carry, how many are opened
//! ahead of need, and for how long the daemon waits for an answer.
//!
//! Times are tokio's, which stop during a suspend, as those of the daemon's pools do. Each judgement knows what would excuse the
//! daemon; where the simulation can't see that, it does not judge.

mod judgements;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{calls::CallId, servers::ACCOUNTS};
use crate::clock;

/// How long the daemon may take to close a connection once it has to: it looks once a second.
const CLOSED_WITHIN: Duration = Duration::from_millis(1600);
/// How long requests may still go by what was before a reload, a log-out or a suspend: the same.
const RETIRED_WITHIN: Duration = Duration::from_millis(1600);
/// The idle time that is safe while nothing is known.
const SAFE: Duration = Duration::from_secs(4);
/// Server and daemon see a moment at different times.
const MOMENT: Duration = Duration::from_millis(200);
/// The average time between two connections that are opened ahead of need, and how many may be opened at once.
const AHEAD: (Duration, u32) = (Duration::from_secs(30), 3);
/// For how long after a request a connection is kept ready.
const USED_WITHIN: Duration = Duration::from_secs(600);
/// A connection that lives for less is not opened ahead of need.
const WORTH_WARMING: Duration = Duration::from_secs(30);
/// `connect_timeout`.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Numbers a connection to a server.
pub(super) type Number = u64;

/// What a connection is for: told by the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    LogIns,
    /// Calls to the account's API.
    Calls(usize),
}

/// A server's end of one connection: which server, at which address, and its number here, unless it is for log-ins.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) server: usize,
    pub(super) address: SocketAddr,
    pub(super) number: Option<Number>,
}

/// What the daemon waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The head of an answer, or the rest of it.
    Head,
    /// The rest of an answer's body.
    Body,
}

#[derive(Default)]
pub(super) struct Upstreams(Mutex<State>);

#[derive(Default)]
struct State {
    began: Option<Instant>,
    next: Number,
    open: BTreeMap<Number, Connection>,
    calls: BTreeMap<CallId, Call>,
    /// Those that have come on a connection that ends after some bytes.
    frail_calls: BTreeSet<CallId>,
    apis: [Api; ACCOUNTS.len()],
    workers: u32,
    pool_idle: Duration,
    replay_buffer: usize,
    /// `response_timeout` and `body_idle` since each reload.
    times: Vec<[Duration; 2]>,
    /// The daemon has been told to end.
    draining: bool,
}

struct Connection {
    account: usize,
    opened: Instant,
    /// How old it may grow at most.
    oldest: Duration,
    is_http2: bool,
    /// It ends after some bytes, which the daemon may notice before the server does.
    is_frail: bool,
    /// How many streams it may have; `None`: not known yet, or the server has told the daemon to go away.
    streams: Option<usize>,
    /// It is no pooled one any more: a tunnel, or the server has fallen silent.
    apart: bool,
    in_flight: usize,
    idle_since: Instant,
    /// When the last answer on it had gone out.
    silent_since: Instant,
    /// The calls that it has carried and whose clients may still read.
    calls: Vec<CallId>,
    retired: Option<Instant>,
}

struct Call {
    account: usize,
    idempotent: bool,
    begun: Instant,
    ended: Option<Instant>,
    /// `response_timeout` and `body_idle`: the least and the most that may be in force for it.
    times: [(Duration, Duration); 2],
    /// It does not take any idle connection.
    is_choosy: bool,
    arrived: u32,
    /// When it last came to a server.
    arrived_at: Option<Instant>,
    /// The most bytes of its body that one server got.
    received: usize,
    /// Its client reads the answer as it comes, and has got its head, and so many bytes of its body.
    reads: bool,
    got: Option<usize>,
}

/// What is known of an API's upstream.
struct Api {
    /// The longest time that a connection was idle and open, and the shortest `timeout` that was announced.
    survived: Duration,
    announced: Option<Duration>,
    announced_at: Option<Instant>,
    /// What a server may have announced since then.
    may_have_announced: Option<Duration>,
    /// Idle connections do not live for long, by what the daemon may have seen.
    unworthy: bool,
    /// When its pool was made, and connections opened ahead of need since.
    made: Instant,
    ahead: u32,
    /// Each attempt to connect.
    attempts: Vec<Instant>,
    /// A request may have used it since it was told to stop, and one has used its present pool since then.
    used: bool,
    has_served: bool,
    /// When a call to it last began or ended.
    used_at: Instant,
    /// When something last went wrong with one of its connections.
    trouble: Instant,
}

impl Default for Api {
    fn default() -> Self {
        let now = clock::instant();
        Self {
            survived: Duration::ZERO,
            announced: None,
            announced_at: None,
            may_have_announced: None,
            unworthy: false,
            made: now,
            ahead: 0,
            attempts: Vec::new(),
            used: false,
            has_served: false,
            used_at: now,
            trouble: now,
        }
    }
}

/// Settings.
impl Upstreams {
    pub(super) fn new(workers: usize, pool_idle: Duration, replay_buffer: usize) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        let began = Some(clock::instant());
        Self(Mutex::new(State { began, workers, pool_idle, replay_buffer, ..State::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The daemon is told to end: exchanges may be cut, and no connection is kept ready.
    pub(super) fn drain(&self) {
        self.lock().draining = true;
    }

    /// The daemon has closed, or is about to close, the idle connections of an account's API, or of all; those in use end with their
    /// exchanges. `since`: before it was asked to. `renewed`: it has made a new pool, which opens a connection at once.
    pub(super) fn retire(&self, of: Option<usize>, since: Instant, renewed: bool) {
        let (mut state, now) = (self.lock(), clock::instant());
        let is_meant = |account: usize| of.is_none_or(|of| of == account);
        let is_old = |connection: &&mut Connection| is_meant(connection.account) && connection.opened < since;
        for connection in state.open.values_mut().filter(is_old) {
            connection.retired.get_or_insert(now);
        }
        for (_, api) in state.apis.iter_mut().enumerate().filter(|(account, _)| is_meant(*account)) {
            api.trouble = now;
            if renewed {
                (api.made, api.ahead, api.has_served) = (now, 0, false);
            }
        }
    }

    /// The machine was suspended, so idle connections are closed. A pool that was made just before does not know the time before.
    pub(super) fn suspended(&self) {
        let now = clock::instant();
        for account in 0..ACCOUNTS.len() {
            let is_new = self.lock().apis[account].made + CLOSED_WITHIN > now;
            if !is_new {
                self.retire(Some(account), now, false);
            }
        }
    }

    /// All idle connections were closed by a log-out: none is opened ahead of need until a request uses the upstream.
    pub(super) fn stop(&self, since: Instant) {
        {
            let mut state = self.lock();
            for account in 0..ACCOUNTS.len() {
                // One that waits for a token will use it.
                let waits = state.calls.values().any(|call| call.account == account && call.ended.is_none());
                (state.apis[account].used, state.apis[account].has_served) = (waits, false);
            }
        }
        self.retire(None, since, false);
    }

    /// The daemon is asked to make new pools. It may have done so before that is known.
    pub(super) fn renew(&self) {
        let now = clock::instant();
        self.lock().apis.iter_mut().for_each(|api| (api.made, api.ahead) = (now, 0));
    }
}

/// Calls, as clients make them.
impl Upstreams {
    /// These times have changed, for calls that have not been read, which may have waited for a place, and for those that are sent
    /// again, which may have another account.
    pub(super) fn change_times(&self, times: [Duration; 2]) {
        let mut state = self.lock();
        state.calls.values_mut().filter(|call| call.arrived == 0).for_each(|call| call.may_have(times));
        state.times.push(times);
    }

    /// `times`: the least and the most that `response_timeout` and `body_idle` may be.
    pub(super) fn call_begins(&self, call: CallId, account: usize, idempotent: bool, times: [(Duration, Duration); 2]) {
        let mut state = self.lock();
        let begun = clock::instant();
        (state.apis[account].used, state.apis[account].used_at) = (true, begun);
        let known = Call {
            account,
            idempotent,
            begun,
            ended: None,
            times,
            is_choosy: false,
            arrived: 0,
            arrived_at: None,
            received: 0,
            reads: false,
            got: None,
        };
        state.calls.insert(call, known);
    }

    /// The call asks for a tunnel, which takes a connection of its own.
    pub(super) fn asks_for_tunnel(&self, call: CallId) {
        self.needs_safe_connection(call);
    }

    /// The call does not take any idle connection.
    pub(super) fn needs_safe_connection(&self, call: CallId) {
        if let Some(known) = self.lock().calls.get_mut(&call) {
            known.is_choosy = true;
        }
    }

    /// Whether the call has come on a connection that ends after some bytes, in whatever way.
    pub(super) fn was_frail(&self, call: CallId) -> bool {
        self.lock().frail_calls.contains(&call)
    }

    /// `given_up`: its client has hung up, and the daemon closes its HTTP/1.1 connection.
    pub(super) fn call_ends(&self, call: CallId, given_up: bool) {
        let (mut state, now) = (self.lock(), clock::instant());
        if let Some(known) = state.calls.get_mut(&call) {
            known.ended = Some(now);
            let account = known.account;
            state.apis[account].used_at = now;
        }
        // A client that reads slowly holds the connection.
        let is_over = |connection: &&mut Connection| connection.calls.contains(&call) && (connection.is_http2 || !given_up);
        for connection in state.open.values_mut().filter(is_over) {
            connection.calls.retain(|other| *other != call);
            connection.idle_since = now;
        }
    }
}

/// Connections.
impl Upstreams {
    /// The daemon connects. What is wrong with that.
    pub(super) fn attempt(&self, role: Role) -> Option<String> {
        let Role::Calls(account) = role else { return None };
        let (mut state, now) = (self.lock(), clock::instant());
        let fault = state.judge_attempt(account, now);
        state.apis[account].attempts.push(now);
        fault
    }

    /// A connection is there. `oldest`: how old it may grow.
    pub(super) fn opened(&self, role: Role, oldest: Duration, is_frail: bool) -> Option<Number> {
        let Role::Calls(account) = role else { return None };
        let (mut state, now) = (self.lock(), clock::instant());
        let number = state.next;
        state.next += 1;
        let connection = Connection {
            account,
            opened: now,
            oldest,
            is_http2: false,
            is_frail,
            streams: None,
            apart: false,
            in_flight: 0,
            idle_since: now,
            silent_since: now,
            calls: Vec::new(),
            retired: None,
        };
        state.open.insert(number, connection);
        Some(number)
    }

    pub(super) fn speaks_http2(&self, number: Number) {
        self.change(number, |connection| connection.is_http2 = true);
    }

    /// How many streams the connection may have. `None`: no new ones.
    pub(super) fn allows(&self, number: Number, streams: Option<usize>) {
        self.change(number, |connection| connection.streams = streams);
    }

    /// What becomes of it is not judged any more: it is a tunnel, or the server has fallen silent.
    pub(super) fn set_apart(&self, number: Number) {
        self.change(number, |connection| connection.apart = true);
    }

    /// The connection is closed; `by_server`: the daemon is not the one who has closed it.
    pub(super) fn closed(&self, number: Number, by_server: bool) {
        let (mut state, now) = (self.lock(), clock::instant());
        let Some(connection) = state.open.remove(&number) else { return };
        let api = &mut state.apis[connection.account];
        api.survived = api.survived.max(now.duration_since(connection.silent_since));
        if by_server {
            api.trouble = now;
            api.unworthy |= connection.in_flight == 0 && now.duration_since(connection.idle_since) > MOMENT;
        }
    }

    /// A request's head has come. What is wrong with its being on that connection. `has_failed`: its connection before did.
    pub(super) fn begins(&self, number: Number, call: CallId, has_failed: bool) -> Option<String> {
        let (mut state, now) = (self.lock(), clock::instant());
        let fault = state.judge_exchange(number, call, now).or_else(|| state.judge_freshness(number, call, has_failed));
        if state.open.get(&number).is_some_and(|connection| connection.is_frail) {
            state.frail_calls.insert(call);
        }
        let State { calls, times, .. } = &mut *state;
        if let Some(known) = calls.get_mut(&call) {
            if known.arrived > 0 {
                for times in &*times {
                    known.may_have(*times);
                }
            }
            known.arrived += 1;
            known.arrived_at = Some(now);
        }
        let connection = state.open.get_mut(&number)?;
        connection.in_flight += 1;
        connection.calls.push(call);
        let (account, opened, silent) = (connection.account, connection.opened, connection.silent_since);
        let api = &mut state.apis[account];
        api.survived = api.survived.max(now.duration_since(silent));
        api.used = true;
        api.has_served |= opened >= api.made;
        fault
    }

    /// The answer has gone out whole.
    pub(super) fn ends(&self, number: Number) {
        let now = clock::instant();
        self.change(number, |connection| {
            connection.in_flight = connection.in_flight.saturating_sub(1);
            (connection.idle_since, connection.silent_since) = (now, now);
        });
    }

    /// The server says for how long it keeps idle connections, in an answer that may break off behind its head.
    pub(super) fn may_announce(&self, number: Number, timeout: Duration) {
        let mut state = self.lock();
        let account =
            state.open.get(&number).filter(|connection| connection.retired.is_none()).map(|connection| connection.account);
        if let Some(account) = account {
            state.apis[account].may_have_announced = Some(timeout);
        }
    }

    /// The server has said for how long it keeps idle connections.
    pub(super) fn announces(&self, number: Number, timeout: Duration) {
        let (mut state, now) = (self.lock(), clock::instant());
        let Some((account, retired)) = state.open.get(&number).map(|connection| (connection.account, connection.retired)) else {
            return;
        };
        let api = &mut state.apis[account];
        if retired.is_some() {
            // It counts, unless it is of an upstream that a reload has replaced.
            api.survived = api.survived.max(timeout);
            return;
        }
        (api.announced_at, api.may_have_announced) = (Some(now), None);
        api.announced = Some(api.announced.map_or(timeout, |known| known.min(timeout)));
        api.unworthy |= timeout < WORTH_WARMING;
    }

    /// Something goes wrong with connections of that API, or of all.
    pub(super) fn trouble(&self, role: Role) {
        let now = clock::instant();
        if let Role::Calls(account) = role {
            self.lock().apis[account].trouble = now;
        }
    }

    /// The API's upstream is another one: what was known of how long it keeps connections is forgotten.
    pub(super) fn moved(&self, account: usize) {
        let api = &mut self.lock().apis[account];
        (api.announced, api.may_have_announced, api.survived) = (None, None, Duration::ZERO);
    }

    fn change(&self, number: Number, change: impl FnOnce(&mut Connection)) {
        if let Some(connection) = self.lock().open.get_mut(&number) {
            change(connection);
        }
    }
}

/// Waits and bodies.
impl Upstreams {
    /// So many bytes of a call's body have come to one server.
    pub(super) fn received(&self, call: CallId, bytes: usize) {
        if let Some(known) = self.lock().calls.get_mut(&call) {
            known.received = known.received.max(bytes);
        }
    }

    /// The call's client reads its answer as it comes.
    pub(super) fn reads(&self, call: CallId) {
        if let Some(known) = self.lock().calls.get_mut(&call) {
            known.reads = true;
        }
    }

    /// The call's client has got the answer's head, and so many bytes of its body.
    pub(super) fn got(&self, call: CallId, bytes: usize) {
        if let Some(known) = self.lock().calls.get_mut(&call) {
            known.got = Some(bytes);
        }
    }

    /// So many bytes of the answer's body have gone out a while ago. What is wrong with what its client has got of them.
    pub(super) fn judge_delivery(&self, call: CallId, bytes: usize) -> Option<String> {
        let state = self.lock();
        let known = state.calls.get(&call).filter(|known| known.reads && known.ended.is_none())?;
        let is_late = !state.draining && known.got.is_none_or(|got| got < bytes);
        is_late.then(|| format!("{bytes} bytes of its answer have come a while ago, and its client has got {:?}", known.got))
    }

    /// The least that `body_idle` may be for the call.
    pub(super) fn body_idle(&self, call: CallId) -> Duration {
        self.lock().calls.get(&call).map_or(Duration::MAX, |known| known.times[1].0)
    }

    /// Whether the daemon has not been told to end.
    pub(super) fn is_serving(&self) -> bool {
        !self.lock().draining
    }

    /// Whether the API has had no call for a while.
    pub(super) fn is_quiet(&self, account: usize) -> bool {
        let (state, then) = (self.lock(), clock::instant() - Duration::from_secs(3));
        state.calls.values().filter(|call| call.account == account).all(|call| call.ended.is_some_and(|ended| ended < then))
    }

    /// Whether the client of a call still waits, and the daemon has no reason to give it up.
    pub(super) fn is_waited_for(&self, call: CallId) -> bool {
        let state = self.lock();
        !state.draining && state.calls.get(&call).is_some_and(|known| known.ended.is_none())
    }
}

/// From time to time.
impl Upstreams {
    /// What is wrong with the connections as they are now.
    pub(super) fn inspect(&self) -> Vec<String> {
        let (state, now) = (self.lock(), clock::instant());
        let mut faults = Vec::new();
        for connection in state.open.values() {
            let Some(since) = connection.idle_since() else { continue };
            let (idle, age, name) =
                (now.duration_since(since), now.duration_since(connection.opened), ACCOUNTS[connection.account]);
            if idle < CLOSED_WITHIN {
                continue;
            }
            if idle > state.pool_idle + CLOSED_WITHIN {
                faults.push(format!("a connection for {name} is idle for {idle:?}, and is kept for {:?}", state.pool_idle));
            } else if age > connection.oldest + CLOSED_WITHIN {
                faults.push(format!("an idle connection for {name} is {age:?} old, and may be {:?}", connection.oldest));
            } else if connection.retired.is_some_and(|retired| retired + RETIRED_WITHIN < now) {
                faults.push(format!("an idle connection for {name} was given up, and is still open"));
            }
        }
        faults
    }
}

/// Where the servers are.
pub(super) fn role_of(address: SocketAddr) -> Role {
    match address.port() {
        7001 | 7002 => Role::Calls(0),
        7003 | 7004 => Role::Calls(1),
        _ => Role::LogIns,
    }
}
