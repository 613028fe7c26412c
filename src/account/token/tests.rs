use proptest::prelude::*;

use super::*;

/// The server's and our wall clock at [`received`].
const WALL: u64 = 1_800_000_000;

fn wall(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn received() -> Now {
    Now { moment: Moment::new(Duration::from_secs(1000)), wall: wall(WALL) }
}

pub(in crate::account) fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(word);
        for place in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}

pub(in crate::account) fn jwt(claims: &str) -> String {
    format!("{}.{}.c2ln", encode(br#"{"alg":"HS256"}"#), encode(claims.as_bytes()))
}

fn grant(token: &str, server_date: Option<SystemTime>) -> Grant {
    Grant {
        token: Secret::from(token),
        refresh: None,
        organization: HeaderValue::from_static("acme"),
        server_date,
        asked: received().moment,
        received: received(),
    }
}

fn read(token: &str, server_date: Option<SystemTime>) -> Result<Token, Malformed> {
    Token::read(grant(token, server_date), AccountIdentity::new(), Generation(1), Duration::from_secs(3600))
}

fn life(claims: &str) -> Result<f64, Malformed> {
    read(&jwt(claims), Some(wall(WALL))).map(|token| token.life.as_secs_f64())
}

#[test]
fn life_is_what_exp_says_by_the_servers_clock() {
    let token = jwt(&format!(r#"{{"sub":"x","exp":{},"email":"a@b.c"}}"#, WALL + 600));
    assert_eq!(read(&token, Some(wall(WALL))).unwrap().life, Duration::from_secs(600));
    // The server's clock is 400 s ahead of ours: 200 s are left, whatever our own clock says.
    assert_eq!(read(&token, Some(wall(WALL + 400))).unwrap().life, Duration::from_secs(200));
    assert_eq!(read(&token, Some(wall(WALL - 400))).unwrap().life, Duration::from_secs(1000));
    assert_eq!(read(&token, None).unwrap().life, Duration::from_secs(600));
}

#[test]
fn exp_may_be_a_float_and_absurd_values_are_safe() {
    let ten_years = LIFE_MAX.as_secs_f64();
    assert_eq!(life(r#"{"exp":1800000100.5}"#), Ok(100.5));
    assert_eq!(life(r#"{"exp":1.8000001e9}"#), Ok(100.0));
    for huge in ["1e300", "18446744073709551615", "99999999999999999999999999", "9223372036854775807"] {
        assert_eq!(life(&format!(r#"{{"exp":{huge}}}"#)), Ok(ten_years), "{huge}");
    }
    for past in ["0", "-1", "-1e300", "1799999999", "1800000000"] {
        assert_eq!(life(&format!(r#"{{"exp":{past}}}"#)), Err(Malformed::Expired), "{past}");
    }
}

#[test]
fn without_a_readable_exp_the_assumed_life_holds() {
    for claims in ["{}", r#"{"exp":null}"#, r#"{"exp":"soon"}"#, r#"{"exp":true}"#, r#"{"exp":1e999}"#, "[1]", "", "{"] {
        assert_eq!(life(claims), Ok(3600.0), "{claims}");
    }
    let payload = encode(format!(r#"{{"exp":{}}}"#, WALL + 60).as_bytes());
    for token in [&format!("a.{payload}"), &format!("a.{payload}.b.c"), &format!("a.{payload}.b.c.d"), &payload] {
        assert_eq!(read(token, None).unwrap().life, Duration::from_secs(3600), "{token}: three parts make a JWT");
    }
    for token in ["opaque", "a.b", "a.%%%.c", "a.b.c.d.e", "..", "a.e30=.c"] {
        assert_eq!(read(token, None).unwrap().life, Duration::from_secs(3600), "{token}");
    }
}

#[test]
fn padding_is_tolerated() {
    let padded = format!("h.{}==.s", encode(br#"{"exp":1800000060}"#).trim_end_matches('='));
    assert_eq!(read(&padded, None).unwrap().life, Duration::from_secs(60));
}

#[test]
fn a_token_that_cannot_stand_in_a_header_is_malformed() {
    for token in ["", "a b", "a\nb", "ü"] {
        assert_eq!(read(token, None).unwrap_err(), Malformed::NotAHeader, "{token:?}");
    }
}

#[test]
fn a_token_counts_as_expired_a_little_early() {
    for (life, early) in [(2, 1000), (5, 1000), (15, 1500), (20, 2000), (3600, 2000)] {
        let token = read(&jwt(&format!(r#"{{"exp":{}}}"#, WALL + life)), None).unwrap();
        let end = received().moment + Duration::from_secs(life) - Duration::from_millis(early);
        assert_eq!(token.usable_until, end, "{life}");
        assert!(token.is_usable(end - Duration::from_nanos(1)));
        assert!(!token.is_usable(end));
        assert!(!token.bearer.is_usable(end));
    }
    for short in ["1800000000.1", "1800000001", "1800000001.9"] {
        assert_eq!(life(&format!(r#"{{"exp":{short}}}"#)), Err(Malformed::Expired), "{short}: no more than margin");
    }
}

/// With clocks that disagree nobody can tell how long a late answer was on its way.
#[test]
fn a_token_may_be_as_old_as_the_question_for_it() {
    let asked = received().moment - Duration::from_secs(7);
    let of_a_minute = |date| grant(&jwt(&format!(r#"{{"exp":{}}}"#, WALL + 60)), date);
    let token =
        Token::read(Grant { asked, ..of_a_minute(None) }, AccountIdentity::new(), Generation(1), Duration::from_secs(3600))
            .unwrap();
    assert_eq!(token.usable_until, asked + Duration::from_secs(58));
    assert_eq!(token.expires, received().moment + Duration::from_secs(60), "what is told is the likely time");
    let asked = received().moment - Duration::from_secs(40);
    let late = Token::read(Grant { asked, ..of_a_minute(None) }, AccountIdentity::new(), Generation(1), Duration::ZERO).unwrap();
    assert_eq!(late.refresh_at(1.0), late.usable_until, "it is renewed when it ends at the latest");
}

#[test]
fn the_refresh_follows_the_formula_for_every_life() {
    // (life, fraction, seconds after receipt)
    for (life, fraction, expected) in [
        (4, 0.5, 2.0),
        (40, 0.5, 20.0),
        (100, 0.0, 70.0),
        (1000, 0.0, 720.0),
        (1000, 0.5, 800.0),
        (1000, 1.0, 880.0),
        (2_592_000, 0.5, 2_073_600.0),
    ] {
        let token = read(&jwt(&format!(r#"{{"exp":{}}}"#, WALL + life)), None).unwrap();
        let after = token.refresh_at(fraction).since(token.received).as_secs_f64();
        assert!((after - expected).abs() < 0.001, "{life}: {after}");
    }
}

#[test]
fn debug_shows_neither_token_nor_organization() {
    let token = read("s3cret", None).unwrap();
    let shown = format!("{token:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("acme"), "{shown}");
    assert_eq!(format!("{:?}", token.bearer), "Bearer { generation: 1, .. }");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(token in ".{0,200}", date in 0_u64..1 << 40) {
        if let Ok(token) = read(&token, Some(wall(date))) {
            prop_assert!(token.life <= LIFE_MAX);
            prop_assert!(token.usable_until > token.received);
        }
    }

    #[test]
    fn any_claims_are_read_without_a_panic(claims in ".{0,100}", exp in proptest::num::f64::ANY, fraction in 0.0..1.0) {
        let _ = life(&claims);
        if let Ok(token) = read(&jwt(&format!(r#"{{"exp":{exp:?}}}"#)), Some(wall(WALL))) {
            prop_assert!(token.refresh_at(fraction) >= token.received + token.life / 2);
            prop_assert!(token.refresh_at(fraction) <= token.usable_until);
        }
    }

    #[test]
    fn base64url_reads_what_was_encoded(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let text = encode(&bytes);
        let read = base64url(text.as_bytes()).map(|read| read.to_vec());
        prop_assert_eq!(read, Some(bytes));
    }
}
