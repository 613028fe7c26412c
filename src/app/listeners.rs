//! Binds the listening sockets and decides which APIs each of them serves.
//!
//! A listener stays open as long as the daemon runs, and workers know it by its index. A reload may add listeners, and may
//! change which APIs a listener serves.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tracing::warn;

use super::listener_error::{ListenerError, OPEN_DIRECTORY_HINT, open_directory};
use crate::{
    config::{Api, Config, ControlSocket, Listen},
    descriptors::{Demand, Descriptors},
    origin::is_loopback,
    server::{
        BindError, Bound, ConnectionBalancer, ConnectionLimit, DirectoryAccess, Passed, SharedDescriptors, SocketAccess,
        WITHOUT_PLACE, bind_tcp, bind_unix, check_path, missing_directory, passed_sockets,
    },
};

/// A listening socket.
pub(super) struct Listener {
    key: Key,
    pub(super) bound: Bound,
    /// Shared by all workers.
    pub(super) connection_limit: ConnectionLimit,
    /// Likewise.
    pub(super) balancer: ConnectionBalancer,
    access: Option<SocketAccess>,
}

/// Identifies a listener across reloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Tcp(SocketAddr),
    /// Port 0 of an API: the API's name, and the address's index in its `listen`.
    AnyPort(String, usize),
    Unix(PathBuf),
    /// Index among the sockets that the service manager passed.
    Passed(usize),
}

/// The listeners that a configuration asks for, each with its APIs as indexes into [`Config::apis`].
pub(super) struct ListenerPlan(Vec<(Key, Vec<usize>)>);

/// The sockets that the service manager passed to the process.
pub(super) struct PassedSockets {
    pub(super) sockets: Vec<PassedSocket>,
    /// In the order of `sockets`; `None` once an API listens on it.
    left: Vec<Option<Bound>>,
}

/// Name and address of a passed socket.
#[derive(Clone)]
pub(super) struct PassedSocket {
    name: String,
    address: Option<SocketAddr>,
}

impl PassedSockets {
    /// Takes the passed sockets; a process can do so once.
    pub(super) fn take(names: &[String]) -> io::Result<Self> {
        let passed = passed_sockets(names)?;
        let split =
            |passed: Passed| (PassedSocket { name: passed.name, address: passed.bound.tcp_address() }, Some(passed.bound));
        let (sockets, left) = passed.into_iter().map(split).unzip();
        Ok(Self { sockets, left })
    }

    /// Takes back those of listeners that will not be served after all.
    pub(super) fn put_back(&mut self, listeners: Vec<Listener>) {
        for Listener { key, bound, .. } in listeners {
            if let Key::Passed(index) = key
                && let Some(left) = self.left.get_mut(index)
            {
                *left = Some(bound);
            }
        }
    }

    /// The names of the sockets that no API listens on.
    pub(super) fn unused(&self) -> impl Iterator<Item = &str> {
        let both = self.sockets.iter().zip(&self.left);
        both.filter(|(_, left)| left.is_some()).map(|(socket, _)| socket.name.as_str())
    }
}

impl ListenerPlan {
    /// Assigns each API to the listeners that its `listen` names.
    pub(super) fn of(config: &Config, passed: &[PassedSocket]) -> Result<Self, ListenerError> {
        let mut plan = Self(Vec::new());
        for (index, api) in config.apis.iter().enumerate() {
            for (at, listen) in api.listen.iter().enumerate() {
                match listen {
                    Listen::Tcp { address, .. } => plan.add(Key::tcp(api, at, *address), index),
                    Listen::Unix(path) => plan.add(Key::Unix(path.clone()), index),
                    Listen::Systemd => {
                        for (socket, address) in passed_to(config, api, passed) {
                            let outside = address.filter(|address| !is_loopback(address.ip()));
                            if let Some(address) = outside.filter(|_| !api.allow_non_loopback) {
                                return Err(ListenerError::NotLoopback(api.name.clone(), address));
                            }
                            plan.add(Key::Passed(socket), index);
                        }
                    }
                }
            }
            if api.listen.contains(&Listen::Systemd) && passed_to(config, api, passed).next().is_none() {
                return Err(ListenerError::NotPassed(api.name.clone()));
            }
        }
        plan.check_passed(config, passed)?;
        Ok(plan)
    }

