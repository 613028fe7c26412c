//! The tasks that show the daemon: telemetry, the control socket, and reports to systemd.
//!
//! They run beside the workers, so they answer while the workers are busy.

use std::{mem, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};
use tracing::info;

use super::{App, worker::Workers};
use crate::{
    control::{self, Commands, OpenedControl},
    status::StatusReader,
    telemetry::{self, Telemetry},
};

/// How long answers in progress may take once the daemon has stopped.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// The running tasks; dropping this aborts them.
pub(super) struct AdminTasks {
    close: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl AdminTasks {
    /// Takes the listeners out of `app` and serves them; what they are told goes to `commands`.
    pub(super) fn start(app: &mut App, workers: &Workers, status: StatusReader, commands: &Commands) -> Self {
        let (close, closing) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let (watching, mut closed) = (status.clone().watch_states(), closing.clone());
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = watching => {}
                _ = closed.wait_for(|closed| *closed) => {}
            }
        });
        if let Some(systemd) = app.systemd.take() {
            tasks.spawn(systemd.tell(status.clone(), workers.liveness(), app.reloads.subscribe()));
        }
        let limit = |most| app.descriptors.shared.limit_of_probes(app.descriptors.allowed.admin(most));
        let control = app.control.told();
        if let OpenedControl::Bound(listener) = mem::replace(&mut app.control, OpenedControl::Off) {
            tasks.spawn(listener.serve(status.clone(), commands.clone(), limit(control::CONNECTIONS), closing.clone()));
        }
        if let Some(listener) = app.telemetry.take() {
            let quit = app.config.restart_only.quitquitquit.then(|| Arc::new(Notify::new()));
            if let Some(quit) = quit.clone() {
                let commands = commands.clone();
                tasks.spawn(async move {
                    quit.notified().await;
                    commands.shut_down();
                });
            }
            info!(listener = %listener.address(), control, "health and metrics");
            let telemetry = Telemetry { status, liveness: workers.liveness(), metrics: Arc::clone(&app.metrics), quit };
            tasks.spawn(listener.serve(telemetry, limit(telemetry::CONNECTIONS), closing));
        } else {
            if let Some(skipped) = app.config.restart_only.telemetry_listen {
                info!(%skipped, "no health and metrics: this machine lacks the family of their default address");
            }
            if control.is_some() {
                info!(control, "control socket");
            }
        }
        Self { close, tasks }
    }

    /// Closes the listeners and gives answers in progress [`LAST_ANSWERS`] to finish. No client's request depends on them.
    pub(super) async fn close(mut self) {
        self.close.send_replace(true);
        drop(timeout(LAST_ANSWERS, async { while self.tasks.join_next().await.is_some() {} }).await);
    }
}
