//! Runs the simulator as a program: parses the flags, prints one line when it is ready, and ends on SIGTERM or Ctrl-C.
//!
//! It uses only what the library makes public. Errors go to standard error, and the exit code is then 1, or 2 for wrong flags.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use careportals_simulator::{
    Authority, Control, LoginFault, Options, RequestLine, RequestListener, RouteImport, Simulator, parse_duration,
};
use clap::Parser;

/// The time-out for each step of a health check.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

/// An offline stand-in for the CarePortals API, with invented people only.
#[derive(Parser)]
#[command(version)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
struct Flags {
    /// Listen on this address; port 0 takes a free port.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Write the certificate authority to trust to this file, in PEM.
    #[arg(long, value_name = "FILE")]
    ca_out: Option<PathBuf>,
    /// Use this certificate authority in place of a throw-away one: its certificate and its key, in PEM.
    #[arg(long, value_name = "FILE")]
    ca_in: Option<PathBuf>,
    /// Answer the routes in this file, in JSON.
    #[arg(long, value_name = "FILE")]
    routes: Option<PathBuf>,
    /// Answer the paths of this OpenAPI 3 document, in JSON or YAML, with its examples.
    #[arg(long, value_name = "FILE")]
    openapi: Option<PathBuf>,
    /// Print one line for each request: method, path of the route, status.
    #[arg(long)]
    log: bool,
    /// Let `POST /users` answer with a token of the patient that it created.
    #[arg(long)]
    new_user_token: bool,
    /// Open the admin port (plain HTTP, on loopback) on this address; without the flag there is none.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Let the admin port listen beyond loopback and be called from there, as in a container.
    #[arg(long, requires = "admin")]
    admin_open: bool,
    /// Ask the admin port of a running simulator whether it is up, and exit with 0 or 1; for health checks of containers.
    #[arg(long, requires = "admin")]
    healthcheck: bool,
    /// Add a name or address to the certificate, beside localhost; may be given several times.
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Add a user of this organization.
    #[arg(long, value_name = "ID", requires_all = ["username", "password"])]
    organization: Option<String>,
    /// That user's name.
    #[arg(long, requires = "organization")]
    username: Option<String>,
    /// That user's password.
    #[arg(long, requires = "organization")]
    password: Option<String>,
    /// Let tokens live this long.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    token_life: Duration,
    /// Let each call take this long.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    latency: Duration,
    /// Let each log-in take this long.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    login_delay: Duration,
    /// Set the simulator's clock this many seconds ahead; may be negative.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, allow_negative_numbers = true)]
    clock_offset: i64,
    /// Let every log-in fail in this way, for instance `status:503`.
    #[arg(long, value_name = "FAULT")]
    login_fault: Option<LoginFault>,
    /// Close connections that had no request in flight for this long.
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
            let is_taken = fault.kind() == std::io::ErrorKind::AddrInUse;
            let hint = if is_taken { "; --listen and --admin take other addresses" } else { "" };
            eprintln!("careportals-simulator: {fault}{hint}");
            ExitCode::FAILURE
        }
    }
}

/// Asks the admin port for the counts, which the question does not change.
fn is_up(admin: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&admin, HEALTH_TIMEOUT)?;
    stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
    stream.write_all(b"GET /counts HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    if status.ends_with(b" 200") { Ok(()) } else { Err(std::io::Error::other("the admin port does not answer as it should")) }
}

fn run(flags: Flags) -> std::io::Result<()> {
    // The signals are caught before the line is printed: a reader of the line may send one at once.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = {
        let _in_runtime = runtime.enter();
        StopSignals::listen()?
    };
    let mut options = Options {
        listen: flags.listen,
        admin: flags.admin,
        admin_open: flags.admin_open,
        names: flags.name.clone(),
        token_life: flags.token_life,
        http2: flags.http2 || !flags.no_http2,
        keep_alive_for: flags.keep_alive_for,
        on_request: flags.log.then(|| Arc::new(print_line) as RequestListener),
        authority: flags.ca_in.as_deref().map(authority).transpose()?,
        import: Some(RouteImport::ALL),
        ..Options::default()
    };
    if let (Some(organization), Some(username), Some(password)) = (&flags.organization, &flags.username, &flags.password) {
        options.credentials.push((organization.clone(), username.clone(), password.clone()));
    }
    options.prepare = Some(Arc::new(move |control, ca_pem| prepare(&flags, control, ca_pem)));
    let simulator = Simulator::start(options)?;
    let admin = simulator.admin_address().map(|admin| format!(", admin on http://{admin}"));
    println!("careportals-simulator listens on https://{}{}", simulator.address(), admin.unwrap_or_default());
    runtime.block_on(stop.received());
    simulator.stop();
    Ok(())
}

/// Does what has to be done before anybody may find the simulator up.
fn prepare(flags: &Flags, control: &Control, ca_pem: &str) -> std::io::Result<()> {
    control.set_latency(flags.latency);
    control.set_login_delay(flags.login_delay);
    control.set_clock_offset(flags.clock_offset);
    control.set_login_fault(flags.login_fault.clone());
    control.set_new_user_token(flags.new_user_token);
    add_routes(control, flags.openapi.as_deref(), flags.routes.as_deref())?;
    match &flags.ca_out {
        Some(file) => std::fs::write(file, ca_pem).map_err(|fault| in_file(file, &fault)),
        None => Ok(()),
    }
}

/// Adds the routes of the two files; those of `routes` may change those of `openapi`.
fn add_routes(control: &Control, openapi: Option<&Path>, routes: Option<&Path>) -> std::io::Result<()> {
    if let Some(file) = openapi {
        let skipped = control.add_openapi(&read(file)?).map_err(|fault| in_file(file, &fault))?;
        for operation in skipped {
            eprintln!("careportals-simulator: {}: skipped {operation}", file.display());
        }
    }
    if let Some(file) = routes {
        let document = serde_json::from_str(&read(file)?).map_err(|fault| in_file(file, &format!("expected JSON: {fault}")))?;
        control.add_routes(&document).map_err(|fault| in_file(file, &fault))?;
    }
    control.keep_added_routes();
    Ok(())
}

fn authority(file: &Path) -> std::io::Result<Authority> {
    Authority::from_pem(&read(file)?).map_err(|fault| in_file(file, &fault))
}

fn read(file: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(file).map_err(|fault| in_file(file, &fault))
}

/// A fault with the file that it is in; each of its lines names the file.
fn in_file(file: &Path, fault: &impl ToString) -> std::io::Error {
    let lines: Vec<String> = fault.to_string().lines().map(|line| format!("{}: {line}", file.display())).collect();
    std::io::Error::other(lines.join("\n"))
}

/// Prints one request.
fn print_line(line: RequestLine<'_>) {
    // A log that nobody reads any more does not end the simulator.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Waits for the signals that end the program: SIGTERM and SIGINT.
#[cfg(unix)]
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl StopSignals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn received(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits for Ctrl-C, which ends the program.
#[cfg(not(unix))]
struct StopSignals;

#[cfg(not(unix))]
impl StopSignals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn received(self) {
        // If the signal cannot be caught, the program runs until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