    fn add(&mut self, key: Key, api: usize) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, apis)) => apis.push(api),
            None => self.0.push((key, vec![api])),
        }
    }

    /// APIs that share a listener need a prefix each. For configured addresses the settings were checked; which APIs share a
    /// passed socket is known only here.
    fn check_passed(&self, config: &Config, passed: &[PassedSocket]) -> Result<(), ListenerError> {
        for (key, apis) in &self.0 {
            let Key::Passed(index) = key else { continue };
            let prefixes: Vec<_> = apis.iter().map(|api| config.apis[*api].prefix.as_ref()).collect();
            let distinct = |at: usize| prefixes[at].is_some() && !prefixes[..at].contains(&prefixes[at]);
            if apis.len() > 1 && !(0..prefixes.len()).all(distinct) {
                return Err(ListenerError::Ambiguous(passed[*index].name.clone()));
            }
        }
        Ok(())
    }

    /// The indexes of the open listeners `keys` that this configuration no longer has.
    pub(super) fn missing(&self, keys: &[&Key]) -> impl Iterator<Item = usize> {
        let is_missing = |open: &&Key| !self.0.iter().any(|(key, _)| key == *open);
        keys.iter().enumerate().filter(move |(_, open)| is_missing(open)).map(|(index, _)| index)
    }

    /// For each of `listeners`, its APIs.
    pub(super) fn apis_by_listener(&self, listeners: &[Listener]) -> Vec<Vec<usize>> {
        self.apis_of(&listeners.iter().map(|listener| &listener.key).collect::<Vec<_>>())
    }

    /// For each of the listeners `keys`, its APIs.
    pub(super) fn apis_of(&self, keys: &[&Key]) -> Vec<Vec<usize>> {
        let apis = |key: &Key| self.0.iter().find(|(known, _)| known == key).map(|(_, apis)| apis.clone());
        keys.iter().map(|key| apis(key).unwrap_or_default()).collect()
    }

    /// Opens the listeners that are not among `present`. Their connection limits are set by [`Limits`].
    pub(super) fn open(
        &self,
        config: &Config,
        present: &[Key],
        passed: &mut PassedSockets,
        descriptors: &SharedDescriptors,
    ) -> Result<Vec<Listener>, ListenerError> {
        let mut listeners = Vec::new();
        let absent = self.0.iter().filter(|(key, _)| !present.contains(key));
        // Binding can fail, taking a passed socket can't: bound first, no passed socket is taken for nothing.
        let (passed_on, own): (Vec<_>, Vec<_>) = absent.partition(|(key, _)| matches!(key, Key::Passed(_)));
        for (key, apis) in own.into_iter().chain(passed_on) {
            let api = &config.apis[apis[0]];
            // The machine lacks the family of a default address, which the line `listening` says.
            let Some((bound, access)) = open(key, api, passed)? else { continue };
            let connection_limit = descriptors.limit(max_connections(config, apis));
            listeners.push(Listener {
                key: key.clone(),
                bound,
                connection_limit,
                balancer: ConnectionBalancer::default(),
                access,
            });
        }
        if listeners.is_empty() && present.is_empty() { Err(ListenerError::NoListener) } else { Ok(listeners) }
    }
}

impl Listener {
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// A duplicate descriptor for one worker.
    pub(super) fn for_worker(&self) -> io::Result<Self> {
        let (key, connection_limit, balancer) = (self.key.clone(), self.connection_limit.clone(), self.balancer.clone());
        Ok(Self { key, bound: self.bound.try_clone()?, connection_limit, balancer, access: self.access })
    }
}

impl Key {
    /// The listener of the address that stands at index `at` of the `listen` of `api`.
    fn tcp(api: &Api, at: usize, address: SocketAddr) -> Self {
        if address.port() == 0 { Self::AnyPort(api.name.clone(), at) } else { Self::Tcp(address) }
    }
}

