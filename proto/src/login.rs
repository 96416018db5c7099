//! Body of the login operation (7): JSON, read with goim's (that is Go's) tolerance.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use crate::{
    ids::{KEY_LEN_MAX, Key, Mid, RoomId, RoomIdError},
    op::Op,
};

/// Operations one login may accept.
pub const ACCEPTS_MAX: usize = 128;

/// Further rooms one login may join.
pub const ROOMS_MAX: usize = 32;

/// A client's login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The user; 0 when not given.
    pub mid: Mid,
    /// The device key; logic invents one when not given.
    pub key: Option<Key>,
    /// The first room, the one operation 12 changes.
    pub room: Option<RoomId>,
    /// What the client runs on, e.g. `web`; empty when not given.
    pub platform: String,
    /// Operations of keyed and broadcast pushes the client wants; at most 128.
    pub accepts: Vec<Op>,
    /// What the client asks for beyond goim.
    pub features: Features,
    /// Further rooms, in the client's order; at most 32.
    pub rooms: Vec<RoomId>,
}

/// What a client turns on beyond goim. Names not known are ignored, so that newer clients work with older servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// `reasons`: operation 6 with the reason before a close.
    pub reasons: bool,
}

/// The part of a login that comet itself needs, when a Go logic decides it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// What the client asks for beyond goim.
    pub features: Features,
    /// Further rooms, at most 32.
    pub rooms: Vec<RoomId>,
}

/// Why a login body is refused. The words may be shown to the client: they name fields and bounds, never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// No body at all.
    #[error("the login is empty")]
    Empty,
    /// Not one JSON object (or `null`).
    #[error("the login is not a JSON object: line {line}, column {column}")]
    NotJson {
        /// Where it stops to be one, counted from 1.
        line: usize,
        /// Byte in that line.
        column: usize,
    },
    /// A field of another type.
    #[error("{field} is not {wanted}")]
    Type {
        /// The field.
        field: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// The device key is too long or has control characters.
    #[error("key is not 1 to {KEY_LEN_MAX} bytes without control characters")]
    Key,
    /// A room id that is none.
    #[error("{field}: {error}")]
    Room {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        error: RoomIdError,
    },
    /// A list longer than allowed.
    #[error("{field} has {found} elements, the maximum is {max}")]
    TooMany {
        /// The field.
        field: &'static str,
        /// Elements given.
        found: usize,
        /// Elements allowed.
        max: usize,
    },
}

impl Login {
    /// Reads a login body with Go's rules: field names in any case, the last of several counts, `null` is the same as
    /// not given, `{}` and `null` are logins, unknown fields are ignored. `mid` may be a numeric string.
    ///
    /// # Errors
    /// A [`LoginError`]; the client is closed with
    /// [`CloseReason::LoginRefused`](crate::close::CloseReason::LoginRefused).
    pub fn parse(body: &[u8]) -> Result<Login, LoginError> {
        let fields = Fields::parse(body)?;
        Ok(Login {
            mid: fields.mid.map_or(Ok(Mid(0)), |value| mid(&value))?,
            key: fields.key.map_or(Ok(None), key)?,
            room: fields.room_id.map_or(Ok(None), room)?,
            platform: fields.platform.map_or(Ok(String::new()), |value| text("platform", value))?,
            accepts: fields.accepts.map_or(Ok(Vec::new()), accepts)?,
            features: fields.features.map_or(Ok(Features::default()), features)?,
            rooms: fields.rooms.map_or(Ok(Vec::new()), rooms)?,
        })
    }
}

/// Reads only what comet itself needs, and never fails: what is wrong counts as not given.
pub fn extras(body: &[u8]) -> Extras {
    let Ok(fields) = Fields::parse(body) else { return Extras::default() };
    Extras {
        features: fields.features.and_then(|value| features(value).ok()).unwrap_or_default(),
        rooms: fields.rooms.and_then(|value| rooms(value).ok()).unwrap_or_default(),
    }
}

fn mid(value: &Value) -> Result<Mid, LoginError> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
    .map(Mid)
    .ok_or(LoginError::Type { field: "mid", wanted: "an integer of 64 bits" })
}

fn key(value: Value) -> Result<Option<Key>, LoginError> {
    let key = text("key", value)?;
    if key.len() > KEY_LEN_MAX || key.chars().any(char::is_control) {
        return Err(LoginError::Key);
    }
    Ok((!key.is_empty()).then(|| Key::new(key)))
}

