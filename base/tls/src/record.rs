//! The record layer after the handshake (RFC 8446, section 5; RFC 5246, section 6.2): what a connection keeps of TLS.
//!
//! Keys are kept as they are and expanded for each batch of records, which costs 0.2 µs and saves a kilobyte a client.
//! The handshake's secrets stay with rustls, which makes the next key from them.

use ring_crypto::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, HandshakeType,
    kernel::KernelConnection,
    server::{ServerConnectionData, UnbufferedServerConnection},
};
use zeroize::Zeroizing;

use crate::{
    failure::Failure,
    summary::{Opened, Version},
};

/// Bytes of a record's header.
pub(crate) const HEADER_LEN: usize = 5;
/// Most plain text of a record.
pub(crate) const FRAGMENT_MAX: usize = 16_384;
/// How much longer a record may be than its plain text.
const EXPANSION_MAX: usize = 256;
const TAG_LEN: usize = 16;
/// The part of a nonce that a record of AES-GCM carries in TLS 1.2.
const EXPLICIT_LEN: usize = 8;
/// Records in a row that may carry no data: empty ones, changes of the key, warnings.
const IDLE_MAX: u8 = 32;

/// Records under one key that make up for one change of it.
const RECORDS_FOR_A_CHANGE: u64 = 100;

const FATAL: u8 = 2;
const WARNING: u8 = 1;
const KEY_UPDATE_LEN: usize = 5;

/// The length of the record that `bytes` begin with, header included; none while too little has come.
///
/// # Errors
/// `BadMessage`: no record begins so. `TooLong`: none may be so long.
pub(crate) fn record_len(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    let known = |at: usize, right: fn(u8) -> bool| bytes.get(at).copied().is_none_or(right);
    if !known(0, |kind| (20..=23).contains(&kind)) || !known(1, |major| major == 3) {
        return Err(Failure::BadMessage);
    }
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if len > FRAGMENT_MAX + EXPANSION_MAX {
        return Err(Failure::TooLong);
    }
    Ok(Some(HEADER_LEN + len))
}

/// The records of one connection, both ways.
pub(crate) struct Records {
    version: Version,
    read: Half,
    write: Half,
    /// Makes the next keys. TLS 1.2 has none.
    secrets: Option<Box<KernelConnection<ServerConnectionData>>>,
    records_max: u64,
    /// A record that has come in part.
    partial: Vec<u8>,
    /// A change of the key that has come in part.
    message: ([u8; KEY_UPDATE_LEN], u8),
    idle: u8,
    /// How many changes of the peer's key the data since has not made up for.
    changes: u8,
    /// The peer has asked for a change of our key, which waits to be sent. One answer is enough for all that ask before it.
    pub(crate) answer_waits: bool,
    /// The peer has ended its side.
    ended: bool,
    /// We have ended ours.
    closed: bool,
}

