//! The HTTP head that turns a connection into a WebSocket (RFC 6455 section 4.2, RFC 9112).

use std::net::IpAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::{Digest as _, Sha1};

use super::forwarded::{address, forwarded_for};
use crate::network::Networks;

/// Longest head, bytes. One line of the greatest length fits, with everything else that browsers and proxies send.
pub const HEAD_LEN_MAX: usize = 16 * 1024;

/// Most header lines of one head.
pub const HEADERS_MAX: usize = 64;

/// Longest line of a head, bytes, without its line end. The usual proxies in front allow as much. Browsers keep cookies
/// of 4,096 bytes, several for one host, and send all of them in one line.
pub const LINE_LEN_MAX: usize = 8 * 1024;

/// Most subprotocols that one client may offer. None is ever chosen.
const SUBPROTOCOLS_MAX: usize = 32;

/// Which upgrades are accepted.
#[derive(Clone, Debug)]
pub struct UpgradeRules {
    /// The path, `/sub` in goim. It is compared exactly; a query may follow.
    pub path: Box<str>,
    /// The origins of pages that may connect, such as `https://app.example.com`, or `*` for any. Empty: pages of the
    /// same host, on any port (goim's pages come from another port, and cookies do not tell ports apart either).
    /// Clients without an `Origin` are no browsers and always pass.
    pub origins: Vec<String>,
    /// The proxies that are believed when they say whose connection or request it is.
    pub proxies: Networks,
    /// In which header they say it of a request.
    pub told_in: ToldIn,
}

impl Default for UpgradeRules {
    /// goim's path, pages of the same host, no proxy.
    fn default() -> Self {
        UpgradeRules {
            path: "/sub".into(),
            origins: Vec::new(),
            proxies: Networks::default(),
            told_in: ToldIn::default(),
        }
    }
}

/// The header in which proxies write a client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ToldIn {
    /// `X-Forwarded-For`: a list, of which each proxy appends an element.
    #[default]
    ForwardedFor,
    /// `X-Real-IP`: one address.
    RealIp,
}

/// An accepted upgrade. The server answers it with [`response`](Self::response).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Value of `Sec-WebSocket-Accept`.
    pub accept: [u8; 28],
    /// Path without the query.
    pub path: String,
    /// What comes after `?`.
    pub query: Option<String>,
    /// The `Cookie` headers, unchanged; several are joined with `; `.
    pub cookie: Option<Vec<u8>>,
    /// The client's address, if the request comes from a proxy that is believed and says it.
    pub client: Option<IpAddr>,
}

impl Request {
    /// The 101 that ends the upgrade.
    pub fn response(&self) -> Vec<u8> {
        [
            &b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "[..],
            &self.accept,
            b"\r\n\r\n",
        ]
        .concat()
    }
}

/// A refused upgrade. The server sends the [`response`](Self::response) and closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 400: the head breaks the rules of HTTP or of the upgrade.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    /// 403: the page of a browser has an origin that is not allowed.
    #[error("origin not allowed")]
    Forbidden,
    /// 404: another path.
    #[error("no such path")]
    NotFound,
    /// 405: another method than GET.
    #[error("only GET")]
    MethodNotAllowed,
    /// 408: the head did not come in time. Nothing here returns this, since there is no clock here; callers with a
    /// clock do.
    #[error("the head did not come in time")]
    Timeout,
    /// 426: another version than 13.
    #[error("only WebSocket version 13")]
    UpgradeRequired,
    /// 431: head, line or number of headers over the limit.
    #[error("the head is too large")]
    HeadTooLarge,
}

