use http::Method;
use proptest::prelude::*;

use super::{
    super::{
        Prefix, Rule,
        decode::{MAX_PASSES, fold, unescape},
        is_canonical,
    },
    *,
};
use crate::careportals;

fn login_paths() -> LoginPaths {
    LoginPaths::new(careportals::LOGIN_PATHS.into_iter().chain(["/base/token/refresh"]))
}

#[test]
fn a_log_in_path_is_refused_however_it_is_spelled() {
    for path in [
        "/auth",
        "/AUTH",
        "/auth/",
        "//auth",
        "/auth//",
        "\\auth",
        "/auth\\",
        "/auth;x",
        "/auth;x=1/",
        "/;x/auth",
        "/./auth",
        "/x/../auth",
        "/auth/x/..",
        "/auth/.",
        "/auth.",
        "/%61uth",
        "/%2561uth",
        "/%25%36%31uth",
        "/%2e/auth",
        "/x/%2e%2e/auth",
        "/x%2f..%2fauth",
        "/x%5c..%5cauth",
        "/x/..;/auth",
        "/x/..%3b/auth",
        "/x/...;y/auth",
        "/%u0061uth",
        "/x%u002f..%u002fauth",
        "%c0%afauth",
        "/%c1%a1uth",
        "/%e0%81%a1uth",
        "/%f0%80%81%a1uth",
        "/%f8%80%80%81%a1uth",
        "/%fc%80%80%80%81%a1uth",
        "/%ef%bd%81uth",
        "/ａuth",
        "／auth",
        "/x/‥/auth",
        "/%f0%9d%90%9auth",
        "/au%00th",
        "/auth%00",
        "/auth%00.json",
        "/auth%00/x",
        "/au%09th",
        "/auth%0d%0a",
        "/auth%20",
        "/ auth",
        "/auth%7f",
        "/%6%091uth",
        "/a\u{200b}uth",
        "/auth%3fx=1",
        "/auth%3Fx/y",
        "/auth%23",
        "/auth?x",
        "/auth#x",
        "/auth;a/b",
        "/auth/login",
        "/Patient/Auth/",
        "/base/token/refresh",
        "/base/token%2Frefresh",
    ] {
        assert!(login_paths().contains(path), "{path}");
    }
}

#[test]
fn a_log_in_path_is_refused_with_what_frameworks_add_and_in_other_forms_of_letters() {
    for path in [
        "/auth/refresh",
        "/AUTH/Refresh/",
        "/auth+",
        "/auth%2b",
        "/auth.json",
        "/auth.JSON/",
        "/auth%2ejson",
        "/auth.json.",
        "/auth.json.xml",
        "/auth.tar.gz",
        "/public/auth",
        "/patient/public/auth",
        "/PUBLIC/public/Patient/auth/",
        "/a%ed%a0%80uth",
        "/auth%ed%bf%bf",
        "/a%f4%90%80%80uth",
        "/a%f8%88%80%80%80uth",
        "/a%f0%8f%bf%bfuth",
        "/auth/login+",
        "/index.php/auth",
        "/INDEX.PHP//auth",
        "/index.php/patient/auth",
        "/auth/log\u{131}n",
        "/auth/log%c4%b1n",
        "/auth/LOG\u{130}N",
        "/auth/log%C4%B0n",
        "/auth/logi%cc%87n",
        "/auth/log\u{1d6a4}n",
        "/\u{1d400}uth",
        "/\u{1d68a}uth",
        "/%f0%9d%9a%8auth",
        "/\u{aa}uth",
        "/au\u{1d57}h",
        "/\u{24d0}uth",
        "/\u{1f130}uth",
        "/aut\u{210b}",
        "/auth/\u{2113}ogin",
        "/auth/log\u{2170}n",
        "/au%c2%85th",
        "/auth%c2%9f",
        "/auth%85",
        "/auth%ff",
        "/auth%c0",
        "/au%cd%8fth",
        "/auth%ef%b8%8f",
        "/auth%f3%a0%81%81",
        "/auth%e2%80%af",
        "/auth.jsonp",
        "/auth.xml",
        "/auth.action+",
        "/auth.a-b",
        "/auth.a_b",
        "/auth.vnd.a+json",
        "/auth.%c3%a9",
        "/auth.{format}",
        "/auth.abcdefghijklmnop",
        "/au\u{fff9}th",
        "/auth\u{110bd}",
        "/auth/+",
        "//host/auth",
        "//host:80/auth/login",
        "//user@host/p%61tient/auth",
        "///host/auth",
        "/\\host/patient/auth",
        "/\\/host/auth",
        "%2f/host/auth",
    ] {
        assert!(login_paths().contains(path), "{path}");
    }
}

