//! Records after the handshake, by rustls: what [`Records`](crate::record::Records) is measured against.

use rustls::{
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncryptError, UnbufferedStatus},
};

use crate::{
    failure::Failure,
    handshake::{append, last_words},
    summary::Opened,
};

/// Most that is kept of what rustls cannot use yet: a record, and a change of the key in small parts.
const INPUT_MAX: usize = 20_000;

/// A connection that rustls keeps.
pub(crate) struct Plain {
    rustls: Box<UnbufferedServerConnection>,
    input: Vec<u8>,
    closed: bool,
}

impl Plain {
    pub(crate) fn new(rustls: Box<UnbufferedServerConnection>) -> Plain {
        Plain { rustls, input: Vec::new(), closed: false }
    }

    pub(crate) fn is_partial(&self) -> bool {
        !self.input.is_empty()
    }

    pub(crate) fn open(
        &mut self,
        bytes: &[u8],
        text: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<Opened, Failure> {
        // rustls would answer what is wrong behind our end with an alert, and fails an assertion of a debug build before.
        if self.closed {
            return Ok(Opened::Ended);
        }
        if self.input.len() > INPUT_MAX {
            return Err(Failure::TooLong);
        }
        self.input.extend_from_slice(bytes);
        loop {
            let UnbufferedStatus { discard, state } = self.rustls.process_tls_records(&mut self.input);
            let opened = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        text.extend_from_slice(record?.payload);
                    }
                    None
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(output, |room| data.encode(room))?;
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Some(Opened::Ended),
                Ok(_) => Some(Opened::More),
                Err(error) => {
                    last_words(&mut self.rustls, output);
                    self.closed = true;
                    return Err(error.into());
                }
            };
            self.input.drain(..discard);
            if let Some(opened) = opened {
                if self.input.is_empty() {
                    self.input = Vec::new();
                }
                return Ok(opened);
            }
        }
    }

    pub(crate) fn seal(&mut self, text: &[u8], output: &mut Vec<u8>) -> Result<(), Failure> {
        if self.closed {
            return Err(Failure::Closed);
        }
        self.write(output, |traffic, room| traffic.encrypt(text, room))
    }

    pub(crate) fn close(&mut self, output: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.closed, true) {
            // Failing, it leaves a connection that ends without a word.
            let _ = self.write(output, |traffic, room| traffic.queue_close_notify(room));
        }
    }

    fn write(
        &mut self,
        output: &mut Vec<u8>,
        mut write: impl FnMut(
            &mut rustls::unbuffered::WriteTraffic<'_, rustls::server::ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> Result<(), Failure> {
        loop {
            // rustls keeps places in what it was shown, so it is shown all of that again.
            let UnbufferedStatus { discard, state } = self.rustls.process_tls_records(&mut self.input);
            let written = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(output, |room| data.encode(room)).map(|()| false)
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Ok(false)
                }
                Ok(ConnectionState::PeerClosed) => Ok(false),
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let (start, mut room) = (output.len(), 0);
                    loop {
                        output.resize(start + room, 0);
                        match write(&mut traffic, &mut output[start..]) {
                            Ok(written) => {
                                output.truncate(start + written);
                                break Ok(true);
                            }
                            Err(EncryptError::InsufficientSize(needed)) if needed.required_size > room => {
                                room = needed.required_size;
                            }
                            Err(_) => {
                                output.truncate(start);
                                break Err(Failure::UsedUp);
                            }
                        }
                    }
                }
                _ => Err(Failure::Internal),
            };
            self.input.drain(..discard);
            if written? {
                return Ok(());
            }
        }
    }
}
