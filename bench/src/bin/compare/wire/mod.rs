//! What a client of each system says and hears, without a socket.
//!
//! - here: goim's frames over TCP, which the floor sends too
//! - [`websocket`]: goim's frames, and nchan's bare bodies, over WebSocket
//! - [`lines`]: MQTT and NATS

mod lines;
mod websocket;

use proto::{
    frame,
    frame::{FrameReader, Header},
    op::Op,
};

/// The longest frame taken, in bytes: batches of many pushes.
const BODY_MAX: usize = 32 << 20;

/// Something heard by a client.
pub(crate) enum Heard<'a> {
    /// It is in the room now.
    Joined,
    /// The body of a message.
    Message(&'a [u8]),
    /// To be said before anything else comes.
    Say(Vec<u8>),
}

/// One client's side of one connection.
pub(crate) trait Wire {
    /// What it says first; empty when the server speaks first.
    fn hello(&mut self) -> Vec<u8>;

    /// Takes in what was read; an error says what cannot be understood.
    fn hear(&mut self, input: &mut [u8], on: &mut dyn FnMut(Heard<'_>)) -> Result<(), String>;
}

/// The languages of the systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// goim's frames without a login: the floor.
    Bare,
    /// goim over TCP.
    Goim,
    /// goim over WebSocket.
    GoimWebSocket,
    /// Messages as WebSocket messages.
    Nchan,
    /// MQTT 3.1.1, QoS 0.
    Mqtt,
    /// NATS.
    Nats,
}

impl Language {
    /// A fresh connection of client `n`.
    pub(crate) fn client(self, n: u32) -> Box<dyn Wire> {
        match self {
            Language::Bare => Box::new(Frames { reader: FrameReader::new(), login: Vec::new() }),
            Language::Goim => Box::new(Frames { reader: FrameReader::new(), login: login(n) }),
            Language::GoimWebSocket => Box::new(websocket::WebSocket::goim(login(n))),
            Language::Nchan => Box::new(websocket::WebSocket::nchan()),
            Language::Mqtt => Box::new(lines::mqtt(n)),
            Language::Nats => Box::new(lines::nats()),
        }
    }

    /// A client is in the room as soon as it is connected.
    pub(crate) fn joins_by_connecting(self) -> bool {
        self == Language::Bare
    }

    /// What a publisher says first, where it is not an HTTP client.
    pub(crate) fn publisher_hello(self) -> Vec<u8> {
        match self {
            Language::Mqtt => lines::mqtt_connect("publisher"),
            Language::Nats => lines::NATS_CONNECT.to_vec(),
            _ => Vec::new(),
        }
    }

    /// A message to the room, as such a publisher writes it.
    pub(crate) fn publish(self, body: &[u8]) -> Vec<u8> {
        match self {
            Language::Mqtt => lines::mqtt_publish(body),
            Language::Nats => lines::nats_publish(body),
            _ => goim_message(body),
        }
    }
}

/// A pushed message as a client of goim gets it.
pub(crate) fn goim_message(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(Header { ver: 1, op: Op(1000), seq: 0 }, body, &mut out);
    out
}

fn login(n: u32) -> Vec<u8> {
    let body = format!(
        r#"{{"mid":{},"key":"compare-{n}","room_id":"live://1","platform":"web","accepts":[1000]}}"#,
        n + 1
    );
    let mut out = Vec::new();
    frame::encode(Header { ver: 1, op: Op::AUTH, seq: 1 }, body.as_bytes(), &mut out);
    out
}

/// goim's frames over TCP.
struct Frames {
    reader: FrameReader,
    login: Vec<u8>,
}

impl Wire for Frames {
    fn hello(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.login)
    }

