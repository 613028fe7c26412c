//! Takes over changed settings while requests run: all of them, or none.
//!
//! Preparing comes first: it reads and judges the settings and the files that they name, and changes nothing. A shutdown
//! ends it, and a file that does not answer holds up nobody. Then listeners are bound, which may fail, and accounts and
//! workers take over. Two things may still fail, and are logged: a socket's mode, and a worker's accept loop. Requests in
//! flight keep the settings that they started with.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::timeout;
use tracing::{error, info, warn};

use super::{
    StartError, accounts,
    daemon::{CLOSE_IDLE, Daemon, ReloadSource, unless_shut_down},
    listeners::{Adjustments, Key, Limits, ListenerPlan, PassedSocket},
    snapshot::{Snapshot, required_headers},
    start::{judge, trust},
    worker::SWITCH_MAX,
};
use crate::{
    config::{
        Config,
        source::{self, Fault},
    },
    control::{CommandReceiver, NotReloaded, ReloadOutcome},
    metrics::Reload,
    proxy::Required,
    resources::blocking,
    tls::ClientTls,
};

/// How long all files that the settings name may take together. It is longer than one may take, which is then named.
const FILES_MAX: Duration = Duration::from_secs(15);

/// Why settings were not taken over.
#[derive(Debug)]
enum Refused {
    /// They are wrong.
    Invalid(Vec<Fault>),
    /// A restart is needed for what they change: for each change, the subject of a sentence.
    NeedsRestart(Vec<String>),
    /// A file can't be loaded, or a listener can't be bound.
    Unusable(StartError),
    /// The daemon was not told where its settings are.
    NoSettings,
    /// The files that they name were not read in time.
    FilesTimedOut,
    /// A shutdown came first.
    Stopping,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(faults) => match faults.as_slice() {
                [one] => one.fmt(f),
                faults => write!(f, "{} faults in the settings", faults.len()),
            },
            Self::NeedsRestart(changes) => match changes.as_slice() {
                [one] => f.write_str(&needs_restart(one)),
                changes => write!(f, "{} changes need a restart", changes.len()),
            },
            Self::Unusable(error) => error.fmt(f),
            Self::NoSettings => f.write_str("this daemon keeps the settings of its start: under `exec` they are not read again"),
            Self::FilesTimedOut => write!(f, "the files that the settings name were not read within {} s", FILES_MAX.as_secs()),
            Self::Stopping => f.write_str("the daemon is stopping"),
        }
    }
}

impl Refused {
    /// Each reason, in words.
    fn reasons(&self) -> Vec<String> {
        match self {
            Self::Invalid(faults) => faults.iter().map(ToString::to_string).collect(),
            Self::NeedsRestart(changes) => changes.iter().map(|change| needs_restart(change)).collect(),
            Self::Unusable(_) | Self::NoSettings | Self::FilesTimedOut | Self::Stopping => vec![self.to_string()],
        }
    }
}

/// Tells which APIs have no `allow` or no `deny` any more, as after a reload of a file that was cut off.
fn warn_of_lost_rules(before: &Config, now: &Config) {
    for api in &now.apis {
        let Some(known) = before.apis.iter().find(|known| known.name == api.name) else { continue };
        for (rules, are_lost) in
            [("allow", known.allow.is_some() && api.allow.is_none()), ("deny", !known.deny.is_empty() && api.deny.is_empty())]
        {
            if are_lost {
                warn!(api = api.name, rules, "the reload has taken rules away: more requests pass than before");
            }
        }
    }
}

fn needs_restart(change: &str) -> String {
    format!("{change} needs a restart")
}

impl From<StartError> for Refused {
    fn from(error: StartError) -> Self {
        Self::Unusable(error)
    }
}

/// New settings that were read and judged. Nothing has changed yet.
struct Prepared {
    config: Arc<Config>,
    tls: ClientTls,
    plan: ListenerPlan,
    adjustments: Adjustments,
    /// The required header of each API.
    required: Vec<Option<Required>>,
    /// A value in effect stands in the settings file.
    has_file_keys: bool,
}

/// What preparing looks at. It owns it, since it runs on a thread of its own and may be given up.
struct Preparation {
    source: ReloadSource,
    before: Arc<Snapshot>,
    passed: Vec<PassedSocket>,
    /// Key and name of each listener that is open.
    open: Vec<(Key, String)>,
}

impl Daemon {
    /// Reads the settings again and takes them over. The outcome is logged. Until the settings are known to be good, a
    /// shutdown ends the reload, and `commands` keeps it for the next look; log-outs are carried out meanwhile.
    pub(super) async fn reload(&mut self, commands: &mut CommandReceiver) -> ReloadOutcome {
        let outcome = match unless_shut_down(self.prepare(), commands, async |asked| self.log_out(asked, CLOSE_IDLE).await).await
        {
            Some(Ok(prepared)) => self.apply(prepared).await,
            Some(Err(refused)) => Err(refused),
            None => Err(Refused::Stopping),
        };
        match outcome {
            Ok(()) => {
                self.metrics.reloaded(Reload::Done);
                info!("reloaded");
                Ok(())
            }
            Err(refused) => {
                self.metrics.reloaded(Reload::Refused);
                let reasons = refused.reasons();
                // A single one is told below.
                for fault in reasons.iter().filter(|_| reasons.len() > 1) {
                    error!("{fault}");
                }
                error!(reason = %refused, "not reloaded: nothing has changed");
                Err(NotReloaded(reasons))
            }
        }
    }

