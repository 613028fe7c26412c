//! `[apis.NAME]`: an API's settings as they are written, and what they mean.
//!
//! Pure. CONTRIBUTING.md says how to add a setting.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::{
    kinds::{
        AccountName, Between, Count, HeaderSource, Hosts, Id, List, Listeners, Mode, Optional, PathPrefix, PathWord, PresetName,
        RequestHeaders, RequestRule, RequiredHeaderName, Size, Switch, Text, UpstreamUrl, WebOrigin, words,
    },
    measures::{DAY, HOUR, KIB, MIB, MINUTE},
    reader::{SettingsReader, built, table},
    setting::{Key, Kind, Section, Setting, Unset},
};
use crate::{
    config::{AccountId, BaseUrl, Listen, Origin, Source},
    path::{Prefix, Rule},
};

table! {
    /// An API as it is written.
    ApiEntry { name } of Api;

    /// Which API this is: sets `upstream` and the account's `login_url`.
    preset: PresetName = "careportals";
    /// Account whose token it sends.
    account: AccountName = "default";
    /// Base URL; may carry a path prefix.
    upstream: Optional<UpstreamUrl>, Documented("from the preset");
    /// TCP addresses, `unix:/path` or `systemd`; port 0 binds a free port.
    listen: Listeners = ["127.0.0.1:2273", "[::1]:2273"];
    /// Allows addresses other than loopback in `listen`.
    allow_non_loopback: Switch = false;
    /// Path prefix of this API at addresses that it shares with others; stripped before forwarding.
    prefix: Optional<PathPrefix>;
    /// The only requests that pass: `METHOD /a/*/b/**`, matched exactly against the path that upstream gets, base path included.
    allow: Optional<List<RequestRule>>, Shown("everything but log-in paths");
    /// Requests that never pass, in any spelling, even where `allow` lets them.
    deny: List<RequestRule> = [];
    /// Judges and counts by `allow`, `deny` and the canonical form, and refuses nothing for them.
    observe: Switch = false;
    /// Fixed headers that each request gets.
    headers: RequestHeaders = {};
    /// Whether cookies pass, in both directions.
    cookies: Cookies = "strip";
    /// Hosts that clients may name besides loopback's and upstream's, without port; `*` for any.
    allowed_hosts: Hosts = [];
    /// Origins of web pages that may call.
    allowed_origins: List<WebOrigin> = [];
    /// Whether a browser may open what the API serves as a page: by a link, a frame, a form or the address bar.
    allow_navigation: Switch = false;
    /// Header that each request must have, against requests that a server was tricked into; it is not forwarded.
    require_header_name ("require_header.name"): Optional<RequiredHeaderName>;
    /// Value that this header must have: text or a source.
    require_header_value ("require_header.value"): Optional<HeaderSource>, Documented("anything");
    /// User ids that may connect; where `allow_gids` is empty too, all may.
    allow_uids: List<Id> = [];
    /// Group ids that may connect, on Unix sockets.
    allow_gids: List<Id> = [];
    /// Mode of Unix sockets, in octal.
    socket_mode: Mode = "0660";
    /// Group of Unix sockets, by name or number.
    socket_group: Optional<Text>, Shown("the process's");
    /// Further path segments that logs may show.
    path_words: List<PathWord> = [];
    /// Allows plain http to a loopback upstream.
    allow_insecure_upstream: Switch = false;
    /// Protocol towards upstream; `auto` offers HTTP/2.
    http2: Http2 = "off";
    /// Bytes of a request's body that are kept to send it again.
    replay_buffer: Size<0, { 64 * MIB }> = "64KiB";
    /// Whether `Idempotency-Key` makes a request safe to send again.
    retry_idempotency_key: Switch = false;
    /// Limit of requests in flight.
    max_requests: Count<1, 1_000_000> = 1024;
    /// Limit of connections, for each listen address; never more than the process's descriptors allow.
    max_connections: Count<1, 1_000_000> = 4096;
    /// Limit of the bytes in the head of a request or a response.
    max_header_bytes: Size<{ 8 * KIB }, MIB> = "64KiB";
    /// Limit of the header lines in the head of a request or a response.
    max_headers: Count<8, 4096> = 100;
    /// Time limit of a request's head: from accept for the first one, from its first byte for each later one.
    head_timeout: Between<10, { 10 * MINUTE }> = "10s";
    /// Time limit of name, connection and TLS together.
    connect_timeout: Between<10, { 5 * MINUTE }> = "5s";
    /// Time limit from the last byte of the request's body to the response's head.
    response_timeout: Between<10, DAY> = "60s";
    /// Time for which the sender of a body may be silent, and for which the upstream may take nothing of an upload.
    body_idle: Between<10, DAY> = "60s";
    /// Time for which a response of the type `text/event-stream`, or a tunnel, may be silent.
    stream_idle: Between<10, { 30 * DAY }> = "1h";
    /// Time for which a client's connection may be idle between requests.
    client_idle: Between<10, { 30 * DAY }> = "1h";
    /// Time for which a client may take no byte of an answer; 10 s when another client needs its place.
    client_stall: Between<10, DAY> = "5m";
    /// Time for which an upstream connection is kept idle. Under 30 s none is opened ahead of need.
    pool_idle: Between<0, HOUR> = "90s";
    /// Age at which an upstream connection is retired, ±20 %.
    connection_max_age: Between<1000, { 30 * DAY }> = "5m";
}

