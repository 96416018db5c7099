//! `goim.logic.Logic` over gRPC, for comets in other processes, Go ones included.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use contract::{
    Arrival, ClientCount, ClientMessage, ConnectRequest, LogicApi, LogicError, MessageReply, Session,
    SessionRef, Transport,
};
use grpc::{
    logic,
    logic::{
        ConnectReply, ConnectReq, DisconnectReply, DisconnectReq, HeartbeatReply, HeartbeatReq, NodesReply,
        NodesReq, OnlineReply, OnlineReq, ReceiveReply, ReceiveReq, logic_server,
    },
};
use proto::{
    close::CloseReason,
    frame::Header,
    ids::{Generation, Key, Mid, RoomId, ServerId},
    op::Op,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status, codec::CompressionEncoding};

use super::nodes::Nodes;

/// Longest request, bytes. The report of a comet with half a million rooms fits.
pub(super) const REQUEST_LEN_MAX: usize = 16 << 20;

/// Tells where clients may connect.
pub trait NodesApi: Send + Sync + 'static {
    /// Comets for one client, best first.
    fn nodes(&self, platform: &str, client: Option<IpAddr>) -> Nodes;
}

/// Tells how many people are where.
pub trait AllRooms: Send + Sync + 'static {
    /// People per room over all comets, without empty rooms. goim's comets get all of this, whatever rooms they have.
    fn all_rooms(&self) -> HashMap<RoomId, u32>;
}

/// Any logic, as goim's gRPC service.
pub struct RpcLogic<L>(Arc<L>);

impl<L: LogicApi + NodesApi + AllRooms> RpcLogic<L> {
    /// The service, which the caller adds to a server. It understands gzip, since Go comets compress their reports.
    pub fn service(logic: Arc<L>) -> logic_server::LogicServer<Self> {
        logic_server::LogicServer::new(RpcLogic(logic))
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(REQUEST_LEN_MAX)
    }
}

