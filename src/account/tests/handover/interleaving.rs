//! One run of a driver and a request on one thread, and the places where they change sides.

use std::{
    mem,
    pin::Pin,
    sync::{Weak, atomic::AtomicBool},
    task::{Context, Poll, Wake, Waker},
};

use super::{scripted_driver::ScriptedDriver, *};

/// The decisions of one run. The next run differs in the last one that can differ.
#[derive(Default)]
pub(super) struct Schedule {
    /// What was decided, and of how many possibilities.
    decisions: Vec<(usize, usize)>,
    at: usize,
}

impl Schedule {
    fn decide(&mut self, of: usize) -> usize {
        if self.at == self.decisions.len() {
            self.decisions.push((0, of));
        }
        let (decision, possible) = self.decisions[self.at];
        assert_eq!(possible, of, "a run repeats the one before up to the decision that differs");
        self.at += 1;
        decision
    }

    /// Goes on to the next schedule; `false` when there is none.
    pub(super) fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((decision, of)) = self.decisions.pop() {
            if decision + 1 < of {
                self.decisions.push((decision + 1, of));
                return true;
            }
        }
        false
    }
}

/// A driver and a request. The one that acts holds its own lock, so nothing that it calls has it act again.
pub(super) struct Interleaving {
    pub(super) driver: Mutex<ScriptedDriver>,
    pub(super) request: Mutex<WaitingRequest>,
    /// Whether the request was woken since it looked last, or has not begun.
    is_woken: AtomicBool,
    /// Whether its report was answered since then.
    pub(super) is_answered: AtomicBool,
    /// Has marked those snapshots as seen that were sent before the request looked last.
    observer: Mutex<tokio::sync::watch::Receiver<AccountSnapshot>>,
    /// What the driver published, in order: the bearer's generation, and whether requests get one.
    pub(super) log: Mutex<Vec<(Option<Generation>, Availability)>>,
    schedule: Mutex<Schedule>,
    /// What happened, for the message of a failure.
    steps: Mutex<Vec<String>>,
}

/// What a request gets; `None`: it is not sent again.
type Outcome = Result<Option<Generation>, Unavailable>;

/// A request that waits.
pub(super) struct WaitingRequest {
    pub(super) future: Option<Pin<Box<dyn Future<Output = Outcome> + Send>>>,
    /// The first entries of the log whose bearer and whose snapshot it could find. They differ when it began inside a step.
    pub(super) began_at: Option<(usize, usize)>,
    pub(super) outcome: Option<Outcome>,
}

impl Interleaving {
    /// An account that is logged out, and the run around it.
    pub(super) fn begin(config: &Arc<Config>, schedule: Schedule) -> (Arc<Self>, Account) {
        let bearer = Arc::new(ArcSwapOption::empty());
        let (publish, snapshot) = tokio::sync::watch::channel(AccountSnapshot::new(Standing::Session(StateName::LoggedOut)));
        let (identity, signals, changed) = (AccountIdentity::new(), Arc::new(Signals::default()), Arc::new(Notify::new()));
        let published = Published { identity, bearer: Arc::clone(&bearer), snapshot: publish, changed: Arc::clone(&changed) };
        let (ask, requests) = mpsc::channel(REQUESTS_MAX);
        let run = Arc::new_cyclic(|run| Self {
            driver: Mutex::new(ScriptedDriver::new(published, Arc::clone(&signals), requests, Weak::clone(run))),
            request: Mutex::new(WaitingRequest { future: None, began_at: None, outcome: None }),
            is_woken: AtomicBool::new(true),
            is_answered: AtomicBool::new(false),
            observer: Mutex::new(snapshot.clone()),
            log: Mutex::default(),
            schedule: Mutex::new(schedule),
            steps: Mutex::default(),
        });
        let task = AccountTask {
            name: "crm".to_owned(),
            identity,
            clock: Arc::new(StillClock(Arc::downgrade(&run))),
            bearer,
            found_foreign: Once::new(),
            refused_young: AtomicU64::new(0),
            snapshot,
            changed,
            signals,
            requests: ask,
            join: Mutex::new(None),
        };
        let sources = Sources::new(Arc::clone(config), AccountId(0)).unwrap();
        (run, Account { settings: Arc::new(RequestSettings::of(sources)), task: Arc::new(task) })
    }

