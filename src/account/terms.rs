//! The terms of an account: what a bearer is fetched under, and good for.
//!
//! Pure, but for the count of accounts. A running account has one set of terms for its whole life: a reload that changes them
//! starts another account. So a request of an old route can't see a bearer that was fetched under other terms.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::{Account, Login};

/// Which running account, and so under which terms: the account after a reload that changed them has another identity. A
/// bearer names the account that fetched it, and a request checks that before it sends the bearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AccountIdentity(u64);

impl AccountIdentity {
    /// An identity that nobody else has.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Whether a bearer that was fetched under the settings `before` may be used under `after`. Both must be the same account by
/// name, log in at the same servers and take the organization from the same source. An account without log-in has its
/// organization read anew by each reload, so it never keeps its terms.
pub(super) fn are_kept(before: &Account, after: &Account) -> bool {
    let (Some(old), Some(new)) = (&before.login, &after.login) else { return false };
    before.name == after.name
        && old.url == new.url
        && old.refresh_url == new.refresh_url
        && before.organization.is_same(&after.organization)
}

/// Whether a log-in under `new` sends what one under `old` did and reads the answer alike.
pub(super) fn log_in_alike(old: &Login, new: &Login) -> bool {
    have_same_secrets(old, new)
        && old.username_field == new.username_field
        && old.password_field == new.password_field
        && old.extra == new.extra
        && old.headers == new.headers
        && old.token_pointer == new.token_pointer
}

/// Whether user name and password come from the same sources.
pub(super) fn have_same_secrets(old: &Login, new: &Login) -> bool {
    old.username.is_same(&new.username) && old.password.is_same(&new.password)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        account::tests::{config, endpoint},
        config::Source,
        secret::Secret,
    };

    fn changed(change: impl FnOnce(&mut Account, &mut Login)) -> (bool, bool) {
        let (before, mut after) = (config().accounts.remove(0), config().accounts.remove(0));
        let mut login = after.login.take().unwrap();
        change(&mut after, &mut login);
        after.login = Some(login);
        (are_kept(&before, &after), log_in_alike(before.login.as_ref().unwrap(), after.login.as_ref().unwrap()))
    }

    #[test]
    fn servers_organization_and_name_are_terms_and_the_rest_is_not() {
        assert_eq!(changed(|_, _| {}), (true, true));
        assert!(!changed(|account, _| account.name = "emr".to_owned()).0);
        assert!(!changed(|account, _| account.organization = Source::Value(Secret::from("umbrella"))).0);
        assert!(!changed(|account, _| account.organization = Source::File("/run/organization".into())).0);
        assert!(!changed(|_, login| login.url = endpoint(9, "/other")).0);
        assert!(!changed(|_, login| login.url = endpoint(10, "/auth")).0);
        assert!(!changed(|_, login| login.refresh_url = Some(endpoint(9, "/refresh"))).0);
        assert_eq!(changed(|_, login| login.password = Source::Value(Secret::from("other"))), (true, false));
        assert_eq!(changed(|_, login| login.username = Source::File("/run/username".into())), (true, false));
        assert_eq!(changed(|_, login| login.username_field = "email".to_owned()), (true, false));
        assert_eq!(changed(|_, login| login.token_pointer = Some("/jwt".to_owned())), (true, false));
        let durations = |_: &mut Account, login: &mut Login| {
            (login.timeout, login.token_wait, login.relogin_floor) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        };
        assert_eq!(changed(durations), (true, true));
    }

    #[test]
    fn an_account_without_log_in_never_keeps_its_terms() {
        let (with, mut without) = (config().accounts.remove(0), config().accounts.remove(0));
        without.login = None;
        assert!(!are_kept(&with, &without) && !are_kept(&without, &with) && !are_kept(&without, &without));
    }
}
