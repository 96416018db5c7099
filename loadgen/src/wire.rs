//! The client's side of one connection without its socket: bytes in, things heard out.

use proto::{
    close::CloseReason,
    frame,
    frame::{Frame, FrameReader, Header},
    op::Op,
    websocket::{ClientUpgrade, Item, MessageLimits, Opcode, Reader, client_frame},
};

use crate::{fleet::Transport, rng::Rng};

/// The longest body and WebSocket message taken, in bytes: a full batch of pushes of a megabyte each.
const BODY_MAX: usize = 32 << 20;

const LIMITS: MessageLimits = MessageLimits { message_max: BODY_MAX, fragments_max: 100 };

/// What is spoken on a connection, and what is incomplete of it.
pub(crate) enum Wire {
    Tcp(FrameReader),
    /// The answer to the upgrade is awaited; then the path.
    Upgrading(Box<(ClientUpgrade, String)>),
    WebSocket(Reader),
}

/// Something heard.
pub(crate) enum Heard<'a> {
    /// The connection is a WebSocket now.
    Upgraded,
    /// A frame; those inside a batch come one by one, the batch itself does not.
    Frame(Frame<'a>),
    /// To be answered by [`Wire::pong`].
    Ping(&'a [u8]),
    /// The server closes, in these words; nothing follows.
    Close(String),
}

impl Wire {
    /// A fresh connection.
    pub(crate) fn new(transport: &Transport, rng: &mut Rng) -> Self {
        match transport {
            Transport::Tcp => Wire::Tcp(FrameReader::new()),
            Transport::WebSocket(path) => {
                let nonce = u128::from(rng.next()) << 64 | u128::from(rng.next());
                Wire::Upgrading(Box::new((ClientUpgrade::new(nonce.to_be_bytes()), path.clone())))
            }
        }
    }

    /// May frames be said? Before, a WebSocket needs its upgrade.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self, Wire::Upgrading(_))
    }

    /// Appends the request for the upgrade, if this connection needs one.
    pub(crate) fn upgrade(&self, host: &str, out: &mut Vec<u8>) {
        if let Wire::Upgrading(upgrading) = self {
            let (upgrade, path) = &**upgrading;
            out.extend_from_slice(&upgrade.request(host, path, &[]));
        }
    }

    /// Appends a frame; `mask` is for WebSocket.
    pub(crate) fn say(&self, header: Header, body: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
        match self {
            Wire::Tcp(_) => frame::encode(header, body, out),
            Wire::Upgrading(_) => debug_assert!(false, "frames follow the upgrade"),
            Wire::WebSocket(_) => {
                let mut message = Vec::with_capacity(frame::HEADER_LEN + body.len());
                frame::encode(header, body, &mut message);
                client_frame(Opcode::Binary, &message, mask, out);
            }
        }
    }

    /// Appends the answer to a ping.
    pub(crate) fn pong(&self, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
        client_frame(Opcode::Pong, payload, mask, out);
    }

    /// Takes in what was read; an error names what cannot be understood, and the connection is of no more use.
    pub(crate) fn hear(&mut self, input: &mut [u8], on: &mut impl FnMut(Heard<'_>)) -> Result<(), String> {
        match self {
            Wire::Tcp(reader) => {
                let answers_in_http = input.starts_with(b"HTTP/");
                let bad = |violation| match answers_in_http {
                    true => "it answers in HTTP: is this a WebSocket port? --ws".to_owned(),
                    false => bad_frame(violation),
                };
                let mut input = &*input;
                while let Some(frame) = reader.next(&mut input, BODY_MAX).map_err(bad)? {
                    unbatch(frame, on)?;
                }
                Ok(())
            }
            Wire::Upgrading(upgrading) => {
                let mut rest = &*input;
                if !upgrading.0.push(&mut rest).map_err(|error| format!("upgrade: {error}"))? {
                    return Ok(());
                }
                let used = input.len() - rest.len();
                *self = Wire::WebSocket(Reader::of_server());
                on(Heard::Upgraded);
                self.hear(&mut input[used..], on)
            }
            Wire::WebSocket(reader) => {
                let mut input = input;
                while let Some(item) = reader
                    .next(&mut input, &LIMITS)
                    .map_err(|violation| format!("bad WebSocket: {}", violation.label))?
                {
                    match item {
                        Item::Message(message) => {
                            for frame in frame::frames_of_message(message, BODY_MAX) {
                                unbatch(frame.map_err(bad_frame)?, on)?;
                            }
                        }
                        Item::Ping(payload) => on(Heard::Ping(payload)),
                        Item::Pong => {}
                        Item::Close(code) => {
                            on(Heard::Close(close_words(code)));
                            return Ok(());
                        }
                    }
                }
                Ok(())
            }
        }
    }
}

fn bad_frame(violation: frame::Violation) -> String {
    format!("bad frame: {}; is this the port for clients on TCP (3101)?", violation.label())
}

fn unbatch(frame: Frame<'_>, on: &mut impl FnMut(Heard<'_>)) -> Result<(), String> {
    if frame.header.op != Op::RAW {
        on(Heard::Frame(frame));
        return Ok(());
    }
    for inner in frame::frames_of_message(frame.body, BODY_MAX) {
        on(Heard::Frame(inner.map_err(bad_frame)?));
    }
    Ok(())
}