#[test]
fn every_servers_reading_of_a_path_counts() {
    for path in [
        // What is not decoded before parameters are cut: the two halves of a pipeline.
        "/%61uth;%2fx/login",
        // Which segment `..` takes away depends on the server.
        "/x//../auth",
        "/x/y//../../auth",
        "/x\\y/../auth",
        "/x%2fy/../auth",
        "/patient//../auth",
    ] {
        assert!(login_paths().contains(path), "{path}");
    }
}

#[test]
fn a_path_that_resembles_a_log_in_path_passes() {
    for path in [
        "/auth/forgot",
        "/auth/forgot/",
        "/auth%2fforgot",
        "/auth/log",
        "/auth+x",
        "/x/users//host/auth",
        "//host/users",
        "//host/x/auth",
        "/auth.json/x",
        "/index.php",
        "/index.php/users",
        "/x.php/auth",
        "/orders/auth",
        "/booking/auth",
        "/auths",
        "/xauth",
        "/aut",
        "/",
        "",
        "*",
        "/users/auth",
        "/users/account",
        "/v2/auth",
        "/auth/login/x",
        "/base/token",
        "/base/refresh",
        "/users/..",
        "/users/../customers/1",
        "/auth/../users",
        "/a.b/c.pdf",
        "/users;x/account",
        "/größe/%C3%A4uth",
        "/100%25",
        "/users?next=/auth",
        "/?next=/auth",
        "/%zz",
        "/%u12",
    ] {
        assert!(!login_paths().contains(path), "{path}");
    }
}

#[test]
fn a_path_encoded_too_often_is_taken_for_a_log_in() {
    let nested = |times: usize| format!("/x%{}41", "25".repeat(times));
    assert!(!login_paths().contains(&nested(3)));
    assert!(login_paths().contains(&nested(MAX_PASSES)));
    let deep = format!("/%{}61uth", "25".repeat(3));
    assert!(login_paths().contains(&deep));
}

#[test]
fn a_log_in_path_may_be_configured_in_any_spelling() {
    for spelling in
        ["/Token/New/", "/token./new..", "//token/./new", "/x/../token;v=1/new", "/%74oken%2fnew?grant=1", "token\\new"]
    {
        let known = LoginPaths::new([spelling]);
        assert!(known.contains("/token/new"), "{spelling}");
        assert!(known.contains("/token/%6eew"), "{spelling}");
        assert!(!known.contains("/token"), "{spelling}");
    }
    assert!(LoginPaths::new(["/"]).contains("/"));
    for (path, is_known) in [("/patient", true), ("/patients", false), ("/x", false)] {
        assert_eq!(LoginPaths::new(["/"]).contains(path), is_known, "{path}");
    }
    for path in ["/token/new", "/patient/token/new", "/public/token/new", "/%74oken/new"] {
        assert!(LoginPaths::new(["/patient/token/new"]).contains(path), "{path}");
    }
    assert!(LoginPaths::new(["/public/patient/token/new"]).contains("/token/new"));
    assert!(!LoginPaths::new(["/patient"]).contains("/"), "there is nothing below the mount");
    assert!(!LoginPaths::default().contains("/auth"));
}