/// One direction.
pub(crate) struct Half {
    algorithm: &'static Algorithm,
    key: Zeroizing<[u8; 32]>,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Half {
    pub(crate) fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Half, Failure> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Failure::Internal),
        };
        let mut kept = Zeroizing::new([0; 32]);
        kept[..algorithm.key_len()].copy_from_slice(key.as_ref());
        let iv = iv.as_ref().try_into().map_err(|_| Failure::Internal)?;
        Ok(Half { algorithm, key: kept, iv, sequence })
    }

    /// The key, made ready for a batch of records.
    pub(crate) fn expanded(&self) -> LessSafeKey {
        let key = UnboundKey::new(self.algorithm, &self.key[..self.algorithm.key_len()]);
        LessSafeKey::new(key.expect("the length is that of its keys"))
    }

    /// RFC 8446, section 5.3.
    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce
    }

    /// Whether records carry a part of their nonce.
    fn has_explicit_nonce(&self, version: Version) -> bool {
        version == Version::Tls12 && !std::ptr::eq(self.algorithm, &CHACHA20_POLY1305)
    }

    /// What TLS 1.2 authenticates beside the text.
    fn associated(&self, kind: u8, len: usize) -> [u8; 13] {
        let mut associated = [0; 13];
        associated[..8].copy_from_slice(&self.sequence.to_be_bytes());
        associated[8..11].copy_from_slice(&[kind, 3, 3]);
        associated[11..].copy_from_slice(&(len as u16).to_be_bytes());
        associated
    }

    /// Appends one record.
    pub(crate) fn seal(
        &mut self,
        key: &LessSafeKey,
        version: Version,
        kind: ContentType,
        text: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let nonce = self.nonce();
        let explicit = if self.has_explicit_nonce(version) { EXPLICIT_LEN } else { 0 };
        let hidden = usize::from(version == Version::Tls13);
        let len = explicit + text.len() + hidden + TAG_LEN;
        let outer = if hidden == 1 { ContentType::ApplicationData } else { kind };
        let [high, low] = (len as u16).to_be_bytes();
        let header = [u8::from(outer), 3, 3, high, low];
        output.extend_from_slice(&header);
        output.extend_from_slice(&nonce[NONCE_LEN - explicit..]);
        let start = output.len();
        output.extend_from_slice(text);
        output.extend_from_slice(&[u8::from(kind)][..hidden]);
        let (associated, nonce) =
            (self.associated(kind.into(), text.len()), Nonce::assume_unique_for_key(nonce));
        let associated = if hidden == 1 { &header[..] } else { &associated[..] };
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(associated), &mut output[start..])
            .map_err(|_| Failure::Internal)?;
        output.extend_from_slice(tag.as_ref());
        self.sequence += 1;
        Ok(())
    }

    /// Appends the text of one record and says of which kind it is.
    pub(crate) fn open(
        &mut self,
        key: &LessSafeKey,
        version: Version,
        record: &[u8],
        text: &mut Vec<u8>,
    ) -> Result<ContentType, Failure> {
        let (header, mut sealed) = record.split_at(HEADER_LEN);
        let mut nonce = self.nonce();
        if self.has_explicit_nonce(version) {
            let (explicit, rest) = sealed.split_at_checked(EXPLICIT_LEN).ok_or(Failure::BadRecord)?;
            nonce[NONCE_LEN - EXPLICIT_LEN..].copy_from_slice(explicit);
            sealed = rest;
        }
        let len = sealed.len().checked_sub(TAG_LEN).ok_or(Failure::BadRecord)?;
        let associated = self.associated(header[0], len);
        let associated = if version == Version::Tls13 { header } else { &associated };
        let start = text.len();
        text.extend_from_slice(sealed);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = key.open_in_place(nonce, Aad::from(associated), &mut text[start..]);
        if opened.is_err() {
            text.truncate(start);
            return Err(Failure::BadRecord);
        }
        text.truncate(start + len);
        self.sequence += 1;
        let kind = match version {
            Version::Tls12 => header[0],
            Version::Tls13 => {
                // The kind is the last byte that is not zero; zeros behind it are padding.
                let end = text[start..].iter().rposition(|byte| *byte != 0).ok_or(Failure::BadMessage)?;
                let kind = text[start + end];
                text.truncate(start + end);
                kind
            }
        };
        if text.len() - start > FRAGMENT_MAX {
            return Err(Failure::TooLong);
        }
        Ok(ContentType::from(kind))
    }
}

impl Records {
    /// Takes over from rustls after the handshake.
    pub(crate) fn new(
        rustls: UnbufferedServerConnection,
        version: Version,
        records_max: u64,
    ) -> Result<Records, Failure> {
        let (secrets, kernel) = rustls.dangerous_into_kernel_connection()?;
        Ok(Records {
            version,
            read: Half::new(secrets.rx)?,
            write: Half::new(secrets.tx)?,
            secrets: (version == Version::Tls13).then(|| Box::new(kernel)),
            records_max,
            partial: Vec::new(),
            message: Default::default(),
            idle: 0,
            changes: 0,
            answer_waits: false,
            ended: false,
            closed: false,
        })
    }

    /// Whether a record has come in part.
    pub(crate) fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Opens what came: appends its text, and what has to be sent in answer.
    pub(crate) fn open(
        &mut self,
        mut bytes: &[u8],
        text: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<Opened, Failure> {
        let mut key = None;
        while !self.ended && !bytes.is_empty() {
            if self.partial.is_empty() {
                let Some(len) = record_len(bytes)?.filter(|len| *len <= bytes.len()) else {
                    self.partial.extend_from_slice(bytes);
                    break;
                };
                let (record, rest) = bytes.split_at(len);
                bytes = rest;
                self.record(record, &mut key, text, output)?;
                continue;
            }
            // First as much as tells the length, then that.
            let needed = record_len(&self.partial)?.unwrap_or(HEADER_LEN) - self.partial.len();
            let (more, rest) = bytes.split_at(needed.min(bytes.len()));
            self.partial.extend_from_slice(more);
            bytes = rest;
            if record_len(&self.partial)? == Some(self.partial.len()) {
                let record = std::mem::take(&mut self.partial);
                self.record(&record, &mut key, text, output)?;
            }
        }
        Ok(if self.ended { Opened::Ended } else { Opened::More })
    }

    /// One record.
    fn record(
        &mut self,
        record: &[u8],
        key: &mut Option<LessSafeKey>,
        text: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        if self.version == Version::Tls13 && ContentType::from(record[0]) != ContentType::ApplicationData {
            return Err(Failure::BadMessage);
        }
        let start = text.len();
        let expanded = key.get_or_insert_with(|| self.read.expanded());
        let opened = self.read.open(expanded, self.version, record, text);
        let kind = match opened {
            Ok(ContentType::ApplicationData) if self.message.1 > 0 => Err(Failure::BadMessage),
            opened => opened,
        }
        .inspect_err(|_| text.truncate(start))?;
        if kind == ContentType::ApplicationData {
            if text.len() > start {
                self.idle = 0;
                // A change costs as much as many records, so a byte of data does not make up for it.
                if self.read.sequence.is_multiple_of(RECORDS_FOR_A_CHANGE) {
                    self.changes = self.changes.saturating_sub(1);
                }
                return Ok(());
            }
            return self.idles();
        }
        let result = match kind {
            ContentType::Alert => self.alert(&text[start..]),
            ContentType::Handshake if self.version == Version::Tls12 => Err(Failure::Renegotiation),
            ContentType::Handshake => self.key_update(&text[start..], key, output),
            _ => Err(Failure::BadMessage),
        };
        text.truncate(start);
        result
    }

    fn idles(&mut self) -> Result<(), Failure> {
        self.idle += 1;
        if self.idle > IDLE_MAX { Err(Failure::Idle) } else { Ok(()) }
    }

    fn alert(&mut self, alert: &[u8]) -> Result<(), Failure> {
        let &[level, description] = alert else { return Err(Failure::BadMessage) };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => {
                self.ended = true;
                Ok(())
            }
            // RFC 8446, section 6: in TLS 1.3 all others end the connection but this one.
            AlertDescription::UserCanceled => self.idles(),
            _ if level == WARNING && self.version == Version::Tls12 => self.idles(),
            _ => Err(Failure::Alert),
        }
    }

