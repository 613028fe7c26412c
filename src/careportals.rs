//! Facts about the CarePortals API: presets, hosts, log-in paths, field names, words of routes.
//!
//! No other file holds such a name, but for defaults that a setting shows. A fact that was only observed, and is not documented,
//! is a default here, and a setting can change it.

/// First segments below which an API was seen to answer as it does without: `/patient/users` is `/users`.
pub const MOUNTS: [&str; 2] = ["patient", "public"];

/// One of CarePortals' APIs, as named by `preset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// The name in settings.
    pub name: &'static str,
    /// The production base URL.
    pub upstream: &'static str,
    /// The place where credentials are exchanged for a token, as `login_url` has it: a path under the API's own upstream, the
    /// URL of another API, or `off`.
    pub login: &'static str,
}

/// All presets, in the order of the documentation; the first one is the default.
pub const PRESETS: [Preset; 5] = [
    Preset { name: "careportals", upstream: "https://api.careportals.com", login: "/patient/auth" },
    Preset { name: "patient", upstream: "https://patient-api.portals.care", login: "/auth/login" },
    Preset { name: "crm", upstream: "https://crm-api.portals.care", login: "/auth" },
    // It accepts the CRM API's token.
    Preset { name: "emr", upstream: "https://emr-api.portals.care", login: "https://crm-api.portals.care/auth" },
    // The storefront API needs no token.
    Preset { name: "public", upstream: "https://public-api.portals.care", login: "off" },
];

impl Preset {
    /// The preset of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        PRESETS.into_iter().find(|preset| preset.name == name)
    }
}

/// Paths that answer with a token at some CarePortals host. No client may reach them through the proxy.
pub const LOGIN_PATHS: [&str; 5] = ["/patient/auth", "/auth/login", "/auth", "/patient/auth/login", "/auth/refresh"];

/// The members of a log-in's answer that may hold the token; the first one found counts.
pub const TOKEN_FIELDS: [&str; 4] = ["token", "access_token", "accessToken", "jwt"];

/// The members of a log-in's answer that may hold a refresh token.
pub const REFRESH_TOKEN_FIELDS: [&str; 2] = ["refreshToken", "refresh_token"];

/// The member that carries the refresh token in a refresh request.
pub const REFRESH_REQUEST_FIELD: &str = "refreshToken";

/// The header that selects the tenant.
pub const ORGANIZATION_HEADER: &str = "organization";

/// Path segments of documented routes. A log line may show them, since none of them names a person or a record.
pub const ROUTE_WORDS: [&str; 18] = [
    "account",
    "auth",
    "carts",
    "checkout",
    "consultations",
    "customers",
    "emr",
    "crm",
    "login",
    "lookups",
    "orders",
    "patient",
    "payment-methods",
    "payments",
    "products",
    "start",
    "subscriptions",
    "users",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_found_by_its_name_and_speaks_https() {
        for preset in PRESETS {
            assert_eq!(Preset::from_name(preset.name), Some(preset));
            assert!(preset.upstream.starts_with("https://"));
        }
        assert_eq!(Preset::from_name("staging"), None);
    }

    #[test]
    fn every_log_in_path_of_a_preset_is_refused_to_clients() {
        for preset in PRESETS {
            if preset.login.starts_with('/') {
                assert!(LOGIN_PATHS.contains(&preset.login));
            }
        }
    }
}
