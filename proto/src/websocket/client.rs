//! The few parts of a client's side that the load generator and the tests need.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{HEAD_LEN_MAX, Opcode, mask, server_header, upgrade::accept};

/// Appends one masked, unfragmented frame.
pub fn client_frame(opcode: Opcode, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    let (mut header, len) = server_header(opcode, payload.len());
    header[1] |= 0x80;
    out.reserve(len + mask.len() + payload.len());
    out.extend_from_slice(&header[..len]);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    mask::apply(mask, 0, &mut out[start..]);
}

/// A client's upgrade: makes the request and reads the response. After that,
/// [`Reader::of_server`](super::Reader::of_server) reads the messages.
#[derive(Debug)]
pub struct ClientUpgrade {
    /// 16 bytes in base64.
    key: String,
    /// What has come of the response.
    head: Vec<u8>,
}

/// Why an upgrade failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientUpgradeError {
    /// The server answered with a status other than 101.
    #[error("the server answered {0}")]
    Status(u16),
    /// The answer is no upgrade.
    #[error("not an upgrade: {0}")]
    BadResponse(&'static str),
}

impl ClientUpgrade {
    /// An upgrade with this nonce. It should be random.
    pub fn new(nonce: [u8; 16]) -> Self {
        ClientUpgrade { key: STANDARD.encode(nonce), head: Vec::new() }
    }

    /// The request. `target` is path and query; `headers` are further ones, e.g. `Cookie`.
    pub fn request(&self, host: &str, target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n",
            self.key
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.into_bytes()
    }

    /// Takes the response from `input`. True as soon as the connection is a WebSocket. The bytes after the response
    /// stay in `input`.
    ///
    /// # Errors
    /// A [`ClientUpgradeError`]. After it the connection is of no use.
    pub fn push(&mut self, input: &mut &[u8]) -> Result<bool, ClientUpgradeError> {
        while let Some(byte) = input.split_off_first() {
            self.head.push(*byte);
            if self.head.ends_with(b"\r\n\r\n") {
                return self.check().map(|()| true);
            }
            if self.head.len() >= HEAD_LEN_MAX {
                return Err(ClientUpgradeError::BadResponse("the head is too large"));
            }
        }
        Ok(false)
    }

    fn check(&self) -> Result<(), ClientUpgradeError> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(_)) = response.parse(&self.head) else {
            return Err(ClientUpgradeError::BadResponse("not HTTP"));
        };
        match response.code {
            Some(101) => {}
            code => return Err(ClientUpgradeError::Status(code.unwrap_or_default())),
        }
        let is = |name: &str, value: &[u8]| {
            response.headers.iter().any(|header| {
                header.name.eq_ignore_ascii_case(name) && header.value.eq_ignore_ascii_case(value)
            })
        };
        if !is("Upgrade", b"websocket") || !is("Connection", b"upgrade") {
            return Err(ClientUpgradeError::BadResponse("no Upgrade or Connection header"));
        }
        let wanted = accept(self.key.as_bytes());
        match response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("Sec-WebSocket-Accept"))
        {
            Some(header) if header.value == wanted => Ok(()),
            _ => Err(ClientUpgradeError::BadResponse("wrong Sec-WebSocket-Accept")),
        }
    }
}