    fn hear(&mut self, input: &mut [u8], on: &mut dyn FnMut(Heard<'_>)) -> Result<(), String> {
        let mut input = &*input;
        while let Some(frame) = self.reader.next(&mut input, BODY_MAX).map_err(|error| error.to_string())? {
            hear_frame(frame, on)?;
        }
        Ok(())
    }
}

/// A frame of goim; a batch is taken apart.
fn hear_frame(frame: frame::Frame<'_>, on: &mut dyn FnMut(Heard<'_>)) -> Result<(), String> {
    match frame.header.op {
        Op::AUTH_REPLY => on(Heard::Joined),
        Op::RAW => {
            for inner in frame::frames_of_message(frame.body, BODY_MAX) {
                hear_frame(inner.map_err(|error| error.to_string())?, on)?;
            }
        }
        _ => on(Heard::Message(frame.body)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client heard: whether it joined, the bodies, what it answered.
    fn hear(wire: &mut dyn Wire, bytes: &[u8]) -> (bool, Vec<Vec<u8>>, Vec<u8>) {
        let (mut joined, mut bodies, mut said) = (false, Vec::new(), Vec::new());
        wire.hear(&mut bytes.to_vec(), &mut |heard| match heard {
            Heard::Joined => joined = true,
            Heard::Message(body) => bodies.push(body.to_vec()),
            Heard::Say(bytes) => said.extend(bytes),
        })
        .expect("understood");
        (joined, bodies, said)
    }

    /// Every language finds two messages that arrive joined and cut anywhere.
    #[test]
    fn messages_are_found_however_they_are_cut() {
        let websocket = |payload: &[u8]| [&[0x82, payload.len() as u8], payload].concat();
        let raw = |inner: &[u8]| {
            let mut out = Vec::new();
            frame::encode(Header { ver: 1, op: Op::RAW, seq: 0 }, inner, &mut out);
            out
        };
        let upgraded = |mut wire: websocket::WebSocket| {
            wire.skip_upgrade();
            Box::new(wire) as Box<dyn Wire>
        };
        let both = |one: &dyn Fn(&[u8]) -> Vec<u8>| [one(b"first"), one(b"second")].concat();
        type Case<'a> = (&'a str, &'a dyn Fn() -> Box<dyn Wire>, Vec<u8>);
        let cases: [Case<'_>; 5] = [
            ("goim", &|| Language::Goim.client(1), both(&goim_message)),
            (
                "goim over WebSocket",
                &|| upgraded(websocket::WebSocket::goim(Vec::new())),
                websocket(&raw(&both(&goim_message))),
            ),
            ("nchan", &|| upgraded(websocket::WebSocket::nchan()), both(&websocket)),
            ("mqtt", &|| Language::Mqtt.client(1), both(&lines::mqtt_publish)),
            (
                "nats",
                &|| Language::Nats.client(1),
                b"MSG room 1 5\r\nfirst\r\nMSG room 1 6\r\nsecond\r\n".to_vec(),
            ),
        ];
        for (name, client, bytes) in cases {
            for cut in 0..=bytes.len() {
                let mut wire = client();
                let mut bodies = hear(&mut *wire, &bytes[..cut]).1;
                bodies.extend(hear(&mut *wire, &bytes[cut..]).1);
                assert_eq!(bodies, [&b"first"[..], b"second"], "{name} cut at {cut}");
            }
        }
    }

    #[test]
    fn each_language_joins_in_the_steps_of_its_server() {
        let mut mqtt = Language::Mqtt.client(7);
        assert_eq!(mqtt.hello()[0], 0x10);
        let (joined, _, said) = hear(&mut *mqtt, &[0x20, 2, 0, 0]);
        assert!(!joined && said[0] == 0x82, "accepted: it subscribes");
        assert!(hear(&mut *mqtt, &[0x90, 3, 0, 1, 0]).0);
        assert!(Language::Mqtt.client(7).hear(&mut [0x20, 2, 0, 5], &mut |_| ()).is_err(), "refused");

        let mut nats = Language::Nats.client(7);
        assert!(nats.hello().is_empty(), "the server speaks first");
        let (joined, _, said) = hear(&mut *nats, b"INFO {}\r\n");
        assert!(!joined && said.starts_with(b"CONNECT {") && said.ends_with(b"PING\r\n"));
        assert!(hear(&mut *nats, b"PONG\r\n").0);
        assert_eq!(hear(&mut *nats, b"PING\r\n").2, b"PONG\r\n");

        let mut goim = Language::Goim.client(7);
        assert!(!goim.hello().is_empty());
        let mut reply = Vec::new();
        frame::encode(Header { ver: 1, op: Op::AUTH_REPLY, seq: 1 }, &[], &mut reply);
        assert!(hear(&mut *goim, &reply).0);
    }
}
