//! Tries every order in which a driver publishes and a request waits: no request sleeps while there is a token for it, and none
//! goes out with one that was withdrawn before the request began.
//!
//! The request runs the real code: [`Account::wait_for_bearer`] or [`Account::replace`], over arc-swap's pointer and tokio's
//! channels. The driver's part is done by the real `Session` and `Published::publish`, which a script feeds with events. One
//! thread runs both sides. The other side may go on between two steps, and inside a step wherever the code calls what a test
//! supplies: the clock (a request reads it between the snapshot and the bearer), the drop of a withdrawn bearer (the pointer is
//! stored, the snapshot is not yet sent) and the request's waker (the snapshot is sent, `publish` has not returned).
//!
//! Not covered: a change of sides inside arc-swap or tokio, or in `replace` between snapshot and bearer; memory orders, since
//! one thread sees its own writes; the driver's loop and what wakes it; time limits, since time stands still.

mod interleaving;
mod scripted_driver;

use self::{
    interleaving::{Interleaving, Schedule},
    scripted_driver::Line,
};
use super::*;
use crate::account::snapshot::{OnUnauthorized, Unauthorized};

const NOW: Moment = Moment::new(Duration::from_secs(1000));
/// The token that each run begins with, if with any.
const FIRST: Generation = Generation(1);

/// What a run begins with.
#[derive(Clone, Copy, Debug)]
enum Initial {
    LoggingIn,
    Ready,
    Suspect,
    LoggedOut,
}

impl Initial {
    fn lines(self) -> &'static [Line] {
        match self {
            Self::LoggingIn => &[Line::LogIn],
            Self::Ready => &[Line::LogIn, Line::Grant],
            Self::Suspect => &[Line::LogIn, Line::Grant, Line::Unauthorized],
            Self::LoggedOut => &[Line::LogIn, Line::Grant, Line::LogOut],
        }
    }
}

/// What the request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Bearer,
    /// A bearer newer than the first one, which got a 401.
    NewerBearer,
}

/// Runs once by this schedule, and returns it.
fn run_once(config: &Arc<Config>, initial: Initial, wanted: Wanted, schedule: Schedule) -> Schedule {
    let (run, account) = Interleaving::begin(config, schedule);
    for line in initial.lines() {
        run.driver.lock().unwrap().act(*line);
    }
    let asking = account.clone();
    run.request.lock().unwrap().future = Some(Box::pin(async move {
        match wanted {
            Wanted::Bearer => asking.wait_for_bearer().await.map(|bearer| Some(bearer.generation)),
            Wanted::NewerBearer => Ok(asking.replace(FIRST, TOKEN_WAIT).await?.bearer.map(|bearer| bearer.generation)),
        }
    }));
    run.run_to_end();
    assert_eq!(judge(&run, &account, wanted), Ok(()), "{initial:?}, {wanted:?}: {:?}", run.steps());
    run.into_schedule()
}

/// Whether the request may have got what it got, or may still wait when nothing else happens.
fn judge(run: &Interleaving, account: &Account, wanted: Wanted) -> Result<(), &'static str> {
    let log = run.log.lock().unwrap();
    let request = run.request.lock().unwrap();
    let (bearer_from, shown_from) = request.began_at.ok_or("the request never began")?;
    let mut shown = log[shown_from..].iter().map(|(_, availability)| *availability);
    let mut offered = log[bearer_from..].iter().filter_map(|(generation, _)| *generation);
    match request.outcome {
        Some(Ok(Some(got))) => {
            let is_wanted = matches!(wanted, Wanted::Bearer) || got > FIRST;
            let was_offered = offered.any(|generation| generation == got);
            (is_wanted && was_offered).then_some(()).ok_or("the bearer was withdrawn before, or is the one that was refused")
        }
        Some(Ok(None)) => {
            let passes_on = shown.any(|availability| !is_pending(availability));
            passes_on.then_some(()).ok_or("the client gets the 401 though a log-in is in flight all the time")
        }
        Some(Err(error)) => {
            // An account that was logged out is shown so to its end; a 401 learns of the end all the same.
            let has_ended = wanted == Wanted::NewerBearer
                && run.driver.lock().unwrap().has_ended()
                && error == Availability::Ended.unavailable(NOW);
            let was_shown = has_ended || shown.any(|availability| availability.unavailable(NOW) == error);
            was_shown.then_some(()).ok_or("the error is none that was published")
        }
        None => may_wait(account, wanted).then_some(()).ok_or("the request sleeps, and nothing will wake it"),
    }
}

fn may_wait(account: &Account, wanted: Wanted) -> bool {
    let (snapshot, deadline) = (account.snapshot(), NOW + account.token_wait());
    match wanted {
        Wanted::Bearer => match snapshot.availability() {
            Availability::Unavailable { why: Why::LoginFailing, until } => until.is_some_and(|until| until <= deadline),
            availability => is_pending(availability),
        },
        Wanted::NewerBearer => {
            let unauthorized = Unauthorized { refused: FIRST, deadline, is_reported: true };
            snapshot.on_unauthorized(unauthorized, NOW) == OnUnauthorized::Wait
        }
    }
}

fn is_pending(availability: Availability) -> bool {
    matches!(availability, Availability::Unavailable { why: Why::TokenPending, .. })
}

#[test]
fn no_order_of_publishing_and_waiting_leaves_a_request_asleep() {
    // The requests' time limits need a timer. It is never driven.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    let config = Arc::new(config());
    let mut runs = 0;
    for (initial, wanted) in [
        (Initial::LoggingIn, Wanted::Bearer),
        (Initial::Ready, Wanted::Bearer),
        (Initial::Suspect, Wanted::Bearer),
        (Initial::LoggedOut, Wanted::Bearer),
        (Initial::Ready, Wanted::NewerBearer),
        (Initial::Suspect, Wanted::NewerBearer),
    ] {
        let mut schedule = Schedule::default();
        loop {
            schedule = run_once(&config, initial, wanted, schedule);
            runs += 1;
            if !schedule.advance() {
                break;
            }
        }
    }
    println!("{runs} runs");
    assert!(runs > 60_000, "{runs}");
}
