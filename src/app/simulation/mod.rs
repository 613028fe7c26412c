//! The whole daemon in simulation: acceptor, proxy, account, upstream pool, drain and reload, as they are, on one thread and in paused
//! time, between simulated apps and simulated CarePortals servers, while faults and commands come by chance.
//!
//! The daemon is the one that serves users, but for three things (`simulated`): connections lead to simulated servers, blocking work is
//! done where it is asked for, and workers are tasks (`WorkerHost`). Everything is drawn from a seed: the same seed gives the same
//! trace, line by line. Files: `world` is what all share; `clients`, `careportals`, `network` and `events` act; `ledger` judges.
//!
//! `SIDECAR_SIM_SEEDS=10000 cargo test --release --lib app::simulation` plays other numbers of seeds, and `SIDECAR_SIM_SEED=7` one seed
//! with its trace.

mod careportals;
mod clients;
mod clock;
mod events;
mod ledger;
mod network;
mod world;

use std::{
    io,
    sync::{Arc, LazyLock},
    thread,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{JoinHandle, LocalSet, spawn_local},
    time::{sleep, timeout},
};

use self::{
    events::Daemon,
    ledger::{Counts, Ledger},
    network::Network,
    world::World,
};
use super::{App, StartError, rehearse, worker::WorkerHost};
use crate::{
    clock::Clock,
    config::source::{self, Environment, Input},
    control,
    logging::{Logging, Reader},
    simulated,
    status::Phase,
};

/// Runs workers as tasks of the simulation's own runtime.
struct Tasks;

impl WorkerHost for Tasks {
    fn run(
        &self,
        _: usize,
        work: impl Future<Output = ()> + Send + 'static,
        working: mpsc::Sender<()>,
    ) -> io::Result<Option<thread::JoinHandle<()>>> {
        tokio::spawn(async move {
            work.await;
            drop(working);
        });
        Ok(None)
    }
}

/// `drain_timeout`.
const DRAIN: Duration = Duration::from_secs(8);

/// What a seed came to.
struct Outcome {
    trace: Vec<String>,
    broken: Vec<String>,
    counts: Counts,
}

fn play(seed: u64) -> Outcome {
    fastrand::seed(seed);
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let world = runtime.block_on(async { World::new(seed, directory.path()) });
    let _simulated = simulated::enter(Arc::new(Network(Arc::downgrade(&world))));
    runtime.block_on(LocalSet::new().run_until(simulate(&world)));
    // The task of the worker's deadlines ends with its runtime.
    let left = runtime.metrics().num_alive_tasks();
    if left > 1 {
        world.break_promise(format!("{} tasks are left at the end", left - 1));
    }
    world.ledger(|ledger, _| Outcome { trace: ledger.trace().to_vec(), broken: ledger.broken().to_vec(), counts: ledger.counts })
}

async fn simulate(world: &Arc<World>) {
    let (daemon, running, _logging) = start(world).await;
    let clients: Vec<_> = (0..world.draw(1..=6)).map(|number| tokio::spawn(clients::run(Arc::clone(world), number))).collect();
    let time = Duration::from_secs(world.draw(15..=90) as u64);
    events::happen(world, &daemon, time).await;
    let suddenly = world.chance(0.5);
    if !suddenly {
        events::heal(world, &daemon).await;
        if !world.refuses_some() {
            world.ledger(Ledger::expect_answers);
        }
        sleep(Duration::from_secs(20)).await;
        world.end_clients();
        for client in clients {
            client.await.unwrap();
        }
        // The daemon hears that the last one has hung up.
        sleep(Duration::from_secs(2)).await;
        nothing_is_held(world, &daemon);
    }
    end(world, &daemon, running).await;
    let unfinished = world.ledger(|ledger, _| ledger.unfinished());
    if !unfinished.is_empty() {
        world.break_promise(format!("calls that have not ended: {unfinished:?}"));
    }
}

