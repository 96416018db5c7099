//! The handshake, by rustls.
//!
//! rustls is shown one record more at a time. A client may send a change of its key, or data, in the segment that ends
//! its handshake; rustls would take it and its answer would be lost when the record layer takes over.

use rustls::{
    HandshakeKind, ProtocolVersion,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus},
};

use crate::{
    acceptor::Acceptor,
    failure::Failure,
    record::{FRAGMENT_MAX, HEADER_LEN, record_len},
    summary::{Summary, Version},
};

/// Most bytes that are kept of a handshake that is not complete. The longest record fits.
const INPUT_MAX: usize = FRAGMENT_MAX + HEADER_LEN + 256;

/// A handshake under way. rustls's part begins with the first whole record.
#[derive(Default)]
pub(crate) struct Handshaking {
    rustls: Option<Box<UnbufferedServerConnection>>,
    /// What came and rustls has not taken.
    input: Vec<u8>,
    /// How much of it rustls has been shown: whole records.
    shown: usize,
}

/// What one step of the handshake led to.
pub(crate) enum Step {
    /// The client's turn.
    More,
    /// It is done. The bytes behind it are for the record layer.
    Done(Box<UnbufferedServerConnection>, Summary, Vec<u8>),
}

impl Handshaking {
    /// Keeps input. Returns whether there is a whole record for [`Handshaking::step`].
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        if self.input.len() + bytes.len() > INPUT_MAX {
            return Err(Failure::TooLong);
        }
        self.input.extend_from_slice(bytes);
        // Only the very first record tells that a peer does not speak TLS.
        next_record(&self.input, self.shown).map(|next| next.is_some()).map_err(|failure| match failure {
            Failure::BadMessage if self.rustls.is_none() => Failure::NotTls,
            failure => failure,
        })
    }

    /// Whether it waits for the rest of something.
    pub(crate) fn is_partial(&self) -> bool {
        !self.input.is_empty()
    }

    /// Takes what has come as far as the handshake goes. What is to be sent is appended to `output`, also when it fails.
    pub(crate) fn step(&mut self, acceptor: &Acceptor, output: &mut Vec<u8>) -> Result<Step, Failure> {
        match next_record(&self.input, self.shown)? {
            Some(end) => self.shown = end,
            None => return Ok(Step::More),
        }
        if self.rustls.is_none() {
            let rustls = UnbufferedServerConnection::new(acceptor.config.clone())?;
            self.rustls = Some(Box::new(rustls));
        }
        let rustls = self.rustls.as_mut().expect("it was just made");
        loop {
            let UnbufferedStatus { discard, state } =
                rustls.process_tls_records(&mut self.input[..self.shown]);
            let more = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(output, |room| data.encode(room))?;
                    true
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    true
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => false,
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => return Err(Failure::Alert),
                Ok(_) => return Err(Failure::BadMessage),
                Err(error) => {
                    last_words(rustls, output);
                    return Err(error.into());
                }
            };
            self.input.drain(..discard);
            self.shown -= discard;
            if more {
                continue;
            }
            if !rustls.is_handshaking() {
                let summary = Summary {
                    version: match rustls.protocol_version() {
                        Some(ProtocolVersion::TLSv1_3) => Version::Tls13,
                        _ => Version::Tls12,
                    },
                    resumed: rustls.handshake_kind() == Some(HandshakeKind::Resumed),
                };
                let rustls = self.rustls.take().expect("it was just there");
                return Ok(Step::Done(rustls, summary, self.input.split_off(self.shown)));
            }
            match next_record(&self.input, self.shown)? {
                Some(end) => self.shown = end,
                None => return Ok(Step::More),
            }
        }
    }
}

/// End of the first whole record of `input` that rustls has not been shown.
fn next_record(input: &[u8], shown: usize) -> Result<Option<usize>, Failure> {
    Ok(record_len(&input[shown..])?.map(|len| shown + len).filter(|end| *end <= input.len()))
}

/// Takes the alert that rustls has for the peer.
///
/// rustls is asked only for as long as it has something to send, which it gives before it looks at its input: it has kept
/// places in what it was shown, and with nothing before it, it would panic.
pub(crate) fn last_words(rustls: &mut UnbufferedServerConnection, output: &mut Vec<u8>) {
    while rustls.wants_write() {
        let Ok(ConnectionState::EncodeTlsData(mut data)) = rustls.process_tls_records(&mut []).state else {
            return;
        };
        if append(output, |room| data.encode(room)).is_err() {
            return;
        }
    }
}

/// Lets rustls append to `output` what it has.
pub(crate) fn append(
    output: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Failure> {
    let start = output.len();
    let mut room = 0;
    loop {
        output.resize(start + room, 0);
        match encode(&mut output[start..]) {
            Ok(written) => {
                output.truncate(start + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) if needed.required_size > room => {
                room = needed.required_size;
            }
            Err(_) => {
                output.truncate(start);
                return Err(Failure::Internal);
            }
        }
    }
}
