//! What ends a TLS connection, and the alert that tells the peer.

use rustls::{AlertDescription, Error};

/// Why a TLS connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The first bytes are not those of TLS: plain text came to a port of TLS.
    #[error("plain text on a port of TLS")]
    NotTls,
    /// A record or a handshake is longer than one may be.
    #[error("a record or a handshake is too long")]
    TooLong,
    /// No version, suite or group that both sides know.
    #[error("no version, suite or group in common")]
    Incompatible,
    /// No application protocol (ALPN) that both sides know.
    #[error("no application protocol in common")]
    NoProtocol,
    /// A message that is malformed, or that may not come now.
    #[error("a malformed or unexpected message")]
    BadMessage,
    /// A record that the keys do not open.
    #[error("a record that the keys do not open")]
    BadRecord,
    /// A handshake on a connection that has one (TLS 1.2), as CVE-2009-3555 and CVE-2011-1473 abuse it.
    #[error("a renegotiation")]
    Renegotiation,
    /// Too many records in a row that carry nothing: empty ones, changes of the key.
    #[error("too many records that carry nothing")]
    Idle,
    /// The peer ended the connection by an alert.
    #[error("an alert of the peer")]
    Alert,
    /// The keys of a TLS 1.2 connection have sealed as many records as they safely can.
    #[error("the keys are used up")]
    UsedUp,
    /// Our side has ended already.
    #[error("our side has ended already")]
    Closed,
    /// rustls cannot go on, for a reason of ours.
    #[error("a fault of our own")]
    Internal,
}

impl Failure {
    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Failure::NotTls => "plain_text",
            Failure::TooLong => "too_long",
            Failure::Incompatible => "incompatible",
            Failure::NoProtocol => "no_protocol",
            Failure::BadMessage => "bad_message",
            Failure::BadRecord => "bad_record",
            Failure::Renegotiation => "renegotiation",
            Failure::Idle => "idle_records",
            Failure::Alert => "alert",
            Failure::UsedUp => "used_up",
            Failure::Closed => "closed",
            Failure::Internal => "internal",
        }
    }

    /// The alert for it after the handshake; none where the peer would not understand one, or has ended by itself. In a
    /// handshake rustls chooses the alert.
    pub(crate) fn alert(self) -> Option<AlertDescription> {
        match self {
            Failure::TooLong => Some(AlertDescription::RecordOverflow),
            Failure::BadMessage | Failure::Idle => Some(AlertDescription::UnexpectedMessage),
            Failure::BadRecord => Some(AlertDescription::BadRecordMac),
            Failure::Renegotiation => Some(AlertDescription::NoRenegotiation),
            Failure::Incompatible | Failure::NoProtocol => Some(AlertDescription::HandshakeFailure),
            Failure::Internal => Some(AlertDescription::InternalError),
            Failure::NotTls | Failure::Alert | Failure::UsedUp | Failure::Closed => None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::PeerIncompatible(_) => Failure::Incompatible,
            Error::NoApplicationProtocol => Failure::NoProtocol,
            Error::AlertReceived(_) => Failure::Alert,
            Error::DecryptError => Failure::BadRecord,
            Error::PeerSentOversizedRecord => Failure::TooLong,
            Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::InvalidMessage(_)
            | Error::PeerMisbehaved(_) => Failure::BadMessage,
            _ => Failure::Internal,
        }
    }
}
