//! Starts and stops a [`Simulator`] with its [`Options`].
//!
//! It uses the listeners and the state. A simulator has one thread and one runtime; both end when it is stopped or dropped.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket},
    sync::oneshot,
};

#[cfg(feature = "import")]
use crate::admin::RouteImport;
use crate::{
    admin::{self, Admin},
    authority::Authority,
    control::Control,
    record::RequestListener,
    server,
    state::{DEMO_USERS, Settings, SimulatorState},
    tls::TlsConfigs,
};

/// How many connections the kernel queues.
const BACKLOG: u32 = 1024;

/// What has to be done before connections are accepted.
pub type Preparation = Arc<dyn Fn(&Control, &str) -> io::Result<()> + Send + Sync>;

/// The options of a start. [`Control`] can change the credentials, `token_life` and `http2` later.
#[derive(Clone)]
pub struct Options {
    /// The address to listen on; port 0 takes a free port.
    pub listen: SocketAddr,
    /// The address of the admin port, if there is one; it must be loopback unless `admin_open` is set.
    pub admin: Option<SocketAddr>,
    /// Whether the admin port may listen and be called beyond loopback, as in a container with a network of its own.
    pub admin_open: bool,
    /// More names for the certificate, beside `localhost`, `127.0.0.1` and `::1`.
    pub names: Vec<String>,
    /// The users: organization, user name and password of each.
    pub credentials: Vec<(String, String, String)>,
    /// How long tokens live. Only whole seconds count, since `exp` has no fractions.
    pub token_life: Duration,
    /// Whether HTTP/2 is offered in ALPN.
    pub http2: bool,
    /// After this time a connection without a request in flight is closed; `None` keeps it open.
    pub keep_alive_for: Option<Duration>,
    /// Is called before connections are accepted, with the control and the certificate authority in PEM; its error ends the start.
    pub prepare: Option<Preparation>,
    /// Is told of each request that is over.
    pub on_request: Option<RequestListener>,
    /// A certificate authority to use in place of a throw-away one.
    pub authority: Option<Authority>,
    /// Whether the admin port takes routes and OpenAPI documents.
    #[cfg(feature = "import")]
    pub import: Option<RouteImport>,
}

impl Default for Options {
    fn default() -> Self {
        let user = |(organization, username, password): (&str, &str, &str)| {
            (organization.to_owned(), username.to_owned(), password.to_owned())
        };
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            admin: None,
            admin_open: false,
            names: Vec::new(),
            credentials: DEMO_USERS.map(user).to_vec(),
            token_life: Duration::from_secs(3600),
            http2: true,
            keep_alive_for: None,
            prepare: None,
            on_request: None,
            authority: None,
            #[cfg(feature = "import")]
            import: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("listen", &self.listen)
            .field("admin", &self.admin)
            .field("admin_open", &self.admin_open)
            .field("names", &self.names)
            .field("users", &self.credentials.len())
            .field("token_life", &self.token_life)
            .field("http2", &self.http2)
            .field("keep_alive_for", &self.keep_alive_for)
            .finish_non_exhaustive()
    }
}

/// A running simulator, on a thread and a runtime of its own. Dropping it stops it.
pub struct Simulator {
    control: Control,
    ca_pem: String,
    admin: Option<SocketAddr>,
    thread: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl Simulator {
    /// Starts a simulator; it accepts connections when this returns.
    ///
    /// # Errors
    ///
    /// An address that cannot be bound, an admin address beyond loopback without `admin_open`, a name that no certificate can
    /// hold, an error of `prepare`, or a system that has no threads or no randomness.
    pub fn start(options: Options) -> io::Result<Self> {
        if !options.admin_open && options.admin.is_some_and(|admin| !admin.ip().is_loopback()) {
            return Err(io::Error::other("the admin port must be on a loopback address, or opened"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (listener, admin_listener) = {
            let _in_runtime = runtime.enter();
            (bind(options.listen)?, options.admin.map(bind).transpose()?)
        };
        let address = listener.local_addr()?;
        let admin = admin_listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        names.extend(options.names);
        let authority = options.authority.map_or_else(Authority::throw_away, Ok)?;
        let tls = TlsConfigs::for_names(names, &authority)?;
        let ca_pem = tls.ca_pem.clone();
        let settings = Settings {
            token_life: options.token_life,
            credentials: options
                .credentials
                .into_iter()
                .map(|(organization, username, password)| ((organization, username), password))
                .collect(),
            http2: options.http2,
            ..Settings::default()
        };
        let state = Arc::new(SimulatorState::new(address, options.keep_alive_for, options.on_request, settings)?);
        let control = Control(Arc::clone(&state));
        // The kernel queues clients that connect meanwhile, and a health check waits.
        if let Some(prepare) = &options.prepare {
            prepare(&control, &ca_pem)?;
        }
        let (stop, stopped) = oneshot::channel();
        let admin_port = Admin {
            open: options.admin_open,
            control: control.clone(),
            ca_pem: ca_pem.clone(),
            #[cfg(feature = "import")]
            import: options.import,
        };
        let thread = std::thread::Builder::new().name("careportals-sim".to_owned()).spawn(move || {
            runtime.block_on(async {
                if let Some(listener) = admin_listener {
                    tokio::spawn(admin::serve(listener, admin_port));
                }
                tokio::select! {
                    never = server::accept(listener, tls, state) => match never {},
                    // The sender is used or dropped when the simulator stops.
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { control, ca_pem, admin, thread: Some((stop, thread)) })
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.control.0.address
    }

    /// The address of the admin port, if there is one.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The origin for clients: `https://localhost:PORT`.
    #[must_use]
    pub fn base_url(&self) -> String {
        self.control.0.base_url()
    }

    /// The certificate authority to trust, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The handle that controls it.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Calls [`Control::drop_connections`].
    pub fn drop_connections(&self) {
        self.control.drop_connections();
    }

    /// Calls [`Control::pause_accepting`].
    pub fn pause_accepting(&self, pause: bool) {
        self.control.pause_accepting(pause);
    }

    /// Stops it; the listener and all connections are closed when this returns.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            // Both fail only if the thread has panicked, which the panic hook has reported.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.end();
    }
}

/// Binds a listener whose backlog has room for hundreds of clients that connect at once.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    let in_words = |error: io::Error| io::Error::new(error.kind(), format!("can't listen on {address}: {error}"));
    socket.bind(address).and_then(|()| socket.listen(BACKLOG)).map_err(in_words)
}