impl Refusal {
    /// HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            Refusal::BadRequest(_) => 400,
            Refusal::Forbidden => 403,
            Refusal::NotFound => 404,
            Refusal::MethodNotAllowed => 405,
            Refusal::Timeout => 408,
            Refusal::UpgradeRequired => 426,
            Refusal::HeadTooLarge => 431,
        }
    }

    /// The word for the metric `bad_input_total{reason}`.
    pub const fn label(self) -> &'static str {
        match self {
            Refusal::BadRequest(_) => "bad_request",
            Refusal::Forbidden => "origin",
            Refusal::NotFound => "path",
            Refusal::MethodNotAllowed => "method",
            Refusal::Timeout => "head_timeout",
            Refusal::UpgradeRequired => "version",
            Refusal::HeadTooLarge => "head_len",
        }
    }

    /// The whole HTTP response.
    pub fn response(self) -> Vec<u8> {
        let (phrase, header) = match self {
            Refusal::BadRequest(_) => ("Bad Request", ""),
            Refusal::Forbidden => ("Forbidden", ""),
            Refusal::NotFound => ("Not Found", ""),
            Refusal::MethodNotAllowed => ("Method Not Allowed", "Allow: GET\r\n"),
            Refusal::Timeout => ("Request Timeout", ""),
            Refusal::UpgradeRequired => {
                ("Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
            }
            Refusal::HeadTooLarge => ("Request Header Fields Too Large", ""),
        };
        let (status, text) = (self.status(), self.to_string());
        format!(
            "HTTP/1.1 {status} {phrase}\r\n{header}Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n\r\n{text}\n",
            text.len() + 1
        )
        .into_bytes()
    }
}

/// Reads the head of one upgrade, whatever pieces it arrives in.
///
/// It looks at every byte once when it arrives, and parses the head once when it is complete. It keeps at most
/// [`HEAD_LEN_MAX`] bytes.
#[derive(Debug, Default)]
pub struct Upgrade {
    head: Vec<u8>,
    /// Length of the current line so far.
    line_len: usize,
    /// How many lines have ended: the request line and the headers.
    lines: usize,
    refused: Option<Refusal>,
}

impl Upgrade {
    /// A reader at the start of the head.
    pub const fn new() -> Self {
        Upgrade { head: Vec::new(), line_len: 0, lines: 0, refused: None }
    }

    /// Whether part of a head has come.
    pub fn has_partial(&self) -> bool {
        !self.head.is_empty()
    }

    /// Takes the head from `input`, which came from `peer`; `None` while it is incomplete. Bytes after the head stay in
    /// `input`, since they belong to the WebSocket. After `Some` the reader is done.
    ///
    /// # Errors
    /// A [`Refusal`]. Every later call repeats it.
    pub fn push(
        &mut self,
        input: &mut &[u8],
        peer: IpAddr,
        rules: &UpgradeRules,
    ) -> Result<Option<Request>, Refusal> {
        if let Some(refusal) = self.refused {
            return Err(refusal);
        }
        let result =
            self.take_head(input).and_then(|head| head.map(|head| request(&head, peer, rules)).transpose());
        if let Err(refusal) = result {
            *self = Upgrade { refused: Some(refusal), ..Upgrade::new() };
        }
        result
    }

    /// Takes bytes up to the empty line. Then returns the whole head.
    fn take_head(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let mut previous = self.head.last().copied();
        for (at, &byte) in input.iter().enumerate() {
            let ended = self.take_byte(previous, byte)?;
            if self.head.len() + at >= HEAD_LEN_MAX {
                return Err(Refusal::HeadTooLarge);
            }
            if ended {
                self.keep(&input[..=at]);
                *input = &input[at + 1..];
                return Ok(Some(std::mem::take(self).head));
            }
            previous = Some(byte);
        }
        self.keep(input);
        *input = &[];
        Ok(None)
    }

    /// Keeps bytes of the head. The memory grows as that of a `Vec`, but not beyond the limit.
    fn keep(&mut self, bytes: &[u8]) {
        let (len, capacity) = (self.head.len() + bytes.len(), self.head.capacity());
        if len > capacity {
            self.head.reserve_exact((2 * capacity).clamp(len, HEAD_LEN_MAX) - self.head.len());
        }
        self.head.extend_from_slice(bytes);
    }

