//! How many descriptors (open files, sockets) the process may have, and how they are shared out.
//!
//! A daemon raises the soft limit to the hard one. Guarantees: a program that is started through [`spawn_with_own_limit`] gets
//! the soft limit that this process was started with; what [`Descriptors::share`] gives away leaves a reserve for the process
//! itself, its log-ins, telemetry and the control socket.

use std::{
    fs, io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limits before they were raised; `None`: they were not. It is set once, at start.
static BEFORE: Mutex<Option<Rlimit>> = Mutex::new(None);

/// How many new descriptors this process may need while another program is being started.
const SPAWN_RESERVE: u64 = 64;

/// Descriptors of the process itself: standard streams, event loops, signals, the watch of files, the log, name servers, log-ins,
/// files of credentials, and commands that give them.
const OWN: usize = 64;
/// Descriptors of a worker: its event loop, and those that it opens for a moment to learn who calls.
const PER_WORKER: usize = 8;
/// Descriptors of a listening socket in each worker: its own duplicate.
const PER_ACCEPTOR: usize = 1;
/// Telemetry and the control socket may each have this part of all descriptors.
const ADMIN_PART: usize = 16;
/// The fewest connections or requests that a limit is lowered to.
const FEWEST: usize = 4;

/// The number of descriptors that the process may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors(usize);

/// What wants descriptors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Worker threads.
    pub workers: usize,
    /// Connections that each worker keeps at an address beside those that have a place.
    pub without_place: usize,
    /// The connection limit of each listen address of an API.
    pub connections: Vec<usize>,
    /// The limit of requests in flight of each API; each may need a connection to upstream.
    pub requests: Vec<usize>,
}

impl Descriptors {
    /// Raises the soft limit to the hard one. Where the system refuses that, the limit stays as it is.
    #[must_use]
    pub fn raise() -> Self {
        let limits = getrlimit(Resource::Nofile);
        let mut before = lock();
        let raised = Rlimit { current: limits.maximum, maximum: limits.maximum };
        if before.is_none() && limits.current != limits.maximum && setrlimit(Resource::Nofile, raised).is_ok() {
            *before = Some(limits);
        }
        // `None` stands for no limit.
        let soft = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self(usize::try_from(soft).unwrap_or(usize::MAX))
    }

    /// How many descriptors the process may have.
    #[must_use]
    pub fn count(self) -> usize {
        self.0
    }

    /// The connections that telemetry or the control socket may have, which wants `most`.
    #[must_use]
    pub fn admin(self, most: usize) -> usize {
        most.min((self.0 / ADMIN_PART).max(FEWEST))
    }

    /// The limits that the descriptors allow, in the order of `demand`: of connections and of requests.
    #[must_use]
    pub fn share(self, demand: &Demand) -> (Vec<usize>, Vec<usize>) {
        let acceptor = PER_ACCEPTOR + demand.without_place;
        let listening = demand.connections.len() * (1 + demand.workers * acceptor);
        // Telemetry and control have one acceptor each.
        let admin = 2 * (1 + acceptor + self.0 / ADMIN_PART);
        let left = self.0.saturating_sub(OWN + demand.workers * PER_WORKER + listening + admin);
        let wanted = |limits: &[usize]| limits.iter().fold(0, |sum: usize, limit| sum.saturating_add(*limit));
        let (connections, requests) = (wanted(&demand.connections), wanted(&demand.requests));
        // Neither gets less than half to leave the other one more than it wants.
        let for_requests = requests.min((left / 2).max(left.saturating_sub(connections)));
        (share_out(left - for_requests, &demand.connections), share_out(for_requests, &demand.requests))
    }
}

/// Shares `all` out: who wants less than an equal share gets it, and the others share the rest equally.
fn share_out(all: usize, wanted: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|index| wanted[*index]);
    let (mut shares, mut left) = (wanted.to_vec(), all);
    for (done, index) in order.into_iter().enumerate() {
        let equal = left / (wanted.len() - done);
        shares[index] = wanted[index].min(equal.max(FEWEST));
        left = left.saturating_sub(shares[index]);
    }
    shares
}

/// Starts a program by `spawn`, which starts nothing else, with the soft limit that this process was started with. `id` names the
/// program that was started.
///
/// # Errors
///
/// Those of `spawn`.
pub fn spawn_with_own_limit<T>(spawn: impl FnOnce() -> io::Result<T>, id: impl FnOnce(&T) -> Option<u32>) -> io::Result<T> {
    // The lock is held until the limit is raised again.
    let before = lock();
    let Some(limits) = *before else { return spawn() };
    let raised = getrlimit(Resource::Nofile);
    // A program inherits the limit. That it is lower for a moment harms nobody here as long as new descriptors have low numbers.
    let is_harmless = limits.current.is_none_or(|soft| open_descriptors().is_some_and(|open| open + SPAWN_RESERVE < soft));
    let own = Rlimit { current: limits.current, maximum: raised.maximum };
    if is_harmless && setrlimit(Resource::Nofile, own).is_ok() {
        let spawned = spawn();
        // It can't fail, since the hard limit was not changed.
        let _ = setrlimit(Resource::Nofile, raised);
        return spawned;
    }
    let spawned = spawn()?;
    if let Some(id) = id(&spawned) {
        lower(id, own);
    }
    Ok(spawned)
}

