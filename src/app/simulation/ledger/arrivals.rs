//! Judges what servers get: tokens, connections, and how often a request is sent.

use std::time::Duration;

use super::{Call, Ledger, Reply, Token, suspicion::READ};
use crate::app::simulation::{
    calls::CallId,
    servers::{ACCOUNTS, account_of},
};

/// A request as it arrived at a server.
pub(in crate::app::simulation) struct Arrival<'a> {
    pub(in crate::app::simulation) server: usize,
    pub(in crate::app::simulation) call: CallId,
    pub(in crate::app::simulation) authorization: &'a [String],
    pub(in crate::app::simulation) organization: &'a [String],
    pub(in crate::app::simulation) request_id: &'a [String],
    /// How old its connection is, and may be.
    pub(in crate::app::simulation) age: (Duration, Duration),
}

impl Call {
    /// Why it may not be sent once more; `None`: it may, with the token of that number.
    fn judge_resend(&self, token: Option<u64>) -> Option<&'static str> {
        if self.arrived >= 3 {
            return Some("it was sent more than three times");
        }
        if self.reply == Reply::Refused {
            return match (self.refused, token, self.refused_token) {
                (2.., ..) if !self.is_uncertain => Some("it is sent again after the second 401"),
                (_, Some(token), Some(refused)) if token <= refused => Some("it is sent again with the token that was refused"),
                _ => None,
            };
        }
        if self.is_uncertain {
            return None;
        }
        match self.reply {
            Reply::Answered => Some("it is sent again after an answer had begun"),
            Reply::Silent => Some("it is sent again after a time-out"),
            Reply::None | Reply::Garbage if self.once => Some("it is sent again, and is not idempotent"),
            Reply::None | Reply::Garbage | Reply::Unprocessed if self.failed > 0 => {
                Some("it is sent again after the second failure")
            }
            Reply::None | Reply::Garbage | Reply::Unprocessed | Reply::Refused => None,
        }
    }
}

impl Token {
    /// What is wrong with sending it to that server, with that organization.
    fn judge(&self, at: Duration, now: f64, server: usize, organization: &str) -> Vec<String> {
        let mut faults = Vec::new();
        if self.server != server {
            faults.push(format!("server {server} got a token of server {}", self.server));
        }
        if self.organization != organization {
            faults.push(format!("a token of {:?} travels with {organization:?}", self.organization));
        }
        if self.expires <= now {
            faults.push(format!("its token expired {:.3} s ago", now - self.expires));
        }
        let (left, margin) = (self.expires - now, self.margin());
        if left > 0.0 && left < margin {
            faults.push(format!("its token expires in {left:.3} s, and counts as expired {margin:.3} s early"));
        }
        if let Some((from, why)) = self.withdrawn.filter(|(from, _)| *from <= at) {
            faults.push(format!("its token was withdrawn at {:.3}: {why}", from.as_secs_f64()));
        }
        faults
    }
}

impl Ledger {
    /// Judges a request's head. Returns whether the server accepts its token.
    pub(in crate::app::simulation) fn arrive(&mut self, at: Duration, now: f64, arrival: &Arrival<'_>) -> bool {
        let Arrival { server, call, authorization, organization, request_id, age } = arrival;
        let mut faults = Vec::new();
        let mut accepted = false;
        let names: Vec<_> = authorization.iter().map(|value| value.strip_prefix("Bearer ").unwrap_or(value)).collect();
        let number = names.first().and_then(|name| self.tokens.get(*name)).map(|token| token.number);
        match self.calls.get_mut(call) {
            Some(known) => {
                if known.arrived > 0 {
                    faults.extend(known.judge_resend(number).map(str::to_owned));
                    known.failed += u32::from(matches!(known.reply, Reply::None | Reply::Garbage | Reply::Unprocessed));
                }
                known.arrived += 1;
                known.reply = Reply::None;
                if known.server.is_some() && age.0 > age.1 {
                    faults.push(format!(
                        "its connection is {:.1} s old, and may be {:.1} s",
                        age.0.as_secs_f64(),
                        age.1.as_secs_f64()
                    ));
                }
                if known.server.is_some_and(|expected| expected != *server) {
                    faults.push(format!("it went to server {server}, which was no longer configured when it began"));
                }
            }
            None => faults.push("nobody has made this call".to_owned()),
        }
        if *request_id != [format!("call-{call}")] {
            faults.push(format!("its request id is {request_id:?}"));
        }
        match (names.as_slice(), organization) {
            ([name], [organization]) => match self.tokens.get(*name) {
                Some(token) => {
                    faults.extend(token.judge(at, now, *server, organization));
                    let account = account_of(&token.organization);
                    if self.calls.get(call).is_some_and(|known| known.account != account) {
                        faults.push(format!("it carries a token of the account {}", ACCOUNTS[account]));
                    }
                    faults.extend(self.suspicion.judge(at, account, token.number));
                    match self.newest[account] {
                        Some((newest, since)) if newest > token.number && since < at => {
                            faults.push("its token is older than one that was used before".to_owned());
                        }
                        Some((newest, _)) if newest >= token.number => {}
                        _ => self.newest[account] = Some((token.number, at)),
                    }
                    accepted = token.server == *server && !token.revoked;
                }
                None => faults.push(format!("no server has made the token {name:?}")),
            },
            _ => faults.push(format!("it has {} tokens and {} organizations", names.len(), organization.len())),
        }
        for fault in faults {
            self.break_promise(at, format!("call {call}: {fault}"));
        }
        accepted
    }

