//! A client's end of the record layer, written a second time: it seals what it likes, and opens what the server sealed.

use std::sync::Arc;

use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::{
    ClientConfig, ConnectionTrafficSecrets,
    client::{ClientConnectionData, UnbufferedClientConnection},
    kernel::KernelConnection,
    unbuffered::{ConnectionState, UnbufferedStatus},
};
use tls::{Handshake, Tls, Version};

pub(crate) const DATA: u8 = 23;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const ALERT: u8 = 21;

const HEADER_LEN: usize = 5;
const TAG_LEN: usize = 16;

struct Key {
    algorithm: &'static Algorithm,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Key {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Key {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => panic!("a suite that is not offered"),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).expect("its length"));
        Key { algorithm, key, iv: iv.as_ref().try_into().expect("12 bytes"), sequence }
    }

    /// The next nonce, and the part of it that a record carries.
    fn nonce(&mut self, version: Version) -> (Nonce, Vec<u8>) {
        let mut nonce = self.iv;
        let sequence = self.sequence.to_be_bytes();
        nonce[4..].iter_mut().zip(sequence).for_each(|(byte, sequence)| *byte ^= sequence);
        self.sequence += 1;
        let is_explicit = version == Version::Tls12 && !std::ptr::eq(self.algorithm, &CHACHA20_POLY1305);
        let carried = if is_explicit { nonce[4..].to_vec() } else { Vec::new() };
        (Nonce::assume_unique_for_key(nonce), carried)
    }
}

/// The client of one connection whose handshake is done.
pub(crate) struct Peer {
    pub(crate) version: Version,
    write: Key,
    read: Key,
    kernel: KernelConnection<ClientConnectionData>,
    /// The server has said its last word.
    pub(crate) has_ended: bool,
}

impl Peer {
    /// Shakes hands.
    pub(crate) fn new(config: Arc<ClientConfig>, tls: &mut Tls) -> Peer {
        let name = "localhost".try_into().expect("a name");
        let mut client = UnbufferedClientConnection::new(config, name).expect("a client");
        let (mut input, mut text, mut version) = (Vec::new(), Vec::new(), None);
        loop {
            let output = answer(&mut client, &mut input);
            if tls.is_handshaking()
                && tls.take(&output).expect("a handshake")
                && let Handshake::Done(summary, _) = tls.handshake(&mut text).expect("a handshake")
            {
                version = Some(summary.version);
            }
            input.extend(tls.take_output());
            if input.is_empty() {
                break;
            }
        }
        let (secrets, kernel) = client.dangerous_into_kernel_connection().expect("keys");
        let version = version.expect("a version");
        Peer { version, write: Key::new(secrets.tx), read: Key::new(secrets.rx), kernel, has_ended: false }
    }

    /// One record. Only TLS 1.3 can pad.
    pub(crate) fn seal(&mut self, kind: u8, text: &[u8], padding: usize) -> Vec<u8> {
        let sequence = self.write.sequence;
        let (nonce, carried) = self.write.nonce(self.version);
        let mut sealed = text.to_vec();
        let is_13 = self.version == Version::Tls13;
        if is_13 {
            sealed.push(kind);
            sealed.resize(sealed.len() + padding, 0);
        }
        let len = (carried.len() + sealed.len() + TAG_LEN) as u16;
        let header = [&[if is_13 { DATA } else { kind }, 3, 3][..], &len.to_be_bytes()].concat();
        let associated = if is_13 { header.clone() } else { associated(sequence, kind, text.len()) };
        self.write.key.seal_in_place_append_tag(nonce, Aad::from(associated), &mut sealed).expect("a record");
        [header, carried, sealed].concat()
    }

    /// Changes the key under which it seals.
    pub(crate) fn change_key(&mut self) {
        self.write = Key::new(self.kernel.update_tx_secret().expect("a key"));
    }

    /// Takes what the server sent: whole records, each under the key that is its turn, nothing behind the last word.
    pub(crate) fn hear(&mut self, mut bytes: &[u8], text: &mut Vec<u8>) {
        while !bytes.is_empty() {
            assert!(!self.has_ended, "something behind the server's last word");
            let len = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
            let (record, rest) = bytes.split_at(HEADER_LEN + len);
            bytes = rest;
            let (kind, opened) = self.open(record);
            match kind {
                DATA => text.extend(opened),
                ALERT => self.has_ended = true,
                HANDSHAKE => {
                    assert_eq!(opened, [24, 0, 0, 1, 0], "a change of the key that asks for none");
                    self.read = Key::new(self.kernel.update_rx_secret().expect("a key"));
                }
                kind => panic!("a record of kind {kind}"),
            }
        }
    }

    fn open(&mut self, record: &[u8]) -> (u8, Vec<u8>) {
        let sequence = self.read.sequence;
        let (nonce, carried) = self.read.nonce(self.version);
        let (header, sealed) = record.split_at(HEADER_LEN);
        let mut sealed = sealed.strip_prefix(&carried[..]).expect("the nonce of its turn").to_vec();
        let is_13 = self.version == Version::Tls13;
        let text_len = sealed.len() - TAG_LEN;
        let associated = if is_13 { header.to_vec() } else { associated(sequence, header[0], text_len) };
        let opened = self.read.key.open_in_place(nonce, Aad::from(associated), &mut sealed);
        let mut text = opened.expect("a record of the server is opened").to_vec();
        let kind = if is_13 { text.pop().expect("a kind") } else { header[0] };
        (kind, text)
    }
}

/// What TLS 1.2 authenticates beside the text.
fn associated(sequence: u64, kind: u8, len: usize) -> Vec<u8> {
    [&sequence.to_be_bytes()[..], &[kind, 3, 3], &(len as u16).to_be_bytes()].concat()
}

/// What the client says to this.
fn answer(client: &mut UnbufferedClientConnection, input: &mut Vec<u8>) -> Vec<u8> {
    let mut output = Vec::new();
    loop {
        let UnbufferedStatus { discard, state } = client.process_tls_records(input);
        let is_over = match state.expect("a handshake") {
            ConnectionState::EncodeTlsData(mut data) => {
                let mut room = vec![0; 20_000];
                let len = data.encode(&mut room).expect("room");
                output.extend_from_slice(&room[..len]);
                false
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                false
            }
            _ => true,
        };
        input.drain(..discard);
        if is_over {
            return output;
        }
    }
}
