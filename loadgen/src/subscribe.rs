//! `loadgen sub`: what one client receives, one line each.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use proto::{
    frame::{Frame, Header},
    op::Op,
};

use crate::{
    cli::{self, SubArgs},
    client,
    clock::{self, Clock, ns},
    fleet::{self, Fleet},
    rng::Rng,
    tls::Tls,
    wire::{Heard, Wire},
};

/// Connects, logs in and prints until the connection ends or Ctrl-C.
pub(crate) fn run(args: &SubArgs) -> Result<ExitCode> {
    let rooms = args.room.iter().map(|room| cli::room(room)).collect::<Result<_>>()?;
    let fleet = Fleet {
        first_mid: args.mid,
        count: 1,
        targets: fleet::resolve(&args.address)?,
        sources: Vec::new(),
        rooms,
        accepts: args.accepts.clone(),
        features: args.features.clone(),
        key: args.key.clone(),
        key_prefix: "web_".to_owned(),
        transport: cli::transport(args.ws, &args.path),
        tls: args.tls.trust()?,
        heartbeat: args.heartbeat,
        connect_timeout: Duration::from_secs(10),
    };
    let target = fleet.target(0);
    let socket = TcpStream::connect_timeout(&target.addr, fleet.connect_timeout)
        .with_context(|| target.name.clone())?;
    socket.set_nodelay(true)?;
    let mut rng = Rng::seeded(Rng::random_seed());
    let wire = Wire::new(&fleet.transport, &mut rng);
    let tls = fleet.tls.as_ref().map(|trust| trust.start(&target.name)).transpose()?;
    let clock = Clock::start();
    let mut subscriber =
        Subscriber { fleet, socket, tls, wire, rng, clock, verbose: args.verbose, farewell: None };
    let why = subscriber.listen()?;
    line(&format!("closed: {why}"))?;
    Ok(ExitCode::FAILURE)
}

struct Subscriber {
    fleet: Fleet,
    socket: TcpStream,
    tls: Option<Tls>,
    wire: Wire,
    rng: Rng,
    clock: Clock,
    verbose: bool,
    /// What the server gave as its reason before it closed.
    farewell: Option<String>,
}

impl Subscriber {
    /// Prints what comes; why it ended.
    fn listen(&mut self) -> Result<String> {
        match self.wire.is_open() {
            true => self.log_in()?,
            false => {
                let mut request = Vec::new();
                self.wire.upgrade(&self.fleet.target(0).name, &mut request);
                self.send(&request)?;
            }
        }
        let mut buffer = vec![0; 64 * 1024];
        let mut beat_ns = self.clock.now_ns() + ns(self.fleet.heartbeat);
        loop {
            let now = self.clock.now_ns();
            if now >= beat_ns && self.wire.is_open() {
                self.say(Header { ver: 1, op: Op::HEARTBEAT, seq: 2 }, &[])?;
                beat_ns = now + ns(self.fleet.heartbeat);
            }
            // A read timeout of zero would mean none.
            let wait = Duration::from_nanos(beat_ns.saturating_sub(now).max(1_000_000));
            self.socket.set_read_timeout(Some(wait))?;
            let length = match self.socket.read(&mut buffer) {
                Ok(0) if self.wire.is_open() => return Ok(self.why("by the server, without a word")),
                Ok(0) => return Ok(self.why("before the upgrade: is this a TCP port? Leave --ws out")),
                Ok(length) => length,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(error) => return Ok(self.why(&error.to_string())),
            };
            let mut plain = Vec::new();
            let input = match self.tls.as_mut().map(|tls| tls.open(&buffer[..length], &mut plain)) {
                None => &mut buffer[..length],
                Some(Ok(to_send)) => {
                    if to_send {
                        self.send(&[])?;
                    }
                    &mut plain
                }
                Some(Err(why)) => return Ok(self.why(&why)),
            };
            if let Err(why) = self.hear(input)? {
                return Ok(self.why(&why));
            }
        }
    }

    fn why(&self, otherwise: &str) -> String {
        self.farewell.as_deref().unwrap_or(otherwise).to_owned()
    }

