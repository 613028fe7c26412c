//! Requests that the daemon has to refuse by itself, whatever goes on: what they get, and that no server gets them
//! (`docs/problems.md`).

use std::sync::Arc;

use tokio::time::{Duration, timeout};

use super::{
    messages::{read_body, read_head},
    wire::Wire,
    world::World,
};

/// An answer of the daemon's own may wait its turn for five seconds.
const ANSWERED: Duration = Duration::from_secs(7);

/// For which account: any, or one.
type Of = Option<usize>;

/// A request's first line without its version, its further lines, and what it gets. `{p}` is the API's prefix.
const REFUSED: [(Of, &str, &str, u16, &str); 19] = [
    (None, "GET {p}/v2/x", "", 400, "bad_host"),
    (None, "GET {p}/v2/x", "host: localhost\r\nhost: localhost\r\n", 400, "bad_host"),
    (None, "GET http://evil.test{p}/v2/x", "host: localhost\r\n", 400, "bad_target"),
    (None, "TRACE {p}/v2/x", "host: localhost\r\n", 405, "method_not_allowed"),
    (None, "CONNECT localhost:80", "host: localhost\r\n", 405, "method_not_allowed"),
    (None, "GET {p}/v2/x", "host: localhost\r\norigin: https://evil.test\r\n", 403, "cross_site"),
    (None, "GET {p}/v2/x", "host: localhost\r\norigin: null\r\n", 403, "cross_site"),
    (None, "POST {p}/v2/x", "host: localhost\r\nsec-fetch-site: cross-site\r\n", 403, "cross_site"),
    (None, "GET {p}/v2/x", "host: localhost\r\nsec-fetch-site: same-site\r\n", 403, "cross_site"),
    (None, "GET {p}/v2/x", "host: localhost\r\nsec-fetch-mode: navigate\r\n", 403, "cross_site"),
    (None, "GET {p}/v2/x", "host: localhost\r\nreferer: https://evil.test/page\r\n", 403, "cross_site"),
    (None, "GET {p}/v2/x", "host: localhost\r\nexpect: everything\r\n", 417, "expectation_failed"),
    (Some(0), "POST /auth", "host: localhost\r\n", 403, "login_path"),
    (Some(0), "GET /auth?x=1", "host: localhost\r\n", 403, "login_path"),
    (Some(0), "POST /AUTH/", "host: localhost\r\n", 403, "login_path"),
    (Some(0), "POST /x/..//%61uth", "host: localhost\r\n", 403, "login_path"),
    (Some(0), "POST /%2561uth;v=1", "host: localhost\r\n", 403, "login_path"),
    (Some(1), "GET /v2/x", "host: localhost\r\n", 404, "no_api"),
    (Some(1), "GET /application/v2/x", "host: localhost\r\n", 404, "no_api"),
];

/// Sends one of them. `None`: the connection has ended, or is about to.
pub(super) async fn send(world: &Arc<World>, wire: &mut Wire, account: usize) -> Option<()> {
    let (of, line, fields, status, code) = REFUSED[world.draw(0..=REFUSED.len() - 1)];
    if of.is_some_and(|of| of != account) {
        return Some(());
    }
    let line = line.replace("{p}", if account == 1 { "/app" } else { "" });
    let id = format!("refused-{}", world.next_number());
    let method = line.split(' ').next().unwrap_or_default().to_owned();
    // No client makes a call of this number.
    let head = format!("{line} HTTP/1.1\r\nx-call: {}\r\nx-request-id: {id}\r\n{fields}\r\n", u64::MAX);
    world.ledger(|ledger, _| ledger.sends_refused(account));
    wire.write(head.as_bytes()).await;
    let answered = timeout(ANSWERED, async {
        let head = read_head(wire).await?;
        let body = read_body(wire, &head).await?;
        Some((head, body))
    });
    let (head, body) = match answered.await {
        Ok(Some(answer)) => answer,
        // Where places are few, it may have given up its own.
        _ if !world.has_room() || !world.is_listening() => return None,
        other => {
            world.break_promise(format!("{line:?} has to get {status} {code}, and gets nothing; in time: {}", other.is_ok()));
            return None;
        }
    };
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    if head.path != status.to_string() || problem["code"] != code {
        world.break_promise(format!("{line:?} with {fields:?} has to get {status} {code}, and gets {} {problem}", head.path));
    }
    if (status == 405) == head.all("allow").is_empty() {
        world.break_promise(format!("{line:?} gets {status} with Allow: {:?}", head.all("allow")));
    }
    if let Some(fault) = judge_problem(&head.fields, status, &body, &id, &method) {
        world.break_promise(format!("{line:?}: {fault}"));
    }
    head.all("connection").iter().all(|option| option != "close").then_some(())
}

/// What is wrong with an error of the daemon's own.
pub(super) fn judge_problem(fields: &[(String, String)], status: u16, body: &[u8], id: &str, method: &str) -> Option<String> {
    let all = |name: &str| fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>();
    if all("content-type") != ["application/problem+json"] {
        return Some(format!("its error is of the type {:?}", all("content-type")));
    }
    if all("x-request-id") != [id] {
        return Some(format!("its error has the request id {:?}", all("x-request-id")));
    }
    if !matches!(all("proxy-status").as_slice(), [one] if one.starts_with("careportals-sidecar; error=")) {
        return Some(format!("its error has the Proxy-Status {:?}", all("proxy-status")));
    }
    if method == "HEAD" {
        return None;
    }
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let is_text = |name: &str| problem[name].as_str().is_some_and(|text| !text.is_empty());
    let is_whole = ["type", "title", "detail", "code"].into_iter().all(is_text);
    (!is_whole || problem["status"] != status || problem["request_id"] != id).then(|| format!("its error is {problem}"))
}