/// Lowers the limit of a program that has begun already.
#[cfg(target_os = "linux")]
fn lower(id: u32, limits: Rlimit) {
    let pid = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw);
    // It fails when the program has ended, or is another user's: then it keeps the higher limit.
    let _ = pid.map(|pid| rustix::process::prlimit(Some(pid), Resource::Nofile, limits));
}

/// Elsewhere no other process's limit can be changed.
#[cfg(not(target_os = "linux"))]
fn lower(_: u32, _: Rlimit) {}

/// How many descriptors are open; `None` where the system does not tell.
fn open_descriptors() -> Option<u64> {
    let directory = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    u64::try_from(fs::read_dir(directory).ok()?.count()).ok()
}

fn lock() -> MutexGuard<'static, Option<Rlimit>> {
    // Nothing that could panic changes it half.
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(connections: &[usize], requests: &[usize]) -> Demand {
        Demand { workers: 2, without_place: 9, connections: connections.to_vec(), requests: requests.to_vec() }
    }

    #[test]
    fn with_enough_descriptors_every_limit_is_as_the_settings_say() {
        let demand = demand(&[4096, 4096], &[1024]);
        for many in [20_000, 65_536, 1 << 30, usize::MAX] {
            assert_eq!(Descriptors(many).share(&demand), (vec![4096, 4096], vec![1024]), "{many}");
        }
    }

    #[test]
    fn limits_never_come_to_more_than_the_descriptors_less_a_reserve() {
        for descriptors in [512, 1024, 2048, 4096, 8192, 10_240] {
            for (connections, requests) in [(&[4096, 4096][..], &[1024][..]), (&[100_000], &[1000, 100_000]), (&[5, 9000], &[3])]
            {
                let (given, in_flight) = Descriptors(descriptors).share(&demand(connections, requests));
                let sum = given.iter().chain(&in_flight).sum::<usize>() + 2 * Descriptors(descriptors).admin(1000);
                assert!(sum + OWN < descriptors, "{sum} of {descriptors}: {given:?} {in_flight:?}");
                assert!(given.iter().zip(connections).all(|(given, wanted)| given <= wanted));
                assert!(in_flight.iter().zip(requests).all(|(given, wanted)| given <= wanted));
            }
        }
    }

    #[test]
    fn who_wants_little_gets_it_and_nobody_gets_nothing() {
        assert_eq!(share_out(100, &[1000, 10, 1000]), [45, 10, 45]);
        assert_eq!(share_out(0, &[1000, 2]), [4, 2]);
        assert_eq!(share_out(100, &[]), [0; 0]);
        let (connections, requests) = Descriptors(1024).share(&demand(&[4096], &[16]));
        assert_eq!(requests, [16]);
        assert!(connections[0] > 600, "what requests leave is for connections: {connections:?}");
    }

    #[test]
    fn what_is_left_for_clients_is_exactly_what_the_process_does_not_need_itself() {
        // Of 2048: 64 of the process, 8 of each of 2 workers, at each of 2 addresses 1 and 10 in each worker, and twice 11 and a
        // sixteenth for telemetry and control.
        let left = 2048 - 64 - 2 * 8 - 2 * (1 + 2 * 10) - 2 * (11 + 128);
        let share = |connections: &[usize], requests: &[usize]| Descriptors(2048).share(&demand(connections, requests));
        assert_eq!(share(&[10_000, 10], &[10_000]), (vec![left - left / 2 - 10, 10], vec![left / 2]));
        assert_eq!(share(&[100, 10], &[10_000]), (vec![100, 10], vec![left - 110]), "connections leave the rest");
        assert_eq!(share(&[10_000, 10], &[100]), (vec![left - 110, 10], vec![100]), "requests leave the rest");
        assert_eq!(share(&[left - 110, 10], &[100]), (vec![left - 110, 10], vec![100]), "everybody gets what is wanted");
    }

    #[test]
    fn telemetry_and_control_get_a_sixteenth_each_or_what_they_want() {
        for (descriptors, most, expected) in [(1600, 1000, 100), (1600, 90, 90), (16, 1000, 4), (16, 3, 3)] {
            assert_eq!(Descriptors(descriptors).admin(most), expected, "{descriptors} {most}");
        }
        assert_eq!(Descriptors(77).count(), 77);
    }
}
