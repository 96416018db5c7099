//! Makes messages of bytes: frame headers, unmasking, fragments, control frames, UTF-8.

use super::{
    Opcode,
    header::{FrameHeader, HEADER_LEN_MAX, Peer},
    mask,
};
use crate::close::CloseReason;

/// The bounds of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// Longest message over all of its fragments, bytes. A header that announces more is enough to close with 1009.
    pub message_max: usize,
    /// Most fragments of one message, empty ones included. More are closed with 1008.
    pub fragments_max: u32,
}

impl Default for MessageLimits {
    /// 64 KiB in at most 100 fragments.
    fn default() -> Self {
        MessageLimits { message_max: 64 * 1024, fragments_max: 100 }
    }
}

/// One thing that the peer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A whole message, text or binary.
    Message(&'a [u8]),
    /// A ping. The caller answers it with a pong that has the same payload.
    Ping(&'a [u8]),
    /// A pong. It needs no answer.
    Pong,
    /// The peer closes, with its code if it gave one. The caller answers with a close; later input is discarded.
    Close(Option<u16>),
}

/// Bytes that no honest peer sends, and the reason to close with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("WebSocket: {label}, closed with {}", reason.code())]
pub struct WsViolation {
    /// The reason to close with.
    pub reason: CloseReason,
    /// The word for the metric `bad_input_total{reason}`.
    pub label: &'static str,
}

impl WsViolation {
    pub(super) const fn protocol(label: &'static str) -> Self {
        WsViolation { reason: CloseReason::ProtocolViolation, label }
    }
}

const BAD_UTF8: WsViolation = WsViolation { reason: CloseReason::BadUtf8, label: "utf8" };
const TOO_BIG: WsViolation = WsViolation { reason: CloseReason::MessageTooBig, label: "message_len" };
const TOO_MANY_FRAGMENTS: WsViolation = WsViolation { reason: CloseReason::LimitBroken, label: "fragments" };

/// Turns the bytes after the upgrade into [`Item`]s, whatever pieces they arrive in.
///
/// If a frame lies whole in an input and is a whole message, it is unmasked there and lent from there. Only an
/// incomplete frame or message is copied. The copy grows with what arrives, never with what a header announces. Between
/// messages the reader owns no heap.
#[derive(Debug)]
pub struct Reader {
    state: State,
    peer: Peer,
}

/// Every idle connection pays for this.
const _: () = assert!(size_of::<Reader>() <= 40);

#[derive(Debug)]
enum State {
    /// Between messages.
    Idle,
    /// Inside a frame or between the fragments of a message.
    Partial(Box<Partial>),
    /// After the peer's close. Input is discarded.
    Closed,
    /// After a violation. Every call repeats it.
    Failed(WsViolation),
}

impl Reader {
    /// A reader of what a client sends. Every frame is masked.
    pub const fn new() -> Self {
        Reader { state: State::Idle, peer: Peer::Client }
    }

    /// A reader of what a server sends, for clients. No frame is masked.
    pub const fn of_server() -> Self {
        Reader { state: State::Idle, peer: Peer::Server }
    }

    /// Takes the next item from `input`, and unmasks it in place. If there is no whole one, keeps the rest of `input`
    /// and returns `None`. Call this until it does.
    ///
    /// # Errors
    /// A [`WsViolation`] as soon as the bytes that prove it are there; every later call repeats it. Text that is not
    /// UTF-8 is found when the bad part arrives, not at the end of the message.
    pub fn next<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i mut [u8],
        limits: &MessageLimits,
    ) -> Result<Option<Item<'s>>, WsViolation> {
        match self.step(input, limits) {
            Err(violation) => {
                self.state = State::Failed(violation);
                Err(violation)
            }
            Ok(Some(Step::Closed(code))) => {
                self.state = State::Closed;
                Ok(Some(Item::Close(code)))
            }
            Ok(Some(Step::InInput(item))) => Ok(Some(item)),
            Ok(Some(Step::Kept(opcode))) => Ok(match &self.state {
                State::Partial(partial) if opcode == Opcode::Ping => Some(Item::Ping(&partial.lent)),
                State::Partial(partial) => Some(Item::Message(&partial.lent)),
                _ => None,
            }),
            Ok(None) => Ok(None),
        }
    }

    /// Whether a frame or message waits for its rest. Then the deadline for frames runs.
    pub fn has_partial(&self) -> bool {
        matches!(&self.state, State::Partial(partial) if !partial.is_done())
    }

    fn step<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        limits: &MessageLimits,
    ) -> Result<Option<Step<'i>>, WsViolation> {
        if let State::Partial(partial) = &self.state
            && partial.is_done()
        {
            self.state = State::Idle;
        }
        if let State::Idle = self.state {
            if input.is_empty() {
                return Ok(None);
            }
            if let Some(step) = whole(input, self.peer, limits)? {
                return Ok(Some(step));
            }
            self.state = State::Partial(Box::default());
        }
        match &mut self.state {
            State::Partial(partial) => partial.feed(input, self.peer, limits),
            State::Failed(violation) => Err(*violation),
            State::Closed | State::Idle => {
                *input = &mut [];
                Ok(None)
            }
        }
    }
}