/// The addresses of `api` that are not among the `open` listeners: default ones whose family the machine lacks.
pub(super) fn skipped(api: &Api, open: &[Listener]) -> impl Iterator<Item = SocketAddr> {
    api.listen.iter().enumerate().filter_map(|(at, listen)| {
        let Listen::Tcp { address, .. } = listen else { return None };
        let key = Key::tcp(api, at, *address);
        (!open.iter().any(|listener| listener.key == key)).then_some(*address)
    })
}

/// The largest `max_connections` of the APIs: a connection is accepted before it says which API it is for.
fn max_connections(config: &Config, apis: &[usize]) -> usize {
    apis.iter().map(|api| config.apis[*api].max_connections).max().unwrap_or_default()
}

/// The passed sockets for an API: those with its name, or else those that no API's name fits.
fn passed_to<'a>(
    config: &'a Config,
    api: &'a Api,
    passed: &'a [PassedSocket],
) -> impl Iterator<Item = (usize, Option<SocketAddr>)> {
    let named = passed.iter().any(|socket| socket.name == api.name);
    let fits = move |name: &str| if named { name == api.name } else { config.apis.iter().all(|other| other.name != name) };
    passed.iter().enumerate().filter(move |(_, socket)| fits(&socket.name)).map(|(index, socket)| (index, socket.address))
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
            if check_directory(api, path)? == DirectoryAccess::Sticky {
                let socket = path.display();
                warn!(api = api.name, %socket, "everybody may write to the socket's directory, so another program can come first");
            }
            let bound = bind_unix(path, access).map_err(ListenerError::Bind)?;
            Ok(Some((bound, Some(access))))
        }
        Key::Passed(index) => Ok(passed.left.get_mut(*index).and_then(Option::take).map(|bound| (bound, None))),
    }
}

/// What is to be said of the Unix sockets before they are bound.
#[derive(Default)]
pub(super) struct CheckedSockets {
    /// What keeps the daemon from listening there.
    pub(super) faults: Vec<ListenerError>,
    /// What may go wrong: for each, the setting, the words and a hint.
    pub(super) warnings: Vec<(String, String, &'static str)>,
}

impl CheckedSockets {
    fn judge(&mut self, access: Result<DirectoryAccess, ListenerError>, key: String, path: &Path) {
        match access {
            Ok(DirectoryAccess::Sticky) => self.warnings.push((key, open_directory(path), OPEN_DIRECTORY_HINT)),
            Ok(_) => {}
            Err(fault) => self.faults.push(fault),
        }
    }