fn room(value: Value) -> Result<Option<RoomId>, LoginError> {
    match text("room_id", value)? {
        room if room.is_empty() => Ok(None),
        room => room_id("room_id", &room).map(Some),
    }
}

fn rooms(value: Value) -> Result<Vec<RoomId>, LoginError> {
    list("rooms", "a list of texts", value, ROOMS_MAX)?
        .into_iter()
        .map(|element| match element {
            Value::String(room) => room_id("rooms", &room),
            _ => Err(LoginError::Type { field: "rooms", wanted: "a list of texts" }),
        })
        .collect()
}

fn accepts(value: Value) -> Result<Vec<Op>, LoginError> {
    const WANTED: &str = "a list of integers of 32 bits";
    list("accepts", WANTED, value, ACCEPTS_MAX)?
        .into_iter()
        .map(|element| element.as_i64().and_then(|n| i32::try_from(n).ok()).map(Op))
        .collect::<Option<_>>()
        .ok_or(LoginError::Type { field: "accepts", wanted: WANTED })
}

fn features(value: Value) -> Result<Features, LoginError> {
    // No bound of its own: the body's bounds it, and nothing is kept of it.
    let names = list("features", "a list of texts", value, usize::MAX)?;
    if !names.iter().all(Value::is_string) {
        return Err(LoginError::Type { field: "features", wanted: "a list of texts" });
    }
    Ok(Features { reasons: names.iter().any(|name| name == "reasons") })
}

fn text(field: &'static str, value: Value) -> Result<String, LoginError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(LoginError::Type { field, wanted: "a text" }),
    }
}

fn list(
    field: &'static str,
    wanted: &'static str,
    value: Value,
    max: usize,
) -> Result<Vec<Value>, LoginError> {
    match value {
        Value::Array(list) if list.len() > max => Err(LoginError::TooMany { field, found: list.len(), max }),
        Value::Array(list) => Ok(list),
        _ => Err(LoginError::Type { field, wanted }),
    }
}

fn room_id(field: &'static str, room: &str) -> Result<RoomId, LoginError> {
    RoomId::parse(room).map_err(|error| LoginError::Room { field, error })
}

/// The known fields of a login, each as it came; never `Value::Null`.
#[derive(Default)]
struct Fields {
    mid: Option<Value>,
    key: Option<Value>,
    room_id: Option<Value>,
    platform: Option<Value>,
    accepts: Option<Value>,
    features: Option<Value>,
    rooms: Option<Value>,
}

impl Fields {
    fn parse(body: &[u8]) -> Result<Fields, LoginError> {
        if body.trim_ascii().is_empty() {
            return Err(LoginError::Empty);
        }
        serde_json::from_slice::<Option<Fields>>(body)
            .map(Option::unwrap_or_default)
            .map_err(|error| LoginError::NotJson { line: error.line(), column: error.column() })
    }

    /// The place of a field of this name, in any case.
    fn place(&mut self, name: &str) -> Option<&mut Option<Value>> {
        Some(match name {
            _ if name.eq_ignore_ascii_case("mid") => &mut self.mid,
            _ if name.eq_ignore_ascii_case("key") => &mut self.key,
            _ if name.eq_ignore_ascii_case("room_id") => &mut self.room_id,
            _ if name.eq_ignore_ascii_case("platform") => &mut self.platform,
            _ if name.eq_ignore_ascii_case("accepts") => &mut self.accepts,
            _ if name.eq_ignore_ascii_case("features") => &mut self.features,
            _ if name.eq_ignore_ascii_case("rooms") => &mut self.rooms,
            _ => return None,
        })
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some(Name(name)) = map.next_key()? {
                    match fields.place(&name) {
                        // Go leaves a field alone on `null`.
                        Some(place) => *place = map.next_value::<Option<Value>>()?.or(place.take()),
                        None => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A field's name, borrowed where the JSON has no escapes in it.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Login, LoginError> {
        Login::parse(body.as_bytes())
    }

    #[test]
    fn goims_login_is_read() {
        let login = parse(
            r#"{"mid":123,"key":"k1","room_id":"live://1000","platform":"web","accepts":[1000,1001,-1]}"#,
        );
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
            ("accepts", &[r#""1000""#, r#"["1000"]"#, "[1.5]", "[2147483648]", "[null]", "1000", "{}"]),
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
        assert!(matches!(Login::parse(b"{\"key\":\"\xff\"}"), Err(LoginError::NotJson { .. })));
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
        assert_eq!(
            list("rooms", r#""a""#, 33),
            Err(LoginError::TooMany { field: "rooms", found: 33, max: 32 })
        );
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
}
