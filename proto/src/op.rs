//! Operation numbers of the client wire.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a frame is about. 0 to 21 are goim's own numbers, those from 2 000 000 000 on are Halley's, and the application
/// owns the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Op(pub i32);

/// Declares each operation once: its constant and its name.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        impl Op {
            $($(#[$doc])* pub const $name: Op = Op($number);)*

            /// The name, if this is one of the wire's own operations; `None` for the application's.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

operations! {
    /// Handshake. It has no meaning today.
    HANDSHAKE = 0, "handshake";
    /// Reply to [`Op::HANDSHAKE`].
    HANDSHAKE_REPLY = 1, "handshake reply";
    /// A client shows that it lives.
    HEARTBEAT = 2, "heartbeat";
    /// Reply to [`Op::HEARTBEAT`]: body i32, the people in the client's first room.
    HEARTBEAT_REPLY = 3, "heartbeat reply";
    /// A client's message to the members of its room.
    SEND_MESSAGE = 4, "send message";
    /// Copy of, or reply to, [`Op::SEND_MESSAGE`].
    SEND_MESSAGE_REPLY = 5, "send message reply";
    /// Tells clients that asked for it why the connection is about to be closed.
    DISCONNECT_REPLY = 6, "disconnect reply";
    /// Login.
    AUTH = 7, "auth";
    /// The login was accepted.
    AUTH_REPLY = 8, "auth reply";
    /// Body is one or several complete frames.
    RAW = 9, "raw";
    /// Used only inside goim's comet.
    PROTO_READY = 10, "ready";
    /// Used only inside goim's comet.
    PROTO_FINISH = 11, "finish";
    /// Leave the first room and join the one named in the body.
    CHANGE_ROOM = 12, "change room";
    /// Reply to [`Op::CHANGE_ROOM`].
    CHANGE_ROOM_REPLY = 13, "change room reply";
    /// Accept more operations.
    SUBSCRIBE = 14, "subscribe";
    /// Reply to [`Op::SUBSCRIBE`].
    SUBSCRIBE_REPLY = 15, "subscribe reply";
    /// Accept fewer operations.
    UNSUBSCRIBE = 16, "unsubscribe";
    /// Reply to [`Op::UNSUBSCRIBE`].
    UNSUBSCRIBE_REPLY = 17, "unsubscribe reply";
    /// Ask for missed messages (a stub in goim).
    SYNC = 18, "sync";
    /// Reply to [`Op::SYNC`].
    SYNC_REPLY = 19, "sync reply";
    /// A client confirms a message (a stub in goim).
    MESSAGE_ACK = 20, "message ack";
    /// Reply to [`Op::MESSAGE_ACK`].
    MESSAGE_ACK_REPLY = 21, "message ack reply";
    /// Halley: join one more room.
    JOIN_ROOM = 2_000_000_000, "join room";
    /// Reply to [`Op::JOIN_ROOM`].
    JOIN_ROOM_REPLY = 2_000_000_001, "join room reply";
    /// Halley: leave one room.
    LEAVE_ROOM = 2_000_000_002, "leave room";
    /// Reply to [`Op::LEAVE_ROOM`].
    LEAVE_ROOM_REPLY = 2_000_000_003, "leave room reply";
}

impl Op {
    /// First number that is Halley's own.
    const HALLEY: i32 = 2_000_000_000;

    /// The operation that answers this one: the next number (after the largest number comes the smallest).
    pub const fn reply(self) -> Op {
        Op(self.0.wrapping_add(1))
    }

    /// Whether only a server may send it. A client that does is closed.
    pub const fn is_server_only(self) -> bool {
        matches!(
            self,
            Op::HANDSHAKE_REPLY
                | Op::HEARTBEAT_REPLY
                | Op::SEND_MESSAGE_REPLY
                | Op::DISCONNECT_REPLY
                | Op::AUTH_REPLY
                | Op::RAW
                | Op::PROTO_READY
                | Op::PROTO_FINISH
                | Op::CHANGE_ROOM_REPLY
                | Op::SUBSCRIBE_REPLY
                | Op::UNSUBSCRIBE_REPLY
                | Op::JOIN_ROOM_REPLY
                | Op::LEAVE_ROOM_REPLY
        )
    }

    /// Whether it belongs to the wire, so that no push may carry it: 1 to 21, and everything from 2 000 000 000 on. 0
    /// may be pushed (goim uses it if no operation is given).
    pub const fn is_reserved(self) -> bool {
        matches!(self.0, 1..=21 | Op::HALLEY..)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_only_operations_are_those_of_the_protocol() {
        let server_only: Vec<i32> =
            (-5..=60).chain(1_999_999_990..=2_000_000_010).filter(|&n| Op(n).is_server_only()).collect();
        assert_eq!(server_only, [1, 3, 5, 6, 8, 9, 10, 11, 13, 15, 17, 2_000_000_001, 2_000_000_003]);
    }

    #[test]
    fn reserved_operations_are_the_wires_own() {
        for (op, reserved) in [
            (i32::MIN, false),
            (-1, false),
            (0, false),
            (1, true),
            (21, true),
            (22, false),
            (1000, false),
            (1_999_999_999, false),
            (2_000_000_000, true),
            (i32::MAX, true),
        ] {
            assert_eq!(Op(op).is_reserved(), reserved, "{op}");
        }
    }

    #[test]
    fn a_reply_is_the_next_number_even_at_the_end() {
        assert_eq!(Op::HEARTBEAT.reply(), Op::HEARTBEAT_REPLY);
        assert_eq!(Op::LEAVE_ROOM.reply(), Op::LEAVE_ROOM_REPLY);
        assert_eq!(Op(i32::MAX).reply(), Op(i32::MIN));
    }

    #[test]
    fn names_are_the_protocols() {
        assert_eq!(Op(7).name(), Some("auth"));
        assert_eq!(Op(1000).name(), None);
        assert!((0..=21).all(|n| Op(n).name().is_some()));
    }
}