#[test]
fn a_log_in_path_of_very_many_segments_is_still_refused() {
    let deep = "/a".repeat(MAX_SEGMENTS + 5);
    let known = LoginPaths::new([&deep]);
    assert!(known.contains(&deep));
    assert!(known.contains(&format!("/.{deep}")));
    assert!(!known.contains("/a/a"));
    assert!(!known.contains("/./a/a"));
}

#[test]
fn plain_paths_are_compared_as_they_are() {
    for plain in ["", "/", "/users/account", "/a/b/", "/A~b-_!$&'()*,=:@"] {
        assert!(is_plain(plain), "{plain}");
    }
    for special in ["//", "/a//b", "/a//", "/a b", "/a\tb", "/a\u{7f}", "/ä", "/%61", "/a;b", "/a\\b", "/a.", "/a+", "/a?", "/a#"]
    {
        assert!(!is_plain(special), "{special}");
    }
    assert!(matches!(decode(b"/users/account"), Some(Cow::Borrowed(_))), "and are not copied");
    assert!(matches!(decode(b"/%61"), Some(Cow::Owned(_))));
}

#[test]
fn characters_that_some_server_turns_into_ascii_are_read_as_ascii() {
    for (characters, ascii) in [
        ("\u{17f}\u{212a}\u{130}\u{131}", "skii"),
        ("\u{ff01}\u{ff41}\u{ff5e}", "!a~"),
        ("\u{24b6}\u{24b7}\u{24cf}\u{24d0}\u{24d1}\u{24e9}\u{24ea}", "abzabz0"),
        ("\u{1d400}\u{1d401}\u{1d41a}\u{1d41b}\u{1d6a3}", "ababz"),
        ("\u{1d7ce}\u{1d7cf}\u{1d7d8}\u{1d7d9}\u{1d7ff}", "01019"),
        ("\u{1fbf0}\u{1fbf1}\u{1fbf9}", "019"),
        ("\u{2024}\u{3002}\u{fe52}\u{ff61}", "...."),
        ("\u{2044}\u{2215}\u{2571}\u{27cb}\u{29f8}\u{2f03}", "//////"),
        ("\u{a5}\u{20a9}\u{2216}\u{29f5}\u{fe68}", "\\\\\\\\\\"),
        ("\u{37e}\u{fe54}\u{fe6a}", ";;%"),
        ("\u{2025}|\u{fe30}|\u{2026}|\u{fe19}", "..|..|...|..."),
        ("\u{fb00}|\u{fb01}|\u{fb02}|\u{fb03}|\u{fb04}|\u{fb05}|\u{fb06}", "ff|fi|fl|ffi|ffl|st|st"),
        ("\u{df}|\u{1e9e}", "ss|ss"),
        ("\u{2074}\u{2174}\u{1f131}\u{2c7c}", "4vbj"),
        ("a\u{200b}\u{ad}\u{feff}\u{e0041}b", "ab"),
        ("\u{e4}\u{4e2d}\u{1f600}", "\u{e4}\u{4e2d}\u{1f600}"),
    ] {
        let read = decode(characters.as_bytes()).unwrap();
        assert_eq!(String::from_utf8_lossy(&read), ascii, "{characters}");
    }
    // Every character of a block of compatibility forms is itself, or becomes a letter or digit.
    assert_eq!(fold("\u{2072}\u{2103}".as_bytes()), "\u{2072}\u{2103}".as_bytes());
}

