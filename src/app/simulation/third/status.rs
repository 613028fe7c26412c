//! Judges what the daemon says of the third account and its API: the status document, and whether it is ready.

use crate::{
    app::simulation::{
        servers::ACCOUNTS,
        third_account::{self, LOGGED_IN, NAME, Served},
        world::World,
    },
    status::StatusDocument,
};

/// Judges what the status document says of them.
pub(in crate::app::simulation) fn inspect(world: &World, document: &StatusDocument) {
    let (served, changing, logged_out, changed, at) =
        world.third(|third, at| (third.served, third.changing, third.logged_out, third.changed, at));
    if changing {
        return;
    }
    let account = document.accounts.iter().find(|account| account.name == NAME);
    let api = document.apis.iter().find(|api| api.name == NAME);
    let is_served = served == Served::Yes;
    if account.is_some() != is_served || api.is_some() != is_served {
        world.break_promise(format!("the third API is served: {is_served}; the status says {account:?}, {api:?}"));
    }
    let own = third_account::socket(&world.directory).display().to_string();
    let leads =
        |name: &str| document.apis.iter().any(|api| api.name == name && api.listen.iter().any(|text| text.contains(&own)));
    let expected = [is_served, served == Served::Removed];
    if [leads(NAME), leads(ACCOUNTS[1])] != expected {
        world.break_promise(format!("the third address leads to others than it should: {:?}", document.apis));
    }
    let (Some(account), true) = (account, changed + LOGGED_IN < at && world.is_awake()) else { return };
    let state = account.state.as_deref();
    let is_right = if logged_out { state == Some("logged_out") } else { matches!(state, Some("ready" | "refreshing")) };
    if !is_right {
        world.break_promise(format!("the third account is logged out: {logged_out}; the status says {account:?}"));
    }
}

/// What readiness may depend on: whether the third account surely has a token, or surely has none.
pub(in crate::app::simulation) fn readiness(world: &World) -> (bool, bool) {
    let is_awake = world.is_awake();
    let now = world.now();
    world.third(|third, at| {
        if third.served != Served::Yes {
            return (!third.changing, false);
        }
        let is_settled = !third.changing && third.changed + LOGGED_IN < at && is_awake;
        let has_good = third.tokens.values().any(|token| token.withdrawn.is_none() && token.expires > now);
        (is_settled && !third.logged_out, !third.changing && !has_good)
    })
}
