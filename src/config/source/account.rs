//! `[accounts.NAME]`: an account's settings as they are written, and what they mean.
//!
//! Pure. CONTRIBUTING.md says how to add a setting.

use std::{fmt, time::Duration};

use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::{
    kinds::{AnySource, Between, HeaderSource, Json, List, LoginHeaders, LoginUrl, Optional, Pointer, Status, Text, UrlOrPath},
    measures::{DAY, HOUR, MINUTE},
    reader::{SettingsReader, built, table},
    setting::{Key, Kind, Section, Setting, Unset},
};
use crate::config::{Endpoint, Source};

table! {
    /// An account as it is written.
    AccountEntry { name } of Account;

    /// Organization id: text or a source.
    organization: Optional<HeaderSource>, Documented("required");
    /// User name: a source; text is allowed and warned about.
    username: Optional<AnySource>, Documented("required, unless log-in is off");
    /// Password: a source; text is allowed and warned about.
    password: Optional<AnySource>, Documented("required, unless log-in is off");
    /// URL of the log-in: absolute, or a path under the upstream of the account's only API; `off` for none.
    login_url: Optional<LoginUrl>, Documented("from the preset");
    /// URL that exchanges a refresh token for a token: absolute, or a path as for `login_url`.
    refresh_url: Optional<UrlOrPath>;
    /// Time limit of one log-in, connection included.
    login_timeout: Between<10, { 5 * MINUTE }> = "10s";
    /// Member of the log-in's JSON body that holds the user name.
    login_fields_username ("login_fields.username"): Text = "username";
    /// Member of the log-in's JSON body that holds the password.
    login_fields_password ("login_fields.password"): Text = "password";
    /// Further members of the log-in's JSON body.
    login_extra: Json = {};
    /// Further headers of the log-in request.
    login_headers: LoginHeaders = {};
    /// JSON pointer to the token in the log-in's response.
    token_pointer: Optional<Pointer>, Shown("the known field names");
    /// Time for which a request waits for a token.
    token_wait: Between<0, { 5 * MINUTE }> = "10s";
    /// A token younger than this is not replaced because of a 401; doubles while log-ins do not cure it.
    relogin_floor: Between<100, HOUR> = "30s";
    /// Upstream statuses that make a token suspect; a request that gets one may be sent again, whatever its method.
    relogin_on: List<Status> = [401];
    /// Assumed life of a token that does not say when it expires.
    assumed_life: Between<2000, { 3650 * DAY }> = "1h";
}

/// Credentials and organization, shared by one or more APIs.
#[derive(Debug)]
pub struct Account {
    /// The account is called so in the settings, in logs and in metrics: `[a-z0-9-]+`.
    pub name: String,
    /// The tenant; a source, since a secret mount may hold it.
    pub organization: Source,
    /// `None`: the organization header alone is sent.
    pub login: Option<Login>,
}

built! {
    /// How an account logs in.
    Login of (account: &AccountEntry, url: Endpoint, refresh_url: Option<Endpoint>, username: Source, password: Source) {
        /// Where credentials become a token.
        url: Endpoint = Some(url),
        /// Where a refresh token becomes a token.
        refresh_url: Option<Endpoint> = Some(refresh_url),
        /// Read anew at each log-in.
        username: Source = Some(username),
        /// Read anew at each log-in.
        password: Source = Some(password),
        username_field: String = account.login_fields_username.get(),
        password_field: String = account.login_fields_password.get(),
        extra: Map<String, Value> = account.login_extra.get(),
        headers: HeaderMap = account.login_headers.known().map(|headers| headers.iter().cloned().collect()),
        timeout: Duration = account.login_timeout.get(),
        token_wait: Duration = account.token_wait.get(),
        relogin_floor: Duration = account.relogin_floor.get(),
        relogin_on: Vec<StatusCode> = account.relogin_on.get(),
        assumed_life: Duration = account.assumed_life.get(),
        /// JSON pointer (RFC 6901) to the token in the answer; `None`: the known fields.
        token_pointer: Option<String> = account.token_pointer.get(),
    }
}

/// Not derived: `extra` and `headers` may hold secrets.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("url", &self.url)
            .field("username", &self.username)
            .field("password", &self.password)
            .finish_non_exhaustive()
    }
}