words! {
    /// Whether cookies pass.
    Cookies {
        /// Neither `Cookie` nor `Set-Cookie` passes: a token may travel in them.
        Strip = "strip",
        /// `Cookie` and `Set-Cookie` pass.
        Pass = "pass",
    }

    /// Whether HTTP/2 is offered to the upstream.
    Http2 {
        /// The sidecar speaks HTTP/1.1 to the upstream.
        Off = "off",
        /// The sidecar offers HTTP/2, and speaks it when the server accepts.
        Auto = "auto",
    }
}

/// The hosts that a request may name, besides those of loopback and of the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedHosts {
    /// A request may name any host.
    Any,
    /// A request may name these hosts. Names are in lower case and have no port.
    Names(Vec<String>),
}

/// A header without which a request is refused.
#[derive(Debug)]
pub struct RequireHeader {
    pub name: HeaderName,
    /// The value that it must have. `None`: any value.
    pub value: Option<Source>,
}

built! {
    /// A base URL with its rules.
    #[derive(Debug)]
    Api of (account: AccountId, api: &ApiEntry, require_header: Option<RequireHeader>) {
        /// The API is called so in the settings, in logs and in metrics: `[a-z0-9-]+`.
        name: String = Some(api.name.clone()),
        /// The account whose bearer it sends.
        account: AccountId = Some(account),
        /// Requests are sent below this URL.
        upstream: BaseUrl = api.upstream.get()?,
        /// Clients connect to these addresses.
        listen: Vec<Listen> = listeners(api),
        /// Whether `listen` may name other than loopback addresses. Of sockets that are passed in, that shows only at start.
        allow_non_loopback: bool = api.allow_non_loopback.get(),
        /// The API shares its addresses with others under this prefix.
        prefix: Option<Prefix> = api.prefix.get(),
        /// `None`: everything but log-in paths.
        allow: Option<Vec<Rule>> = api.allow.get(),
        /// A request that matches one of these rules is refused, even where `allow` lets it pass.
        deny: Vec<Rule> = api.deny.get(),
        /// The rules are judged and counted, and not enforced.
        observe: bool = api.observe.get(),
        cookies: Cookies = api.cookies.get(),
        headers: Vec<(HeaderName, HeaderValue)> = api.headers.get(),
        allowed_hosts: AllowedHosts = api.allowed_hosts.get(),
        /// Pages of these origins may call. An origin is serialized as browsers send it (RFC 6454).
        allowed_origins: Vec<String> = api.allowed_origins.get(),
        /// Whether a browser may open its answers as pages.
        allow_navigation: bool = api.allow_navigation.get(),
        /// A header without which nothing passes.
        require_header: Option<RequireHeader> = Some(require_header),
        /// At most this many bytes of a body are kept, so that its request can be sent again.
        replay_buffer: usize = api.replay_buffer.get(),
        retry_idempotency_key: bool = api.retry_idempotency_key.get(),
        path_words: Vec<String> = api.path_words.get(),
        socket_mode: u32 = api.socket_mode.get(),
        /// The group of Unix sockets, by name or number; `None`: that of the process.
        socket_group: Option<String> = api.socket_group.get(),
        /// Users that may call; where this and `allow_gids` are empty, all may.
        allow_uids: Vec<u32> = api.allow_uids.get(),
        allow_gids: Vec<u32> = api.allow_gids.get(),
        connections: UpstreamSettings = UpstreamSettings::of(api),
        max_requests: usize = api.max_requests.get(),
        max_connections: usize = api.max_connections.get(),
        max_header_bytes: usize = api.max_header_bytes.get(),
        max_headers: usize = api.max_headers.get(),
        head_timeout: Duration = api.head_timeout.get(),
        response_timeout: Duration = api.response_timeout.get(),
        body_idle: Duration = api.body_idle.get(),
        stream_idle: Duration = api.stream_idle.get(),
        client_idle: Duration = api.client_idle.get(),
        client_stall: Duration = api.client_stall.get(),
    }
}

built! {
    /// All that connections to an upstream are made from. A reload keeps connections only where these are equal, so what
    /// opens connections takes this type and no other settings of the API.
    #[derive(Clone, Debug, PartialEq, Eq)]
    UpstreamSettings of (api: &ApiEntry) {
        /// Connections are made to this server.
        origin: Origin = api.upstream.set().map(|upstream| upstream.origin.clone()),
        http2: Http2 = api.http2.get(),
        /// A response whose head has more bytes is refused.
        max_header_bytes: usize = api.max_header_bytes.get(),
        /// A response with more header lines is refused.
        max_headers: usize = api.max_headers.get(),
        connect_timeout: Duration = api.connect_timeout.get(),
        pool_idle: Duration = api.pool_idle.get(),
        connection_max_age: Duration = api.connection_max_age.get(),
    }
}

impl ApiEntry {
    /// The TCP addresses that it listens on.
    pub(super) fn addresses(&self) -> impl Iterator<Item = std::net::SocketAddr> {
        let listeners = self.listen.known().into_iter().flatten();
        listeners.filter_map(|listener| if let Listen::Tcp { address, .. } = listener { Some(*address) } else { None })
    }
}

/// The listeners. A built-in address is not required, since the machine may lack its address family.
fn listeners(api: &ApiEntry) -> Option<Vec<Listen>> {
    let judged = |listener| match listener {
        Listen::Tcp { address, .. } => Listen::Tcp { address, required: api.listen.is_written() },
        other => other,
    };
    Some(api.listen.get()?.into_iter().map(judged).collect())
}
