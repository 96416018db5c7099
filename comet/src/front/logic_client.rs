//! Calls logic over gRPC from a comet in a process of its own: by `goim.logic.Logic`, and by `halley.v1.Logic` if the
//! logic has it.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use contract::{
    ClientCount, ClientMessage, ConnectRequest, LogicApi, LogicError, MessageReply, Renewed, Session,
    SessionRef,
};
use futures_util::stream;
use grpc::{
    ROOMS_PAGE, halley,
    halley::{OnlineReport, RenewReq, logic_client::LogicClient as HalleyClient},
    logic::{ConnectReq, DisconnectReq, HeartbeatReq, OnlineReq, ReceiveReq, logic_client::LogicClient},
    protocol::Proto,
};
use host::dial::{Dial, Peer, in_time, is_answer, never_left};
use proto::{
    close::CloseReason,
    ids::{Generation, Key, Mid, RoomId, ServerId},
    op::Op,
};
use tokio::time::Instant;
use tonic::{Code, Response, Status, Streaming, codec::CompressionEncoding, transport::Channel};

/// Silence that a client is allowed if logic names none, as in goim.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(270);

/// Longest time of a report in pages. At the front's pace of reports logic then still hears of this comet in time.
const REPORT_MAX: Duration = Duration::from_secs(4);

/// Longest answer of goim's logic, bytes. The counts of half a million rooms fit.
const ANSWER_LEN_MAX: usize = 16 << 20;

/// logic behind a gRPC connection.
#[derive(Clone)]
pub struct GrpcLogic {
    peer: Peer,
    goims: LogicClient<Channel>,
    ours: HalleyClient<Channel>,
    limit: Duration,
}

/// Why a call failed.
pub(super) struct NotDone {
    pub(super) error: LogicError,
    /// The call may be repeated on another logic.
    pub(super) goes_on: bool,
}

impl NotDone {
    /// For a call that only one logic may get. It goes on to another if this one has certainly not got it.
    fn because(status: Status, error: impl FnOnce(Status) -> LogicError) -> NotDone {
        let goes_on = never_left(&status);
        NotDone { error: error(status), goes_on }
    }

    /// For a call that is safe to repeat. It goes on to another logic if this one is away.
    pub(super) fn repeatable(error: LogicError) -> NotDone {
        NotDone { goes_on: matches!(error, LogicError::Unavailable(_)), error }
    }
}

impl GrpcLogic {
    /// A client of the logic at `address` (`host:port`). It connects with the first call and again whenever the
    /// connection is lost, as `dial` says. Needs a tokio runtime, and does not wait.
    ///
    /// # Errors
    /// `address` is no address.
    pub fn new(address: &str, dial: &Dial) -> Result<GrpcLogic, tonic::transport::Error> {
        let peer = Peer::new(address, dial)?;
        let goims = LogicClient::new(peer.channel())
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(ANSWER_LEN_MAX);
        let ours = HalleyClient::new(peer.channel());
        Ok(GrpcLogic { peer, goims, ours, limit: dial.limit })
    }

    /// Whether its answers have shown that it is goim's.
    pub(super) fn is_goims(&self) -> bool {
        self.peer.is_goims()
    }

    pub(super) async fn try_connect(&self, request: ConnectRequest) -> Result<Session, NotDone> {
        let (arrival, age) = (request.arrival, request.arrival.age(Instant::now().into_std()));
        let until = |arrived: u64| arrived + (age + self.limit).as_micros() as u64;
        let request = ConnectReq {
            server: request.server.as_str().to_owned(),
            cookie: request.cookie,
            token: request.token,
            client_ip: request.client_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            transport: request.transport.label().to_owned(),
            age_us: if arrival.is_repeated { 0 } else { age.as_micros() as u64 },
            arrived_by_us: arrival.by_us.unwrap_or_default(),
            wanted_until_us: arrival.by_us.map(until).unwrap_or_default(),
        };
        let reply = self.peer.in_time(self.goims.clone().connect(request)).await;
        let reply = reply.map_err(|status| NotDone::because(status, login_error))?.into_inner();
        let heartbeat = u64::try_from(reply.heartbeat).ok().filter(|nanos| *nanos > 0);
        Ok(Session {
            mid: Mid(reply.mid),
            key: Key::new(reply.key),
            // A name that is no room id comes from a bug in a backend. The login is accepted, without the room.
            room: RoomId::parse(&reply.room_id).ok(),
            rooms: reply.rooms.iter().filter_map(|room| RoomId::parse(room).ok()).collect(),
            accepts: reply.accepts.into_iter().map(Op).collect(),
            heartbeat: heartbeat.map_or(HEARTBEAT_DEFAULT, Duration::from_nanos),
            generation: Some(reply.generation).filter(|generation| *generation > 0).map(Generation),
        })
    }

