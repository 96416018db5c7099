//! Why a connection ends. One table serves the metric, the log, the WebSocket close, operation 6 and the client.

use std::fmt;

/// Longest text of a WebSocket close, bytes (RFC 6455 section 5.5: 125 minus two for the code).
pub const CLOSE_TEXT_LEN_MAX: usize = 123;

/// What the table says about one reason.
struct Row {
    code: u16,
    label: &'static str,
    text: &'static str,
    reconnect: bool,
}

/// Declares each reason once.
macro_rules! close_reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $label:literal, $text:literal, $reconnect:literal;)*) => {
        /// Why a connection ends.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum CloseReason {
            $($(#[$doc])* $name,)*
        }

        impl CloseReason {
            /// Every reason.
            pub const ALL: &'static [CloseReason] = &[$(CloseReason::$name,)*];

            const fn row(self) -> Row {
                match self {
                    $(CloseReason::$name => Row {
                        code: $code, label: $label, text: $text, reconnect: $reconnect,
                    },)*
                }
            }
        }
    };
}

close_reasons! {
    // name           code  label, text, whether a client should come back
    /// This server is going away (drain).
    GoingAway         = 1001, "going_away", "going away", true;
    /// The client broke the protocol.
    ProtocolViolation = 1002, "protocol_violation", "protocol violation", false;
    /// A WebSocket text that is not UTF-8.
    BadUtf8           = 1007, "bad_utf8", "bad UTF-8", false;
    /// A limit (rate, operations, rooms) was broken.
    LimitBroken       = 1008, "limit_broken", "limit broken", true;
    /// A message longer than allowed.
    MessageTooBig     = 1009, "message_too_big", "message too big", false;
    /// Our fault, or a backend is away.
    ServerError       = 1011, "server_error", "server error", true;
    /// No room for this client now.
    Overloaded        = 1013, "overloaded", "overloaded, try later", true;
    /// Logic refused the login.
    LoginRefused      = 4401, "login_refused", "login refused", false;
    /// The client may not do this.
    NotPermitted      = 4403, "not_permitted", "not permitted", false;
    /// No login inside the handshake deadline.
    LoginTimeout      = 4408, "login_timeout", "login timeout", true;
    /// No sign of life for heartbeat × heartbeatMax.
    HeartbeatTimeout  = 4408, "heartbeat_timeout", "heartbeat timeout", true;
    /// A newer login with the same key.
    Replaced          = 4409, "replaced", "replaced", false;
    /// The token of a live connection expired.
    TokenExpired      = 4410, "token_expired", "token expired", true;
    /// The client reads more slowly than messages come for it.
    SlowConsumer      = 4413, "slow_consumer", "slow consumer", true;
    /// The operator closed it.
    Kicked            = 4420, "kicked", "kicked", false;
    /// The client left in order. The server answers its close and says nothing else.
    ClientClosed      = 1000, "client_closed", "closed by the client", true;
    /// The connection broke: reset or another error of the socket. Its code is never on the wire (RFC 6455 7.4.1).
    ConnectionLost    = 1006, "connection_lost", "connection lost", true;
}

impl CloseReason {
    /// Code in the WebSocket close and in operation 6.
    pub const fn code(self) -> u16 {
        self.row().code
    }

    /// Word in metrics and logs, e.g. `slow_consumer`.
    pub const fn label(self) -> &'static str {
        self.row().label
    }

    /// Human words in the WebSocket close and in operation 6, at most [`CLOSE_TEXT_LEN_MAX`] bytes.
    pub const fn text(self) -> &'static str {
        self.row().text
    }

    /// Whether the client should connect again.
    pub const fn reconnect(self) -> bool {
        self.row().reconnect
    }

    /// Whether the server tells the client at all. It does not if the client itself has left.
    pub const fn is_announced(self) -> bool {
        !matches!(self, CloseReason::ClientClosed | CloseReason::ConnectionLost)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Body of operation 6, which clients that asked for reasons get before a close:
/// `{"code":4409,"reason":"replaced","reconnect":false}`.
///
/// `text` is usually [`CloseReason::text`], or the words of a backend that refused. `delay_ms` tells how long to wait
/// before connecting again (drain).
pub fn disconnect_body(reason: CloseReason, text: &str, delay_ms: Option<u32>) -> Vec<u8> {
    // The fields are in the order of the protocol's example. `text` may contain anything, so serde_json quotes it.
    let mut body = format!(
        r#"{{"code":{},"reason":{},"reconnect":{}"#,
        reason.code(),
        serde_json::Value::from(text),
        reason.reconnect()
    );
    if let Some(delay_ms) = delay_ms {
        body.push_str(&format!(r#","delay_ms":{delay_ms}"#));
    }
    body.push('}');
    body.into_bytes()
}

/// Payload of a WebSocket close: the code, then as much of `text` as fits (never cut inside a character).
pub fn close_payload(reason: CloseReason, text: &str) -> Vec<u8> {
    let text = &text[..text.floor_char_boundary(CLOSE_TEXT_LEN_MAX)];
    let mut payload = Vec::with_capacity(2 + text.len());
    payload.extend_from_slice(&reason.code().to_be_bytes());
    payload.extend_from_slice(text.as_bytes());
    payload
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_table_is_the_protocols() {
        use CloseReason::*;
        for (reason, code, reconnect) in [
            (GoingAway, 1001, true),
            (ProtocolViolation, 1002, false),
            (BadUtf8, 1007, false),
            (LimitBroken, 1008, true),
            (MessageTooBig, 1009, false),
            (ServerError, 1011, true),
            (Overloaded, 1013, true),
            (LoginRefused, 4401, false),
            (NotPermitted, 4403, false),
            (LoginTimeout, 4408, true),
            (HeartbeatTimeout, 4408, true),
            (Replaced, 4409, false),
            (TokenExpired, 4410, true),
            (SlowConsumer, 4413, true),
            (Kicked, 4420, false),
        ] {
            assert_eq!((reason.code(), reason.reconnect()), (code, reconnect), "{reason}");
            assert!(reason.is_announced());
        }
        assert!(!ClientClosed.is_announced() && !ConnectionLost.is_announced());
        assert_eq!(CloseReason::ALL.len(), 17);
    }

    #[test]
    fn labels_are_distinct_metric_words() {
        let labels: HashSet<_> = CloseReason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), CloseReason::ALL.len());
        for label in labels {
            assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()));
        }
    }

    #[test]
    fn operation_6_body_is_the_protocols() {
        let body = disconnect_body(CloseReason::Replaced, CloseReason::Replaced.text(), None);
        assert_eq!(body, br#"{"code":4409,"reason":"replaced","reconnect":false}"#);
        let body = disconnect_body(CloseReason::GoingAway, "going away", Some(1500));
        assert_eq!(body, br#"{"code":1001,"reason":"going away","reconnect":true,"delay_ms":1500}"#);
    }

    #[test]
    fn words_of_a_backend_cannot_break_the_json() {
        let body = disconnect_body(CloseReason::LoginRefused, "a\"b\\\n\u{1}", None);
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["reason"], "a\"b\\\n\u{1}");
    }

    #[test]
    fn a_long_close_text_is_cut_between_characters() {
        let payload = close_payload(CloseReason::LoginRefused, &"é".repeat(100));
        assert_eq!(payload.len(), 2 + 122);
        assert_eq!(payload[..2], 4401u16.to_be_bytes());
        assert!(std::str::from_utf8(&payload[2..]).is_ok());
        assert_eq!(close_payload(CloseReason::Kicked, ""), [0x11, 0x44]);
    }
}
