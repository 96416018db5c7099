//! Body of the login operation (7): JSON, read with goim's (that is Go's) tolerance.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Number, Value};

use crate::{
    ids::{KEY_LEN_MAX, Key, Mid, RoomId, RoomIdError},
    json,
    op::Op,
};

/// Operations one login may accept.
pub const ACCEPTS_MAX: usize = 128;

/// Further rooms one login may join.
pub const ROOMS_MAX: usize = 32;

/// A client's login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The user; 0 if not given.
    pub mid: Mid,
    /// The device key. logic invents one if none is given.
    pub key: Option<Key>,
    /// The first room, which operation 12 changes.
    pub room: Option<RoomId>,
    /// What the client runs on, e.g. `web`; empty when not given.
    pub platform: String,
    /// Operations that the client wants of pushes to keys and to everybody; at most 128.
    pub accepts: Vec<Op>,
    /// What the client asks for beyond goim.
    pub features: Features,
    /// Further rooms, in the client's order; at most 32.
    pub rooms: Vec<RoomId>,
}

/// What a client turns on beyond goim. Unknown names are ignored, so that newer clients work with older servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// `reasons`: operation 6 with the reason before a close.
    pub reasons: bool,
}

/// The part of a login that comet itself needs if a Go logic decides it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// What the client asks for beyond goim.
    pub features: Features,
    /// Further rooms, at most 32.
    pub rooms: Vec<RoomId>,
}

/// Why a login body is refused. Clients may see the words, which name fields and bounds but never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// There is no body.
    #[error("the login is empty")]
    Empty,
    /// The body is not one JSON object (or `null`).
    #[error("the login is not a JSON object: line {line}, column {column}")]
    NotJson {
        /// The line where it stops being one, counted from 1.
        line: usize,
        /// Byte in that line.
        column: usize,
    },
    /// A field has another type.
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
    /// A room id is malformed.
    #[error("{field}: {error}")]
    Room {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        error: RoomIdError,
    },
    /// A list is longer than allowed.
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
    /// Reads a login body by Go's rules: field names may be in any case, of several fields with one name the last
    /// counts, `null` means "not given", `{}` and `null` are logins, unknown fields are ignored, and what is no Unicode
    /// becomes U+FFFD. `mid` may be a numeric string.
    ///
    /// # Errors
    /// A [`LoginError`]. The client is closed with
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

/// Who a client claims to be, for the log. What cannot be read counts as not given.
pub fn claimed(body: &[u8]) -> (Option<Mid>, Option<Key>) {
    let Ok(fields) = Fields::parse(body) else { return (None, None) };
    (fields.mid.and_then(|value| mid(&value).ok()), fields.key.and_then(|value| key(value).ok().flatten()))
}

/// Reads only what comet itself needs. Never fails: what is wrong counts as not given.
pub fn extras(body: &[u8]) -> Extras {
    let Ok(fields) = Fields::parse(body) else { return Extras::default() };
    Extras {
        features: fields.features.and_then(|value| features(value).ok()).unwrap_or_default(),
        rooms: fields.rooms.and_then(|value| rooms(value).ok()).unwrap_or_default(),
    }
}

fn mid(value: &Value) -> Result<Mid, LoginError> {
    match value {
        Value::Number(number) => integer(number),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
    .map(Mid)
    .ok_or(LoginError::Type { field: "mid", wanted: "an integer of 64 bits" })
}

/// An integer of 64 bits. `-0` is one too, although it is stored as a float.
fn integer(number: &Number) -> Option<i64> {
    let is_minus_zero = || number.as_f64().is_some_and(|float| float == 0.0 && float.is_sign_negative());
    number.as_i64().or_else(|| is_minus_zero().then_some(0))
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
        .map(|element| match element {
            Value::Number(number) => integer(&number).and_then(|n| i32::try_from(n).ok()).map(Op),
            // For `null` Go leaves the element unchanged, and it was 0.
            Value::Null => Some(Op(0)),
            _ => None,
        })
        .collect::<Option<_>>()
        .ok_or(LoginError::Type { field: "accepts", wanted: WANTED })
}

fn features(value: Value) -> Result<Features, LoginError> {
    // The bound on the body is enough, since nothing of this list is kept.
    let names = list("features", "a list of texts", value, usize::MAX)?;
    // For `null` Go leaves the element unchanged, and it was "".
    if !names.iter().all(|name| name.is_string() || name.is_null()) {
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

/// The known fields of a login, unchecked; never `Value::Null`.
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
        serde_json::from_str::<Option<Fields>>(&json::readable(body))
            .map(Option::unwrap_or_default)
            .map_err(|error| LoginError::NotJson { line: error.line(), column: error.column() })
    }

    /// Where to put a field of this name, in any case.
    fn place(&mut self, name: &str) -> Option<&mut Option<Value>> {
        Some(match name {
            _ if json::is_name(name, "mid") => &mut self.mid,
            _ if json::is_name(name, "key") => &mut self.key,
            _ if json::is_name(name, "room_id") => &mut self.room_id,
            _ if json::is_name(name, "platform") => &mut self.platform,
            _ if json::is_name(name, "accepts") => &mut self.accepts,
            _ if json::is_name(name, "features") => &mut self.features,
            _ if json::is_name(name, "rooms") => &mut self.rooms,
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
                        // For `null` Go leaves a field unchanged, but empties a list.
                        Some(place) => {
                            let before = place.take().filter(|before| !before.is_array());
                            *place = map.next_value::<Option<Value>>()?.or(before);
                        }
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

/// A field's name. It is borrowed if the JSON has no escapes in it.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests;
