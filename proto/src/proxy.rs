//! The header of the PROXY protocol, by which a proxy tells whose connection it passes on. It comes before everything
//! else, TLS included. Versions 1 (text) and 2 (binary):
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use std::net::IpAddr;

use ppp::{v1, v2};

/// Longest header of version 1, its line end included, bytes. The longest that the protocol knows.
pub const V1_LEN_MAX: usize = 107;

/// Version and command of a header whose connection is the proxy's own.
const V2_LOCAL: u8 = 0x20;

/// The fixed part of a header of version 2, bytes. Its last two are the length of what follows.
const V2_HEAD_LEN: usize = 16;

/// Longest that may follow the fixed part of version 2, bytes. The protocol wants whole headers to fit into 536 bytes, the
/// smallest segment of TCP; what HAProxy can be told to add about TLS may be longer than that.
pub const V2_BODY_LEN_MAX: usize = 2048;

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = v2::PROTOCOL_PREFIX;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// That of a client with this address.
    Client(IpAddr),
    /// The proxy's own, say to look whether we live.
    Proxy,
    /// That of a client whose address the proxy does not know, or that has none.
    Unknown,
}

/// Why bytes are no header that is taken. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The first bytes are not those of a header.
    #[error("no header of the PROXY protocol")]
    Missing,
    /// It begins like a header, and then breaks the rules.
    #[error("a malformed header of the PROXY protocol")]
    Malformed,
    /// It is longer than [`V1_LEN_MAX`], or announces more than [`V2_BODY_LEN_MAX`].
    #[error("a header of the PROXY protocol over the limit")]
    TooLong,
}

impl Fault {
    /// The word for the metric `bad_input_total{reason}`.
    pub const fn label(self) -> &'static str {
        match self {
            Fault::Missing => "missing",
            Fault::Malformed => "malformed",
            Fault::TooLong => "too_long",
        }
    }
}

/// Reads the header of one connection, whatever pieces it arrives in. It keeps what has come of it, at most
/// [`V2_BODY_LEN_MAX`] bytes and its fixed part, and takes no byte behind it.
#[derive(Debug, Default)]
pub struct HeaderReader {
    header: Vec<u8>,
}

impl HeaderReader {
    /// A reader before the first byte.
    pub const fn new() -> HeaderReader {
        HeaderReader { header: Vec::new() }
    }

    /// What it has taken. After [`Fault::Missing`] these bytes belong to somebody else, as does all that is left in the
    /// input.
    pub fn taken(&self) -> &[u8] {
        &self.header
    }

    /// Whether what has come can only be a header.
    pub fn is_header(&self) -> bool {
        self.header.starts_with(V1_SIGNATURE) || self.header.starts_with(V2_SIGNATURE)
    }

    /// Takes the header from `input`; `None` while it is incomplete. Bytes behind the header stay in `input`. After `Some`
    /// the reader is done.
    ///
    /// # Errors
    /// A [`Fault`]. Nothing more is read then.
    pub fn push(&mut self, input: &mut &[u8]) -> Result<Option<Source>, Fault> {
        loop {
            let taken = match self.missing()? {
                0 => return self.source().map(Some),
                missing => &input[..missing.min(input.len())],
            };
            if taken.is_empty() {
                return Ok(None);
            }
            // A stranger's bytes are not taken.
            if !self.is_header() && !self.may_go_on_with(taken) {
                return Err(Fault::Missing);
            }
            self.header.extend_from_slice(taken);
            *input = &input[taken.len()..];
        }
    }

    /// Whether a header may begin with what has come and `more`.
    fn may_go_on_with(&self, more: &[u8]) -> bool {
        [V1_SIGNATURE, V2_SIGNATURE].iter().any(|signature| {
            signature.strip_prefix(&self.header[..]).is_some_and(|rest| rest.starts_with(more))
        })
    }

    /// How many bytes the header surely lacks. 0: it is complete.
    fn missing(&self) -> Result<usize, Fault> {
        let header = &self.header[..];
        if header.starts_with(V2_SIGNATURE) {
            let Some(len) = header.get(V2_HEAD_LEN - 2..V2_HEAD_LEN) else {
                return Ok(V2_HEAD_LEN - header.len());
            };
            let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
            return if len > V2_BODY_LEN_MAX {
                Err(Fault::TooLong)
            } else {
                Ok(V2_HEAD_LEN + len - header.len())
            };
        }
        match header {
            [.., b'\n'] if header.starts_with(V1_SIGNATURE) => Ok(0),
            _ if header.len() >= V1_LEN_MAX => Err(Fault::TooLong),
            _ => Ok(1),
        }
    }

    /// What a complete header says.
    fn source(&self) -> Result<Source, Fault> {
        let client = if self.header.starts_with(V2_SIGNATURE) {
            v2_client(&self.header)?
        } else {
            v1_client(&self.header)?
        };
        let is_local =
            self.header.starts_with(V2_SIGNATURE) && self.header.get(V2_SIGNATURE.len()) == Some(&V2_LOCAL);
        Ok(match client {
            Some(address) => Source::Client(address.to_canonical()),
            None if is_local => Source::Proxy,
            None => Source::Unknown,
        })
    }
}

fn v1_client(header: &[u8]) -> Result<Option<IpAddr>, Fault> {
    // ppp takes a space and a line feed for the end too.
    if !header.ends_with(b"\r\n") {
        return Err(Fault::Malformed);
    }
    // What else stands in such a line has no meaning.
    if let Some(rest) = header.strip_prefix(b"PROXY UNKNOWN")
        && let [b'\r', b'\n'] | [b' ', .., b'\r', b'\n'] = rest
    {
        return Ok(None);
    }
    let parsed = v1::Header::try_from(header).map_err(|_| Fault::Malformed)?;
    match parsed.addresses {
        // It stops at the first carriage return, which has to be that of the line end.
        _ if parsed.header.len() != header.len() => Err(Fault::Malformed),
        v1::Addresses::Tcp4(addresses) => Ok(Some(addresses.source_address.into())),
        v1::Addresses::Tcp6(addresses) => Ok(Some(addresses.source_address.into())),
        v1::Addresses::Unknown => Err(Fault::Malformed),
    }
}

fn v2_client(header: &[u8]) -> Result<Option<IpAddr>, Fault> {
    // Whatever else it says has no meaning.
    if header.get(V2_SIGNATURE.len()) == Some(&V2_LOCAL) {
        return Ok(None);
    }
    let parsed = v2::Header::try_from(header).map_err(|_| Fault::Malformed)?;
    match (parsed.command, parsed.addresses, parsed.protocol) {
        (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_), _) => Ok(None),
        // The protocol knows no such pair.
        (_, _, v2::Protocol::Unspecified) => Err(Fault::Malformed),
        // A datagram's is that of a client of HTTP/3, say.
        (_, v2::Addresses::IPv4(addresses), _) => Ok(Some(addresses.source_address.into())),
        (_, v2::Addresses::IPv6(addresses), _) => Ok(Some(addresses.source_address.into())),
    }
}
