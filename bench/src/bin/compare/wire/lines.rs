//! Clients of MQTT 3.1.1 (QoS 0) and NATS: the few packets that subscribing, publishing and receiving need.

use super::{Heard, Wire};

/// What a NATS client says to the server's INFO; a subscriber adds its subscription.
pub(super) const NATS_CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";

const NATS_SUBSCRIBE: &[u8] = b"SUB room 1\r\nPING\r\n";

/// Reads one packet off the front of what has arrived: its length, none while it is incomplete.
type Parse = fn(&[u8], &mut dyn FnMut(Heard<'_>)) -> Result<Option<usize>, String>;

/// A language of packets that can be read without memory of those before.
pub(super) struct Packets {
    hello: Vec<u8>,
    parse: Parse,
    /// An incomplete packet.
    kept: Vec<u8>,
}

/// A subscriber of MQTT.
pub(super) fn mqtt(n: u32) -> Packets {
    Packets { hello: mqtt_connect(&format!("c{n}")), parse: parse_mqtt, kept: Vec::new() }
}

/// A subscriber of NATS.
pub(super) fn nats() -> Packets {
    Packets { hello: Vec::new(), parse: parse_nats, kept: Vec::new() }
}

impl Wire for Packets {
    fn hello(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.hello)
    }

    fn hear(&mut self, input: &mut [u8], on: &mut dyn FnMut(Heard<'_>)) -> Result<(), String> {
        let joined;
        let mut rest = if self.kept.is_empty() {
            &*input
        } else {
            self.kept.extend_from_slice(input);
            joined = std::mem::take(&mut self.kept);
            &joined[..]
        };
        while let Some(length) = (self.parse)(rest, on)? {
            rest = &rest[length..];
        }
        self.kept.extend_from_slice(rest);
        Ok(())
    }
}

/// A packet with a fixed header and its remaining length (MQTT 3.1.1, 2.2).
fn mqtt_packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut length = body.len();
    loop {
        let digit = (length % 128) as u8;
        length /= 128;
        out.push(if length > 0 { digit | 0x80 } else { digit });
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

fn mqtt_text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// CONNECT with a clean session and no keep-alive (3.1).
pub(super) fn mqtt_connect(client: &str) -> Vec<u8> {
    mqtt_packet(0x10, &[&mqtt_text("MQTT")[..], &[4, 2, 0, 0], &mqtt_text(client)].concat())
}

/// PUBLISH to the room, QoS 0 (3.3).
pub(super) fn mqtt_publish(body: &[u8]) -> Vec<u8> {
    mqtt_packet(0x30, &[&mqtt_text("room")[..], body].concat())
}

fn parse_mqtt(bytes: &[u8], on: &mut dyn FnMut(Heard<'_>)) -> Result<Option<usize>, String> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let (mut length, mut digits) = (0, 0);
    loop {
        let Some(digit) = rest.get(digits) else { return Ok(None) };
        length |= usize::from(digit & 0x7f) << (7 * digits);
        digits += 1;
        match digit & 0x80 {
            0 => break,
            _ if digits == 4 => return Err("a length of more than four bytes".to_owned()),
            _ => {}
        }
    }
    let Some(body) = rest[digits..].get(..length) else { return Ok(None) };
    match first >> 4 {
        2 if body.get(1) == Some(&0) => {
            on(Heard::Say(mqtt_packet(0x82, &[&[0, 1], &mqtt_text("room")[..], &[0]].concat())));
        }
        2 => return Err(format!("refused: {body:?}")),
        3 => {
            let topic = body.first_chunk().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
            on(Heard::Message(body.get(2 + topic..).ok_or("a topic without its end")?));
        }
        9 => on(Heard::Joined),
        other => return Err(format!("packet type {other}")),
    }
    Ok(Some(1 + digits + length))
}

/// PUB to the room.
pub(super) fn nats_publish(body: &[u8]) -> Vec<u8> {
    [format!("PUB room {}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat()
}

fn parse_nats(bytes: &[u8], on: &mut dyn FnMut(Heard<'_>)) -> Result<Option<usize>, String> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let (line, start) = (&bytes[..end], end + 2);
    let verb = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    match verb {
        b"INFO" => on(Heard::Say([NATS_CONNECT, NATS_SUBSCRIBE].concat())),
        b"PONG" => on(Heard::Joined),
        b"PING" => on(Heard::Say(b"PONG\r\n".to_vec())),
        b"MSG" => {
            let length = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
            let length: usize = str::from_utf8(length)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or("MSG without a length")?;
            let Some(body) = bytes.get(start..start + length + 2) else { return Ok(None) };
            on(Heard::Message(&body[..length]));
            return Ok(Some(start + length + 2));
        }
        b"+OK" => {}
        _ => return Err(String::from_utf8_lossy(line).into_owned()),
    }
    Ok(Some(start))
}