impl Default for Reader {
    fn default() -> Self {
        Reader::new()
    }
}

/// What one step has found.
enum Step<'i> {
    /// An item that lies in the input or needs no bytes.
    InInput(Item<'i>),
    /// An item that lies in [`Partial::lent`]: a ping if this says so, otherwise a message.
    Kept(Opcode),
    /// The peer's close.
    Closed(Option<u16>),
}

/// The usual case: `input` starts with a whole frame that is a whole message or a control frame. Takes nothing in any
/// other case.
fn whole<'i>(
    input: &mut &'i mut [u8],
    peer: Peer,
    limits: &MessageLimits,
) -> Result<Option<Step<'i>>, WsViolation> {
    let Some(header) = FrameHeader::parse(input, peer)? else { return Ok(None) };
    if header.opcode == Opcode::Continuation || !header.fin {
        return Ok(None);
    }
    let payload_len = checked_len(&header, 0, limits)?;
    if input.len() - header.header_len < payload_len {
        return Ok(None);
    }
    let payload = &mut take(input, header.header_len + payload_len)[header.header_len..];
    mask::apply(header.mask, 0, payload);
    Ok(Some(match header.opcode {
        Opcode::Text if std::str::from_utf8(payload).is_err() => return Err(BAD_UTF8),
        Opcode::Text | Opcode::Binary | Opcode::Continuation => Step::InInput(Item::Message(payload)),
        Opcode::Ping => Step::InInput(Item::Ping(payload)),
        Opcode::Pong => Step::InInput(Item::Pong),
        Opcode::Close => Step::Closed(close_code(payload)?),
    }))
}

/// The state while a frame or message is incomplete.
#[derive(Debug, Default)]
struct Partial {
    /// The first `header_len` bytes of an incomplete header.
    header: [u8; HEADER_LEN_MAX],
    header_len: usize,
    /// The frame whose payload is arriving.
    frame: Option<Current>,
    /// Payload of an incomplete control frame, unmasked.
    control: Vec<u8>,
    /// The message whose fragments are arriving.
    message: Option<Assembly>,
    /// The last message or ping that was handed out. The next step drops a message.
    lent: Vec<u8>,
}

/// A frame whose payload is arriving.
#[derive(Debug)]
struct Current {
    header: FrameHeader,
    /// Bytes of the payload that have come.
    came: usize,
    /// Bytes of the payload that are missing.
    missing: usize,
}

/// The fragments of a message so far.
#[derive(Debug)]
struct Assembly {
    payload: Vec<u8>,
    text: bool,
    /// If it is text: how many bytes are known to be UTF-8. At most the start of one character follows them.
    checked: usize,
    fragments: u32,
}

