//! The rules of one API: what `allow`, `deny` and the canonical form say of a request. Pure.

use http::Method;

use super::Refusal;
use crate::{
    config::Api,
    path::{Rule, RuleList, is_canonical},
};

/// The API's `allow` and `deny`, and whether they are enforced.
pub(super) struct Rules {
    allow: Option<RuleList>,
    deny: RuleList,
    /// They are judged and counted, and not enforced.
    pub(super) observe: bool,
}

/// What the rules say of a request.
#[derive(Clone, Copy)]
pub(super) struct Ruling<'a> {
    /// Why it must not pass; `None`: it may.
    pub(super) refusal: Option<Refusal>,
    /// The rule that decided. `None`: none matches, or no rule was looked at.
    pub(super) rule: Option<&'a Rule>,
}

impl Rules {
    pub(super) fn new(api: &Api) -> Self {
        Self { allow: api.allow.clone().map(RuleList::new), deny: RuleList::new(api.deny.clone()), observe: api.observe }
    }

    /// Judges a request for `path` at the upstream. Whoever observes wants to know of paths that are not canonical even before
    /// there are rules.
    pub(super) fn judge(&self, method: &Method, path: &str) -> Ruling<'_> {
        let refused = |refusal, rule| Ruling { refusal: Some(refusal), rule };
        if self.allow.is_none() && self.deny.is_empty() && !self.observe {
            return Ruling { refusal: None, rule: None };
        }
        // `OPTIONS *` asks about the whole server, which no rule matches.
        if path == "*" {
            return refused(Refusal::NotAllowed, None);
        }
        if !is_canonical(path) {
            return refused(Refusal::NotCanonical, None);
        }
        if let Some(rule) = self.deny.first_that_denies(method, path) {
            return refused(Refusal::Denied, Some(rule));
        }
        let Some(allow) = &self.allow else { return Ruling { refusal: None, rule: None } };
        match allow.first_that_matches(method, path) {
            None => refused(Refusal::NotAllowed, None),
            allowing => Ruling { refusal: None, rule: allowing },
        }
    }
}