    /// RFC 8446, section 4.6.3. The only message of a handshake that a client may send now.
    fn key_update(
        &mut self,
        mut bytes: &[u8],
        key: &mut Option<LessSafeKey>,
        output: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Err(Failure::BadMessage);
        }
        let (message, len) = &mut self.message;
        while usize::from(*len) < KEY_UPDATE_LEN && !bytes.is_empty() {
            message[usize::from(*len)] = bytes[0];
            *len += 1;
            bytes = &bytes[1..];
        }
        let head = [u8::from(HandshakeType::KeyUpdate), 0, 0, 1];
        let come = usize::from(*len).min(head.len());
        if message[..come] != head[..come] {
            return Err(Failure::BadMessage);
        }
        if usize::from(*len) < KEY_UPDATE_LEN {
            return self.idles();
        }
        let requested = match message[KEY_UPDATE_LEN - 1] {
            0 => false,
            1 => true,
            _ => return Err(Failure::BadMessage),
        };
        // What comes behind it has to be under the new key, so in another record.
        if !bytes.is_empty() {
            return Err(Failure::BadMessage);
        }
        self.message = Default::default();
        self.idles()?;
        self.changes += 1;
        if self.changes > IDLE_MAX {
            return Err(Failure::Idle);
        }
        let secrets = self.secrets.as_mut().ok_or(Failure::Internal)?;
        self.read = Half::new(secrets.update_rx_secret()?)?;
        *key = None;
        if requested && !self.closed && !std::mem::replace(&mut self.answer_waits, true) {
            self.change_write_key(output)?;
        }
        Ok(())
    }

    /// Says that our key changes, and changes it.
    fn change_write_key(&mut self, output: &mut Vec<u8>) -> Result<(), Failure> {
        let message = [u8::from(HandshakeType::KeyUpdate), 0, 0, 1, 0];
        let key = self.write.expanded();
        self.write.seal(&key, self.version, ContentType::Handshake, &message, output)?;
        let secrets = self.secrets.as_mut().ok_or(Failure::Internal)?;
        self.write = Half::new(secrets.update_tx_secret()?)?;
        Ok(())
    }

    /// Appends records of text.
    pub(crate) fn seal(&mut self, text: &[u8], output: &mut Vec<u8>) -> Result<(), Failure> {
        if self.closed {
            return Err(Failure::Closed);
        }
        let records = text.len().div_ceil(FRAGMENT_MAX);
        output.reserve(text.len() + records * (HEADER_LEN + EXPLICIT_LEN + TAG_LEN));
        let mut key = self.write.expanded();
        for fragment in text.chunks(FRAGMENT_MAX) {
            if self.write.sequence >= self.records_max {
                if self.version == Version::Tls12 {
                    return Err(Failure::UsedUp);
                }
                self.change_write_key(output)?;
                key = self.write.expanded();
            }
            self.write.seal(&key, self.version, ContentType::ApplicationData, fragment, output)?;
        }
        Ok(())
    }

    /// Ends our side, once.
    pub(crate) fn close(&mut self, output: &mut Vec<u8>) {
        self.say(WARNING, AlertDescription::CloseNotify, output);
    }

    /// Says why the connection cannot go on. Nothing can be said after it.
    pub(crate) fn fail(&mut self, failure: Failure, output: &mut Vec<u8>) {
        self.ended = true;
        match failure.alert() {
            Some(alert) => self.say(FATAL, alert, output),
            None if failure == Failure::UsedUp => self.close(output),
            None => self.closed = true,
        }
    }

    fn say(&mut self, level: u8, alert: AlertDescription, output: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.closed, true) {
            let key = self.write.expanded();
            let alert = [level, u8::from(alert)];
            // Failing, it leaves a connection that ends without a word.
            let _ = self.write.seal(&key, self.version, ContentType::Alert, &alert, output);
        }
    }
}
