use super::*;

fn parse(body: &str) -> Result<Login, LoginError> {
    Login::parse(body.as_bytes())
}

#[test]
fn goims_login_is_read() {
    let login =
        parse(r#"{"mid":123,"key":"k1","room_id":"live://1000","platform":"web","accepts":[1000,1001,-1]}"#);
    assert_eq!(
        login,
        Ok(Login {
            mid: Mid(123),
            key: Some(Key::new("k1")),
            room: Some(RoomId::parse("live://1000").unwrap()),
            platform: "web".into(),
            accepts: vec![Op(1000), Op(1001), Op(-1)],
            ..Login::default()
        })
    );
}

#[test]
fn nothing_given_is_nobody_in_no_room() {
    for body in [
        "{}",
        "null",
        " null ",
        "\n{ }\t",
        r#"{"key":"","room_id":"","platform":"","accepts":[],"rooms":[],"features":[]}"#,
        r#"{"mid":null,"key":null,"room_id":null,"platform":null,"accepts":null,"rooms":null,"features":null}"#,
        r#"{"unknown":{"deep":[1,2,{"mid":7}]},"mi":5}"#,
    ] {
        assert_eq!(parse(body), Ok(Login::default()), "{body}");
    }
}

#[test]
fn names_are_read_in_any_case_and_the_last_one_counts() {
    for (body, mid) in [
        (r#"{"MID":1}"#, 1),
        (r#"{"Mid":1,"mID":2}"#, 2),
        (r#"{"mid":1,"MID":null}"#, 1),
        (r#"{"\u006did":3}"#, 3),
        (r#"{"mid":"x","mid":4}"#, 4),
    ] {
        assert_eq!(parse(body).map(|login| login.mid), Ok(Mid(mid)), "{body}");
    }
    assert_eq!(parse(r#"{"Room_ID":"a"}"#).unwrap().room, RoomId::parse("a").ok());
}

#[test]
fn mid_is_an_integer_or_the_text_of_one() {
    for (mid, wanted) in [
        ("0", Some(0)),
        ("-5", Some(-5)),
        ("9223372036854775807", Some(i64::MAX)),
        (r#""123""#, Some(123)),
        (r#""-9223372036854775808""#, Some(i64::MIN)),
        ("9223372036854775808", None),
        ("1.0", None),
        ("1e3", None),
        (r#""""#, None),
        (r#"" 1""#, None),
        (r#""1.5""#, None),
        ("true", None),
        ("[1]", None),
        ("{}", None),
    ] {
        let wanted =
            wanted.map(Mid).ok_or(LoginError::Type { field: "mid", wanted: "an integer of 64 bits" });
        assert_eq!(parse(&format!(r#"{{"mid":{mid}}}"#)).map(|login| login.mid), wanted, "{mid}");
    }
}

#[test]
fn other_types_are_refused_by_name() {
    for (field, values) in [
        ("key", &["1", "[]", "true"][..]),
        ("room_id", &["1", "{}"]),
        ("platform", &["1"]),
        ("accepts", &[r#""1000""#, r#"["1000"]"#, "[1.5]", "[2147483648]", "1000", "{}"]),
        ("features", &[r#""reasons""#, "[1]", "true"]),
        ("rooms", &[r#""live://1""#, "[1]", "{}"]),
    ] {
        for value in values {
            match parse(&format!(r#"{{"{field}":{value}}}"#)) {
                Err(LoginError::Type { field: found, .. }) => assert_eq!(found, field),
                other => panic!("{field}={value} gave {other:?}"),
            }
        }
    }
}

#[test]
fn what_is_no_object_is_refused() {
    for body in ["", " ", "\r\n\t"] {
        assert_eq!(parse(body), Err(LoginError::Empty));
    }
    for body in ["[]", "1", r#""token""#, "{", "{}{}", "nul", r#"{"mid":}"#, "\u{feff}{}", "true"] {
        assert!(matches!(parse(body), Err(LoginError::NotJson { .. })), "{body}");
    }
}

#[test]
fn deep_nesting_is_refused_without_harm() {
    for value in ["[".repeat(4000), r#"{"a":"#.repeat(800)] {
        assert!(matches!(parse(&format!(r#"{{"x":{value}"#)), Err(LoginError::NotJson { .. })));
        assert!(matches!(parse(&format!(r#"{{"rooms":{value}"#)), Err(LoginError::NotJson { .. })));
    }
}

#[test]
fn bounds_are_checked_on_both_sides() {
    let key = |key: &str| parse(&format!(r#"{{"key":"{key}"}}"#)).map(|_| ());
    assert_eq!(key(&"k".repeat(128)), Ok(()));
    assert_eq!(key(&"k".repeat(129)), Err(LoginError::Key));
    assert_eq!(key(r"a\u0000"), Err(LoginError::Key));
    assert_eq!(key(r"a\n"), Err(LoginError::Key));

    let list = |field: &str, element: &str, count: usize| {
        parse(&format!(r#"{{"{field}":[{}]}}"#, vec![element; count].join(","))).map(|_| ())
    };
    assert_eq!(list("accepts", "1", 128), Ok(()));
    assert_eq!(
        list("accepts", "1", 129),
        Err(LoginError::TooMany { field: "accepts", found: 129, max: 128 })
    );
    assert_eq!(list("rooms", r#""a""#, 32), Ok(()));
    assert_eq!(list("rooms", r#""a""#, 33), Err(LoginError::TooMany { field: "rooms", found: 33, max: 32 }));
}

#[test]
fn room_ids_are_checked() {
    let long = "r".repeat(129);
    for (body, field, error) in [
        (format!(r#"{{"room_id":"{long}"}}"#), "room_id", RoomIdError::TooLong { len: 129 }),
        (r#"{"room_id":"a\n"}"#.to_owned(), "room_id", RoomIdError::ControlCharacter { at: 1 }),
        (r#"{"rooms":["a",""]}"#.to_owned(), "rooms", RoomIdError::Empty),
    ] {
        assert_eq!(parse(&body), Err(LoginError::Room { field, error }));
    }
}

#[test]
fn features_and_further_rooms_are_read() {
    let login = parse(r#"{"features":["new","reasons"],"rooms":["live://1","live://2"]}"#).unwrap();
    assert!(login.features.reasons);
    assert_eq!(login.rooms, ["live://1", "live://2"].map(|room| RoomId::parse(room).unwrap()));
    assert!(!parse(r#"{"features":["Reasons"]}"#).unwrap().features.reasons);
    assert!(parse(r#"{"features":[null,"reasons"]}"#).unwrap().features.reasons);
}

#[test]
fn extras_never_fail() {
    let both = Extras { features: Features { reasons: true }, rooms: vec![RoomId::parse("a").unwrap()] };
    for (body, wanted) in [
        (r#"{"features":["reasons"],"rooms":["a"]}"#, both.clone()),
        (r#"{"mid":"x","accepts":7,"features":["reasons"],"rooms":["a"]}"#, both),
        (
            r#"{"features":["reasons"],"rooms":[1]}"#,
            Extras { features: Features { reasons: true }, rooms: vec![] },
        ),
        ("not JSON: a token", Extras::default()),
        ("", Extras::default()),
        ("null", Extras::default()),
    ] {
        assert_eq!(extras(body.as_bytes()), wanted, "{body}");
    }
}

#[test]
fn an_error_never_repeats_a_value() {
    for body in [r#"{"mid":"secret"}"#, r#"{"key":["secret"]}"#, r#"{"room_id":"secret\n"}"#, "secret"] {
        assert!(!parse(body).unwrap_err().to_string().contains("secret"), "{body}");
    }
}

/// What Go 1.26's `encoding/json` made of a body, read into the struct of goim-example's login.
enum Go {
    /// The user, the device key, the room, the platform and the operations.
    Reads(i64, &'static str, &'static str, &'static str, &'static [i32]),
    Refuses,
}
use Go::{Reads, Refuses};

/// Verdicts of a Go program, run by hand. Bodies in another encoding were refused here ("not a JSON object"), though goim
/// reads them, and though the field they stood in was of no interest.
const GO: &[(&[u8], Go)] = &[
    // No UTF-8: values and names, of fields known and unknown.
    (
        b"{\"mid\":1,\"key\":\"case\",\"platform\":\"\xb0\xb2\xd7\xbf\"}",
        Reads(1, "case", "", "\u{fffd}\u{fffd}\u{5ff}", &[]),
    ),
    (b"{\"mid\":1,\"key\":\"case\",\"\xea\xc7\xb3\xc6\":1}", Reads(1, "case", "", "", &[])),
    (b"{\"key\":\"a\xffb\"}", Reads(0, "a\u{fffd}b", "", "", &[])),
    (b"{\"key\":\"\xe5\xae\"}", Reads(0, "\u{fffd}\u{fffd}", "", "", &[])),
    (b"{\"key\":\"\xed\xa0\x80\"}", Reads(0, "\u{fffd}\u{fffd}\u{fffd}", "", "", &[])),
    (b"{\"key\":\"\xf4\x90\x80\x80\"}", Reads(0, "\u{fffd}\u{fffd}\u{fffd}\u{fffd}", "", "", &[])),
    (b"{\"key\":\"\xc0\x80\"}", Reads(0, "\u{fffd}\u{fffd}", "", "", &[])),
    (b"{\"room_id\":\"live://\xc4\xe3\"}", Reads(0, "", "live://\u{fffd}\u{fffd}", "", &[])),
    (b"{\"x\":[{\"\xff\":\"\xfe\"}],\"mid\":2}", Reads(2, "", "", "", &[])),
    (b"{\"mid\xff\":9}", Reads(0, "", "", "", &[])),
    (b"{\"mid\":1}\xff", Refuses),
    (b"{\"mid\":\xff}", Refuses),
    (b"\xff{\"mid\":1}", Refuses),
    // Halves of surrogate pairs.
    (br#"{"key":"\ud800"}"#, Reads(0, "\u{fffd}", "", "", &[])),
    (br#"{"key":"\udc00x"}"#, Reads(0, "\u{fffd}x", "", "", &[])),
    (br#"{"key":"\ud83d\ude00"}"#, Reads(0, "\u{1f600}", "", "", &[])),
    (br#"{"key":"\ud800\ud83d\ude00"}"#, Reads(0, "\u{fffd}\u{1f600}", "", "", &[])),
    (br#"{"key":"\uD800\u0041"}"#, Reads(0, "\u{fffd}A", "", "", &[])),
    (br#"{"key":"\\ud800"}"#, Reads(0, "\\ud800", "", "", &[])),
    (br#"{"key":"\\\ud800"}"#, Reads(0, "\\\u{fffd}", "", "", &[])),
    (br#"{"\ud800":"\udfff","mid":3}"#, Reads(3, "", "", "", &[])),
    (br#"{"x":"\ud800","mid":3}"#, Reads(3, "", "", "", &[])),
    (br#"{"key":"\ud80"}"#, Refuses),
    (br#"{"key":"\ud800\u12"}"#, Refuses),
    (br#"{"key":"\uzzzz"}"#, Refuses),
    // Other escapes and control characters.
    (br#"{"key":"\x41"}"#, Refuses),
    (br#"{"key":"\'"}"#, Refuses),
    (br#"{"key":"\/"}"#, Reads(0, "/", "", "", &[])),
    (b"{\"x\":\"a\0b\"}", Refuses),
    (b"{\"x\":\"a\nb\"}", Refuses),
    (b"{\"x\x1f\":1}", Refuses),
    (b"{\"x\":\"a\x7fb\",\"mid\":4}", Reads(4, "", "", "", &[])),
    // Numbers, and depth, where nobody looks.
    (br#"{"x":1e999999,"mid":5}"#, Reads(5, "", "", "", &[])),
    (br#"{"x":-0.1E-9999999999999999999999,"mid":5}"#, Reads(5, "", "", "", &[])),
    (br#"{"x":123456789012345678901234567890,"mid":5}"#, Reads(5, "", "", "", &[])),
    (br#"{"x":01}"#, Refuses),
    (br#"{"x":+1}"#, Refuses),
    (br#"{"x":1.}"#, Refuses),
    (br#"{"x":.5}"#, Refuses),
    (br#"{"x":-}"#, Refuses),
    (br#"{"x":NaN}"#, Refuses),
    // Numbers where somebody does.
    (br#"{"mid":-0}"#, Reads(0, "", "", "", &[])),
    (br#"{"mid":0.0}"#, Refuses),
    (br#"{"mid":1e3}"#, Refuses),
    (br#"{"mid":1e400}"#, Refuses),
    (br#"{"mid":9223372036854775808}"#, Refuses),
    (br#"{"accepts":[-0,2147483647,-2147483648]}"#, Reads(0, "", "", "", &[0, i32::MAX, i32::MIN])),
    (br#"{"accepts":[2147483648]}"#, Refuses),
    (br#"{"accepts":[1e400]}"#, Refuses),
    (br#"{"accepts":[1.0]}"#, Refuses),
    (br#"{"accepts":[null,7]}"#, Reads(0, "", "", "", &[0, 7])),
    (br#"{"accepts":[[]]}"#, Refuses),
    // A name twice, in any case.
    (br#"{"mid":1,"mid":2}"#, Reads(2, "", "", "", &[])),
    (br#"{"mid":1,"MID":2,"Mid":3}"#, Reads(3, "", "", "", &[])),
    (br#"{"MID":3,"mid":1}"#, Reads(1, "", "", "", &[])),
    (br#"{"mid":1,"mid":null}"#, Reads(1, "", "", "", &[])),
    (br#"{"key":"a","key":null}"#, Reads(0, "a", "", "", &[])),
    (br#"{"accepts":[1,2],"accepts":null}"#, Reads(0, "", "", "", &[])),
    (br#"{"accepts":[1,2],"accepts":[3]}"#, Reads(0, "", "", "", &[3])),
    ("{\"\u{212a}ey\":\"kelvin\"}".as_bytes(), Reads(0, "kelvin", "", "", &[])),
    ("{\"accept\u{17f}\":[8]}".as_bytes(), Reads(0, "", "", "", &[8])),
    ("{\"m\u{131}d\":7}".as_bytes(), Reads(0, "", "", "", &[])),
    (br#"{"\u006bEY":"escaped"}"#, Reads(0, "escaped", "", "", &[])),
    // What stands around it.
    (b" \t\r\n{} \n", Reads(0, "", "", "", &[])),
    (b"\xef\xbb\xbf{}", Refuses),
    (b"{}{}", Refuses),
    (b"{} x", Refuses),
    (b"{}\0", Refuses),
    (b"{}\x0b", Refuses),
    (b"\xc2\xa0{}", Refuses),
    (br#"{"a":1,}"#, Refuses),
    (br#"{"a"}"#, Refuses),
    (b"{'a':1}", Refuses),
    (b"{a:1}", Refuses),
    (br#"{"a":True}"#, Refuses),
    (b"[]", Refuses),
    (b"null", Reads(0, "", "", "", &[])),
];

#[test]
fn what_go_reads_is_read_the_same() {
    for (body, go) in GO {
        let shown = String::from_utf8_lossy(body);
        match (go, Login::parse(body)) {
            (Refuses, found) => assert!(found.is_err(), "{shown}: {found:?}"),
            (Reads(mid, key, room, platform, accepts), Ok(login)) => {
                let found = (
                    login.mid.0,
                    login.key.as_ref().map_or("", Key::as_str),
                    login.room.as_ref().map_or("", RoomId::as_str),
                    &*login.platform,
                    login.accepts.iter().map(|op| op.0).collect::<Vec<_>>(),
                );
                assert_eq!(found, (*mid, *key, *room, *platform, accepts.to_vec()), "{shown}");
            }
            (Reads(..), Err(error)) => panic!("{shown}: {error}"),
        }
    }
}

/// Go's own bound, 10,000, is beyond any body.
#[test]
fn a_field_nobody_knows_may_be_as_deep_as_the_body_is_long() {
    for (open, close) in [("[", "]"), (r#"{"a":["#, "]}")] {
        let depth = 600;
        let body = format!(r#"{{"x":{}{},"mid":6}}"#, open.repeat(depth), close.repeat(depth));
        assert_eq!(parse(&body).map(|login| login.mid), Ok(Mid(6)));
        let body = format!(r#"{{"mid":{}{}}}"#, open.repeat(depth), close.repeat(depth));
        assert!(parse(&body).is_err());
    }
}

#[test]
fn the_log_is_told_what_can_be_read_of_who_it_is() {
    for (body, mid, key) in [
        (r#"{"mid":42,"key":"a"}"#, Some(42), Some("a")),
        (r#"{"mid":"42","key":7}"#, Some(42), None),
        (r#"{"mid":{},"key":"a","token":"secret"}"#, None, Some("a")),
        (r#"{"mid":1,"key":"a\n"}"#, Some(1), None),
        ("a.signed.token", None, None),
    ] {
        assert_eq!(claimed(body.as_bytes()), (mid.map(Mid), key.map(Key::new)), "{body}");
    }
}