    /// Warns of a directory that is missing. What starts the daemon may make it before.
    fn look_for_directory(&mut self, key: &str, path: &Path) {
        let missing = missing_directory(path);
        self.warnings.extend(missing.map(|error| (key.to_owned(), error.message(), error.hint().unwrap_or_default())));
    }
}

/// Checks that the groups exist which may open Unix sockets, that not everybody may replace the sockets, that for control among
/// them, and that each has a place of its own.
pub(super) fn check_sockets(config: &Config) -> CheckedSockets {
    let mut checked = CheckedSockets::default();
    let mut known: Vec<(PathBuf, &Path, String)> = Vec::new();
    if let ControlSocket::Path(path) = &config.restart_only.control_socket {
        known.push((true_path(path), Path::new(""), "`control_socket`".to_owned()));
    }
    for api in &config.apis {
        if api.listen.iter().any(|listen| matches!(listen, Listen::Unix(_))) {
            checked.faults.extend(access(api).err());
        }
        for listen in &api.listen {
            let Listen::Unix(path) = listen else { continue };
            let true_path = true_path(path);
            // APIs may share a socket, by the same name.
            let same = known.iter().find(|(other, written, _)| *other == true_path && written != path);
            let is_other = match same {
                Some((.., other)) => Err(ListenerError::SameFile(api.name.clone(), path.clone(), other.clone())),
                None => check_path(path).map_err(|error| ListenerError::InTheWay(listen_of(api), error)),
            };
            known.push((true_path, path, format!("`{}` of API `{}`", path.display(), api.name)));
            checked.faults.extend(is_other.err());
            checked.judge(check_directory(api, path), listen_of(api), path);
            checked.look_for_directory(&listen_of(api), path);
        }
    }
    if let ControlSocket::Path(path) = &config.restart_only.control_socket {
        let access = DirectoryAccess::of_own(path).unwrap_or(DirectoryAccess::Closed);
        let key = "control_socket".to_owned();
        checked.judge(unless_open(access, &key, path), key.clone(), path);
        checked.look_for_directory(&key, path);
        let in_the_way = |error: BindError| ListenerError::InTheWay(key, error.of_setting("control_socket"));
        checked.faults.extend(check_path(path).map_err(in_the_way).err());
    }
    checked
}

/// The path of a socket without links to its directory.
fn true_path(path: &Path) -> PathBuf {
    let directory = path.parent().and_then(|directory| directory.canonicalize().ok());
    directory.zip(path.file_name()).map_or_else(|| path.to_owned(), |(directory, name)| directory.join(name))
}

/// The setting of an API's addresses.
fn listen_of(api: &Api) -> String {
    format!("apis.{}.listen", api.name)
}

/// Looks at the directory of an API's socket. That of one that is not there is found out when the socket is bound.
fn check_directory(api: &Api, path: &Path) -> Result<DirectoryAccess, ListenerError> {
    let access = DirectoryAccess::of(path).unwrap_or(DirectoryAccess::Closed);
    unless_open(access, &listen_of(api), path)
}

fn unless_open(access: DirectoryAccess, key: &str, path: &Path) -> Result<DirectoryAccess, ListenerError> {
    let is_open = access == DirectoryAccess::Open;
    if is_open { Err(ListenerError::OpenDirectory(key.to_owned(), path.to_owned())) } else { Ok(access) }
}

fn access(api: &Api) -> Result<SocketAccess, ListenerError> {
    let access = SocketAccess::new(api.socket_mode, api.socket_group.as_deref());
    access.map_err(|error| ListenerError::Group(api.name.clone(), error))
}

/// The limits of a configuration, as far as the process's descriptors allow.
pub(super) struct Limits {
    /// One for each listener.
    connections: Vec<usize>,
    /// Of requests in flight, one for each API.
    pub(super) requests: Vec<usize>,
}

impl Limits {
    /// Shares the descriptors out. Where they do not suffice for what the settings want, the log says so once.
    pub(super) fn of(config: &Config, apis_by_listener: &[Vec<usize>], workers: usize, descriptors: Descriptors) -> Self {
        let wanted = apis_by_listener.iter().map(|apis| max_connections(config, apis)).collect();
        let requests = config.apis.iter().map(|api| api.max_requests).collect();
        let demand = Demand { workers, without_place: WITHOUT_PLACE, connections: wanted, requests };
        let (connections, requests) = descriptors.share(&demand);
        if (&connections, &requests) != (&demand.connections, &demand.requests) {
            let fewest = |limits: &[usize]| limits.iter().copied().min().unwrap_or_default();
            warn!(
                descriptors = descriptors.count(),
                max_connections = fewest(&connections),
                max_requests = fewest(&requests),
                "the process may have too few file descriptors for `max_connections` and `max_requests`, which are lowered (raise LimitNOFILE= or `ulimit -Hn`)"
            );
        }
        Self { connections, requests }
    }

    /// Sets the connection limits of `listeners`, the first of which has this index among all.
    pub(super) fn set(&self, listeners: &[Listener], first: usize) {
        for (listener, limit) in listeners.iter().zip(self.connections.iter().skip(first)) {
            listener.connection_limit.set_limit(*limit);
        }
    }
}

/// Changes to open listeners: the access to their Unix sockets.
pub(super) struct Adjustments(Vec<(usize, Option<SocketAccess>)>);

impl Adjustments {
    /// Collects the changes; nothing is changed yet.
    ///
    /// # Errors
    ///
    /// A `socket_group` does not exist.
    pub(super) fn new(config: &Config, apis_by_listener: &[Vec<usize>]) -> Result<Self, ListenerError> {
        let of = |(listener, apis): (usize, &Vec<usize>)| {
            let first = apis.first().map(|api| access(&config.apis[*api])).transpose()?;
            Ok((listener, first))
        };
        apis_by_listener.iter().enumerate().map(of).collect::<Result<_, _>>().map(Self)
    }

