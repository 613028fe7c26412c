//! What a reload replaces as one piece: the settings, and what all workers share of each account and API.

use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::info;

use super::listeners::{self, Listener};
use crate::{
    account::Account,
    config::{self, Config},
    metrics::{ApiMetrics, Metrics},
    path::Prefix,
    proxy::{ApiHealth, RequestLimit, Required, SeenRequests},
    status::{ApiView, View},
    tls::ClientTls,
    upstream::KeepAlive,
};

/// The settings in force and what belongs to them. Workers build their own state from it.
pub(super) struct Snapshot {
    pub(super) config: Arc<Config>,
    pub(super) tls: ClientTls,
    /// In the order of [`Config::accounts`].
    pub(super) accounts: Vec<Account>,
    /// In the order of [`Config::apis`].
    pub(super) shared: Vec<ApiShared>,
    /// For each listener, its APIs as indexes into [`Config::apis`].
    pub(super) apis_by_listener: Vec<Vec<usize>>,
}

/// What all workers share of one API.
#[derive(Clone)]
pub(super) struct ApiShared {
    pub(super) request_limit: RequestLimit,
    pub(super) observed: SeenRequests,
    pub(super) health: ApiHealth,
    pub(super) metrics: Arc<ApiMetrics>,
    /// How long its upstream keeps connections.
    pub(super) keep_alive: KeepAlive,
    /// The header that clients must send.
    pub(super) required: Option<Required>,
}

impl ApiShared {
    /// For an API that was not served before, with `requests` in flight at most.
    pub(super) fn new(api: &config::Api, requests: usize, metrics: &Metrics, required: Option<Required>) -> Self {
        let request_limit = RequestLimit::new(requests);
        let (observed, health) = (SeenRequests::default(), ApiHealth::default());
        let (metrics, keep_alive) = (metrics.api(&api.name), KeepAlive::default());
        Self { request_limit, observed, health, metrics, keep_alive, required }
    }
}

impl Snapshot {
    /// What status, metrics and readiness read.
    pub(super) fn view(&self, listeners: &[Listener]) -> Arc<View> {
        let apis = self.config.apis.iter().zip(&self.shared).enumerate().map(|(index, (api, shared))| {
            let listens = listeners.iter().zip(&self.apis_by_listener).filter(|(_, apis)| apis.contains(&index));
            ApiView {
                name: api.name.clone(),
                account: self.config.accounts[api.account.0].name.clone(),
                listen: listens.map(|(listener, _)| listener.bound.name.clone()).collect(),
                upstream: api.upstream.to_string(),
                observe: api.observe,
                observed: shared.observed.clone(),
                request_limit: shared.request_limit.clone(),
                health: shared.health.clone(),
                required: shared.required.clone(),
                metrics: Arc::clone(&shared.metrics),
            }
        });
        let listeners = listeners.iter().map(|listener| (listener.bound.name.clone(), listener.connection_limit.clone()));
        let drain = self.config.reloadable.drain_delay + self.config.reloadable.drain_timeout;
        Arc::new(View { apis: apis.collect(), accounts: self.accounts.clone(), listeners: listeners.collect(), drain })
    }

    /// Counts what clients send that is no request for the API of their listener, or for none where several share it.
    pub(super) fn count_client_errors(&self, listeners: &[Listener]) {
        for (listener, apis) in listeners.iter().zip(&self.apis_by_listener) {
            let api = if let [only] = apis[..] { self.config.apis[only].name.as_str() } else { "" };
            listener.connection_limit.count_client_errors_for(api);
        }
    }

    /// Logs each API that has listeners from index `from` on: one line for all of these.
    pub(super) fn announce(&self, listeners: &[Listener], from: usize) {
        for (index, api) in self.config.apis.iter().enumerate() {
            let new = listeners.iter().zip(&self.apis_by_listener).skip(from).filter(|(_, apis)| apis.contains(&index));
            let names: Vec<_> = new.map(|(listener, _)| listener.bound.name.as_str()).collect();
            if names.is_empty() {
                continue;
            }
            let prefix = api.prefix.as_ref().map(Prefix::as_str);
            let upstream = api.upstream.origin.to_string();
            let skipped = some_list(listeners::skipped(api, listeners).map(|address| address.to_string()));
            info!(api = api.name, listener = names.join(","), prefix, upstream, skipped, "listening");
        }
    }

    /// What workers share of the API with this name; `None` when it is not served.
    pub(super) fn shared_as(&self, api: &str) -> Option<&ApiShared> {
        let index = self.config.apis.iter().position(|known| known.name == api)?;
        self.shared.get(index)
    }

    /// What workers share of `api` after a reload: its counts and permits stay, its limit of `requests` and its required header
    /// are the new ones.
    pub(super) fn shared_of(
        &self,
        api: &config::Api,
        requests: usize,
        metrics: &Metrics,
        required: Option<Required>,
    ) -> ApiShared {
        let Some(known) = self.shared_as(&api.name) else { return ApiShared::new(api, requests, metrics, required) };
        known.request_limit.limit_to(requests);
        let mut shared = ApiShared { required, ..known.clone() };
        let same_origin = |before: &config::Api| before.name == api.name && before.connections.origin == api.connections.origin;
        if !self.config.apis.iter().any(same_origin) {
            shared.keep_alive = KeepAlive::default();
            shared.health = known.health.with_other_upstream();
        }
        shared
    }
}

/// The texts with commas between them; `None` if there are none.
fn some_list(texts: impl Iterator<Item = String>) -> Option<String> {
    let texts: Vec<_> = texts.collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

/// Reads the value of each API's `require_header`, all at the same time, since each may be a command that takes a while.
/// `before` is the snapshot in force: a value that can't be read now stays as it was.
pub(super) async fn required_headers(config: &Arc<Config>, before: Option<&Snapshot>) -> Vec<Option<Required>> {
    let mut readings = JoinSet::new();
    for (index, api) in config.apis.iter().enumerate() {
        let known = before.and_then(|snapshot| snapshot.shared_as(&api.name)).and_then(|shared| shared.required.clone());
        let config = Arc::clone(config);
        readings.spawn(async move { (index, Required::begin(&config, index, known.as_ref()).await) });
    }
    let mut required: Vec<Option<Required>> = config.apis.iter().map(|_| None).collect();
    for (index, read) in readings.join_all().await {
        required[index] = read;
    }
    required
}