    fn log_in(&mut self) -> Result<()> {
        let body = self.fleet.login_body(0);
        self.say(Header { ver: 1, op: Op::AUTH, seq: 1 }, &body)
    }

    fn say(&mut self, header: Header, body: &[u8]) -> Result<()> {
        let mut out = Vec::new();
        self.wire.say(header, body, self.rng.mask(), &mut out);
        self.send(&out)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(self.socket.write_all(bytes)?) };
        let mut sealed = Vec::new();
        tls.seal(bytes, &mut sealed)?;
        Ok(self.socket.write_all(&sealed)?)
    }

    /// Prints what was read; the inner error says why the connection is over.
    fn hear(&mut self, input: &mut [u8]) -> Result<Result<(), String>> {
        let (mut lines, mut upgraded, mut pongs, mut closed) = (Vec::new(), false, Vec::new(), None);
        let (verbose, farewell) = (self.verbose, &mut self.farewell);
        let heard = self.wire.hear(input, &mut |heard| match heard {
            Heard::Upgraded => upgraded = true,
            Heard::Ping(payload) => pongs.push(payload.to_vec()),
            Heard::Close(words) => closed = Some(words),
            Heard::Frame(frame) => {
                if frame.header.op == Op::DISCONNECT_REPLY {
                    *farewell = Some(client::reason(frame.body));
                }
                if verbose || frame.header.op != Op::HEARTBEAT_REPLY {
                    lines.push(describe(&frame));
                }
            }
        });
        for text in lines {
            line(&text)?;
        }
        if upgraded {
            self.log_in()?;
        }
        for payload in pongs {
            let mut out = Vec::new();
            self.wire.pong(&payload, self.rng.mask(), &mut out);
            self.send(&out)?;
        }
        Ok(heard.and(closed.map_or(Ok(()), Err)))
    }
}

/// `1000  the body`, or what the operation says when it is the wire's own.
fn describe(frame: &Frame<'_>) -> String {
    let op = frame.header.op;
    let body = match (op, <[u8; 4]>::try_from(frame.body)) {
        (Op::AUTH_REPLY, _) => "logged in".to_owned(),
        (Op::HEARTBEAT_REPLY, Ok(people)) => {
            format!("heartbeat reply: {} in the room", i32::from_be_bytes(people))
        }
        _ => {
            let name = op.name().filter(|_| op.0 != 0).map(|name| format!("{name}: "));
            name.unwrap_or_default() + &printable(frame.body)
        }
    };
    format!("{op:<10}  {body}")
}

/// Text as it is; what a terminal would act upon, and bytes that are no text, escaped.
fn printable(body: &[u8]) -> String {
    let mut out = String::with_capacity(body.len());
    for chunk in body.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c.is_control() {
                true => out.extend(c.escape_default()),
                false => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{}  {text}", time_of_day(clock::wall()))
}

/// `12:34:56.789`, UTC.
fn time_of_day(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs() % 86_400;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03}", seconds % 60, since_epoch.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(op: i32, body: &[u8]) -> String {
        describe(&Frame { header: Header { ver: 1, op: Op(op), seq: 0 }, body })
    }

    #[test]
    fn frames_are_described_in_one_line() {
        assert_eq!(described(1000, b"{\"a\":1}"), "1000        {\"a\":1}");
        assert_eq!(described(8, b""), "8           logged in");
        assert_eq!(described(3, &[0, 0, 0, 7]), "3           heartbeat reply: 7 in the room");
        assert_eq!(described(13, b"live://2"), "13          change room reply: live://2");
    }

    #[test]
    fn a_body_cannot_steer_the_terminal_or_start_a_line() {
        assert_eq!(printable("é\x1b[2J\n\u{9b}".as_bytes()), "é\\u{1b}[2J\\n\\u{9b}");
        assert_eq!(printable(b"a\xff\x00b"), "a\\xff\\u{0}b");
    }

    #[test]
    fn the_time_is_of_the_day() {
        assert_eq!(time_of_day(Duration::from_millis(86_400_000 + 45_296_789)), "12:34:56.789");
    }
}
