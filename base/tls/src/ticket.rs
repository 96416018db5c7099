//! Tickets of resumption (RFC 5077; RFC 8446, section 4.6.1). A ticket holds the session, sealed under a key of ours, so
//! the server keeps nothing: any process with the key takes it.

use std::{fmt, io};

use ring_crypto::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use rustls::{pki_types::UnixTime, server::ProducesTickets};
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// How long a ticket is good, in seconds. A key should go before twice this time.
pub const LIFETIME_SECS: u32 = 12 * 3600;

/// Most keys that are tried.
pub const KEYS_MAX: usize = 8;

const NAME_LEN: usize = 16;
const TIME_LEN: usize = 8;

/// The keys of tickets, the newest first: it seals, all of them open.
pub struct TicketKeys {
    keys: Vec<TicketKey>,
    random: SystemRandom,
}

struct TicketKey {
    /// Says which key sealed a ticket. It tells nothing about the key.
    name: [u8; NAME_LEN],
    key: LessSafeKey,
}

/// Why a file of keys cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketKeyError {
    /// No line with a key.
    #[error(
        "there is no key in it: write 32 random bytes in hexadecimal (`openssl rand -hex 32`), the newest first"
    )]
    None,
    /// More than [`KEYS_MAX`].
    #[error("there are more than {KEYS_MAX} keys in it")]
    Many,
    /// A line that is no key. What it says is a secret.
    #[error("line {0} is not 64 hexadecimal digits")]
    Line(usize),
}

impl TicketKeys {
    /// A key of its own, which nobody else has.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn random() -> io::Result<TicketKeys> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        let random = SystemRandom::new();
        random.fill(&mut *key).map_err(|_| io::Error::other("the system has no random bytes"))?;
        Ok(TicketKeys::of(&[&*key]))
    }

    /// A new random key before those of `self`, of which one stays.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn rotated(self: &TicketKeys) -> io::Result<TicketKeys> {
        let mut rotated = TicketKeys::random()?;
        rotated.keys.extend(self.keys.first().map(|key| TicketKey { name: key.name, key: key.key.clone() }));
        Ok(rotated)
    }

    /// The keys of a file: one a line in hexadecimal, the newest first; `#` begins a comment.
    ///
    /// # Errors
    /// A line is no key, or there is none, or there are too many.
    pub fn parse(text: &str) -> Result<TicketKeys, TicketKeyError> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                keys.push(hex(line).ok_or(TicketKeyError::Line(number + 1))?);
            }
        }
        match keys.len() {
            0 => Err(TicketKeyError::None),
            1..=KEYS_MAX => Ok(TicketKeys::of(&keys.iter().map(|key| &**key).collect::<Vec<_>>())),
            _ => Err(TicketKeyError::Many),
        }
    }

    fn of(keys: &[&[u8; KEY_LEN]]) -> TicketKeys {
        let key = |bytes: &[u8; KEY_LEN]| {
            let name = digest(&SHA256, &[b"halley ticket key name", &bytes[..]].concat());
            let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("the length is that of its keys");
            let name = name.as_ref()[..NAME_LEN].try_into().expect("a digest is longer");
            TicketKey { name, key: LessSafeKey::new(key) }
        };
        TicketKeys { keys: keys.iter().map(|bytes| key(bytes)).collect(), random: SystemRandom::new() }
    }
}

fn hex(line: &str) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    if line.len() != 2 * KEY_LEN || !line.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(line.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(key)
}

/// A ticket is the key's name, a random nonce, and sealed: the time in seconds, the session.
impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut ticket = [&key.name[..], &nonce].concat();
        let sealed = ticket.len();
        ticket.extend_from_slice(&UnixTime::now().as_secs().to_be_bytes());
        ticket.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag =
            key.key.seal_in_place_separate_tag(nonce, Aad::from(key.name), &mut ticket[sealed..]).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_LEN)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let key = self.keys.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let opened = key.key.open_in_place(nonce, Aad::from(key.name), &mut sealed).ok()?;
        let (time, plain) = opened.split_at_checked(TIME_LEN)?;
        let time = u64::from_be_bytes(time.try_into().ok()?);
        let age = UnixTime::now().as_secs().saturating_sub(time);
        (age <= u64::from(LIFETIME_SECS)).then(|| plain.to_vec())
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(keys: &[u8]) -> TicketKeys {
        let text: String = keys.iter().map(|key| format!("{:02x}", key).repeat(32) + "\n").collect();
        TicketKeys::parse(&text).expect("keys")
    }

    #[test]
    fn a_ticket_is_opened_by_whoever_has_its_key_also_as_an_older_one() {
        let ticket = lines(&[1]).encrypt(b"session").expect("a ticket");
        assert_eq!(lines(&[1]).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(lines(&[2, 1]).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(lines(&[2]).decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_that_was_cut_or_changed_is_none() {
        let keys = TicketKeys::random().expect("random bytes");
        let ticket = keys.encrypt(b"session").expect("a ticket");
        for len in 0..ticket.len() {
            assert_eq!(keys.decrypt(&ticket[..len]), None);
        }
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(keys.decrypt(&changed), None, "byte {at}");
        }
    }

    #[test]
    fn a_rotated_key_still_opens_what_the_one_before_sealed_but_not_the_one_before_that() {
        let first = TicketKeys::random().expect("random bytes");
        let second = first.rotated().expect("random bytes");
        let third = second.rotated().expect("random bytes");
        let ticket = first.encrypt(b"session").expect("a ticket");
        assert!(second.decrypt(&ticket).is_some());
        assert!(third.decrypt(&ticket).is_none());
    }

    #[test]
    fn a_file_without_keys_or_with_something_else_says_where() {
        let error = |text: &str| TicketKeys::parse(text).expect_err("no keys");
        assert_eq!(error("# nothing\n\n"), TicketKeyError::None);
        assert_eq!(error(&format!("# key\n{}\nabc\n", "0a".repeat(32))), TicketKeyError::Line(3));
        assert_eq!(error(&format!("{}\n", "0a".repeat(32)).repeat(9)), TicketKeyError::Many);
        let both = TicketKeys::parse(&format!("{} # old\n{}", "0A".repeat(32), "0b".repeat(32)));
        assert_eq!(both.expect("two keys").keys.len(), 2);
    }
}
