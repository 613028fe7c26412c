//! Reloads settings while requests run: all of them, or none.
//!
//! [`Daemon::prepare`] does everything that may be refused, and changes nothing that is in force: it judges the settings,
//! makes every connector once, and binds new listeners. Then accounts and workers take over. One step of that still returns
//! an error, an account whose connector can't be made; it does not happen, because `prepare` made the same connector before.
//! Requests in flight keep the settings that they started with.

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
    /// A restart is needed for what they change: the subject of the sentence.
    NeedsRestart(String),
    /// A file can't be loaded, or a listener can't be bound.
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

/// Everything that a reload needs to take over, made before anything changes.
struct Prepared {
    config: Arc<Config>,
    tls: ClientTls,
    /// The indices of the APIs that each listener serves: the present listeners first, then the new ones.
    apis_by_listener: Vec<Vec<usize>>,
    listeners: Vec<Listener>,
    /// A copy of each new listener's descriptor, for each worker.
    descriptors: Vec<Vec<Listener>>,
    adjustments: Adjustments,
}

impl Daemon {
    /// Reads the settings again, takes them over, and logs the outcome.
    ///
    /// # Errors
    ///
    /// Every reason why the settings were refused; nothing has changed then.
    pub(super) async fn reload(&mut self) -> Result<(), NotReloaded> {
        match self.take_over_settings().await {
            Ok(()) => {
                self.metrics.reloaded(Reload::Done);
                info!("reloaded");
                Ok(())
            }
            Err(refused) => {
                self.metrics.reloaded(Reload::Refused);
                // A single fault is the reason in the line below.
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
            drop(source.log.adopt(&self.snapshot.config.log()));
        }
        self.view.send_replace(self.snapshot.view(&self.listeners));
        self.snapshot.announce(&self.listeners, first_new);
        accounts::end_the_rest(&before.accounts, &self.snapshot.accounts).await;
        Ok(())
    }

    /// Does everything that may be refused.
    fn prepare(&mut self, config: Config) -> Result<Prepared, Refused> {
        let before = &self.snapshot.config;
        if let Some(what) = before.restart_only.changed(&config.restart_only) {
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
        // With the same roots and certificate, connections and TLS sessions are kept.
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

/// Loads the settings on a blocking thread, so that a slow file system holds up no task.
async fn read(input: Input) -> Result<Config, Refused> {
    let loaded = tokio::task::spawn_blocking(move || source::load(input)).await;
    let loaded = loaded.map_err(|error| StartError::System(error.into()))?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    loaded.config.ok_or(Refused::Invalid(loaded.faults))
}
