//! Listening sockets, and which APIs are apis_by_listener each.
//!
//! A listener stays for as long as the daemon runs: its place in the list is its name for the workers. A reload may add some,
//! and may change which APIs are apis_by_listener one.

use std::{fmt, io, net::SocketAddr, path::PathBuf};

use tracing::{info, warn};

use crate::{
    config::{Api, Config, Listen},
    server::{BindError, Bound, ConnectionLimit, NoSuchGroup, Passed, SocketAccess, bind_tcp, bind_unix, passed_sockets},
};

/// A socket that clients connect to.
pub(super) struct Listener {
    key: Key,
    pub(super) bound: Bound,
    /// Connections, over all workers.
    pub(super) connection_limit: ConnectionLimit,
    access: Option<SocketAccess>,
}

/// What makes a listener of one configuration that of the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Tcp(SocketAddr),
    /// Port 0: whichever it became, it is that API's, by the address's place in its list.
    AnyPort(String, usize),
    Unix(PathBuf),
    /// The place among the sockets that were passed to us.
    Passed(usize),
}

/// The listeners of a configuration: each with the APIs apis_by_listener it, as places in [`Config::apis`].
pub(super) struct ListenerPlan(Vec<(Key, Vec<usize>)>);

/// What the service manager passed to us.
pub(super) struct PassedSockets {
    pub(super) places: Vec<PassedSocket>,
    /// As `places`; those that no API has taken yet.
    left: Vec<Option<Bound>>,
}

/// A passed socket, as far as a layout needs to know it.
pub(super) struct PassedSocket {
    name: String,
    address: Option<SocketAddr>,
}

impl PassedSockets {
    /// Once in a process.
    pub(super) fn take(names: &[String]) -> io::Result<Self> {
        let passed = passed_sockets(names)?;
        let place =
            |passed: Passed| (PassedSocket { name: passed.name, address: passed.bound.tcp_address() }, Some(passed.bound));
        let (places, left) = passed.into_iter().map(place).unzip();
        Ok(Self { places, left })
    }

    /// The names of those that nobody listens on.
    pub(super) fn unused(&self) -> impl Iterator<Item = &str> {
        let both = self.places.iter().zip(&self.left);
        both.filter(|(_, left)| left.is_some()).map(|(place, _)| place.name.as_str())
    }
}

/// Why the listeners can't be as the settings want them.
#[derive(Debug)]
pub enum ListenerError {
    /// An address can't be used.
    Bind(BindError),
    /// `socket_group` of an API.
    Group(String, NoSuchGroup),
    /// There is no address left to listen on.
    NoListener,
    /// The service manager passed none to an API that listens on such.
    NotPassed(String),
    /// A passed socket could be for several APIs.
    Ambiguous(String),
    /// A passed socket is reachable from other machines.
    NotLoopback(String, SocketAddr),
}

impl fmt::Display for ListenerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => error.fmt(f),
            Self::Group(api, error) => write!(f, "apis.{api}.socket_group: {error}\n  hint: {}", NoSuchGroup::HINT),
            Self::NoListener => {
                f.write_str("none of the addresses to listen on exists on this machine\n  hint: set CAREPORTALS_LISTEN")
            }
            Self::NotPassed(api) => write!(
                f,
                "apis.{api}.listen: systemd passed no socket for it\n  hint: start the .socket unit; FileDescriptorName= says which API a socket is for"
            ),
            Self::Ambiguous(socket) => write!(
                f,
                "the socket {socket:?} that systemd passed could be for several APIs\n  hint: give it an API's name with FileDescriptorName=, or each API a prefix"
            ),
            Self::NotLoopback(api, address) => write!(
                f,
                "apis.{api}.listen: systemd passed {address}, which is not a loopback address: whoever reaches it can use the token\n  hint: listen on 127.0.0.1 or a Unix socket, or set allow_non_loopback"
            ),
        }
    }
}

impl std::error::Error for ListenerError {}

