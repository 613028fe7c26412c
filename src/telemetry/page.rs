//! The status page: one document that loads nothing from elsewhere.
//!
//! Pure. Guarantees: its policy allows its own style and script by their hashes, so nothing else runs in it, even if
//! something got into the page.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::HeaderValue;

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page and its policy.
pub(super) struct StatusPage {
    pub(super) html: Bytes,
    /// `Content-Security-Policy`: the page's own script and style run, by their hashes, and only this origin is asked.
    pub(super) policy: HeaderValue,
}

impl StatusPage {
    pub(super) fn new() -> Self {
        let html = HTML.replacen("/*page.css*/", STYLE, 1).replacen("/*page.js*/", SCRIPT, 1);
        let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(digest(&SHA256, text.as_bytes())));
        let policy = format!(
            "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'",
            hash(STYLE),
            hash(SCRIPT)
        );
        let policy = HeaderValue::try_from(policy).expect("words and Base64 can stand in a header");
        Self { html: html.into(), policy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text inside the only element with that tag.
    fn inside<'a>(html: &'a str, tag: &str) -> &'a str {
        let (begin, end) = (format!("<{tag}>"), format!("</{tag}>"));
        assert_eq!(html.matches(&begin).count(), 1, "{tag}");
        html.split(&begin).nth(1).unwrap().split(&end).next().unwrap()
    }

    #[test]
    fn style_and_script_are_whole_and_the_policy_names_their_hashes() {
        let page = StatusPage::new();
        let html = std::str::from_utf8(&page.html).unwrap();
        let policy = page.policy.to_str().unwrap();
        for (tag, text) in [("style", STYLE), ("script", SCRIPT)] {
            assert_eq!(inside(html, tag), text);
            let hash = BASE64.encode(digest(&SHA256, inside(html, tag).as_bytes()));
            assert!(policy.contains(&format!("{tag}-src 'sha256-{hash}';")), "{policy}");
        }
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        assert!(page.html.len() < 34 * 1024, "{} bytes", page.html.len());
    }

    #[test]
    fn nothing_of_the_page_is_elsewhere() {
        for text in [HTML, STYLE, SCRIPT] {
            let without_names = text.replace("http://www.w3.org/2000/svg", "").replace("http://${", "");
            for outside in ["http:", "https:", "url(", "@import", "src=", "innerHTML", "eval(", " style=", " onclick="] {
                assert!(!without_names.contains(outside), "{outside}");
            }
        }
    }
}
