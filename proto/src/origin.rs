//! The sender of a room message. This travels with the message.

use crate::{frame::VER, ids::Key};

/// The client that sent a room message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Device key of the sender. Not empty.
    pub key: Key,
    /// Sequence number of its request. The sender's own copy carries it.
    pub seq: i32,
    /// Version of its request. All copies carry it, since some clients ignore every version but their own.
    pub ver: i16,
}

impl Origin {
    /// Reads it as messages carry it. Without a key no client sent the message. Without a version it is [`VER`]. As in
    /// goim, a version is cut to the bits that it has on the client wire.
    pub fn from_wire(key: String, seq: i32, ver: Option<i32>) -> Option<Origin> {
        let ver = ver.map_or(VER, |ver| ver as i16);
        (!key.is_empty()).then(|| Origin { key: Key::new(key), seq, ver })
    }

    /// The version as messages carry it.
    pub fn ver_to_wire(&self) -> Option<i32> {
        (self.ver != VER).then_some(self.ver.into())
    }
}