impl ListenerPlan {
    pub(super) fn of(config: &Config, passed: &[PassedSocket]) -> Result<Self, ListenerError> {
        let mut layout = Self(Vec::new());
        for (index, api) in config.apis.iter().enumerate() {
            for (at, listen) in api.listen.iter().enumerate() {
                match listen {
                    Listen::Tcp { address, .. } if address.port() == 0 => layout.add(Key::AnyPort(api.name.clone(), at), index),
                    Listen::Tcp { address, .. } => layout.add(Key::Tcp(*address), index),
                    Listen::Unix(path) => layout.add(Key::Unix(path.clone()), index),
                    Listen::Systemd => {
                        for (place, address) in passed_to(config, api, passed) {
                            let outside = address.filter(|address| !address.ip().to_canonical().is_loopback());
                            if let Some(address) = outside.filter(|_| !api.allow_non_loopback) {
                                return Err(ListenerError::NotLoopback(api.name.clone(), address));
                            }
                            layout.add(Key::Passed(place), index);
                        }
                    }
                }
            }
            if api.listen.contains(&Listen::Systemd) && passed_to(config, api, passed).next().is_none() {
                return Err(ListenerError::NotPassed(api.name.clone()));
            }
        }
        layout.check_passed(config, passed)?;
        Ok(layout)
    }

    fn add(&mut self, key: Key, api: usize) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, apis)) => apis.push(api),
            None => self.0.push((key, vec![api])),
        }
    }

    /// Others that share a listener have a prefix each: the settings were checked for that. Of these only now is known who shares.
    fn check_passed(&self, config: &Config, passed: &[PassedSocket]) -> Result<(), ListenerError> {
        for (key, apis) in &self.0 {
            let Key::Passed(place) = key else { continue };
            let prefixes: Vec<_> = apis.iter().map(|api| config.apis[*api].prefix.as_ref()).collect();
            let distinct = |at: usize| prefixes[at].is_some() && !prefixes[..at].contains(&prefixes[at]);
            if apis.len() > 1 && !(0..prefixes.len()).all(distinct) {
                return Err(ListenerError::Ambiguous(passed[*place].name.clone()));
            }
        }
        Ok(())
    }

    /// Doors that this configuration has no more.
    pub(super) fn missing<'a>(&self, listeners: &'a [Listener]) -> Option<&'a Listener> {
        listeners.iter().find(|listener| !self.0.iter().any(|(key, _)| *key == listener.key))
    }

    /// The APIs apis_by_listener each of `listeners`.
    pub(super) fn apis_by_listener(&self, listeners: &[Listener]) -> Vec<Vec<usize>> {
        let apis_by_listener =
            |listener: &Listener| self.0.iter().find(|(key, _)| *key == listener.key).map(|(_, apis)| apis.clone());
        listeners.iter().map(|listener| apis_by_listener(listener).unwrap_or_default()).collect()
    }

    /// Binds what is not among `present`.
    pub(super) fn open(
        &self,
        config: &Config,
        present: &[Key],
        passed: &mut PassedSockets,
    ) -> Result<Vec<Listener>, ListenerError> {
        let mut listeners = Vec::new();
        let absent = self.0.iter().filter(|(key, _)| !present.contains(key));
        // Taking a passed socket can't fail; so none is taken in vain.
        let (passed_on, own): (Vec<_>, Vec<_>) = absent.partition(|(key, _)| matches!(key, Key::Passed(_)));
        for (key, apis) in own.into_iter().chain(passed_on) {
            let api = &config.apis[apis[0]];
            let Some((bound, access)) = open(key, api, passed)? else {
                if let Key::Tcp(listener) = key {
                    info!(api = api.name, %listener, "not listening there: this machine lacks the address family");
                }
                continue;
            };
            let connection_limit = ConnectionLimit::new(max_connections(config, apis));
            listeners.push(Listener { key: key.clone(), bound, connection_limit, access });
        }
        if listeners.is_empty() && present.is_empty() { Err(ListenerError::NoListener) } else { Ok(listeners) }
    }
}

