//! Tests both directions with generated headers.

use proptest::prelude::*;

use super::*;

/// Names that the rules know, in all spellings, and some others.
fn any_name() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "authorization",
        "organization",
        "cookie",
        "origin",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "proxy-authorization",
        "proxy",
        "forwarded",
        "x-forwarded-for",
        "x-real-ip",
        "x-client-ip",
        "x-http-method-override",
        "x-original-url",
        "expect",
        "host",
        "content-length",
        "x-request-id",
        "accept",
        "x-plan",
        "x-a",
        "x-b",
    ]);
    (known, any::<u32>()).prop_map(|(name, bits)| {
        let spell = |(index, letter): (usize, char)| match (letter, bits >> (index % 32) & 1) {
            ('-', 1) => '_',
            (letter, 1) => letter.to_ascii_uppercase(),
            (letter, _) => letter,
        };
        name.chars().enumerate().map(spell).collect()
    })
}

fn any_headers() -> impl Strategy<Value = Vec<(String, String)>> {
    let value = prop_oneof!["[a-z0-9, ]{0,12}", proptest::collection::vec(any_name(), 1..4).prop_map(|n| n.join(", "))];
    proptest::collection::vec((any_name(), value), 0..16)
}

fn any_framing() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::None), any::<u64>().prop_map(Framing::Length), Just(Framing::Chunked)]
}

fn folded(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

proptest! {
    #[test]
    fn whatever_a_client_sends_the_accounts_fields_are_there_once_and_no_hop_by_hop_field_passes(
        client in any_headers(), framing in any_framing(), pass in any::<bool>(),
    ) {
        let mut api = api();
        api.headers = vec![(HeaderName::from_static("x-plan"), HeaderValue::from_static("gold"))];
        api.cookies = if pass { Cookies::Pass } else { Cookies::Strip };
        let client: Vec<_> = client.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let head = to_upstream(&rules(&api), &map(&client), Version::HTTP_11, OURS, framing);
        let values = |wanted: &str| -> Vec<HeaderValue> {
            head.iter().filter(|(name, _)| folded(name) == wanted).map(|(_, value)| value.clone()).collect()
        };
        prop_assert_eq!(values("authorization"), [TOKEN.clone()]);
        prop_assert_eq!(values("organization"), [ORGANIZATION_VALUE.clone()]);
        prop_assert_eq!(values("host"), ["api.example.com"]);
        prop_assert_eq!(values("x-plan"), ["gold"]);
        let length = match framing { Framing::Length(length) => vec![length.to_string()], _ => vec![] };
        prop_assert_eq!(values("content-length"), length);
        let chunked = if framing == Framing::Chunked { vec!["chunked"] } else { vec![] };
        prop_assert_eq!(values("transfer-encoding"), chunked);
        for gone in REMOVED_FROM_REQUESTS {
            // Checked above: the sidecar sets these itself.
            if ["authorization", "organization", "host", "connection", "transfer-encoding"].contains(&gone) {
                continue;
            }
            prop_assert!(values(gone).is_empty(), "{}", gone);
        }
        let te = values("te");
        prop_assert!(te.is_empty() || te == ["trailers"]);
        prop_assert_eq!(values("connection"), if te.is_empty() { vec![] } else { vec!["te"] });
        prop_assert!(pass || !head.contains_key(COOKIE));
        for name in head.keys().map(folded) {
            prop_assert!(!name.starts_with("proxy") && !name.starts_with("x-forwarded-"), "{}", name);
        }
    }

    #[test]
    fn values_of_one_name_keep_their_order(client in any_headers(), framing in any_framing()) {
        let client: Vec<_> = client.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let client = map(&client);
        let head = to_upstream(&rules(&api()), &client, Version::HTTP_11, OURS, framing);
        for name in ["accept", "x-a", "x-b"] {
            // Either all values of a name pass, or none.
            let passed: Vec<_> = head.get_all(name).iter().collect();
            let sent: Vec<_> = client.get_all(name).iter().collect();
            prop_assert!(passed.is_empty() || passed == sent);
        }
    }

    #[test]
    fn an_answer_keeps_its_values_in_order_and_no_hop_by_hop_field_passes(upstream in any_headers()) {
        let upstream: Vec<_> = upstream.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let upstream = map(&upstream);
        let head = to_client(&rules(&api()), upstream.clone(), false);
        for name in head.keys() {
            let passed: Vec<_> = head.get_all(name).iter().collect();
            prop_assert_eq!(passed, upstream.get_all(name).iter().collect::<Vec<_>>());
            let gone = ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];
            prop_assert!(!gone.contains(&folded(name).as_str()));
        }
    }

    #[test]
    fn a_rewritten_location_is_an_absolute_path_that_names_no_host(
        // It is made of what could trick a parser, after what looks like the upstream.
        start in "(https?:)?(//)?(me@)?(api\\.example\\.com)?(:443)?(/v2)?", rest in "[/\\\\a.?#:@%2e\t]{0,8}",
        base in proptest::sample::select(vec!["", "/v2"]), prefix in proptest::sample::select(vec!["", "/emr"]),
    ) {
        let mut api = api();
        api.upstream.base_path = base.to_owned();
        api.prefix = (!prefix.is_empty()).then(|| Prefix::parse(prefix).unwrap());
        let location = start + &rest;
        if let Some(ours) = rules(&api).location(location.as_bytes()) {
            let ours = ours.to_str().unwrap();
            prop_assert!(ours.starts_with('/') && !ours.starts_with("//") && !ours.starts_with("/\\"), "{}", ours);
            prop_assert!(ours.starts_with(prefix));
            prop_assert!(!location.contains("me@api"));
            // Byte for byte: what follows the base is found again.
            let tail = ours.strip_prefix(prefix).unwrap();
            prop_assert!(location.ends_with(tail) || location.ends_with(&tail[1..]), "{} {}", location, ours);
        }
    }
}
