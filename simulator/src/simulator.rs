//! Starting and stopping: [`Simulator`] and its [`Options`].

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

use crate::{
    admin,
    control::Control,
    server,
    state::{Settings, Shared},
    tls::Tls,
};

/// How to start. All but the addresses, the names and `keep_alive_for` can be changed later
/// through [`Control`].
#[derive(Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the admin port listens, if there is to be one; loopback only, unless `admin_open`.
    pub admin: Option<SocketAddr>,
    /// Whether the admin port may listen beyond loopback and be called from there, as in a container whose network is its own.
    pub admin_open: bool,
    /// Names of the certificate beside `localhost`, `127.0.0.1` and `::1`.
    pub names: Vec<String>,
    /// Organization, user name and password of each user.
    pub credentials: Vec<(String, String, String)>,
    /// How long tokens live, in whole seconds, as `exp` counts.
    pub token_life: Duration,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
    /// Connections on which no request is served are closed after this time.
    pub keep_alive_for: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        let user = |organization: &str, password: &str| {
            let username = format!("service@{organization}.example.test");
            (organization.to_owned(), username, password.to_owned())
        };
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            admin: None,
            admin_open: false,
            names: Vec::new(),
            credentials: vec![user("demo", "demo-password-1"), user("other", "other-password-1")],
            token_life: Duration::from_secs(3600),
            http2: true,
            keep_alive_for: None,
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
            .finish()
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
    /// Starts one; it accepts connections when this returns.
    ///
    /// # Errors
    ///
    /// An address that cannot be bound, an admin address that is not loopback and not opened, a name that
    /// no certificate can hold, or a system without threads or randomness.
    pub fn start(options: Options) -> io::Result<Self> {
        if !options.admin_open && options.admin.is_some_and(|admin| !admin.ip().is_loopback()) {
            return Err(io::Error::other("the admin port must be on a loopback address, or opened"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (listener, admin_listener) = {
            let _in_runtime = runtime.enter();
            (bound(options.listen)?, options.admin.map(bound).transpose()?)
        };
        let address = listener.local_addr()?;
        let admin = admin_listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        names.extend(options.names);
        let tls = Tls::for_names(names)?;
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
        let shared = Arc::new(Shared::new(address, options.keep_alive_for, settings)?);
        let control = Control(Arc::clone(&shared));
        let (stop, stopped) = oneshot::channel();
        let admin_control = control.clone();
        let admin_pem = ca_pem.clone();
        let thread = std::thread::Builder::new().name("careportals-sim".to_owned()).spawn(move || {
            runtime.block_on(async {
                if let Some(listener) = admin_listener {
                    tokio::spawn(admin::serve(listener, options.admin_open, admin_control, admin_pem));
                }
                tokio::select! {
                    never = server::accept(listener, tls, shared) => match never {},
                    // Also when the simulator was dropped.
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { control, ca_pem, admin, thread: Some((stop, thread)) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.control.0.address
    }

    /// Where the admin port listens, if there is one.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// `https://localhost:PORT`.
    #[must_use]
    pub fn base_url(&self) -> String {
        self.control.0.base_url()
    }

    /// The certificate authority to trust, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The knobs.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// See [`Control::drop_connections`].
    pub fn drop_connections(&self) {
        self.control.drop_connections();
    }

    /// See [`Control::pause_accepting`].
    pub fn pause_accepting(&self, pause: bool) {
        self.control.pause_accepting(pause);
    }

    /// Stops: the listener and all connections are closed when this returns.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            // A thread that has ended already needs no telling, and its panic was reported.
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

/// Binds with a queue that hundreds of clients connecting at once do not overrun.
fn bound(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}