/// Starts the daemon, and waits until it serves. The logs write nothing, and are kept until the end.
async fn start(world: &World) -> (Daemon, JoinHandle<Result<(), StartError>>, Logging) {
    world.put("organization", "acme");
    world.put("password", "first");
    world.put("roots.pem", roots());
    world.put_settings(0, 20, Duration::from_secs(300));
    let input = Input {
        config_flag: Some(world.settings()),
        default_file: world.settings(),
        flags: Vec::new(),
        environment: Environment::default(),
        defaults: &[],
    };
    let loaded = source::load(input.clone());
    let faults = loaded.faults.iter().map(ToString::to_string).collect::<Vec<_>>();
    let config = Arc::new(loaded.config.unwrap_or_else(|| panic!("{faults:?}")));
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let logging = Logging::build(&config.reloadable.log, io::sink(), Reader::Unknown, Arc::clone(&clock)).unwrap();
    let tls = rehearse(&config).unwrap();
    let app = App::bind(config, tls).unwrap().reloading_from(input, logging.control().clone());
    let (commands, receiver) = control::commands();
    let daemon = Daemon { commands: commands.clone(), view: app.views() };
    let mut phases = app.phases();
    let running = spawn_local(app.run_with(Tasks, clock, logging.access_log(), commands, receiver));
    phases.wait_for(|phase| *phase == Phase::Running).await.unwrap();
    world.set_listening(true);
    (daemon, running, logging)
}

/// Ends the daemon, and then the clients and servers.
async fn end(world: &World, daemon: &Daemon, running: JoinHandle<Result<(), StartError>>) {
    world.note("event: SIGTERM");
    world.set_listening(false);
    daemon.commands.shut_down();
    let began = world.clock.elapsed();
    match timeout(DRAIN + Duration::from_secs(1), running).await {
        Ok(Ok(Ok(()))) => {}
        Ok(ended) => {
            let ended = ended.map(|ended| ended.map_err(|error| error.to_string()));
            world.break_promise(format!("the daemon ended as {ended:?}"));
        }
        Err(_) => world.break_promise("the daemon has not ended in time".to_owned()),
    }
    let drained = world.clock.elapsed().saturating_sub(began) < DRAIN;
    world.note(&format!("event: the daemon has ended, drained: {drained}"));
    world.ledger(|ledger, at| {
        if drained {
            ledger.withdraw_all(at, "the daemon has ended");
        } else {
            // The process would be gone, with what is left in it; here its tasks go on.
            ledger.close();
        }
    });
    world.end_clients();
    // They hear that the daemon has gone, give up, and end.
    sleep(Duration::from_secs(400)).await;
    world.release_silent();
    sleep(Duration::from_secs(1)).await;
}

/// Once no client is left, no permit is taken.
fn nothing_is_held(world: &World, daemon: &Daemon) {
    let view = daemon.view.borrow();
    for api in &view.apis {
        let taken = api.request_limit.taken();
        if taken > 0 {
            world.break_promise(format!("{taken} requests are in flight, and there is no client"));
        }
    }
}

/// A certificate that nobody uses: the system's own would take longer to read than all the rest.
fn roots() -> &'static str {
    static ROOTS: LazyLock<String> = LazyLock::new(|| rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.pem());
    &ROOTS
}

#[expect(clippy::disallowed_methods, reason = "a test's own parameters")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays every fourth seed from `first` on, each twice.
fn play_all(first: u64) {
    if let Some(seed) = number("SIDECAR_SIM_SEED") {
        if first == seed % 4 {
            let outcome = play(seed);
            println!("{}\n{:?}", outcome.trace.join("\n"), outcome.counts);
            assert!(outcome.broken.is_empty(), "seed {seed}: {:#?}", outcome.broken);
        }
        return;
    }
    let mut all = Counts::default();
    let seeds = number("SIDECAR_SIM_SEEDS").unwrap_or(200);
    for seed in (first..seeds).step_by(4) {
        let outcome = play(seed);
        let from = outcome.trace.len().saturating_sub(150);
        assert!(outcome.broken.is_empty(), "seed {seed}: {:#?}\n{}", outcome.broken, outcome.trace[from..].join("\n"));
        let again = play(seed);
        if let Some(at) = outcome.trace.iter().zip(&again.trace).position(|(one, other)| one != other) {
            let [one, other] = [&outcome.trace, &again.trace].map(|trace| trace[at.saturating_sub(10)..=at].join("\n"));
            panic!("seed {seed} is another one the second time:\n{one}\n--\n{other}");
        }
        assert_eq!(outcome.trace.len(), again.trace.len(), "seed {seed}");
        all = all.and(outcome.counts);
    }
    println!("{all:?}");
    // A few seeds may miss something.
    assert!(seeds < 200 || all.is_varied(), "{all:?}");
}

#[test]
fn the_first_quarter_of_the_seeds_breaks_no_promise_and_repeats_itself() {
    play_all(0);
}

#[test]
fn the_second_quarter_of_the_seeds_does_so_too() {
    play_all(1);
}

#[test]
fn the_third_quarter_of_the_seeds_does_so_too() {
    play_all(2);
}

#[test]
fn the_last_quarter_of_the_seeds_does_so_too() {
    play_all(3);
}