    /// Goes on until the request has its outcome, or neither side can act.
    pub(super) fn run_to_end(self: &Arc<Self>) {
        while self.request.lock().unwrap().outcome.is_none() {
            if self.is_woken.load(Ordering::SeqCst) && !self.has_something_new() {
                // The channel wakes a receiver twice, by chance, that looks again at once: no decision may depend on that.
                self.request_acts();
                continue;
            }
            let (request_can, driver_can) = (self.request_can_act(), self.driver_can_act());
            if !(request_can || driver_can) {
                return;
            }
            if driver_can && (!request_can || self.decide(2) == 0) {
                self.driver_acts();
            } else {
                self.request_acts();
            }
        }
    }

    pub(super) fn steps(&self) -> Vec<String> {
        mem::take(&mut self.steps.lock().unwrap())
    }

    pub(super) fn into_schedule(self: Arc<Self>) -> Schedule {
        mem::take(&mut self.schedule.lock().unwrap())
    }

    fn decide(&self, of: usize) -> usize {
        self.schedule.lock().unwrap().decide(of)
    }

    /// Whether the request is woken and may find what it has not seen.
    fn request_can_act(&self) -> bool {
        let waits = self.request.try_lock().is_ok_and(|request| request.future.is_some());
        waits && self.is_woken.load(Ordering::SeqCst) && self.has_something_new()
    }

    fn has_something_new(&self) -> bool {
        // An error means that the account has ended.
        let is_sent = self.observer.lock().unwrap().has_changed().unwrap_or(true);
        is_sent || self.is_answered.load(Ordering::SeqCst) || self.request.lock().unwrap().began_at.is_none()
    }

    fn driver_can_act(&self) -> bool {
        self.driver.try_lock().is_ok_and(|driver| driver.can_act())
    }

    fn let_request_act(self: &Arc<Self>) {
        if self.request_can_act() && self.decide(2) == 1 {
            self.request_acts();
        }
    }

    fn let_driver_act(&self) {
        while self.driver_can_act() && self.decide(2) == 1 {
            self.driver_acts();
        }
    }

    fn request_acts(self: &Arc<Self>) {
        let mut request = self.request.lock().unwrap();
        let mut future = request.future.take().expect("only a request that can act does");
        self.is_woken.store(false, Ordering::SeqCst);
        self.is_answered.store(false, Ordering::SeqCst);
        self.observer.lock().unwrap().mark_unchanged();
        if request.began_at.is_none() {
            let (last, is_between_steps) = (self.log.lock().unwrap().len() - 1, self.driver.try_lock().is_ok());
            request.began_at = Some((last, last - usize::from(!is_between_steps && last > 0)));
        }
        self.steps.lock().unwrap().push("the request looks".to_owned());
        let waker = Waker::from(Arc::new(RequestWaker(Arc::downgrade(self))));
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => request.outcome = Some(outcome),
            Poll::Pending => request.future = Some(future),
        }
    }

    fn driver_acts(&self) {
        let mut driver = self.driver.lock().unwrap();
        let step = driver.next_step(|of| self.decide(of));
        self.steps.lock().unwrap().push(format!("{step:?}"));
        driver.take_step(step);
    }
}

/// The request's waker.
struct RequestWaker(Weak<Interleaving>);

impl Wake for RequestWaker {
    fn wake(self: Arc<Self>) {
        if let Some(run) = self.0.upgrade() {
            run.is_woken.store(true, Ordering::SeqCst);
            run.let_request_act();
        }
    }
}

/// A clock that stands still.
struct StillClock(Weak<Interleaving>);

impl Clock for StillClock {
    fn now(&self) -> Now {
        if let Some(run) = self.0.upgrade() {
            run.let_driver_act();
        }
        Now { moment: NOW, wall: SystemTime::UNIX_EPOCH }
    }
}

/// The memory of one token.
pub(super) struct TokenMemory(pub(super) Weak<Interleaving>);

impl AsRef<[u8]> for TokenMemory {
    fn as_ref(&self) -> &[u8] {
        b"Bearer opaque"
    }
}

impl Drop for TokenMemory {
    fn drop(&mut self) {
        if let Some(run) = self.0.upgrade() {
            run.let_request_act();
        }
    }
}