#[async_trait]
impl<L: LogicApi + NodesApi + AllRooms> logic_server::Logic for RpcLogic<L> {
    async fn connect(&self, request: Request<ConnectReq>) -> Result<Response<ConnectReply>, Status> {
        let request = request.into_inner();
        let ConnectReq { server, cookie, token, client_ip, transport, .. } = request;
        let waited = Duration::from_micros(request.age_us);
        let known = |us: u64| Some(us).filter(|us| *us != 0);
        let transport = [Transport::Tcp, Transport::WebSocket].into_iter().find(|t| t.label() == transport);
        let request = ConnectRequest {
            server: server_id(server)?,
            // A Go comet does not name the transport. Its cookie is empty exactly on TCP, which is near enough for logs
            // and rules.
            transport: transport.unwrap_or(if cookie.is_empty() {
                Transport::Tcp
            } else {
                Transport::WebSocket
            }),
            cookie,
            token,
            client_ip: client_ip.parse().ok(),
            arrival: Arrival::ago(waited, Instant::now().into_std()).by(known(request.arrived_by_us)),
            wanted_until_us: known(request.wanted_until_us),
        };
        let Session { mid, key, room, rooms, accepts, heartbeat, generation } =
            self.0.connect(request).await.map_err(status)?;
        Ok(Response::new(ConnectReply {
            mid: mid.0,
            key: key.to_string(),
            room_id: room.map_or_else(String::new, |room| room.to_string()),
            accepts: accepts.into_iter().map(|op| op.0).collect(),
            heartbeat: i64::try_from(heartbeat.as_nanos()).unwrap_or(i64::MAX),
            generation: Generation::to_wire(generation),
            rooms: rooms.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn disconnect(&self, request: Request<DisconnectReq>) -> Result<Response<DisconnectReply>, Status> {
        let DisconnectReq { mid, key, server, generation } = request.into_inner();
        let session = session(mid, key, server, generation)?;
        let has = self.0.disconnect(session).await.map_err(status)?;
        Ok(Response::new(DisconnectReply { has }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatReq>) -> Result<Response<HeartbeatReply>, Status> {
        let HeartbeatReq { mid, key, server, generation } = request.into_inner();
        self.0.renew(vec![session(mid, key, server, generation)?]).await.map_err(status)?;
        Ok(Response::new(HeartbeatReply {}))
    }

    async fn renew_online(&self, request: Request<OnlineReq>) -> Result<Response<OnlineReply>, Status> {
        let OnlineReq { server, room_count, connections, addresses } = request.into_inner();
        let rooms: HashMap<RoomId, u32> = room_count
            .into_iter()
            // A Go comet does not check room ids. Nobody can ask for a malformed one.
            .filter_map(|(room, people)| Some((RoomId::parse(&room).ok()?, u32::try_from(people).ok()?)))
            .collect();
        let clients = ClientCount { connections, addresses };
        self.0.renew_online(server_id(server)?, rooms, clients).await.map_err(status)?;
        let all = self.0.all_rooms().into_iter();
        let all_room_count =
            all.map(|(room, people)| (room.to_string(), i32::try_from(people).unwrap_or(i32::MAX))).collect();
        Ok(Response::new(OnlineReply { all_room_count }))
    }

    async fn receive(&self, request: Request<ReceiveReq>) -> Result<Response<ReceiveReply>, Status> {
        let ReceiveReq { mid, proto, key, room } = request.into_inner();
        let proto = proto.ok_or_else(|| Status::invalid_argument("proto is missing"))?;
        let ver = i16::try_from(proto.ver).map_err(|_| Status::invalid_argument("proto.ver is no i16"))?;
        let message = ClientMessage {
            mid: Mid(mid),
            key: Key::new(key),
            room: RoomId::parse(&room).ok(),
            header: Header { ver, op: Op(proto.op), seq: proto.seq },
            body: proto.body,
        };
        let reply = match self.0.receive(message).await.map_err(status)? {
            MessageReply::Room => ReceiveReply { room: Some(true), ..ReceiveReply::default() },
            MessageReply::Body(body) => ReceiveReply { body, room: Some(false) },
            MessageReply::Unsaid => ReceiveReply::default(),
        };
        Ok(Response::new(reply))
    }

    async fn nodes(&self, request: Request<NodesReq>) -> Result<Response<NodesReply>, Status> {
        let NodesReq { platform, client_ip } = request.into_inner();
        let nodes = self.0.nodes(&platform, client_ip.parse().ok());
        let int = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        Ok(Response::new(NodesReply {
            domain: nodes.domain,
            tcp_port: nodes.tcp_port.into(),
            ws_port: nodes.ws_port.into(),
            wss_port: nodes.wss_port.into(),
            heartbeat: int(nodes.heartbeat),
            nodes: nodes.nodes,
            backoff: Some(logic::Backoff {
                max_delay: int(nodes.backoff.max_delay),
                base_delay: int(nodes.backoff.base_delay),
                factor: nodes.backoff.factor as f32,
                jitter: nodes.backoff.jitter as f32,
            }),
            heartbeat_max: int(nodes.heartbeat_max),
        }))
    }
}

pub(super) fn server_id(server: String) -> Result<ServerId, Status> {
    if server.is_empty() {
        return Err(Status::invalid_argument("server is empty"));
    }
    Ok(ServerId::new(server))
}

pub(super) fn session(mid: i64, key: String, server: String, generation: i64) -> Result<SessionRef, Status> {
    let generation = Generation::from_wire(generation);
    Ok(SessionRef { mid: Mid(mid), key: Key::new(key), server: server_id(server)?, generation })
}

/// The words of a refused login are for the client. The code tells why: who the client is, what it may do, a newer
/// login of its key, or that it has to come again.
pub(super) fn status(error: LogicError) -> Status {
    match error {
        LogicError::Refused { reason: CloseReason::NotPermitted, text } => Status::permission_denied(text),
        LogicError::Refused { reason: CloseReason::Replaced, text } => Status::aborted(text),
        LogicError::Refused { reason: CloseReason::ServerError, text } => Status::failed_precondition(text),
        LogicError::Refused { text, .. } => Status::unauthenticated(text),
        LogicError::Unavailable(_) => Status::unavailable(error.to_string()),
        LogicError::Overloaded => Status::resource_exhausted(error.to_string()),
    }
}