    /// Makes the changes. A socket whose mode can't be changed keeps its mode, which is logged.
    pub(super) fn make(self, listeners: &mut [Listener]) {
        for (index, access) in self.0 {
            let Some(listener) = listeners.get_mut(index) else { continue };
            if let (Key::Unix(_), Some(access)) = (&listener.key, access)
                && listener.access != Some(access)
            {
                match listener.bound.set_access(access) {
                    Ok(()) => listener.access = Some(access),
                    Err(error) => warn!(listener = listener.bound.name, %error, "the socket's mode stays as it was"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture::settings;

    const UPSTREAM: &str = "upstream = \"https://api.example\"\n";

    fn config(apis: &str) -> Config {
        settings(apis).config.unwrap()
    }

    fn passed(name: &str, address: &str) -> PassedSocket {
        PassedSocket { name: name.to_owned(), address: (!address.is_empty()).then(|| address.parse().unwrap()) }
    }

    /// The plan in short: each key with its APIs; or why there is none.
    fn planned(config: &Config, passed: &[PassedSocket]) -> Result<Vec<(String, Vec<usize>)>, String> {
        let plan = ListenerPlan::of(config, passed).map_err(|error| error.to_string())?;
        Ok(plan.0.into_iter().map(|(key, apis)| (format!("{key:?}"), apis)).collect())
    }

    #[test]
    fn apis_share_an_address_and_never_a_free_port() {
        let two = |listen: &str| {
            let api = |name: &str| format!("[apis.{name}]\n{UPSTREAM}prefix = \"/{name}\"\nlisten = [{listen}]\n");
            config(&format!("{}{}", api("a"), api("b")))
        };
        let shared = planned(&two("\"127.0.0.1:1\", \"unix:/run/a.sock\""), &[]).unwrap();
        let expected = [("Tcp(127.0.0.1:1)", vec![0, 1]), ("Unix(\"/run/a.sock\")", vec![0, 1])];
        assert_eq!(shared, expected.map(|(key, apis)| (key.to_owned(), apis)));
        let own = planned(&two("\"127.0.0.1:0\", \"127.0.0.1:0\""), &[]).unwrap();
        let expected = [("a", 0, 0), ("a", 1, 0), ("b", 0, 1), ("b", 1, 1)];
        assert_eq!(own, expected.map(|(name, at, api)| (format!("AnyPort({name:?}, {at})"), vec![api])));
    }

    #[test]
    fn two_names_of_one_unix_socket_are_a_fault_and_so_is_something_else_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let (real, link) = (real.display(), link.display());
        let checked = |first: &str, second: &str, control: Option<&str>| {
            let api =
                |name: &str, path: &str| format!("[apis.{name}]\n{UPSTREAM}prefix = \"/{name}\"\nlisten = [\"unix:{path}\"]\n");
            let mut config = config(&format!("{}{}", api("a", first), api("b", second)));
            config.restart_only.control_socket = control.map_or(ControlSocket::Off, |path| ControlSocket::Path(path.into()));
            check_sockets(&config).faults.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (at_real, at_link) = (format!("{real}/s"), format!("{link}/s"));
        assert_eq!(checked(&at_real, &at_real, None), Vec::<String>::new());
        let twice = checked(&at_real, &at_link, None);
        assert_eq!(twice, [format!("apis.b.listen: unix:{at_link} is also `{at_real}` of API `a`: one socket can't be both")]);
        let control = checked(&at_real, &at_real, Some(&at_link));
        let both =
            ["a", "b"].map(|api| format!("apis.{api}.listen: unix:{at_real} is also `control_socket`: one socket can't be both"));
        assert_eq!(control, both);
        let in_the_way = checked(&at_real, &real.to_string(), None);
        assert!(in_the_way.len() == 1 && in_the_way[0].contains("a directory is there"), "{in_the_way:?}");
    }

    #[test]
    fn a_passed_socket_is_for_the_api_of_its_name_or_for_those_that_no_name_fits() {
        let api = |name: &str, more: &str| format!("[apis.{name}]\n{UPSTREAM}listen = [\"systemd\"]\n{more}\n");
        let prefixed = |name: &str| api(name, &format!("prefix = \"/{name}\""));
        let two = config(&format!("{}{}", prefixed("a"), prefixed("b")));
        let keys = |found: Result<Vec<(String, Vec<usize>)>, String>| {
            found.map(|keys| keys.into_iter().map(|(key, apis)| (key.replace("Passed", ""), apis)).collect::<Vec<_>>())
        };
        let plan = |config: &Config, sockets: &[PassedSocket]| keys(planned(config, sockets));
        let (a, b, other) = (passed("a", ""), passed("b", "127.0.0.1:1"), passed("unit.socket", ""));
        let of = |pairs: &[(&str, &[usize])]| Ok(pairs.iter().map(|(key, apis)| ((*key).to_owned(), apis.to_vec())).collect());
        assert_eq!(plan(&two, &[a.clone(), b.clone()]), of(&[("(0)", &[0]), ("(1)", &[1])]));
        assert_eq!(plan(&two, &[a.clone(), other.clone()]), of(&[("(0)", &[0]), ("(1)", &[1])]));
        assert_eq!(plan(&two, std::slice::from_ref(&other)), of(&[("(0)", &[0, 1])]));
        let none = plan(&two, std::slice::from_ref(&a)).unwrap_err();
        assert!(none.starts_with("apis.b.listen: systemd passed no socket for it"), "{none}");
        // Without a prefix each, a socket for both would leave open which one is meant.
        let one_prefix = config(&format!("{}{}", prefixed("a"), api("b", "")));
        let none_prefix = config(&format!("{}{}", api("a", ""), api("b", "")));
        let same = config(&format!("{}{}", api("a", "prefix = \"/x\""), api("b", "prefix = \"/x\"")));
        for ambiguous in [one_prefix, none_prefix, same] {
            let said = plan(&ambiguous, std::slice::from_ref(&other)).unwrap_err();
            assert!(said.starts_with("the socket \"unit.socket\" that systemd passed could be for several APIs"), "{said}");
            assert!(plan(&ambiguous, &[a.clone(), b.clone()]).is_ok(), "each has its own");
        }
        assert!(plan(&config(&api("a", "")), std::slice::from_ref(&other)).is_ok(), "one API needs no prefix");
    }

    #[test]
    fn a_passed_socket_that_other_machines_reach_needs_permission() {
        let api = |more: &str| config(&format!("[apis.a]\n{UPSTREAM}listen = [\"systemd\"]\n{more}"));
        for (address, is_outside) in [
            ("127.0.0.1:1", false),
            ("127.9.9.9:1", false),
            ("[::1]:1", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("0.0.0.0:1", true),
            ("10.0.0.1:1", true),
        ] {
            let socket = [passed("a", address)];
            let refused = planned(&api(""), &socket).err();
            let said = format!("apis.a.listen: systemd passed {address}, which is not a loopback address");
            assert_eq!(refused.is_some_and(|why| why.starts_with(&said)), is_outside, "{address}");
            let permitted = api("allow_non_loopback = true\nallowed_hosts = [\"a\"]\n");
            assert!(planned(&permitted, &socket).is_ok(), "{address}");
        }
    }

    #[test]
    fn each_open_listener_that_settings_no_longer_have_is_missing() {
        let plan = ListenerPlan::of(&config(&format!("[apis.a]\n{UPSTREAM}listen = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n")), &[])
            .unwrap();
        let key = |port: u16| Key::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
        let [one, two, three, four] = [1, 2, 3, 4].map(key);
        assert_eq!(plan.missing(&[&one, &two]).count(), 0);
        assert_eq!(plan.missing(&[&two]).count(), 0);
        assert_eq!(plan.missing(&[&one, &three, &four]).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(plan.apis_of(&[&two, &three]), [vec![0], vec![]]);
    }

    #[test]
    fn an_address_lets_in_as_many_as_the_api_that_wants_most() {
        let api = |name: &str, most: u32| format!("[apis.{name}]\n{UPSTREAM}prefix = \"/{name}\"\nmax_connections = {most}\n");
        let config = config(&format!("{}{}{}", api("a", 7), api("b", 9), api("c", 8)));
        assert_eq!(max_connections(&config, &[0, 1, 2]), 9);
        assert_eq!(max_connections(&config, &[0, 2]), 8);
    }
}
