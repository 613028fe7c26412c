//! The whole daemon in simulation: acceptor, proxy, account, upstream pool, drain and reload, as they are, on one thread and in paused
//! time, between simulated apps and simulated CarePortals servers, while faults and commands come by chance.
//!
//! The daemon is the one that serves users, but for three things (`simulated`): connections lead to simulated servers, blocking work is
//! done where it is asked for, and workers are tasks (`WorkerHost`). Everything is drawn from a seed: the same seed gives the same
//! trace, line by line.
//!
//! `SIDECAR_SIM_SEEDS=10000 cargo test --release --lib app::simulation` plays other numbers of seeds (from `SIDECAR_SIM_FROM` on), and
//! `SIDECAR_SIM_SEED=7` one seed with its trace.
//!
//! Files, each using only those before it: `servers` (which there are, at which addresses, and what they may do), `calls`, `terms` (the
//! settings), `clock`, `certificate`, `panics`, which are facts; `trailers`, `fields`, `ledger`, `upstreams` and `third_account`, which
//! judge by facts alone; `world`, the state that all share, which holds these; `files` (the daemon's settings and credentials), `wire`,
//! `messages` and `frames` (what is on a connection), `machine`; the servers: `log_ins`, `careportals` and `http2`; the clients:
//! `refusals`, `clients`, `raw_calls`, `idle_clients`, `old_clients`, `strange`; `commands`; `third` (a further server, its clients, and
//! its coming and going); `network`, which leads the daemon to the servers; `inspector`, which judges what administrators see;
//! `events`; and what is played once all is well again: `quiet`, `places`, `opening`, `limits`.

mod calls;
mod careportals;
mod certificate;
mod clients;
mod clock;
mod commands;
mod events;
mod fields;
mod files;
mod frames;
mod http2;
mod idle_clients;
mod inspector;
mod ledger;
mod limits;
mod log_ins;
mod machine;
mod messages;
mod network;
mod old_clients;
mod opening;
mod panics;
mod places;
mod quiet;
mod raw_calls;
mod refusals;
mod servers;
mod strange;
mod terms;
mod third;
mod third_account;
mod trailers;
mod upstreams;
mod wire;
mod world;

use std::{
    io,
    sync::{Arc, mpsc::RecvTimeoutError},
    thread,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{JoinHandle, LocalSet, spawn_local},
    time::{sleep, timeout},
};