impl Listener {
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Another descriptor of the socket, for one worker.
    pub(super) fn for_worker(&self) -> io::Result<Self> {
        let (key, connection_limit) = (self.key.clone(), self.connection_limit.clone());
        Ok(Self { key, bound: self.bound.try_clone()?, connection_limit, access: self.access })
    }
}

/// The largest that any of them grants: a connection is accepted before it says which API it is for.
fn max_connections(config: &Config, apis: &[usize]) -> usize {
    apis.iter().map(|api| config.apis[*api].limits.max_connections).max().unwrap_or_default()
}

/// Those named after the API; if there are none, those that are named after no API at all.
fn passed_to<'a>(
    config: &'a Config,
    api: &'a Api,
    passed: &'a [PassedSocket],
) -> impl Iterator<Item = (usize, Option<SocketAddr>)> {
    let named = passed.iter().any(|place| place.name == api.name);
    let fits = move |name: &str| if named { name == api.name } else { config.apis.iter().all(|other| other.name != name) };
    passed.iter().enumerate().filter(move |(_, place)| fits(&place.name)).map(|(number, place)| (number, place.address))
}

fn open(key: &Key, api: &Api, passed: &mut PassedSockets) -> Result<Option<(Bound, Option<SocketAccess>)>, ListenerError> {
    let tcp = |listen: &Listen| match listen {
        Listen::Tcp { address, required } => bind_tcp(*address, *required).map_err(ListenerError::Bind),
        Listen::Unix(_) | Listen::Systemd => Ok(None),
    };
    match key {
        Key::Tcp(wanted) => {
            let is_it = |listen: &&Listen| matches!(listen, Listen::Tcp { address, .. } if address == wanted);
            api.listen.iter().find(is_it).map_or(Ok(None), tcp).map(|bound| bound.map(|bound| (bound, None)))
        }
        Key::AnyPort(_, at) => api.listen.get(*at).map_or(Ok(None), tcp).map(|bound| bound.map(|bound| (bound, None))),
        Key::Unix(path) => {
            let access = access(api)?;
            let bound = bind_unix(path, access).map_err(ListenerError::Bind)?;
            Ok(Some((bound, Some(access))))
        }
        Key::Passed(place) => Ok(passed.left.get_mut(*place).and_then(Option::take).map(|bound| (bound, None))),
    }
}

/// Whether there are the groups that may open Unix sockets.
pub(super) fn check_groups(config: &Config) -> Result<(), ListenerError> {
    let on_unix = config.apis.iter().filter(|api| api.listen.iter().any(|listen| matches!(listen, Listen::Unix(_))));
    on_unix.map(access).try_for_each(|access| access.map(drop))
}

fn access(api: &Api) -> Result<SocketAccess, ListenerError> {
    let access = SocketAccess::new(api.socket_mode, api.socket_group.as_deref());
    access.map_err(|error| ListenerError::Group(api.name.clone(), error))
}

/// Changes who may open the Unix sockets that were there before, and how many may come in.
pub(super) struct Adjustments(Vec<(usize, Option<SocketAccess>, usize)>);

impl Adjustments {
    /// Fails for a group that does not exist, before anything is changed.
    pub(super) fn new(config: &Config, apis_by_listener: &[Vec<usize>]) -> Result<Self, ListenerError> {
        let of = |(listener, apis): (usize, &Vec<usize>)| {
            let first = apis.first().map(|api| access(&config.apis[*api])).transpose()?;
            Ok((listener, first, max_connections(config, apis)))
        };
        apis_by_listener.iter().enumerate().map(of).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn make(self, listeners: &mut [Listener]) {
        for (place, access, max_connections) in self.0 {
            let Some(listener) = listeners.get_mut(place) else { continue };
            listener.connection_limit.set_limit(max_connections);
            if let (Key::Unix(path), Some(access)) = (&listener.key, access)
                && listener.access != Some(access)
            {
                match access.apply(path) {
                    Ok(()) => listener.access = Some(access),
                    Err(error) => {
                        warn!(listener = listener.bound.name, error = %error.kind(), "the socket's mode stays as it was")
                    }
                }
            }
        }
    }
}