#[test]
fn of_a_pattern_of_very_many_segments_the_beginning_is_compared() {
    let names = |count: usize| Rule::parse(&format!("* {}", "/a".repeat(count))).unwrap().lenient;
    let read =
        |pattern: &LenientPattern, segments: usize| (0..segments).fold(pattern.start(), |states, _| pattern.after(states, "a"));
    let long = names(MAX_SEGMENTS + 3);
    for (segments, reaches) in
        [(0, false), (MAX_SEGMENTS - 1, false), (MAX_SEGMENTS, true), (MAX_SEGMENTS + 1, true), (200, true)]
    {
        assert_eq!(long.accepts(read(&long, segments)), reaches, "{segments}");
    }
    let short = names(3);
    assert!(short.accepts(read(&short, 3)) && !short.accepts(read(&short, 4)));
    // The last segment that is compared is `**`.
    let open = Rule::parse(&format!("* {}/**", "/a".repeat(MAX_SEGMENTS - 1))).unwrap().lenient;
    for (segments, reaches) in
        [(MAX_SEGMENTS - 2, false), (MAX_SEGMENTS - 1, true), (MAX_SEGMENTS, true), (MAX_SEGMENTS + 1, true)]
    {
        assert_eq!(open.accepts(read(&open, segments)), reaches, "{segments}");
    }
}

#[test]
fn hostile_paths_are_judged_quickly() {
    for piece in ["%2525252525", "..;/", ";", "%00", "/..", "%u002e", "a/../", "ａ%"] {
        let path = format!("/{}", piece.repeat(65_536 / piece.len()));
        // The answers do not matter here; this test would hang if they took long.
        let _ = (login_paths().contains(&path), is_canonical(&path));
    }
}

/// One character in one of the spellings that decode to it.
fn spelled(byte: char) -> impl Strategy<Value = String> {
    let code = u32::from(byte);
    let other_case = if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte };
    prop_oneof![
        4 => Just(byte.to_string()),
        2 => Just(other_case.to_string()),
        2 => Just(format!("%{code:02x}")),
        1 => Just(format!("%25{code:02X}")),
        1 => Just(format!("%2525{code:02x}")),
        1 => Just(format!("%%3{}%{:02x}", code >> 4, u32::from(char::from_digit(code & 15, 16).unwrap_or_default()))),
        1 => Just(format!("%u{code:04x}")),
        1 => Just(format!("%{:02x}%{:02x}", 0xc0 | code >> 6, 0x80 | code & 0x3f)),
        1 => Just(char::from_u32(code + 0xfee0).map(String::from).unwrap_or_default()),
        1 => Just(format!("{byte}%00")),
        1 => Just(format!("%09{byte}")),
    ]
}

/// A separator with whatever a server tidies away around it.
fn separator() -> impl Strategy<Value = String> {
    let slash = prop_oneof![6 => Just("/".to_owned()), 1 => Just("\\".to_owned()), 2 => spelled('/'), 1 => spelled('\\')];
    let noise = prop_oneof![
        6 => Just(String::new()),
        1 => Just(".".to_owned()),
        1 => Just("%2e".to_owned()),
        1 => Just(";v=1".to_owned()),
        1 => Just("%3bv".to_owned()),
        1 => Just("x/..".to_owned()),
        1 => Just("%78/%2E.".to_owned()),
        1 => Just("x/y/..;a/..".to_owned()),
    ];
    (slash.clone(), noise, slash).prop_map(
        |(before, noise, after)| {
            if noise.is_empty() { after } else { format!("{before}{noise}{after}") }
        },
    )
}

fn spelled_path(path: &'static str) -> impl Strategy<Value = String> {
    let pieces: Vec<BoxedStrategy<String>> =
        path.chars().map(|c| if c == '/' { separator().boxed() } else { spelled(c).boxed() }).collect();
    let end = prop_oneof![
        Just(""),
        Just("/"),
        Just("//"),
        Just(";x"),
        Just("/."),
        Just("/x/.."),
        Just("."),
        Just("%2f"),
        Just("%3fq"),
        Just("/;x"),
        Just("%00"),
        Just("\\"),
        Just("+"),
        Just(".json"),
        Just(".json/"),
        Just("/index.php")
    ];
    (pieces, end).prop_map(|(pieces, end)| pieces.concat() + end)
}

