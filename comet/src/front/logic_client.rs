//! logic over gRPC: the client side of `goim.logic.Logic`, for a comet that runs in a process of its own.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use cluster::services::{
    ClientCount, ClientMessage, ConnectRequest, LogicApi, LogicError, MessageReply, Renewed, Session,
    SessionRef,
};
use proto::{
    close::CloseReason,
    ids::{Generation, Key, Mid, RoomId, ServerId},
    op::Op,
    rpc::{
        logic::{ConnectReq, DisconnectReq, HeartbeatReq, OnlineReq, ReceiveReq, logic_client::LogicClient},
        protocol::Proto,
    },
};
use tonic::{
    Code, Status,
    codec::CompressionEncoding,
    transport::{Channel, Endpoint},
};

/// Silence a client is allowed when logic names none; goim's own default.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(270);

/// logic behind a gRPC channel.
#[derive(Clone)]
pub struct GrpcLogic {
    client: LogicClient<Channel>,
}

impl GrpcLogic {
    /// A client of the logic at `address` (`host:port`). Connects with the first call and again whenever the connection
    /// is lost; each call ends after `timeout`.
    pub fn new(address: &str, timeout: Duration) -> Result<GrpcLogic, tonic::transport::Error> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(timeout)
            .timeout(timeout)
            .keep_alive_while_idle(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(3))
            .connect_lazy();
        let client = LogicClient::new(channel).accept_compressed(CompressionEncoding::Gzip);
        Ok(GrpcLogic { client })
    }
}

#[async_trait]
impl LogicApi for GrpcLogic {
    async fn connect(&self, request: ConnectRequest) -> Result<Session, LogicError> {
        let request = ConnectReq {
            server: request.server.as_str().to_owned(),
            cookie: request.cookie,
            token: request.token,
            client_ip: request.client_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            transport: request.transport.label().to_owned(),
        };
        let reply = self.client.clone().connect(request).await.map_err(login_error)?.into_inner();
        let heartbeat = u64::try_from(reply.heartbeat).ok().filter(|nanos| *nanos > 0);
        Ok(Session {
            mid: Mid(reply.mid),
            key: Key::new(reply.key),
            // A name that is no room id comes from a backend's bug: the login stands, the room does not.
            room: RoomId::parse(&reply.room_id).ok(),
            rooms: reply.rooms.iter().filter_map(|room| RoomId::parse(room).ok()).collect(),
            accepts: reply.accepts.into_iter().map(Op).collect(),
            heartbeat: heartbeat.map_or(HEARTBEAT_DEFAULT, Duration::from_nanos),
            generation: Some(reply.generation).filter(|generation| *generation > 0).map(Generation),
        })
    }

    async fn disconnect(&self, session: SessionRef) -> Result<bool, LogicError> {
        let request = DisconnectReq {
            mid: session.mid.0,
            key: session.key.as_str().to_owned(),
            server: session.server.as_str().to_owned(),
            generation: fence(&session),
        };
        Ok(self.client.clone().disconnect(request).await.map_err(unavailable)?.into_inner().has)
    }

    async fn renew(&self, sessions: Vec<SessionRef>) -> Result<Renewed, LogicError> {
        for session in sessions {
            let request = HeartbeatReq {
                mid: session.mid.0,
                key: session.key.as_str().to_owned(),
                server: session.server.as_str().to_owned(),
                generation: fence(&session),
            };
            self.client.clone().heartbeat(request).await.map_err(unavailable)?;
        }
        Ok(Renewed::default())
    }

    async fn renew_online(
        &self,
        server: ServerId,
        rooms: HashMap<RoomId, u32>,
        clients: ClientCount,
    ) -> Result<HashMap<RoomId, u32>, LogicError> {
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
        let client = self.client.clone().send_compressed(CompressionEncoding::Gzip);
        let reply = { client }.renew_online(request).await.map_err(unavailable)?.into_inner();
        let counts = reply.all_room_count.into_iter();
        Ok(counts
            .filter_map(|(room, count)| Some((RoomId::parse(&room).ok()?, u32::try_from(count).ok()?)))
            .collect())
    }

    async fn receive(&self, message: ClientMessage) -> Result<MessageReply, LogicError> {
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
        let reply = self.client.clone().receive(request).await.map_err(unavailable)?.into_inner();
        Ok(if reply.room { MessageReply::Room } else { MessageReply::Body(reply.body) })
    }
}

fn fence(session: &SessionRef) -> i64 {
    session.generation.map_or(0, |generation| generation.0)
}

/// goim's logic answers a refused login with UNKNOWN and a text; Halley's with the code that fits.
fn login_error(status: Status) -> LogicError {
    let refused = |reason| LogicError::Refused { reason, text: status.message().to_owned() };
    match status.code() {
        Code::Unknown | Code::InvalidArgument | Code::Unauthenticated => refused(CloseReason::LoginRefused),
        Code::PermissionDenied => refused(CloseReason::NotPermitted),
        Code::ResourceExhausted => LogicError::Overloaded,
        _ => unavailable(status),
    }
}

fn unavailable(status: Status) -> LogicError {
    LogicError::Unavailable(format!("{:?}: {}", status.code(), status.message()))
}
