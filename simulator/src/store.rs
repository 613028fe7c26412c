//! Keeps what calls have created: users, and the responses bound to an `Idempotency-Key`.
//!
//! It uses no other module. Memory is bounded: a set that is full is emptied before it takes one more.

use std::collections::{HashMap, HashSet};

use hyper::StatusCode;
use serde_json::Value;

/// How many users and how many keys are kept, each; a simulator may run for weeks.
const KEPT_MAX: usize = 10_000;

/// The users and responses that are kept.
#[derive(Default)]
pub(crate) struct Store {
    /// By organization and e-mail address.
    users: HashSet<(String, String)>,
    replies: HashMap<IdempotencyKey, StoredReply>,
    /// Payments whose card's holder was asked: organization, cart and SHA-256 of the body.
    payments: HashSet<(String, String, Vec<u8>)>,
}

/// A key is valid within one organization and for one call.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct IdempotencyKey {
    pub(crate) organization: String,
    pub(crate) call: &'static str,
    pub(crate) key: String,
}

/// The response to the first request with a key.
#[derive(Clone)]
pub(crate) struct StoredReply {
    /// SHA-256 of the request's body.
    pub(crate) body_sha256: Vec<u8>,
    pub(crate) status: StatusCode,
    pub(crate) value: Value,
}

impl Store {
    /// Adds a user; false when the organization has one with this address already.
    pub(crate) fn add_user(&mut self, organization: &str, email: &str) -> bool {
        if self.users.len() >= KEPT_MAX {
            self.users.clear();
        }
        self.users.insert((organization.to_owned(), email.to_lowercase()))
    }

    /// Keeps a payment; true when the same one came before.
    pub(crate) fn is_repeated_payment(&mut self, organization: &str, cart: &str, body_sha256: Vec<u8>) -> bool {
        if self.payments.len() >= KEPT_MAX {
            self.payments.clear();
        }
        !self.payments.insert((organization.to_owned(), cart.to_owned(), body_sha256))
    }

    /// The response that this key was first answered with.
    pub(crate) fn reply(&self, key: &IdempotencyKey) -> Option<&StoredReply> {
        self.replies.get(key)
    }

    /// Binds a response to a key.
    pub(crate) fn keep_reply(&mut self, key: IdempotencyKey, reply: StoredReply) {
        if self.replies.len() >= KEPT_MAX {
            self.replies.clear();
        }
        self.replies.insert(key, reply);
    }
}