    pub(super) async fn try_receive(&self, message: ClientMessage) -> Result<MessageReply, NotDone> {
        let request = ReceiveReq {
            mid: message.mid.0,
            proto: Some(Proto {
                ver: message.header.ver.into(),
                op: message.header.op.0,
                seq: message.header.seq,
                body: message.body,
            }),
            key: message.key.as_str().to_owned(),
            room: message.room.map(|room| room.as_str().to_owned()).unwrap_or_default(),
        };
        match self.peer.in_time(self.goims.clone().receive(request)).await {
            Ok(reply) => {
                let reply = reply.into_inner();
                Ok(match reply.room {
                    Some(true) => MessageReply::Room,
                    Some(false) => MessageReply::Body(reply.body),
                    None => MessageReply::Unsaid,
                })
            }
            Err(status) => Err(NotDone::because(status, unavailable)),
        }
    }

    /// Sends the report in pages and reads the answer in pages. None if the logic is goim's.
    async fn online(
        &self,
        server: &ServerId,
        rooms: &HashMap<RoomId, u32>,
        clients: ClientCount,
    ) -> Option<Result<HashMap<RoomId, u32>, Status>> {
        let answer = self.peer.ours(async {
            let pages = stream::iter(report(server, rooms, clients));
            self.peer.in_time(self.ours.clone().online(pages)).await
        });
        match answer.await? {
            Ok(answer) => Some(self.counts(answer).await),
            Err(status) => Some(Err(status)),
        }
    }

    async fn counts(
        &self,
        answer: Response<Streaming<halley::OnlineCounts>>,
    ) -> Result<HashMap<RoomId, u32>, Status> {
        let mut pages = answer.into_inner();
        let all = async {
            let mut counts = HashMap::new();
            while let Some(page) = pages.message().await? {
                let page = page.rooms.into_iter();
                counts.extend(page.filter_map(|(room, people)| Some((RoomId::parse(&room).ok()?, people))));
            }
            Ok(counts)
        };
        in_time(REPORT_MAX.max(self.limit), all).await
    }
}

/// The pages of a report, at least one.
fn report(server: &ServerId, rooms: &HashMap<RoomId, u32>, clients: ClientCount) -> Vec<OnlineReport> {
    let mut pages = vec![OnlineReport {
        server: server.as_str().to_owned(),
        rooms: HashMap::new(),
        connections: clients.connections,
        addresses: clients.addresses,
    }];
    for (n, (room, people)) in rooms.iter().enumerate() {
        if n > 0 && n % ROOMS_PAGE == 0 {
            pages.push(OnlineReport { server: server.as_str().to_owned(), ..OnlineReport::default() });
        }
        if let Some(page) = pages.last_mut() {
            page.rooms.insert(room.as_str().to_owned(), *people);
        }
    }
    pages
}

#[async_trait]
impl LogicApi for GrpcLogic {
    async fn connect(&self, request: ConnectRequest) -> Result<Session, LogicError> {
        self.try_connect(request).await.map_err(|not| not.error)
    }

    async fn disconnect(&self, session: SessionRef) -> Result<bool, LogicError> {
        let request = DisconnectReq {
            mid: session.mid.0,
            key: session.key.as_str().to_owned(),
            server: session.server.as_str().to_owned(),
            generation: Generation::to_wire(session.generation),
        };
        let ended = self.peer.in_time(self.goims.clone().disconnect(request)).await;
        Ok(ended.map_err(unavailable)?.into_inner().has)
    }

