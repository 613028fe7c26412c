//! Finds the address of a daemon with these settings, for commands that talk to it.
//!
//! It judges only the settings that say where the daemon is. A probe needs no credentials, and a fault elsewhere must not
//! keep it from asking: the daemon may run with settings that were right when it started.

use std::net::SocketAddr;

use super::{
    Input, Layers,
    faults::Fault,
    layers::Merged,
    setting::{Reader, Report, Setting},
    top_level::TopLevel,
};
use crate::config::ControlSocket;

/// Where a daemon is, as the settings say.
#[derive(Debug)]
pub struct DaemonAddress {
    /// Health and metrics. `None`: off.
    pub telemetry: Setting<Option<SocketAddr>>,
    /// The socket for `status` and its siblings.
    pub control: Setting<ControlSocket>,
    /// What else is wrong with the settings. It may be why the daemon is looked for at the wrong address.
    pub faults: Vec<Fault>,
}

/// Reads the address out of every layer.
#[must_use]
pub fn daemon_address(input: &Input) -> DaemonAddress {
    let Layers { file, variables, flags, report } = Layers::read(input);
    let file = file.unwrap_or_default();
    let merged = Merged::new(file.lines, file.leaves.into_iter().chain(variables.leaves).chain(flags));
    let (environment, defaults) = (&input.environment, input.defaults);
    let mut reader = Reader { merged: &merged, environment, defaults, report: Report::default() };
    let TopLevel { telemetry_listen, control_socket, .. } = TopLevel::read(&mut reader, "");
    DaemonAddress { telemetry: telemetry_listen, control: control_socket, faults: report.faults }
}