    /// Whether the call was sent, and its connection failed, or the server said that it has not processed it.
    pub(in crate::app::simulation) fn has_failed(&self, call: CallId) -> bool {
        let is_unanswered = |known: &Call| matches!(known.reply, Reply::None | Reply::Garbage | Reply::Unprocessed);
        self.calls.get(&call).is_some_and(|known| known.arrived > 0 && !known.is_uncertain && is_unanswered(known))
    }

    /// The server answers a request with 401.
    pub(in crate::app::simulation) fn refuse(&mut self, at: Duration, call: CallId, name: &str, floor: Duration) {
        self.counts.unauthorized += 1;
        let Some(token) = self.tokens.get_mut(name) else { return };
        self.pacing.refused(at, token, floor);
        token.refused = true;
        let (account, number) = (account_of(&token.organization), token.number);
        if let Some(known) = self.calls.get_mut(&call) {
            known.refused_token = known.refused_token.max(Some(number));
        }
        self.suspicion.refused(account, number);
    }

    /// A 401 for that token was written whole. `floor`: the account's least age of a token that a 401 replaces.
    pub(in crate::app::simulation) fn refused_whole(&mut self, at: Duration, call: CallId, name: &str, floor: Duration) {
        let Some(token) = self.tokens.get(name) else { return };
        let (number, account, answered) = (token.number, account_of(&token.organization), token.answered);
        let is_newest = self.tokens.values().all(|other| account_of(&other.organization) != account || other.number <= number);
        // The daemon goes by the answer's head, which may have come long before its end, but after the call began.
        let begun = self.calls.get(&call).map_or(Duration::ZERO, |call| call.begun);
        let age = answered.map(|answered| begun.saturating_sub(answered));
        let counts = age.is_some_and(|age| age > floor + READ) && token.withdrawn.is_none();
        let waits = self.calls.get(&call).is_some_and(|call| call.ended.is_none());
        let may_be_suspect = is_newest && counts && waits && self.logged_out[account].is_none();
        if may_be_suspect && self.suspicion.begins(at, account, number, answered) {
            self.counts.suspects += 1;
            if let Some(known) = self.calls.get_mut(&call) {
                known.made_suspect = Some(at);
            }
            self.note(at, &format!("the token {number} is suspect"));
        }
    }

    /// The first byte of that reply has gone to the daemon.
    pub(in crate::app::simulation) fn reply(&mut self, at: Duration, call: CallId, reply: Reply) {
        let Some(known) = self.calls.get_mut(&call) else { return };
        known.reply = reply;
        known.refused += u32::from(reply == Reply::Refused);
        if matches!(reply, Reply::Answered | Reply::Refused) {
            self.answered[known.account] = Some(at);
        }
    }

    /// The server answers before it has read the request's body.
    pub(in crate::app::simulation) fn answers_early(&mut self, call: CallId) {
        if let Some(known) = self.calls.get_mut(&call) {
            known.is_uncertain = true;
        }
    }
}
