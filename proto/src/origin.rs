//! The sender of a room message, as it travels with the message.

use crate::{frame::VER, ids::Key};

/// The sender of a room message that a client sent itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Device key of the sender; not empty.
    pub key: Key,
    /// Sequence number of its request: its own copy carries it.
    pub seq: i32,
    /// Version of its request: everybody's copy carries it, for there are clients that ignore any other than their own.
    pub ver: i16,
}

impl Origin {
    /// As messages carry it: without a key no client sent them. Without a version it is [`VER`]. A version is cut to the
    /// bits it has on the client wire, as goim does.
    pub fn from_wire(key: String, seq: i32, ver: Option<i32>) -> Option<Origin> {
        let ver = ver.map_or(VER, |ver| ver as i16);
        (!key.is_empty()).then(|| Origin { key: Key::new(key), seq, ver })
    }

    /// The version as messages carry it.
    pub fn ver_to_wire(&self) -> Option<i32> {
        (self.ver != VER).then_some(self.ver.into())
    }
}