impl Partial {
    /// Whether nothing is incomplete.
    fn is_done(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    fn feed<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        peer: Peer,
        limits: &MessageLimits,
    ) -> Result<Option<Step<'i>>, WsViolation> {
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.take_header(input, peer)? {
                    Some(header) => self.start(header, limits)?,
                    None => return Ok(None),
                },
            };
            let payload = take(input, frame.missing.min(input.len()));
            mask::apply(frame.header.mask, frame.came, payload);
            frame.came += payload.len();
            frame.missing -= payload.len();
            match &mut self.message {
                Some(message) if !frame.header.opcode.is_control() => message.append(payload)?,
                _ => self.control.extend_from_slice(payload),
            }
            if frame.missing > 0 {
                self.frame = Some(frame);
                return Ok(None);
            }
            if let Some(step) = self.finish(frame.header)? {
                return Ok(Some(step));
            }
        }
    }

    /// Collects a header. Takes nothing after it from `input`.
    fn take_header(&mut self, input: &mut &mut [u8], peer: Peer) -> Result<Option<FrameHeader>, WsViolation> {
        let kept = self.header_len;
        let more = input.len().min(HEADER_LEN_MAX - kept);
        self.header[kept..kept + more].copy_from_slice(&input[..more]);
        let Some(header) = FrameHeader::parse(&self.header[..kept + more], peer)? else {
            take(input, more);
            self.header_len += more;
            return Ok(None);
        };
        take(input, header.header_len - kept);
        self.header_len = 0;
        Ok(Some(header))
    }

    /// Checks a header against the message that it belongs to, or begins a message if it is the first one.
    fn start(&mut self, header: FrameHeader, limits: &MessageLimits) -> Result<Current, WsViolation> {
        let before = match (&mut self.message, header.opcode) {
            (_, opcode) if opcode.is_control() => 0,
            (None, Opcode::Continuation) => return Err(WsViolation::protocol("stray_continuation")),
            (Some(message), Opcode::Continuation) => {
                if message.fragments >= limits.fragments_max {
                    return Err(TOO_MANY_FRAGMENTS);
                }
                message.fragments += 1;
                message.payload.len()
            }
            (Some(_), _) => return Err(WsViolation::protocol("interleaved_message")),
            (None, opcode) => {
                let text = opcode == Opcode::Text;
                self.message = Some(Assembly { payload: Vec::new(), text, checked: 0, fragments: 1 });
                0
            }
        };
        let missing = checked_len(&header, before, limits)?;
        Ok(Current { header, came: 0, missing })
    }

    /// The item, if any, that is complete with this frame.
    fn finish<'i>(&mut self, header: FrameHeader) -> Result<Option<Step<'i>>, WsViolation> {
        Ok(match header.opcode {
            Opcode::Close => Some(Step::Closed(close_code(&self.control)?)),
            Opcode::Pong => {
                self.control = Vec::new();
                Some(Step::InInput(Item::Pong))
            }
            Opcode::Ping => {
                self.lent = std::mem::take(&mut self.control);
                Some(Step::Kept(Opcode::Ping))
            }
            Opcode::Text | Opcode::Binary | Opcode::Continuation if header.fin => {
                let Some(message) = self.message.take() else { return Ok(None) };
                if message.text && message.checked < message.payload.len() {
                    return Err(BAD_UTF8);
                }
                self.lent = message.payload;
                Some(Step::Kept(Opcode::Binary))
            }
            Opcode::Text | Opcode::Binary | Opcode::Continuation => None,
        })
    }
}

impl Assembly {
    /// Adds unmasked bytes. Looks at each byte of a text about once, however the text is cut.
    fn append(&mut self, payload: &[u8]) -> Result<(), WsViolation> {
        self.payload.extend_from_slice(payload);
        if !self.text {
            return Ok(());
        }
        match std::str::from_utf8(&self.payload[self.checked..]) {
            Ok(text) => self.checked += text.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(BAD_UTF8),
        }
        Ok(())
    }
}

/// The length of the payload, if a message that has `before` bytes already may have so many more.
fn checked_len(header: &FrameHeader, before: usize, limits: &MessageLimits) -> Result<usize, WsViolation> {
    match usize::try_from(header.payload_len) {
        // It has at most 125 bytes, which was checked before.
        Ok(len) if header.opcode.is_control() => Ok(len),
        Ok(len) if len <= limits.message_max.saturating_sub(before) => Ok(len),
        _ => Err(TOO_BIG),
    }
}

/// Reads the payload of a close (RFC 6455 sections 5.5.1, 7.4.1, 7.4.2): nothing, or a permitted code and UTF-8.
fn close_code(payload: &[u8]) -> Result<Option<u16>, WsViolation> {
    match payload {
        [] => Ok(None),
        [_] => Err(WsViolation::protocol("close_len")),
        [high, low, text @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(WsViolation::protocol("close_code"));
            }
            match std::str::from_utf8(text) {
                Ok(_) => Ok(Some(code)),
                Err(_) => Err(BAD_UTF8),
            }
        }
    }
}

/// Splits `len` bytes off the front of `input`.
fn take<'i>(input: &mut &'i mut [u8], len: usize) -> &'i mut [u8] {
    let (front, rest) = std::mem::take(input).split_at_mut(len);
    *input = rest;
    front
}
