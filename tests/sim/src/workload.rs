//! What clients and backends do, by the seed: logins and logins again, room churn, pushes, kicks, and all that should not
//! be done.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use comet::driver::sim::network::ClientRead;
use contract::{CometApi as _, Transport};
use logic::{Push, PushTarget};
use proto::{
    close::CloseReason,
    ids::{Generation, Key, Mid, RoomId},
    op::Op,
};
use shard::Port;
use testkit::{
    proxy,
    wire::{self, CLOSE, PING, TEXT},
};

use crate::{
    client::{Client, Doing},
    oracle::{Reach, connection::push_body},
    plan::PROXY,
    world::World,
};

/// Time between two heartbeats of a client that behaves: the shortest deadline is a second.
const BEAT: Duration = Duration::from_millis(350);

/// Operation of the pushes.
const PUSH: Op = Op(1000);

/// Bodies are at most this long.
const BODY_MAX: usize = 900;

impl World {
    /// One client or backend does one thing.
    pub(crate) async fn somebody_acts(&mut self) {
        if self.plan.wipes && self.workload.one_in(100) {
            self.control.wipe();
            *self.seen.entry("fault: sessions lost").or_default() += 1;
        }
        match self.workload.below(100) {
            0..14 => self.connect(),
            14..34 => self.write_on(),
            34..58 => self.speak(),
            58..62 => self.misbehave(),
            62..67 => self.toggle_stall(),
            67..71 => self.somebody_leaves(),
            71..73 => self.freeze(),
            73..76 => self.kick().await,
            _ => self.push_something().await,
        }
    }

    fn pick(&mut self, fits: impl Fn(&Client) -> bool) -> Option<usize> {
        let fitting: Vec<usize> = (0..self.clients.len()).filter(|n| fits(&self.clients[*n])).collect();
        (!fitting.is_empty()).then(|| self.workload.of(&fitting))
    }

    pub(crate) fn key(&mut self) -> Key {
        Key::new(format!("key-{}", self.workload.below(self.plan.keys)))
    }

    fn mid(&mut self) -> Mid {
        Mid(self.workload.below(5) as i64)
    }

    fn room(&mut self) -> RoomId {
        RoomId::parse(&format!("live://{}", self.workload.below(self.plan.rooms))).expect("a room id")
    }

    /// A client connects, and begins what it has to say.
    fn connect(&mut self) {
        self.clients.retain(Client::is_here);
        if self.clients.len() >= self.plan.clients {
            return;
        }
        let transport = self.workload.of(&[Transport::Tcp, Transport::WebSocket]);
        let shard = self.workload.below(self.plan.shards) as u16;
        let (least, most) = self.plan.socket_room;
        let room = least + self.workload.below((most - least + 1) as usize) as u32;
        let peer = IpAddr::from([10, 0, 0, self.workload.below(4) as u8]);
        let secure = self.kinds.as_ref().filter(|_| self.workload.per_mille(self.plan.over_tls));
        let secure = secure.map(|kinds| kinds.client(self.workload.below(kinds.count())));
        // Every third without TLS comes through a proxy, which says first whose connection it is.
        let proxied = secure.is_none() && self.network.sockets().is_multiple_of(3);
        let port = Port { transport, tls: secure.is_some(), proxied };
        let source = if proxied { PROXY } else { peer };
        let socket = self.network.connect(shard, port, source, room);
        self.oracle.connected(transport, secure, peer, shard, self.now);
        if proxied {
            let header = if shard == 0 { proxy::v1(peer) } else { proxy::v2(peer, b"\x04\x00\x01!") };
            self.oracle.wrote(socket, header.len());
            self.network.client_write(socket, &header);
        }
        let mut client = Client::new(socket, transport);
        let mut first = Vec::new();
        if transport == Transport::WebSocket {
            let wrong = self.workload.one_in(40);
            let path = if wrong { "/elsewhere" } else { "/sub?a=b" };
            self.oracle.conns[socket as usize].doomed = wrong;
            let head = wire::upgrade(path, "");
            self.oracle.wrote(socket, head.len());
            first = head;
        }
        client.silent = self.workload.one_in(12);
        if port.tls && self.workload.one_in(30) {
            // Somebody who knows nothing of TLS.
            self.oracle.conn_mut(socket).doomed = true;
            client.unwritten.extend(b"GET /sub HTTP/1.1\r\n");
            client.mute = true;
        }
        self.clients.push(client);
        // Most know what they want.
        let n = self.clients.len() - 1;
        if !self.clients[n].mute {
            self.say(n, &first);
        }
        if !self.clients[n].silent && !self.workload.one_in(4) {
            self.log_in(n);
            self.write_some(n);
        }
    }