    async fn renew(&self, sessions: Vec<SessionRef>) -> Result<Renewed, LogicError> {
        let renewed = self.peer.ours(async {
            let request = RenewReq {
                // All sessions belong to this comet.
                server: sessions
                    .first()
                    .map(|session| session.server.as_str().to_owned())
                    .unwrap_or_default(),
                sessions: sessions
                    .iter()
                    .map(|session| halley::Session {
                        mid: session.mid.0,
                        key: session.key.as_str().to_owned(),
                        generation: Generation::to_wire(session.generation),
                    })
                    .collect(),
            };
            self.peer.in_time(self.ours.clone().renew(request)).await
        });
        if let Some(reply) = renewed.await {
            let halley::RenewReply { incarnation, superseded, now_us } =
                reply.map_err(unavailable)?.into_inner();
            let superseded = superseded.into_iter();
            return Ok(Renewed {
                incarnation: Some(incarnation).filter(|incarnation| *incarnation != 0),
                superseded: superseded.map(|it| (Key::new(it.key), Generation(it.by))).collect(),
                now_us: Some(now_us).filter(|now_us| *now_us != 0),
            });
        }
        // If logic refuses one session, go on with the rest. Otherwise all of them would be sent again, with that one
        // among them, for ever.
        let (mut any_taken, mut refused) = (false, None);
        for session in sessions {
            let request = HeartbeatReq {
                mid: session.mid.0,
                key: session.key.as_str().to_owned(),
                server: session.server.as_str().to_owned(),
                generation: Generation::to_wire(session.generation),
            };
            match self.peer.in_time(self.goims.clone().heartbeat(request)).await {
                Ok(_) => any_taken = true,
                Err(status) if is_answer(&status) => refused = Some(status),
                Err(status) => return Err(unavailable(status)),
            }
        }
        match refused {
            Some(status) if !any_taken => Err(unavailable(status)),
            _ => Ok(Renewed::default()),
        }
    }

    async fn renew_online(
        &self,
        server: ServerId,
        rooms: HashMap<RoomId, u32>,
        clients: ClientCount,
    ) -> Result<HashMap<RoomId, u32>, LogicError> {
        if let Some(counts) = self.online(&server, &rooms, clients).await {
            return counts.map_err(unavailable);
        }
        let room_count = rooms
            .into_iter()
            .map(|(room, count)| (room.as_str().to_owned(), i32::try_from(count).unwrap_or(i32::MAX)))
            .collect();
        let request = OnlineReq {
            server: server.as_str().to_owned(),
            room_count,
            connections: clients.connections,
            addresses: clients.addresses,
        };
        let mut client = self.goims.clone().send_compressed(CompressionEncoding::Gzip);
        let reply = in_time(REPORT_MAX.max(self.limit), client.renew_online(request)).await;
        let reply = reply.map_err(unavailable)?.into_inner();
        let counts = reply.all_room_count.into_iter();
        Ok(counts
            .filter_map(|(room, count)| Some((RoomId::parse(&room).ok()?, u32::try_from(count).ok()?)))
            .collect())
    }

    async fn receive(&self, message: ClientMessage) -> Result<MessageReply, LogicError> {
        self.try_receive(message).await.map_err(|not| not.error)
    }
}

/// goim's logic answers a refused login with UNKNOWN and a text, Halley's with a code that tells the reason.
fn login_error(status: Status) -> LogicError {
    let refused = |reason| LogicError::Refused { reason, text: status.message().to_owned() };
    match status.code() {
        _ if !is_answer(&status) => unavailable(status),
        Code::Unknown | Code::InvalidArgument | Code::Unauthenticated => refused(CloseReason::LoginRefused),
        Code::PermissionDenied => refused(CloseReason::NotPermitted),
        Code::Aborted => refused(CloseReason::Replaced),
        Code::FailedPrecondition => refused(CloseReason::ServerError),
        Code::ResourceExhausted => LogicError::Overloaded,
        _ => unavailable(status),
    }
}

fn unavailable(status: Status) -> LogicError {
    LogicError::Unavailable(format!("{:?}: {}", status.code(), status.message()))
}
