//! Where a daemon with these settings is to be reached, for commands that talk to it.
//!
//! Reads only what that takes: a probe needs no credentials, and a fault elsewhere must not keep anybody from asking the
//! daemon, which may run with settings that were right when it started.

use std::net::SocketAddr;

use super::{
    Input,
    faults::{Fault, Origin},
    file, flag_layers, keys,
    layers::{Layer, Merged},
    read_file,
    values::{self, Parsed},
    variables::{self, Environment},
};
use crate::config::{ControlSocket, RuntimeDirectories};

/// Where the settings say that a daemon is.
#[derive(Debug)]
pub struct DaemonAddress {
    /// Health and metrics; `None`: off.
    pub telemetry: Setting<Option<SocketAddr>>,
    /// For `status` and its siblings.
    pub control: Setting<ControlSocket>,
    /// What else is wrong with the settings: the reason, perhaps, that the daemon is looked for in the wrong place.
    pub faults: Vec<Fault>,
}

/// One value, and who gave it.
#[derive(Debug)]
pub struct Setting<T> {
    /// It may be wrong.
    pub value: Result<T, Fault>,
    /// Where it was written.
    pub origin: Origin,
}

/// Reads every layer, and of it only that.
#[must_use]
pub fn reach(input: Input) -> DaemonAddress {
    let mut faults = Vec::new();
    let environment = input.environment;
    let text = read_file(input.config_flag.as_deref(), &input.default_file, &environment, &mut faults);
    let mut layers = vec![super::defaults(&[], &[], input.defaults)];
    let mut lines = std::collections::BTreeMap::new();
    let path = text.as_ref().map(|(path, _)| path.clone());
    if let Some((path, text)) = &text {
        let file = file::read(path, text);
        faults.extend(file.faults);
        layers.push(file.layer);
        lines = file.lines;
    }
    let variables = variables::read(&environment);
    faults.extend(variables.faults);
    layers.extend(variables.layers);
    layers.extend(flag_layers(input.flags, &mut faults));
    let merged = Merged::new(layers.into_iter().filter(is_global).collect(), path.as_deref(), lines);
    let telemetry = setting(&merged, "telemetry_listen", &environment, |parsed| match parsed {
        Some(Parsed::Socket(address)) => address,
        _ => None,
    });
    let control = setting(&merged, "control_socket", &environment, |parsed| match parsed {
        Some(Parsed::Text(text)) => ControlSocket::of(Some(&text), &environment),
        _ => ControlSocket::of(None, &environment),
    });
    DaemonAddress { telemetry, control, faults }
}

/// A file is one layer, whatever is in it.
fn is_global(layer: &Layer) -> bool {
    layer.paths().any(|path| !path.contains('.'))
}

fn setting<T>(merged: &Merged, name: &str, environment: &Environment, build: impl Fn(Option<Parsed>) -> T) -> Setting<T> {
    let (Some(key), Some((value, origin))) = (keys::at(name), merged.get(name)) else {
        return Setting { value: Ok(build(None)), origin: Origin::Default };
    };
    let parsed = values::parse(key, &value, environment);
    let value = parsed.map(|parsed| build(Some(parsed))).map_err(|wrong| Fault::new(origin.clone(), name, wrong));
    Setting { value, origin }
}

impl ControlSocket {
    /// `written`: the setting; `None`: nobody has said anything.
    pub(super) fn of(written: Option<&str>, environment: &Environment) -> Self {
        match written {
            None => Self::Default(RuntimeDirectories::of(environment)),
            Some("off") => Self::Off,
            Some(path) => Self::Path(path.into()),
        }
    }
}

impl RuntimeDirectories {
    /// systemd separates several by colons; the XDG base directory specification has relative paths ignored.
    fn of(environment: &Environment) -> Self {
        let absolute = |path: &str| path.starts_with('/').then(|| path.into());
        let service = environment.get("RUNTIME_DIRECTORY").and_then(|value| value.to_str()?.split(':').find_map(absolute));
        let user = environment.get("XDG_RUNTIME_DIR").and_then(|value| absolute(value.to_str()?));
        Self { service, user }
    }
}
