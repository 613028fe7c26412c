//! APIs as far as they could be read, before anything is known to be right.

use super::{reading::Values, url::Address};
use crate::{
    careportals::Preset,
    config::{AllowedHosts, Listen, Upstream},
    path::Prefix,
};

/// As much of an API as could be read; what several values together can get wrong is judged on it.
pub(super) struct PartialApi {
    pub(super) name: String,
    pub(super) preset: Option<Preset>,
    pub(super) account: Option<String>,
    pub(super) upstream: Option<Upstream>,
    pub(super) listen: Vec<Listen>,
    pub(super) prefix: Option<Prefix>,
}

impl PartialApi {
    pub(super) fn read(values: &Values<'_>, name: &str) -> Self {
        let entry = format!("apis.{name}.");
        Self {
            name: name.to_owned(),
            preset: values.preset(&entry),
            account: values.text(&format!("{entry}account")),
            upstream: match values.address(&format!("{entry}upstream")) {
                Some(Address::Absolute { origin, path }) => {
                    Some(Upstream { origin, base_path: path.trim_end_matches('/').to_owned() })
                }
                _ => None,
            },
            listen: values.listen(&format!("{entry}listen")).unwrap_or_default(),
            prefix: values.prefix(&format!("{entry}prefix")),
        }
    }
}

/// Whether no host was named.
pub(super) fn no_hosts(values: &Values<'_>, api: &str) -> bool {
    matches!(values.hosts(&format!("apis.{api}.allowed_hosts")), Some(AllowedHosts::Names(names)) if names.is_empty())
}
