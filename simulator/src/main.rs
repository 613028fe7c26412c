//! The program: flags in, one line when ready, until it is told to stop.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use careportals_simulator::{LoginFault, Options, Simulator, parse_duration};
use clap::Parser;

/// For each step of a health check.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

/// An offline stand-in for the CarePortals API, with invented people only.
#[derive(Parser)]
#[command(version)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
struct Flags {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Where to write the certificate authority to trust, in PEM.
    #[arg(long, value_name = "FILE")]
    ca_out: Option<PathBuf>,
    /// Where the admin port listens (plain HTTP, on loopback); without it there is none.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Let the admin port listen beyond loopback and be called from there, as in a container.
    #[arg(long, requires = "admin")]
    admin_open: bool,
    /// Ask the admin port of one that runs whether it is up, and exit with 0 or 1; for containers' health checks.
    #[arg(long, requires = "admin")]
    healthcheck: bool,
    /// A name or address of the certificate beside localhost; may be given several times.
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// The organization of one more user.
    #[arg(long, value_name = "ID", requires_all = ["username", "password"])]
    organization: Option<String>,
    /// That user's name.
    #[arg(long, requires = "organization")]
    username: Option<String>,
    /// That user's password.
    #[arg(long, requires = "organization")]
    password: Option<String>,
    /// How long tokens live.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    token_life: Duration,
    /// How long each call takes.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    latency: Duration,
    /// How long each log-in takes.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    login_delay: Duration,
    /// How many seconds the simulator's clock is ahead; may be negative.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, allow_negative_numbers = true)]
    clock_offset: i64,
    /// What every log-in does instead of answering properly, for instance `status:503`.
    #[arg(long, value_name = "FAULT")]
    login_fault: Option<LoginFault>,
    /// Close connections on which no request was served for so long.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    keep_alive_for: Option<Duration>,
    /// Offer HTTP/2 (the default).
    #[arg(long, overrides_with = "no_http2")]
    http2: bool,
    /// Do not offer HTTP/2.
    #[arg(long)]
    no_http2: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let done = match flags.admin {
        Some(admin) if flags.healthcheck => is_up(admin),
        _ => run(flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("careportals-simulator: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// Asks for the counts, which asking does not change.
fn is_up(admin: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&admin, HEALTH_TIMEOUT)?;
    stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
    stream.write_all(b"GET /counts HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    if status.ends_with(b" 200") { Ok(()) } else { Err(std::io::Error::other("the admin port does not answer as it should")) }
}

fn run(flags: Flags) -> std::io::Result<()> {
    // Before anything can be seen of us: who reads the line may stop us at once.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = {
        let _in_runtime = runtime.enter();
        Stop::listen()?
    };
    let mut options = Options {
        listen: flags.listen,
        admin: flags.admin,
        admin_open: flags.admin_open,
        names: flags.name,
        token_life: flags.token_life,
        http2: flags.http2 || !flags.no_http2,
        keep_alive_for: flags.keep_alive_for,
        ..Options::default()
    };
    if let (Some(organization), Some(username), Some(password)) = (flags.organization, flags.username, flags.password) {
        options.credentials.push((organization, username, password));
    }
    let simulator = Simulator::start(options)?;
    let control = simulator.control();
    control.set_latency(flags.latency);
    control.set_login_delay(flags.login_delay);
    control.set_clock_offset(flags.clock_offset);
    control.set_login_fault(flags.login_fault);
    if let Some(file) = &flags.ca_out {
        std::fs::write(file, simulator.ca_pem())
            .map_err(|fault| std::io::Error::new(fault.kind(), format!("{}: {fault}", file.display())))?;
    }
    let admin = simulator.admin_address().map(|admin| format!(", admin on http://{admin}"));
    println!("careportals-simulator listens on https://{}{}", simulator.address(), admin.unwrap_or_default());
    runtime.block_on(stop.asked());
    simulator.stop();
    Ok(())
}

/// The signals that end the program.
#[cfg(unix)]
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Stop {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn asked(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The signals that end the program.
#[cfg(not(unix))]
struct Stop;

#[cfg(not(unix))]
impl Stop {
    fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn asked(self) {
        // Without the signal the program ends when it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