    /// Somebody goes on writing; who has nothing left to write logs in.
    fn write_on(&mut self) {
        let writes = |client: &Client| {
            matches!(client.doing, Doing::Arriving | Doing::LoggingIn) || !client.unwritten.is_empty()
        };
        let Some(n) = self.pick(writes) else { return };
        if self.clients[n].doing == Doing::Arriving && !self.clients[n].silent {
            if self.workload.one_in(8) {
                return self.request(n, Op::HEARTBEAT, b"too early");
            }
            self.log_in(n);
        }
        self.write_some(n);
    }

    fn log_in(&mut self, n: usize) {
        let mut fields = vec![format!(r#""mid":{}"#, self.mid())];
        if !self.workload.one_in(10) {
            fields.push(format!(r#""key":"{}""#, self.key()));
        }
        if !self.workload.one_in(4) {
            fields.push(format!(r#""room_id":"{}""#, self.room()));
        }
        if self.workload.one_in(4) {
            let rooms: Vec<String> =
                (0..1 + self.workload.below(5)).map(|_| format!(r#""{}""#, self.room())).collect();
            fields.push(format!(r#""rooms":[{}]"#, rooms.join(",")));
        }
        fields.push(format!(r#""accepts":[{}]"#, self.workload.of(&["1000", "1000,1001", "7", ""])));
        let reasons = self.workload.one_in(4);
        if reasons {
            fields.push(r#""features":["reasons"]"#.to_owned());
        }
        let body = match self.workload.one_in(30) {
            true => "not a login".to_owned(),
            false => format!("{{{}}}", fields.join(",")),
        };
        let socket = self.clients[n].socket as usize;
        self.oracle.conns[socket].reasons = reasons && body.starts_with('{');
        self.clients[n].doing = Doing::LoggingIn;
        self.request_with(n, Op::AUTH, 1, body.as_bytes());
        // Some say more before they know whether they are in.
        for _ in 0..self.workload.below(4).saturating_sub(1) {
            self.say_something(n);
        }
    }

    /// A client writes some of what it has to write.
    fn write_some(&mut self, n: usize) {
        let client = &mut self.clients[n];
        if !client.is_here() || client.unwritten.is_empty() {
            return;
        }
        let count = match self.workload.below(4) {
            0 => 1 + self.workload.below(client.unwritten.len()),
            _ => client.unwritten.len(),
        };
        let bytes: Vec<u8> = client.unwritten.drain(..count).collect();
        self.network.client_write(client.socket, &bytes);
    }

    /// A client has more to write. TLS makes records of it, wherever they end.
    fn say(&mut self, n: usize, text: &[u8]) {
        let client = &mut self.clients[n];
        let conn = self.oracle.conn_mut(client.socket);
        let Some(secure) = &mut conn.secure else { return client.unwritten.extend(text) };
        let cut = if self.workload.one_in(4) { self.workload.below(text.len().max(1)) } else { 0 };
        for part in [&text[..cut], &text[cut..]] {
            if !part.is_empty() {
                secure.say(part);
            }
        }
        client.unwritten.extend(conn.take_written());
    }

    /// A client has one more frame to write.
    pub(crate) fn request(&mut self, n: usize, op: Op, body: &[u8]) {
        let seq = self.clients[n].next_seq();
        self.request_with(n, op, seq, body);
    }

    fn request_with(&mut self, n: usize, op: Op, seq: i32, body: &[u8]) {
        let client = &mut self.clients[n];
        if client.mute {
            return;
        }
        let bytes = wire::sent(client.transport, &wire::frame(op.0, seq, body));
        self.oracle.requested(client.socket, op, seq, body, bytes.len());
        self.say(n, &bytes);
    }

    /// An open client says something.
    fn speak(&mut self) {
        let Some(n) = self.pick(|client| client.doing == Doing::Open) else { return };
        for _ in 0..1 + self.workload.below(3) {
            self.say_something(n);
        }
        self.write_some(n);
    }

    fn say_something(&mut self, n: usize) {
        let room = self.room();
        let room = room.as_str().as_bytes();
        match self.workload.below(20) {
            0..4 => self.request(n, Op::HEARTBEAT, b""),
            4..7 => self.request(n, Op::CHANGE_ROOM, room),
            7 => self.request(n, Op::CHANGE_ROOM, b""),
            8..10 => self.request(n, Op::JOIN_ROOM, room),
            10..12 => self.request(n, Op::LEAVE_ROOM, room),
            12 => self.request(n, Op::SUBSCRIBE, b"1000"),
            13 => self.request(n, Op::UNSUBSCRIBE, b"1000,3"),
            14..18 => {
                let (id, len) = (self.push_id(), self.workload.below(BODY_MAX));
                self.request(n, Op::SEND_MESSAGE, &push_body(id, len));
            }
            18 => self.request(n, Op(500), b"a question to logic"),
            _ => self.ping(n),
        }
    }

    fn ping(&mut self, n: usize) {
        if self.clients[n].transport == Transport::WebSocket {
            self.raw(n, &wire::masked(PING, b"ping"));
        }
    }

    /// Something that its connection is closed for.
    fn doom(&mut self, n: usize, bytes: &[u8]) {
        self.oracle.conns[self.clients[n].socket as usize].doomed = true;
        self.raw(n, bytes);
        self.clients[n].mute = true;
    }

    /// Bytes that are no frame of goim's.
    fn raw(&mut self, n: usize, bytes: &[u8]) {
        let client = &mut self.clients[n];
        if client.mute {
            return;
        }
        self.oracle.wrote(client.socket, bytes.len());
        self.say(n, bytes);
    }

    /// A client of TLS says what no TLS is, or ends it, or changes its key.
    fn misuse_tls(&mut self, n: usize) {
        let client = &mut self.clients[n];
        if client.mute {
            return;
        }
        let conn = self.oracle.conn_mut(client.socket);
        let Some(secure) = &mut conn.secure else { return };
        let mut garbage = Vec::new();
        match self.workload.below(6) {
            0..3 => {
                let changes = self.seen.entry("TLS: key changed by the client").or_default();
                *changes += u64::from(secure.change_key());
            }
            // A record that no key opens, and what is no record.
            3 => garbage = [&[23, 3, 3, 0, 40][..], &[7; 40]].concat(),
            4 => garbage = b"GET / HTTP/1.1\r\n".to_vec(),
            _ => secure.end(),
        }
        secure.is_spoiled |= !garbage.is_empty();
        conn.doomed |= secure.is_spoiled;
        client.mute |= secure.is_spoiled;
        client.unwritten.extend(conn.take_written());
        client.unwritten.extend(garbage);
    }

    /// Somebody does what he should not.
    fn misbehave(&mut self) {
        let Some(n) = self.pick(|client| matches!(client.doing, Doing::Arriving | Doing::Open)) else {
            return;
        };
        let websocket = self.clients[n].transport == Transport::WebSocket;
        let is_secure = self.oracle.conn(self.clients[n].socket).secure.is_some();
        if is_secure && self.workload.one_in(2) {
            self.misuse_tls(n);
            return self.write_some(n);
        }
        match self.workload.below(10) {
            0 => {
                // No length is like that.
                let garbage = match self.clients[n].transport {
                    Transport::Tcp => vec![0xff; 16],
                    Transport::WebSocket => vec![0xff; 4],
                };
                self.doom(n, &garbage);
            }
            1 => (0..10).for_each(|_| self.request(n, Op::HEARTBEAT, b"")),
            2 => (0..18).for_each(|_| self.request(n, Op::LEAVE_ROOM, b"nowhere")),
            3 if self.clients[n].doing == Doing::Open => self.request(n, Op::RAW, b""),
            4 if websocket => {
                self.doom(n, &wire::masked(CLOSE, &1000u16.to_be_bytes()));
            }
            5 => {
                // The rest never comes.
                let part = wire::sent(self.clients[n].transport, &wire::frame(Op::HEARTBEAT.0, 1, b""));
                self.doom(n, &part[..10]);
            }
            6 if websocket => self.doom(n, &wire::masked(TEXT, &[0xc3, 0x28])),
            // A header is enough: 128 KiB are to follow.
            7 if websocket => self.doom(n, &[0x82, 0xff, 0, 0, 0, 0, 0, 2, 0, 0, 1, 2, 3, 4]),
            8 => (0..30).for_each(|_| self.request(n, Op::HEARTBEAT, b"")),
            _ => self.clients[n].silent = true,
        }
        self.write_some(n);
    }

    fn toggle_stall(&mut self) {
        if let Some(n) = self.pick(Client::is_here) {
            self.clients[n].stalled = !self.clients[n].stalled;
            *self.seen.entry("fault: stalled reader").or_default() += u64::from(self.clients[n].stalled);
        }
    }

    fn somebody_leaves(&mut self) {
        if let Some(n) = self.pick(Client::is_here) {
            match self.workload.below(4) {
                0 => {
                    self.network.client_reset(self.clients[n].socket);
                    self.clients[n].doing = Doing::Gone;
                }
                1 => {
                    self.network.client_end(self.clients[n].socket);
                    self.clients[n].doing = Doing::Leaving;
                }
                _ => self.leave(n),
            }
        }
    }

    /// A client closes its socket.
    pub(crate) fn leave(&mut self, n: usize) {
        if self.clients[n].is_here() {
            self.network.client_close(self.clients[n].socket);
            self.clients[n].doing = Doing::Gone;
        }
    }

    /// A thread is held up for a while.
    fn freeze(&mut self) {
        let until = self.now.after(Duration::from_millis(self.workload.below(700) as u64));
        match self.workload.below(self.shards.len() + 1) {
            0 => {
                self.tokio_frozen = until;
                *self.seen.entry("fault: front held up").or_default() += 1;
            }
            shard => {
                self.frozen[shard - 1] = until;
                *self.seen.entry("fault: shard held up").or_default() += 1;
            }
        }
    }

    async fn kick(&mut self) {
        let key = self.key();
        let below = match self.workload.below(3) {
            0 => None,
            1 => {
                let logic = Arc::clone(&self.control.logic);
                tokio::spawn(async move { logic.kick_keys(vec![key], None).await });
                return;
            }
            _ => Some(Generation(0)),
        };
        let front = Arc::clone(&self.control.front);
        // A queue without room makes it wait.
        tokio::spawn(async move { front.kick(key, below, CloseReason::Kicked, None).await });
    }

    fn push_id(&mut self) -> u32 {
        self.next_push += 1;
        self.next_push
    }

    /// A backend pushes.
    async fn push_something(&mut self) {
        for _ in 0..1 + self.workload.below(4) {
            let target = match self.workload.below(10) {
                0..3 => PushTarget::Keys((0..1 + self.workload.below(3)).map(|_| self.key()).collect()),
                3 => PushTarget::Mids(vec![self.mid()]),
                4..8 => PushTarget::Rooms(vec![self.room()]),
                8 if self.plan.paced => PushTarget::All { speed: self.workload.of(&[1, 10, 100]) },
                _ => PushTarget::All { speed: 0 },
            };
            let len = self.workload.below(BODY_MAX);
            self.push(target, len).await;
        }
    }

    /// logic is asked to push. What it accepts has to arrive.
    pub(crate) async fn push(&mut self, target: PushTarget, len: usize) -> Option<u32> {
        let id = self.push_id();
        let body = Bytes::from(push_body(id, len));
        let size = body.len();
        // The memory store answers at once: nothing gets in between.
        let devices = match &target {
            PushTarget::Keys(keys) => {
                let keys: Vec<Key> = keys.clone();
                use session::Sessions as _;
                let found = self.control.sessions.servers_of_keys(&keys).await.ok()?;
                Some(found.iter().flatten().count())
            }
            PushTarget::Mids(mids) => {
                use session::Sessions as _;
                let found = self.control.sessions.sessions_of_mids(mids).await.ok()?;
                Some(found.iter().map(Vec::len).sum())
            }
            PushTarget::Rooms(_) | PushTarget::All { .. } => None,
        };
        match self.control.logic.push(Push { target, op: PUSH, body }).await {
            Ok(_) if devices == Some(0) => None,
            Ok(_) => {
                let too_long = size > self.plan.push_max;
                let reach = devices.map_or(Reach::Shards, Reach::Keys);
                self.oracle.accepted(id, if too_long { Reach::Nobody } else { reach });
                Some(id)
            }
            Err(_) => {
                *self.seen.entry("push refused").or_default() += 1;
                None
            }
        }
    }

    /// Clients whose time has come send heartbeats.
    pub(crate) fn clients_beat(&mut self) {
        for n in 0..self.clients.len() {
            let client = &self.clients[n];
            if client.doing == Doing::Open && !client.silent && client.next_beat <= self.now {
                self.clients[n].next_beat = self.now.after(BEAT);
                self.request(n, Op::HEARTBEAT, b"");
                let bytes: Vec<u8> = self.clients[n].unwritten.drain(..).collect();
                self.network.client_write(self.clients[n].socket, &bytes);
            }
        }
    }

    /// Clients read what has arrived; false when nothing has.
    pub(crate) fn clients_read(&mut self) -> bool {
        let mut busy = false;
        let mut buffer = Vec::new();
        self.network.take_arrived();
        for n in 0..self.clients.len() {
            let client = &self.clients[n];
            if client.stalled || !client.is_here() {
                continue;
            }
            let socket = client.socket;
            let max = if self.workload.one_in(3) { 1 + self.workload.below(300) } else { usize::MAX };
            buffer.clear();
            match self.network.client_read(socket, max, &mut buffer) {
                ClientRead::Bytes(_) => {
                    busy = true;
                    let got = self.oracle.client_read(self.now, socket, &buffer);
                    got.iter().for_each(|got| self.clients[n].got(got, self.now));
                    // TLS goes on by itself.
                    let written = self.oracle.conn_mut(socket).take_written();
                    if !written.is_empty() {
                        self.clients[n].unwritten.extend(written);
                        self.write_some(n);
                    }
                }
                ClientRead::Nothing => {}
                // It answers the end with its own.
                ClientRead::End => {
                    busy = true;
                    self.leave(n);
                }
                ClientRead::Reset => {
                    busy = true;
                    self.clients[n].doing = Doing::Gone;
                }
            }
        }
        busy
    }
}
