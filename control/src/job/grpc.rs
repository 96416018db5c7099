//! A comet in another process, called with goim's unary calls: `PushMsg`, `Broadcast`, `BroadcastRoom`.
//!
//! Everything goes as `Proto{ver 1, op 9, body = complete frames}`, as goim's job sends it, so that a Go comet takes it
//! too; only what a client sent into its room goes as one message with its origin, which a Go comet ignores.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use cluster::services::{CometApi, Dispatch, DispatchError, Payload, Receivers};
use proto::{
    close::CloseReason,
    frame::{self, Header},
    ids::{Generation, Key, RoomId, ServerId},
    op::Op,
    rpc::{
        comet::{BroadcastReq, BroadcastRoomReq, PushMsgReq, RoomsReq, comet_client::CometClient},
        protocol::Proto,
    },
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// A silent connection is probed this often; goim's.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A probe not answered within this ends the connection; goim's.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A comet in another process. Connects when first called, and again whenever the connection is lost.
#[derive(Clone, Debug)]
pub struct GrpcComet {
    client: CometClient<Channel>,
}

/// A server id that is no address. Not retried.
#[derive(Debug, thiserror::Error)]
#[error("{server} is not the address of a comet: {error}")]
pub struct BadAddress {
    /// The id.
    pub server: ServerId,
    /// What is wrong with it.
    pub error: tonic::transport::Error,
}

impl GrpcComet {
    /// The comet that answers at `server`; no call takes longer than `timeout`. Needs a tokio runtime, and does not wait.
    ///
    /// # Errors
    /// [`BadAddress`].
    pub fn new(server: &ServerId, timeout: Duration) -> Result<Self, BadAddress> {
        let endpoint = Endpoint::from_shared(format!("http://{server}"))
            .map_err(|error| BadAddress { server: server.clone(), error })?
            .connect_timeout(timeout)
            .timeout(timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(GrpcComet { client: CometClient::new(endpoint.connect_lazy()) })
    }
}

#[async_trait]
impl CometApi for GrpcComet {
    /// One call after the other. When one fails, those before it were taken: batches of one are safe to repeat.
    async fn dispatch(&self, batch: Vec<Dispatch>) -> Result<(), DispatchError> {
        let mut client = self.client.clone();
        for dispatch in batch {
            let Dispatch { receivers, filter, payload, origin, accepted_at_us } = dispatch;
            match receivers {
                Receivers::Keys(keys) => {
                    let keys = keys.iter().map(ToString::to_string).collect();
                    let proto = Some(frames(payload));
                    let request = PushMsgReq { keys, proto, proto_op: filter.0, accepted_at_us };
                    client.push_msg(request).await.map_err(error)?;
                }
                Receivers::Room(room) => {
                    let proto = Some(if origin.is_some() { message(payload) } else { frames(payload) });
                    let (origin_key, origin_seq) =
                        origin.map_or_else(Default::default, |origin| (origin.key.to_string(), origin.seq));
                    let room_id = room.to_string();
                    let request = BroadcastRoomReq { room_id, proto, accepted_at_us, origin_key, origin_seq };
                    client.broadcast_room(request).await.map_err(error)?;
                }
                Receivers::All { speed } => {
                    let speed = i32::try_from(speed).unwrap_or(i32::MAX);
                    let proto = Some(frames(payload));
                    let request = BroadcastReq { proto_op: filter.0, proto, speed, accepted_at_us };
                    client.broadcast(request).await.map_err(error)?;
                }
            }
        }
        Ok(())
    }

    async fn kick(
        &self,
        _: Key,
        _: Option<Generation>,
        _: CloseReason,
        _: Option<Arc<str>>,
    ) -> Result<(), DispatchError> {
        Err(DispatchError::Invalid("goim's comet has no kick".into()))
    }

    async fn rooms(&self) -> Result<Vec<RoomId>, DispatchError> {
        let reply = self.client.clone().rooms(RoomsReq {}).await.map_err(error)?.into_inner();
        Ok(reply.rooms.keys().filter_map(|room| RoomId::parse(room).ok()).collect())
    }
}

/// Complete frames inside operation 9.
fn frames(payload: Payload) -> Proto {
    let body = match payload {
        Payload::Frames(frames) => frames,
        Payload::Message { op, body } => {
            let mut out = Vec::new();
            frame::encode(Header { ver: 1, op, seq: 0 }, &body, &mut out);
            Bytes::from(out)
        }
    };
    Proto { ver: 1, op: Op::RAW.0, seq: 0, body }
}

/// One message by itself.
fn message(payload: Payload) -> Proto {
    match payload {
        Payload::Message { op, body } => Proto { ver: 1, op: op.0, seq: 0, body },
        frames @ Payload::Frames(_) => self::frames(frames),
    }
}

/// A Go comet says UNKNOWN, and only about arguments.
fn error(status: Status) -> DispatchError {
    match status.code() {
        Code::InvalidArgument | Code::Unknown | Code::Unimplemented | Code::OutOfRange => {
            DispatchError::Invalid(status.message().to_owned())
        }
        code => DispatchError::Unreachable(format!("{code:?}: {}", status.message())),
    }
}
