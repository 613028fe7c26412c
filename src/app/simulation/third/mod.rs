//! A third account and its API, which reloads add and remove while requests run (`docs/reload.md`).
//!
//! Nothing is ever wrong with its server, so every call has one right ending: it depends on what the settings said while the call ran.
//! It has an address of its own, which is opened when the API comes first. No reload may close that again, so it leads to the second
//! API while the third one is not served; where connections are not limited, the second API's address leads to both. Files: `server`
//! answers, and judges tokens; `clients` makes calls and judges their endings; `changes` adds and removes the API; `status` judges what
//! the daemon says of it.

mod changes;
mod clients;
mod server;
mod status;

pub(super) use self::{
    changes::change,
    clients::run,
    server::serve,
    status::{inspect, readiness},
};