use self::{
    commands::Daemon,
    inspector::Written,
    ledger::{Counts, Ledger},
    network::Network,
    terms::Limits,
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

/// How long the daemon may take to end once the last call has ended: the rest of a body is read for 5 s, and a head may take 4 s.
const REST: Duration = Duration::from_secs(7);

/// What a seed came to.
struct Outcome {
    trace: Vec<String>,
    broken: Vec<String>,
    counts: Counts,
}

/// What takes longer in real time goes round in a circle: in paused time nothing else takes long.
const ENDLESS: Duration = Duration::from_secs(120);

/// Ends the process if what it gives lives for so long: nothing else stops what goes round in a circle.
fn watch_for_circles(seed: u64) -> std::sync::mpsc::Sender<()> {
    let (playing, played) = std::sync::mpsc::channel();
    thread::spawn(move || {
        if played.recv_timeout(ENDLESS) == Err(RecvTimeoutError::Timeout) {
            println!("BROKEN: seed {seed} has no end");
            std::process::abort();
        }
    });
    playing
}

fn play(seed: u64) -> Outcome {
    let _playing = watch_for_circles(seed);
    fastrand::seed(seed);
    panics::watch();
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let world = runtime.block_on(async { World::new(seed, directory.path()) });
    let _simulated = simulated::enter(Arc::new(Network(Arc::downgrade(&world))));
    runtime.block_on(LocalSet::new().run_until(simulate(&world)));
    // The task of each worker's deadlines ends with its runtime.
    let (left, workers) = (runtime.metrics().num_alive_tasks(), world.terms().workers);
    if left > workers {
        world.break_promise(format!("{} tasks are left at the end, {} of them servers'", left - workers, world.serving()));
    }
    for panic in panics::take() {
        world.ledger(|ledger, at| ledger.break_promise(at, format!("a panic: {panic}")));
    }
    world.ledger(|ledger, _| Outcome { trace: ledger.trace().to_vec(), broken: ledger.broken().to_vec(), counts: ledger.counts })
}

async fn simulate(world: &Arc<World>) {
    let Running { daemon, serving, logging, written } = start(world).await;
    let inspecting = inspector::start(world, &daemon);
    let mut clients: Vec<_> =
        (0..world.draw(1..=6)).map(|number| tokio::spawn(clients::run(Arc::clone(world), number))).collect();
    clients.extend((0..world.draw(0..=3)).map(|_| tokio::spawn(strange::run(Arc::clone(world)))));
    let addresses = [true, false].into_iter().filter(|own| *own || world.has_room());
    clients.extend(addresses.map(|own| tokio::spawn(third::run(Arc::clone(world), own))));
    let time = Duration::from_secs(world.draw(15..=90) as u64);
    events::happen(world, &daemon, time).await;
    let suddenly = world.chance(0.5);
    if !suddenly {
        events::heal(world, &daemon).await;
        world.ledger(Ledger::expect_answers);
        sleep(Duration::from_secs(20)).await;
        world.end_clients();
        for client in clients {
            client.await.unwrap();
        }
        // The daemon hears that the last one has hung up. An answer of its own may have waited its turn for five seconds.
        sleep(Duration::from_secs(7)).await;
        inspector::nothing_is_held(world, &daemon);
        quiet::play(world, &daemon).await;
        places::play(world, &daemon).await;
        opening::play(world, &daemon).await;
        limits::play(world, &daemon).await;
    }
    inspecting.abort();
    let drained = end(world, &daemon, serving).await;
    let unfinished = world.ledger(|ledger, _| ledger.unfinished());
    if !unfinished.is_empty() {
        world.break_promise(format!("calls that have not ended: {unfinished:?}"));
    }
    drop(logging);
    if drained {
        world.ledger(|ledger, at| ledger.judge_lines(at, &written.lines()));
    }
    world.ledger(|ledger, at| {
        ledger.judge_secrets(at, &written.text());
        ledger.judge_events(at, &written.text());
    });
}

/// A daemon that serves.
struct Running {
    daemon: Daemon,
    serving: JoinHandle<Result<(), StartError>>,
    logging: Logging,
    written: Written,
}

/// Starts the daemon, and waits until it serves.
async fn start(world: &Arc<World>) -> Running {
    world.put("organization", "acme");
    world.put("password", "first");
    world.put("roots.pem", &certificate::roots());
    let first = world.state(|state| state.limits);
    let limits = Limits { max_age: first.max_age, ..world.other_limits(first) };
    world.state(|state| state.limits = limits);
    world.put_settings(0, limits);
    if world.chance(0.2) {
        machine::lose_credentials(world, world.milliseconds(1000..=20_000));
    }
    let input = Input {
        config_flag: Some(world.settings()),
        default_file: world.settings(),
        needs_file_keys: true,
        flags: Vec::new(),
        environment: Environment::default(),
        defaults: &[],
    };
    let loaded = source::load(input.clone());
    let faults = loaded.faults.iter().map(ToString::to_string).collect::<Vec<_>>();
    let config = Arc::new(loaded.config.unwrap_or_else(|| panic!("{faults:?}")));
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let written = Written::default();
    let mut logging = Logging::build(&config.reloadable.log, written.clone(), Reader::Unknown, Arc::clone(&clock)).unwrap();
    logging.write().unwrap();
    let tls = rehearse(&config).unwrap();
    let app = App::bind(config, tls).unwrap().reloading_from(input, logging.control().clone());
    let (commands, receiver) = control::commands();
    let status = app.status_reader(&clock, logging.access_log());
    let daemon = Daemon { commands: commands.clone(), view: app.views(), status };
    let mut phases = app.phases();
    let running = spawn_local(app.run_with(Tasks, clock, logging.access_log(), commands, receiver));
    phases.wait_for(|phase| *phase == Phase::Running).await.unwrap();
    world.set_listening(true);
    Running { daemon, serving: running, logging, written }
}

/// Ends the daemon, and then the clients and servers. Returns whether it has drained in time.
async fn end(world: &Arc<World>, daemon: &Daemon, running: JoinHandle<Result<(), StartError>>) -> bool {
    if world.chance(0.2) {
        world.note("event: a reload that nobody waits for");
        world.ledger(Ledger::reload);
        world.upstreams().renew();
        drop(daemon.commands.reload());
    }
    places::wait_through_drain(world).await;
    let mut guests = Vec::new();
    for _ in 0..world.draw(0..=3) {
        guests.push(raw_calls::connect(world, 0).await);
    }
    for _ in 0..if world.has_room() { world.draw(0..=2) } else { 0 } {
        raw_calls::begin_late(world).await;
    }
    // They are accepted.
    sleep(Duration::from_millis(1)).await;
    world.note("event: SIGTERM");
    world.upstreams().drain();
    world.ledger(|ledger, _| ledger.drain());
    let delay = world.terms().drain_delay;
    if delay.is_zero() {
        world.set_listening(false);
    }
    daemon.commands.shut_down();
    let began = world.clock.elapsed();
    for _ in 0..world.draw(0..=3) {
        guests.push(raw_calls::connect(world, 0).await);
    }
    if !delay.is_zero() {
        sleep(Duration::from_millis(100)).await;
        inspector::is_not_ready(world, daemon);
        sleep(delay.saturating_sub(Duration::from_millis(200))).await;
        world.set_listening(false);
    }
    refuses_connections(world);
    let drain_timeout = world.state(|state| state.limits.drain_timeout);
    match timeout(delay + drain_timeout + Duration::from_secs(1), running).await {
        Ok(Ok(Ok(()))) => {}
        Ok(ended) => {
            let ended = ended.map(|ended| ended.map_err(|error| error.to_string()));
            world.break_promise(format!("the daemon ended as {ended:?}"));
        }
        Err(_) => world.break_promise("the daemon has not ended in time".to_owned()),
    }
    let ended = world.clock.elapsed();
    let drained = ended.saturating_sub(began) < delay + drain_timeout;
    world.note(&format!("event: the daemon has ended, drained: {drained}"));
    let (unfinished, last_end) = world.ledger(|ledger, _| (ledger.unfinished(), ledger.last_end()));
    let (third, third_end) = world.third(|third, _| (third.unfinished(), third.last_end()));
    let last_end = last_end.max(third_end);
    if drained && third > 0 {
        world.break_promise(format!("the daemon has ended, and {third} calls to the third API have not"));
    }
    if unfinished.is_empty() && world.is_awake() && ended > last_end.max(began + delay) + REST {
        world.break_promise(format!("the daemon ended at {ended:?}, and the last call at {last_end:?}"));
    }
    world.ledger(|ledger, at| {
        if drained {
            ledger.withdraw_all(at, "the daemon has ended");
        } else {
            // The process would be gone, with what is left in it; here its tasks go on.
            ledger.close();
        }
    });
    world.end_clients();
    drop(guests);
    // They hear that the daemon has gone, give up, and end; so does the daemon's hourly line about clients that speak TLS.
    sleep(Duration::from_secs(3700)).await;
    world.release_silent();
    sleep(Duration::from_secs(1)).await;
    drained
}

/// Soon nobody can connect any more, while requests are still in flight.
fn refuses_connections(world: &Arc<World>) {
    let world = Arc::clone(world);
    tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        if raw_calls::connect(&world, 0).await.is_some() {
            world.break_promise("the daemon drains, and a client can connect".to_owned());
        }
    });
}

