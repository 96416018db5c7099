//! The body of a login.

use serde_json::{Map, Value};

/// Body of operation 7. What is not said is left out.
#[derive(Clone, Debug, Default)]
pub struct Login(Map<String, Value>);

impl Login {
    /// With a device key.
    pub fn key(key: &str) -> Login {
        Login::default().with("key", key)
    }

    /// A user.
    pub fn mid(self, mid: i64) -> Login {
        self.with("mid", mid)
    }

    /// A first room.
    pub fn room(self, room: &str) -> Login {
        self.with("room_id", room)
    }

    /// Operations that are accepted.
    pub fn accepts(self, ops: &[i32]) -> Login {
        self.with("accepts", ops)
    }

    /// Halley's: several rooms at once.
    pub fn rooms(self, rooms: &[&str]) -> Login {
        self.with("rooms", rooms)
    }

    /// Halley's: operation 6 before a close.
    pub fn reasons(self) -> Login {
        self.with("features", ["reasons"].as_slice())
    }

    /// Its bytes.
    pub fn body(&self) -> Vec<u8> {
        Value::Object(self.0.clone()).to_string().into_bytes()
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Login {
        self.0.insert(name.to_owned(), value.into());
        self
    }
}