/// `close 4409 replaced`; a code that several reasons share names them all.
fn close_words(code: Option<u16>) -> String {
    let Some(code) = code else { return "close without a code".to_owned() };
    let reasons = CloseReason::ALL.iter().filter(|reason| reason.code() == code);
    let words: Vec<_> = reasons.map(|reason| reason.text()).collect();
    format!("close {code} {}", words.join(" or ")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use proto::encoded::Encoded;

    use super::*;

    fn heard(wire: &mut Wire, input: &[u8]) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        wire.hear(&mut input.to_vec(), &mut |heard| {
            all.push(match heard {
                Heard::Upgraded => "upgraded".to_owned(),
                Heard::Frame(frame) => {
                    format!("{} {}", frame.header.op, String::from_utf8_lossy(frame.body))
                }
                Heard::Ping(payload) => format!("ping {payload:?}"),
                Heard::Close(words) => words,
            });
        })?;
        Ok(all)
    }

    fn pushes() -> [Encoded; 3] {
        ["a", "bc", ""].map(|body| Encoded::push(Op(1000), body.as_bytes()))
    }

    #[test]
    fn concatenated_frames_are_split_wherever_the_reads_cut() {
        let bytes = pushes().map(|push| push.tcp().to_vec()).concat();
        for cut in 0..=bytes.len() {
            let mut wire = Wire::new(&Transport::Tcp, &mut Rng::seeded(1));
            let (before, after) = bytes.split_at(cut);
            let mut all = heard(&mut wire, before).expect("sound");
            all.extend(heard(&mut wire, after).expect("sound"));
            assert_eq!(all, ["1000 a", "1000 bc", "1000 "], "cut at {cut}");
        }
    }

    #[test]
    fn batches_inside_a_message_come_one_by_one() {
        let frames = pushes().map(|push| push.tcp().to_vec()).concat();
        let batch = Encoded::push_frames(&frames).expect("frames");
        let close = [0x88, 2, 0x11, 0x39];
        let bytes = [batch.ws(), &[0x89, 1, 7], pushes()[0].ws(), &close].concat();
        for cut in 0..=bytes.len() {
            let mut wire = Wire::WebSocket(Reader::of_server());
            let (before, after) = bytes.split_at(cut);
            let mut all = heard(&mut wire, before).expect("sound");
            all.extend(heard(&mut wire, after).expect("sound"));
            let expected = ["1000 a", "1000 bc", "1000 ", "ping [7]", "1000 a", "close 4409 replaced"];
            assert_eq!(all, expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_batch_inside_a_tcp_stream_is_opened_too() {
        let inner = pushes().map(|push| push.tcp().to_vec()).concat();
        let mut bytes = Vec::new();
        frame::encode(Header { ver: 1, op: Op::RAW, seq: 0 }, &inner, &mut bytes);
        let mut wire = Wire::new(&Transport::Tcp, &mut Rng::seeded(1));
        assert_eq!(heard(&mut wire, &bytes), Ok(["1000 a", "1000 bc", "1000 "].map(str::to_owned).into()));
    }

    #[test]
    fn lost_framing_is_an_error() {
        let mut wire = Wire::new(&Transport::Tcp, &mut Rng::seeded(1));
        assert_eq!(
            heard(&mut wire, &[0xff; 16]),
            Err("bad frame: len; is this the port for clients on TCP (3101)?".to_owned())
        );
    }

    /// It was "bad frame: len".
    #[test]
    fn a_server_that_speaks_http_is_asked_for_with_ws() {
        for answer in
            ["HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"]
        {
            let mut wire = Wire::new(&Transport::Tcp, &mut Rng::seeded(1));
            let said = heard(&mut wire, answer.as_bytes()).unwrap_err();
            assert!(said.contains("WebSocket port? --ws"), "{said}");
        }
    }

    #[test]
    fn codes_are_told_in_words() {
        assert_eq!(close_words(Some(4408)), "close 4408 login timeout or heartbeat timeout");
        assert_eq!(close_words(Some(4999)), "close 4999");
        assert_eq!(close_words(None), "close without a code");
    }
}