    /// Everything that may take long, or that only reads. Dropping the future changes nothing.
    async fn prepare(&self) -> Result<Prepared, Refused> {
        let preparation = Preparation {
            source: self.reload_source.clone().ok_or(Refused::NoSettings)?,
            before: Arc::clone(&self.snapshot),
            passed: self.passed.sockets.clone(),
            open: self.listeners.iter().map(|listener| (listener.key().clone(), listener.bound.name.clone())).collect(),
        };
        // Each file has a time limit of its own; links and directories on the way to one have only this.
        let judged = timeout(FILES_MAX, blocking(move || preparation.judge())).await;
        let judged = judged.map_err(|_| Refused::FilesTimedOut)?;
        let prepared = judged.map_err(StartError::System)??;
        let required = required_headers(&prepared.config, Some(&self.snapshot)).await;
        Ok(Prepared { required, ..prepared })
    }

    /// Binds the new listeners, which may fail, and then serves by the new settings. It takes a moment only.
    async fn apply(&mut self, prepared: Prepared) -> Result<(), Refused> {
        let Prepared { config, tls, plan, adjustments, required, has_file_keys } = prepared;
        let present: Vec<Key> = self.listeners.iter().map(|listener| listener.key().clone()).collect();
        let listeners = plan.open(&config, &present, &mut self.passed, &self.descriptors.shared).map_err(StartError::Listener)?;
        let ready = async {
            let descriptors = self.workers.descriptors(&listeners).map_err(StartError::System)?;
            let accounts = accounts::reconfigure(&self.snapshot.accounts, &config, &tls, &self.clock, &self.metrics).await?;
            Ok((descriptors, accounts))
        };
        let (descriptors, accounts) = match ready.await {
            Ok(ready) => ready,
            Err(refused) => {
                self.passed.put_back(listeners);
                return Err(refused);
            }
        };
        let mut apis_by_listener = plan.apis_by_listener(&self.listeners);
        apis_by_listener.extend(plan.apis_by_listener(&listeners));
        let limits = Limits::of(&config, &apis_by_listener, self.workers.count(), self.descriptors.allowed);
        limits.set(&self.listeners, 0);
        limits.set(&listeners, self.listeners.len());
        let apis = config.apis.iter().zip(&limits.requests).zip(required);
        let shared =
            apis.map(|((api, requests), required)| self.snapshot.shared_of(api, *requests, &self.metrics, required)).collect();
        let snapshot = Arc::new(Snapshot { config, tls, accounts, shared, apis_by_listener });
        if !self.workers.serve_by(&snapshot, descriptors, SWITCH_MAX).await {
            warn!("a worker is stuck: it takes the new settings over as soon as it goes on");
        }
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        warn_of_lost_rules(&before.config, &self.snapshot.config);
        let first_new = self.listeners.len();
        self.listeners.extend(listeners);
        adjustments.make(&mut self.listeners);
        if let Some(source) = &mut self.reload_source {
            source.input.needs_file_keys = has_file_keys;
            // The filter is one of the settings, so it has been judged.
            drop(source.log.adopt(&self.snapshot.config.reloadable.log));
        }
        self.snapshot.count_client_errors(&self.listeners);
        self.view.send_replace(self.snapshot.view(&self.listeners));
        self.snapshot.announce(&self.listeners, first_new);
        accounts::end_the_rest(&before.accounts, &self.snapshot.accounts).await;
        Ok(())
    }
}

impl Preparation {
    /// Reads the settings and the files that they name. Blocks. The required headers are still to be read.
    fn judge(self) -> Result<Prepared, Refused> {
        let mut loaded = source::load(self.source.input.clone());
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        let Some(config) = loaded.config.take().map(Arc::new) else {
            judge(&mut loaded);
            return Err(Refused::Invalid(loaded.faults));
        };
        self.judge_read(&config, loaded.has_file_keys()).map_err(|refused| match refused {
            Refused::Unusable(error) if error.is_configuration() => {
                error.explain(&config, &mut loaded);
                Refused::Invalid(loaded.faults)
            }
            other => other,
        })
    }

    fn judge_read(&self, config: &Arc<Config>, has_file_keys: bool) -> Result<Prepared, Refused> {
        let changed = self.before.config.restart_only.changed(&config.restart_only);
        let mut for_restart: Vec<String> = changed.map(|name| format!("a changed `{name}`")).collect();
        if let Some(sandbox) = &self.source.sandbox {
            let files: Vec<_> = self.source.input.files().collect();
            let outside = sandbox.outside(config, files.iter().map(PathBuf::as_path));
            for_restart.extend(outside.iter().map(ToString::to_string));
        }
        let plan = ListenerPlan::of(config, &self.passed).map_err(StartError::Listener)?;
        let keys: Vec<&Key> = self.open.iter().map(|(key, _)| key).collect();
        for_restart.extend(plan.missing(&keys).map(|missing| format!("to stop listening on {}", self.open[missing].1)));
        if !for_restart.is_empty() {
            return Err(Refused::NeedsRestart(for_restart));
        }
        let read_anew = trust(config)?;
        // Unchanged TLS files keep the old value, and with it connections and sessions.
        let unchanged = read_anew.is_like(&self.before.tls);
        let tls = if unchanged { self.before.tls.clone() } else { read_anew };
        let adjustments = Adjustments::new(config, &plan.apis_of(&keys)).map_err(StartError::Listener)?;
        Ok(Prepared { config: Arc::clone(config), tls, plan, adjustments, required: Vec::new(), has_file_keys })
    }
}