#[expect(clippy::disallowed_methods, reason = "a test's own parameters")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Says to the test program that it runs one simulation alone.
const ALONE: &str = "SIDECAR_SIM_ALONE";

/// Runs a test in a process of its own. Another test that starts a program holds copies of all descriptors until the program runs,
/// and so keeps the end of a simulated connection from being seen for a moment, which is no fixed time.
fn run_alone(test: &str) {
    let mut program = std::process::Command::new(std::env::current_exe().unwrap());
    let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    let output = program.args([name.as_str(), "--exact", "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    println!("{said}");
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// So many seeds are played twice, to see that they repeat themselves; the rest of a larger number once.
const TWICE: u64 = 1000;

/// Plays every fourth seed from `first` on. `test`: the name of the caller.
fn play_all(first: u64, test: &str) {
    if let Some(seed) = number("SIDECAR_SIM_SEED") {
        if first == seed % 4 {
            let outcome = play(seed);
            println!("{}\n{:?}", outcome.trace.join("\n"), outcome.counts);
            assert!(outcome.broken.is_empty(), "seed {seed}: {:#?}", outcome.broken);
        }
        return;
    }
    if number(ALONE).is_none() {
        return run_alone(test);
    }
    let (mut all, mut broken) = (Counts::default(), Vec::new());
    let seeds = number("SIDECAR_SIM_SEEDS").unwrap_or(200);
    let from = number("SIDECAR_SIM_FROM").unwrap_or(0) / 4 * 4;
    for seed in (from + first..seeds).step_by(4) {
        if seed % 1000 == first {
            println!("seed {seed}, {} broke a promise", broken.len());
        }
        let outcome = play(seed);
        if !outcome.broken.is_empty() {
            let from = outcome.trace.len().saturating_sub(150);
            println!("seed {seed}: {:#?}\n{}", outcome.broken, outcome.trace[from..].join("\n"));
            broken.push(seed);
        } else if seed < TWICE {
            repeats_itself(seed, &outcome.trace);
        }
        all = all.and(outcome.counts);
    }
    println!("{all:?}");
    assert!(broken.is_empty(), "these seeds broke a promise: {broken:?}");
    // A few seeds may miss something.
    assert!(seeds < from + 200 || all.is_varied(), "{all:?}");
}

/// Plays a seed once more.
fn repeats_itself(seed: u64, trace: &[String]) {
    let again = play(seed).trace;
    if let Some(at) = trace.iter().zip(&again).position(|(one, other)| one != other) {
        let [one, other] = [trace, &again].map(|trace| trace[at.saturating_sub(10)..=at].join("\n"));
        panic!("seed {seed} is another one the second time:\n{one}\n--\n{other}");
    }
    assert_eq!(trace.len(), again.len(), "seed {seed}");
}

#[test]
fn the_first_quarter_of_the_seeds_breaks_no_promise_and_repeats_itself() {
    play_all(0, "the_first_quarter_of_the_seeds_breaks_no_promise_and_repeats_itself");
}

#[test]
fn the_second_quarter_of_the_seeds_does_so_too() {
    play_all(1, "the_second_quarter_of_the_seeds_does_so_too");
}

#[test]
fn the_third_quarter_of_the_seeds_does_so_too() {
    play_all(2, "the_third_quarter_of_the_seeds_does_so_too");
}

#[test]
fn the_last_quarter_of_the_seeds_does_so_too() {
    play_all(3, "the_last_quarter_of_the_seeds_does_so_too");
}
