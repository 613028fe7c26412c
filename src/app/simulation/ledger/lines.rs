//! Judges the log: an access line for each call, with what its client and the servers saw (`docs/logs.md`), and nothing secret.

use std::{collections::BTreeMap, time::Duration};

use super::{Call, Ending, Ledger};
use crate::app::simulation::{
    calls::CallId,
    servers::{ACCOUNTS, account_of},
};

/// A line of the access log.
#[derive(Debug, serde::Deserialize)]
pub(in crate::app::simulation) struct AccessLine {
    request_id: String,
    api: String,
    path: String,
    status: u16,
    code: Option<String>,
    cut: Option<String>,
    retries: Option<u32>,
    relogin: Option<String>,
    request_bytes: u64,
    response_bytes: u64,
    duration_us: u64,
    upstream_first_byte_us: Option<u64>,
    pid: Option<u32>,
}

/// What no line may hold: tokens, passwords, and what heads, targets and bodies of requests say.
const SECRET: [&str; 8] = ["e30.", "other-word", "word-", "Y2xpZW50", "q=a%20b", "call 1", "theirs", "https://evil.test"];

impl Ledger {
    /// Judges the access log: one line for each call that the daemon answered, with what the client saw; one at most for others.
    pub(in crate::app::simulation) fn judge_lines(&mut self, at: Duration, lines: &[AccessLine]) {
        self.counts.lines += lines.len() as u64;
        let mut by_id: BTreeMap<&str, Vec<&AccessLine>> = BTreeMap::new();
        for line in lines {
            by_id.entry(&line.request_id).or_default().push(line);
        }
        let mut faults = Vec::new();
        for (id, call) in &self.calls {
            let lines = by_id.get(format!("call-{id}").as_str()).map_or(&[][..], Vec::as_slice);
            let fault = match (&call.ended, lines) {
                (Some((_, Ending::Answered(_) | Ending::Refused(..))), [line]) => {
                    call.judge_line(*id, line, self.may_be_cut.contains(id))
                }
                (Some((_, Ending::Answered(_) | Ending::Refused(..))), _) => Some("one line is missing, or too many"),
                (_, [] | [_]) => None,
                _ => Some("there is more than one line"),
            };
            if let Some(fault) = fault {
                let (ended, sent, got) = (&call.ended, call.request_bytes, call.response_bytes);
                faults.push(format!("call {id} ended as {ended:?} after {sent} bytes with {got:?}: {fault}: {lines:?}"));
            }
        }
        for fault in faults {
            self.break_promise(at, fault);
        }
    }

    /// Judges that no secret is in what was logged.
    pub(in crate::app::simulation) fn judge_secrets(&mut self, at: Duration, logged: &str) {
        for line in logged.lines() {
            if let Some(secret) = SECRET.into_iter().find(|secret| line.contains(secret)) {
                self.break_promise(at, format!("the log has {secret:?} in {line}"));
            }
        }
    }
}

/// A line about an account or an API.
#[derive(serde::Deserialize)]
struct EventLine {
    message: String,
    account: Option<String>,
    api: Option<String>,
    reason: Option<String>,
    status: Option<u16>,
}

const UNREACHED: &str = "the upstream can't be reached";
const REACHED: &str = "the upstream is reached again";

impl Ledger {
    /// Judges that there is one line for each change, and not for each attempt.
    pub(in crate::app::simulation) fn judge_events(&mut self, at: Duration, logged: &str) {
        let events = || {
            logged.lines().filter_map(|line| serde_json::from_str::<EventLine>(line).ok()).filter(|line| line.status.is_none())
        };
        for (account, name) in ACCOUNTS.iter().enumerate() {
            let (mut latest, mut tokens, mut is_reached) = (None, 0, true);
            for line in events() {
                let is_of = |named: &Option<String>| named.as_deref() == Some(*name);
                if is_of(&line.api) && matches!(line.message.as_str(), UNREACHED | REACHED) {
                    let is_change = line.message == UNREACHED || !is_reached;
                    is_reached = line.message == REACHED;
                    if !is_change {
                        self.break_promise(at, format!("the log says of {name} that it is reached again, and it was before"));
                    }
                }
                if !is_of(&line.account) {
                    continue;
                }
                tokens += usize::from(matches!(line.message.as_str(), "logged in" | "token renewed"));
                let this = Some((line.message, line.reason));
                if this == latest {
                    self.break_promise(at, format!("the log says twice of {name}: {this:?}"));
                }
                latest = this.filter(|(message, _)| message.starts_with("log-in failed"));
            }
            let made = self.tokens.values().filter(|token| account_of(&token.organization) == account).count();
            if tokens > made {
                self.break_promise(at, format!("the log has {tokens} log-ins of {name}, and servers have made {made} tokens"));
            }
        }
    }
}

impl Call {
    /// What is wrong with the line of a call that was answered.
    fn judge_line(&self, id: CallId, line: &AccessLine, may_be_cut: bool) -> Option<&'static str> {
        let (ended, ending) = self.ended.as_ref()?;
        let (status, code) = match ending {
            Ending::Answered(status) => (*status, None),
            Ending::Refused(status, code) => (*status, Some(code.as_str())),
            _ => return None,
        };
        let is_code = |code: &str| code == "head" || line.code.as_deref() == Some(code);
        let took = ended.saturating_sub(self.begun) + Duration::from_millis(100);
        let longest = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let is_from_upstream = code.is_none() && status != 101;
        let faults = [
            (
                line.status != status || !code.is_none_or(is_code) || (code.is_none() && line.code.is_some()),
                "another status or code",
            ),
            (status == 200 && line.request_bytes != self.request_bytes, "other bytes of the request"),
            (self.response_bytes.is_some_and(|got| line.response_bytes != got), "other bytes of the answer"),
            (line.api != ACCOUNTS[self.account], "another API"),
            (line.path.split('/').any(|segment| segment == id.to_string()) || line.path.contains('?'), "the path is not masked"),
            (line.cut.is_some() && status != 101 && !may_be_cut, "the answer came whole"),
            (line.retries.unwrap_or(0) + 1 < self.arrived || line.retries.unwrap_or(0) > 2, "another number of retries"),
            (line.relogin.is_some() && self.refused == 0 && !self.is_uncertain, "nobody has answered 401"),
            (line.duration_us > longest, "it took less time"),
            (line.upstream_first_byte_us.is_some_and(|first| first > line.duration_us), "the answer began after its end"),
            (is_from_upstream && line.upstream_first_byte_us.is_none(), "the answer's first byte has no time"),
            (line.pid != Some(std::process::id()), "another caller"),
        ];
        faults.into_iter().find(|(is_wrong, _)| *is_wrong).map(|(_, fault)| fault)
    }
}
