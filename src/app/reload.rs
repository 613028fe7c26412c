//! Taking over changed settings while requests run: whole, or not at all.
//!
//! Everything that can fail comes first and changes nothing: reading, judging, trust, binding. Then accounts and workers
//! take over, which can't fail; what is under way ends by the settings it began with.

use std::{fmt, path::PathBuf, sync::Arc};

use tracing::{error, info, warn};

use super::{
    StartError, accounts,
    daemon::{Daemon, ReloadSource},
    listeners::{Adjustments, Key, Listener, ListenerPlan},
    snapshot::{Snapshot, required_headers},
    trust,
};
use crate::{
    config::{
        Config,
        source::{self, Fault, Input},
    },
    control::NotReloaded,
    metrics::Reload,
    tls::ClientTls,
};

/// Why settings were not taken over.
#[derive(Debug)]
enum Refused {
    /// They are wrong.
    Invalid(Vec<Fault>),
    /// They want what only a restart can do.
    NeedsRestart(String),
    /// They want what can't be had.
    Unusable(StartError),
    /// The daemon was not told where its settings are.
    NoSettings,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(faults) => match faults.as_slice() {
                [one] => one.fmt(f),
                faults => write!(f, "{} faults in the settings", faults.len()),
            },
            Self::NeedsRestart(what) => write!(f, "{what} needs a restart"),
            Self::Unusable(error) => error.fmt(f),
            Self::NoSettings => f.write_str("there are no settings to read again"),
        }
    }
}

impl Refused {
    fn reasons(&self) -> NotReloaded {
        NotReloaded(match self {
            Self::Invalid(faults) => faults.iter().map(ToString::to_string).collect(),
            Self::NeedsRestart(_) | Self::Unusable(_) | Self::NoSettings => vec![self.to_string()],
        })
    }
}

impl From<StartError> for Refused {
    fn from(error: StartError) -> Self {
        Self::Unusable(error)
    }
}

/// What was read, judged and opened, and has changed nothing yet.
struct Prepared {
    config: Arc<Config>,
    tls: ClientTls,
    /// Behind the listeners that there are, and the new ones after them.
    apis_by_listener: Vec<Vec<usize>>,
    listeners: Vec<Listener>,
    /// Of the new listeners, for each worker.
    descriptors: Vec<Vec<Listener>>,
    adjustments: Adjustments,
}

impl Daemon {
    /// Reads the settings again and takes them over. What comes of it is logged.
    pub(super) async fn reload(&mut self) -> Result<(), NotReloaded> {
        match self.take_over_settings().await {
            Ok(()) => {
                self.metrics.reloaded(Reload::Done);
                info!("reloaded");
                Ok(())
            }
            Err(refused) => {
                self.metrics.reloaded(Reload::Refused);
                // One is the reason itself.
                if let Refused::Invalid(faults) = &refused
                    && faults.len() > 1
                {
                    for fault in faults {
                        error!("{fault}");
                    }
                }
                error!(reason = %refused, "not reloaded: nothing has changed");
                Err(refused.reasons())
            }
        }
    }

    async fn take_over_settings(&mut self) -> Result<(), Refused> {
        let source = self.reload_source.as_ref().ok_or(Refused::NoSettings)?;
        let config = read(source.input.clone()).await?;
        let Prepared { config, tls, apis_by_listener, listeners, descriptors, adjustments } = self.prepare(config)?;
        // Before anything is served by the new settings: what they require is in force from their first request on.
        let required = required_headers(&config, Some(&self.snapshot)).await;
        let accounts = accounts::take_over(&self.snapshot.accounts, &config, &tls, &self.clock, &self.metrics).await?;
        let apis = config.apis.iter().zip(required);
        let shared = apis.map(|(api, required)| self.snapshot.shared_of(api, &self.metrics, required)).collect();
        let snapshot = Arc::new(Snapshot { config, tls, accounts, shared, apis_by_listener });
        self.workers.take_over(&snapshot, descriptors).await;
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        let first_new = self.listeners.len();
        self.listeners.extend(listeners);
        adjustments.make(&mut self.listeners);
        if let Some(source) = &self.reload_source {
            // The filter is one of the settings, so it has been judged.
            drop(source.log.adopt(&self.snapshot.config.log));
        }
        self.view.send_replace(self.snapshot.view(&self.listeners));
        self.snapshot.announce(&self.listeners, first_new);
        accounts::end_the_rest(&before.accounts, &self.snapshot.accounts).await;
        Ok(())
    }

    /// All that can go wrong.
    fn prepare(&mut self, config: Config) -> Result<Prepared, Refused> {
        let before = &self.snapshot.config;
        if let Some(what) = needs_restart(before, &config) {
            return Err(Refused::NeedsRestart(format!("a changed `{what}`")));
        }
        if let Some(ReloadSource { input, sandbox: Some(sandbox), .. }) = &self.reload_source {
            let files: Vec<_> = input.files().collect();
            let admitted = sandbox.admits(&config, files.iter().map(PathBuf::as_path));
            admitted.map_err(|outside| Refused::NeedsRestart(outside.to_string()))?;
        }
        let plan = ListenerPlan::of(&config, &self.passed.sockets).map_err(StartError::Listener)?;
        if let Some(listener) = plan.missing(&self.listeners) {
            return Err(Refused::NeedsRestart(format!("to stop listening on {}", listener.bound.name)));
        }
        let read_anew = trust(&config)?;
        // Connections and sessions are worth keeping.
        let unchanged = read_anew.is_like(&self.snapshot.tls);
        let tls = if unchanged { self.snapshot.tls.clone() } else { read_anew };
        let present: Vec<Key> = self.listeners.iter().map(|listener| listener.key().clone()).collect();
        let adjustments = Adjustments::new(&config, &plan.apis_by_listener(&self.listeners)).map_err(StartError::Listener)?;
        let listeners = plan.open(&config, &present, &mut self.passed).map_err(StartError::Listener)?;
        let descriptors = self.workers.descriptors(&listeners).map_err(StartError::System)?;
        let mut apis_by_listener = plan.apis_by_listener(&self.listeners);
        apis_by_listener.extend(plan.apis_by_listener(&listeners));
        Ok(Prepared { config: Arc::new(config), tls, apis_by_listener, listeners, descriptors, adjustments })
    }
}

/// On a thread where a slow file system holds up nobody.
async fn read(input: Input) -> Result<Config, Refused> {
    let loaded = tokio::task::spawn_blocking(move || source::load(input)).await;
    let loaded = loaded.map_err(|error| StartError::System(error.into()))?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    loaded.config.ok_or(Refused::Invalid(loaded.faults))
}

/// The first setting that differs and is in effect from start to end.
fn needs_restart(before: &Config, after: &Config) -> Option<&'static str> {
    let differing = [
        ("workers", before.workers != after.workers),
        ("log_format", before.log.format != after.log.format),
        ("telemetry_listen", before.telemetry_listen != after.telemetry_listen),
        ("quitquitquit", before.quitquitquit != after.quitquitquit),
        ("control_socket", before.control_socket != after.control_socket),
        ("control_allow_uids", before.control_allow_uids != after.control_allow_uids),
        ("hardening", before.hardening != after.hardening),
    ];
    differing.into_iter().find_map(|(name, differs)| differs.then_some(name))
}