    /// Looks at one byte; true if it ends the head. Refuses what different parsers would read differently (RFC 9112
    /// sections 2.2, 5.2).
    fn take_byte(&mut self, previous: Option<u8>, byte: u8) -> Result<bool, Refusal> {
        match byte {
            b'\n' if previous != Some(b'\r') => {
                return Err(Refusal::BadRequest("a line feed without carriage return"));
            }
            // RFC 9112 section 2.2: an empty line or two may come before the request.
            b'\n' if self.line_len == 0 && self.lines == 0 => {}
            b'\n' if self.line_len == 0 => return Ok(true),
            b'\n' if self.lines > HEADERS_MAX => return Err(Refusal::HeadTooLarge),
            b'\n' => {
                self.lines += 1;
                self.line_len = 0;
            }
            _ if previous == Some(b'\r') => {
                return Err(Refusal::BadRequest("a carriage return without line feed"));
            }
            b'\r' => {}
            b' ' | b'\t' if self.line_len == 0 => return Err(Refusal::BadRequest("a folded line")),
            b'\t' | b' '..=b'~' | 0x80.. if self.line_len < LINE_LEN_MAX => self.line_len += 1,
            b'\t' | b' '..=b'~' | 0x80.. => return Err(Refusal::HeadTooLarge),
            _ => return Err(Refusal::BadRequest("a control character")),
        }
        Ok(false)
    }
}

