//! Whom an API lets call: `allow_uids` and `allow_gids`.
//!
//! Depends on `config` and `server`. Guarantees: without the settings nothing is asked; with either, only who is known to be
//! listed may call.

use crate::{config::Api, server::Peer};

/// Users and groups that may call; both empty: anybody.
pub(super) struct Callers {
    uids: Vec<u32>,
    gids: Vec<u32>,
}

impl Callers {
    pub(super) fn new(api: &Api) -> Self {
        Self { uids: api.allow_uids.clone(), gids: api.allow_gids.clone() }
    }

    /// Whether that is one of them.
    pub(super) fn include(&self, peer: &Peer) -> bool {
        if self.uids.is_empty() && self.gids.is_empty() {
            return true;
        }
        // Users first even if none is listed: a refused caller shall be named in the log.
        peer.is_user(&self.uids) || (!self.gids.is_empty() && peer.is_in(&self.gids))
    }
}