proptest! {
    #[test]
    fn a_log_in_path_in_any_spelling_is_contained(
        path in prop::sample::select(&["/auth", "/auth/login", "/patient/auth", "/patient/auth/login", "/base/token/refresh"][..]).prop_flat_map(spelled_path)
    ) {
        prop_assert!(login_paths().contains(&path), "{path}");
    }

    #[test]
    fn encoded_is_judged_as_decoded(path in "/[a-z]{1,6}(/[a-z]{1,6}){0,3}", spelling in any::<u64>()) {
        let encoded: String = path.bytes().enumerate().map(|(at, byte)| {
            if spelling >> (at % 64) & 1 == 1 { format!("%{byte:02x}") } else { char::from(byte).to_string() }
        }).collect();
        prop_assert_eq!(login_paths().contains(&path), login_paths().contains(&encoded));
        prop_assert!(LoginPaths::new([&path]).contains(&encoded));
        prop_assert!(LoginPaths::new([&encoded]).contains(&path));
        prop_assert_eq!(LoginPaths::new([&path]), LoginPaths::new([&encoded]));
    }

    #[test]
    fn a_plain_path_is_judged_as_it_is_read_with_escapes(
        known in "(/(patient|public|auth|x)){1,4}", path in "(/(patient|Public|auth|x)){1,5}/?",
    ) {
        let login_paths = LoginPaths::new([known]);
        let escaped = path.replace('u', "%75").replace('i', "%69").replace('x', "%78");
        prop_assert_eq!(login_paths.contains(&path), login_paths.contains(&escaped));
    }

    #[test]
    fn unrelated_paths_pass(path in "(/[a-zA-Z0-9_~.%;-]{0,3}[a-z0-9]{3,12}(%20|%C3%A4|;a|\\.pdf)?){1,6}/?") {
        let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        prop_assume!(!["auth", "login", "refresh"].iter().any(|word| last.contains(word)) && !path.contains("%2525") && !path.contains(';'));
        prop_assert!(!login_paths().contains(&path), "{path}");
    }

    #[test]
    fn the_normal_form_is_its_own_normal_form(path in "[a-zA-Z/.%;2ef5c\\\\ ａ]{0,40}") {
        let once = LoginPath::of_names(names(&path));
        prop_assume!(decode(path.as_bytes()).is_some());
        let Ok(joined) = String::from_utf8(once.joined) else { return Ok(()) };
        prop_assert_eq!(LoginPath::of_names(names(&joined)).pattern, once.pattern);
    }

    #[test]
    fn nothing_panics(path in "\\PC{0,40}", bytes in "(%[0-9a-fA-Fu]{0,4}|[/.;?#\\\\*]|\\PC){0,40}") {
        for path in [path, bytes] {
            let _ = login_paths().contains(&path);
            // Spaces around it are no part of a rule's path.
            let written = path.trim_ascii();
            if let Ok(rule) = Rule::parse(&format!("GET {written}")) {
                prop_assert!(is_canonical(written));
                prop_assert!(rule.matches(&Method::GET, written));
            }
            let _ = Prefix::parse(&path).map(|prefix| prefix.strip(&path).map(str::len));
        }
    }

    #[test]
    fn a_canonical_path_says_what_it_means(path in "(/(%[0-9a-f]{2}|[a-z.;:]|[a-z]{2}){1,3}){1,3}/?") {
        prop_assume!(is_canonical(&path));
        // No decoding changes where its segments begin and end.
        let decoded = unescape(path.as_bytes());
        let slashes = |text: &[u8]| text.iter().filter(|&&byte| is_separator(byte)).count();
        prop_assert_eq!(slashes(&fold(&decoded)), slashes(path.as_bytes()));
        // And what is written with fewer escapes is the same path.
        prop_assert!(!path.to_lowercase().contains("%2f"));
    }
}

#[test]
fn parameters_may_hold_an_encoded_slash() {
    // A server that drops parameters before it decodes sees `/token/new`.
    let known = LoginPaths::new(["/token/new"]);
    assert!(known.contains("/token;%2fx/new"));
    assert!(known.contains("/token;a%2f..%2f..%2fb/new"));
    assert!(!known.contains("/token;%2fx/old"));
}