/// Reads a complete head.
fn request(head: &[u8], peer: IpAddr, rules: &UpgradeRules) -> Result<Request, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Refusal::BadRequest("an incomplete head")),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(_) => return Err(Refusal::BadRequest("not HTTP")),
    }
    if parsed.version != Some(1) {
        return Err(Refusal::BadRequest("not HTTP/1.1"));
    }
    let headers = Headers(parsed.headers);
    let host = headers.one("Host", "not exactly one Host")?;
    let target = origin_form(parsed.path.unwrap_or_default(), host)?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if path != &*rules.path {
        return Err(Refusal::NotFound);
    }
    if parsed.method != Some("GET") {
        return Err(Refusal::MethodNotAllowed);
    }

    if headers.values("Transfer-Encoding").next().is_some()
        || !headers.elements("Content-Length").all(is_zero)
    {
        return Err(Refusal::BadRequest("an upgrade has no body"));
    }
    if !headers.has_token("Upgrade", "websocket") || !headers.has_token("Connection", "upgrade") {
        return Err(Refusal::BadRequest("not a WebSocket upgrade"));
    }
    match headers.values("Sec-WebSocket-Version").collect::<Vec<_>>()[..] {
        [b"13"] => {}
        [] | [_] => return Err(Refusal::UpgradeRequired),
        _ => return Err(Refusal::BadRequest("more than one Sec-WebSocket-Version")),
    }
    let key = headers.one("Sec-WebSocket-Key", "not exactly one Sec-WebSocket-Key")?;
    if !is_nonce(key) {
        return Err(Refusal::BadRequest("Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    check_subprotocols(&headers)?;
    check_origin(&headers, host, rules)?;

    let cookies: Vec<&[u8]> = headers.values("Cookie").collect();
    Ok(Request {
        accept: accept(key),
        path: path.to_owned(),
        query: query.map(str::to_owned),
        cookie: (!cookies.is_empty()).then(|| cookies.join(&b"; "[..])),
        client: rules.proxies.contains(peer).then(|| client(&headers, rules)).flatten(),
    })
}

/// Whose request it is, as the proxy says from which it came. Only one header counts, whatever stands in the other: a proxy
/// that writes the one passes on the other as the client sent it.
fn client(headers: &Headers<'_>, rules: &UpgradeRules) -> Option<IpAddr> {
    match rules.told_in {
        ToldIn::ForwardedFor => forwarded_for(headers.elements("X-Forwarded-For").rev(), &rules.proxies),
        // Several would leave open which one the proxy wrote.
        ToldIn::RealIp => address(headers.one("X-Real-IP", "").ok()?),
    }
}

/// The header lines of a head.
struct Headers<'a>(&'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    /// Values of all lines of this name, without the white space around them.
    fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value.trim_ascii())
    }

    /// The value of the only line of this name.
    fn one(&self, name: &str, otherwise: &'static str) -> Result<&'a [u8], Refusal> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(Refusal::BadRequest(otherwise)),
        }
    }

    /// Elements of a comma-separated list, which may extend over several lines.
    fn elements(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.values(name).flat_map(|value| value.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
    }

    /// Whether a list contains this element, in any case.
    fn has_token(&self, name: &str, token: &str) -> bool {
        self.elements(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// Accepts a length of 0, which proxies put into a request without a body. It may be given several times (RFC 9112
/// section 6.3). Any other length is refused, and so is what is no length.
fn is_zero(length: &[u8]) -> bool {
    length == b"0"
}

/// The path and query of a target. The target may be a whole URL of the host that `Host` names (RFC 9112 section 3.2.2,
/// RFC 6455 section 4.2.1).
fn origin_form<'t>(target: &'t str, host: &[u8]) -> Result<&'t str, Refusal> {
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let path = match scheme.map(|scheme| &target[scheme.len()..]) {
        None => target,
        Some(url) => {
            let (authority, path) = url.split_at(url.find(['/', '?']).unwrap_or(url.len()));
            if !authority.as_bytes().eq_ignore_ascii_case(host) {
                return Err(Refusal::BadRequest("the target is of another host"));
            }
            path
        }
    };
    if !path.starts_with('/') || path.contains('#') {
        return Err(Refusal::BadRequest("the target is not a path"));
    }
    Ok(path)
}

/// Whether a key looks like 16 bytes in base64. Their value does not matter, so nothing is decoded.
fn is_nonce(key: &[u8]) -> bool {
    matches!(key, [digits @ .., b'=', b'='] if digits.len() == 22
        && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')))
}

/// Checks that the offered subprotocols are tokens and not too many. None is chosen.
fn check_subprotocols(headers: &Headers<'_>) -> Result<(), Refusal> {
    for (at, token) in headers.elements("Sec-WebSocket-Protocol").enumerate() {
        // Empty elements of a list have no meaning (RFC 9110 section 5.6.1.2).
        if at >= SUBPROTOCOLS_MAX || !token.iter().all(|&byte| is_token_byte(byte)) {
            return Err(Refusal::BadRequest("Sec-WebSocket-Protocol is not a short list of tokens"));
        }
    }
    Ok(())
}

/// RFC 9110 section 5.6.2, `tchar`.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Checks the page for which a browser acts: it must be allowed (RFC 6455 section 10.2).
fn check_origin(headers: &Headers<'_>, host: &[u8], rules: &UpgradeRules) -> Result<(), Refusal> {
    let mut origins = headers.values("Origin");
    let origin = match (origins.next(), origins.next()) {
        (None, _) => return Ok(()),
        (Some(origin), None) => origin,
        (Some(_), Some(_)) => return Err(Refusal::BadRequest("more than one Origin")),
    };
    let allowed = if rules.origins.is_empty() {
        let (_, authority) =
            origin.split_at(origin.windows(3).position(|at| at == b"://").map_or(origin.len(), |at| at + 3));
        !authority.is_empty() && without_port(authority).eq_ignore_ascii_case(without_port(host))
    } else {
        rules.origins.iter().any(|allowed| allowed == "*" || allowed.as_bytes().eq_ignore_ascii_case(origin))
    };
    if allowed { Ok(()) } else { Err(Refusal::Forbidden) }
}

/// `host` of `host:port`. An IPv6 address is in brackets.
fn without_port(authority: &[u8]) -> &[u8] {
    let end = if authority.starts_with(b"[") {
        authority.iter().position(|&byte| byte == b']').map(|at| at + 1)
    } else {
        authority.iter().position(|&byte| byte == b':')
    };
    &authority[..end.unwrap_or(authority.len())]
}

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2).
pub(super) fn accept(key: &[u8]) -> [u8; 28] {
    let digest =
        Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let mut accept = [0; 28];
    STANDARD.encode_slice(digest, &mut accept).expect("20 bytes are 28 in base64");
    accept
}
