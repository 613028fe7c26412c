//! Runs the whole daemon for checks that play its clients and its upstream.
//!
//! Client and upstream are played by one thread, so that nothing arrives late.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{Arc, mpsc as threads},
    thread,
};

use careportals_sidecar::{
    app::{self, App},
    clock::SystemClock,
    config::{Log, LogFormat},
    logging::Reader,
    proxy::RequestLimit,
    status::Phase,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::shared::{LEAST, config, logs};

/// The token that the log-in gives.
pub const TOKEN: &str = "tok3n.of.ours";
/// How long a silence is that something waits for.
const SILENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 4_000_000 };
/// Whoever still waits after this many silences hangs.
pub const HANGS: usize = 5000;

/// A daemon that runs for the rest of the process.
pub struct Daemon {
    pub address: SocketAddr,
    /// Requests in flight.
    pub request_limit: RequestLimit,
}

impl Daemon {
    /// Starts a daemon of one worker and waits until it serves. `upstream`: its authority. `further`: variables.
    pub fn start(upstream: &str, further: &[(&str, &str)]) -> Self {
        let login = serve_logins();
        let (upstream, login) = (format!("http://{upstream}"), format!("http://{login}/patient/auth"));
        let own = [
            ("CAREPORTALS_UPSTREAM", &*upstream),
            ("CAREPORTALS_LOGIN_URL", &*login),
            ("CAREPORTALS_LISTEN", "127.0.0.1:0"),
            ("CAREPORTALS_TELEMETRY_LISTEN", "off"),
            ("CAREPORTALS_CONTROL_SOCKET", "off"),
            ("CAREPORTALS_WORKERS", "1"),
            ("CAREPORTALS__HARDENING", "off"),
            ("CAREPORTALS__APIS__DEFAULT__ALLOW_INSECURE_UPSTREAM", "true"),
            ("CAREPORTALS__ACCOUNTS__DEFAULT__ASSUMED_LIFE", "3650d"),
        ];
        let config = config(&[&LEAST[..], &own, further].concat());
        let tls = app::rehearse(&config).expect("no files");
        let app = App::bind(Arc::new(config), tls).expect("free ports");
        let address = app.addresses().next().and_then(|(_, address)| address.parse().ok()).expect("an address");
        Self { address, request_limit: run(app) }
    }
}

/// Runs the daemon for the rest of the process, once it serves.
fn run(app: App) -> RequestLimit {
    let (ready, running) = threads::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let log = Log { filter: "error".to_owned(), format: LogFormat::Json, access: true };
        let logging = logs(&log, std::io::sink(), Reader::Unknown, Arc::new(SystemClock));
        let (commands, given) = careportals_sidecar::control::commands();
        let (mut phases, views) = (app.phases(), app.views());
        runtime.block_on(async {
            let started = async {
                let _ = phases.wait_for(|phase| *phase == Phase::Running).await;
                let _ = ready.send(views.borrow().apis[0].request_limit.clone());
                std::future::pending::<()>().await;
            };
            tokio::select! {
                ended = app.run(Arc::new(SystemClock), logging.access_log(), commands.clone(), given) => panic!("the daemon ended: {ended:?}"),
                () = started => {}
            }
        });
    });
    running.recv().expect("the daemon runs")
}

/// Answers each log-in, for the rest of the process.
fn serve_logins() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            answer_login(&stream);
        }
    });
    address
}

fn answer_login(mut stream: &TcpStream) {
    let (mut asked, mut buffer) = (Vec::new(), [0; 4096]);
    // The body is an object, and nothing follows it.
    while !asked.ends_with(b"}") {
        match stream.read(&mut buffer) {
            Ok(read) if read > 0 => asked.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    let body = format!("{{\"token\":\"{TOKEN}\"}}");
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
}

/// Whether something happened before the silence got long: at the upstream's sockets, or at the client's. `client`: with what
/// is waited for.
pub fn something_happens(listener: &TcpListener, upstream: &[&TcpStream], client: Option<(&TcpStream, PollFlags)>) -> bool {
    let of_upstream = upstream.iter().map(|stream| stream.as_fd()).chain([listener.as_fd()]);
    let mut all: Vec<PollFd<'_>> = of_upstream.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    all.extend(client.map(|(client, flags)| PollFd::from_borrowed_fd(client.as_fd(), flags)));
    poll(&mut all, Some(&SILENCE)).is_ok_and(|ready| ready > 0)
}

/// Reads what is there. Whether it was the end.
pub fn read_all(stream: &mut TcpStream, to: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(read) => to.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Whether it is a token of RFC 9110, as names and methods are.
pub fn is_name(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

pub fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|found| found == part)
}
