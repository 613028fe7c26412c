//! The main job: a call without a token comes out with one.

use crate::harness::{ORGANIZATION, Request, Sidecar, simulator};

#[test]
fn a_call_without_a_token_arrives_with_token_and_organization() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let answer = sidecar.send(&Request::get("/_sim/echo?a=b"));
    assert_eq!(answer.status, 200);
    let token = simulator.control().last_token().unwrap();
    assert_eq!(answer.echoed("authorization"), [format!("Bearer {token}")]);
    assert_eq!(answer.echoed("organization"), [ORGANIZATION]);
    assert_eq!(answer.json()["target"], "/_sim/echo?a=b");
}
