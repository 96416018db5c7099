//! What is known of a connection.

/// Which TLS two sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// What a handshake led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The version.
    pub version: Version,
    /// A ticket saved the certificate and its signature.
    pub resumed: bool,
}

/// Whether more can come from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It can.
    More,
    /// The client has said that it sends no more.
    Ended,
}
