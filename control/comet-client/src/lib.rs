//! A comet in another process, as job and logic call it: by the stream and the kick of `halley.v1` if the comet has
//! them, otherwise by goim's unary calls `PushMsg`, `Broadcast` and `BroadcastRoom`.
//!
//! In goim's calls a push goes as `Proto{ver 1, op 9, body = complete frames}`, as goim's job sends it, so that a Go
//! comet takes it too. Only what a client sent into its room goes as a single message with its origin, which a Go comet
//! ignores.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{CometApi, Dispatch, DispatchError, Payload, Receivers};
use futures_util::Stream;
use grpc::{
    comet::{BroadcastReq, BroadcastRoomReq, PushMsgReq, RoomsReq, comet_client::CometClient},
    halley,
    halley::{DispatchBatch, DispatchReply, KickReq, comet_client::CometClient as HalleyClient},
    protocol::Proto,
};
use host::dial::{Dial, Peer, is_answer};
use proto::{
    close::CloseReason,
    frame,
    frame::{Header, VER},
    ids::{Generation, Key, RoomId, ServerId},
    op::Op,
    origin::Origin,
};
use tonic::{Code, Status, Streaming, transport::Channel};

/// A comet in another process. The connection is made with the first call, and again whenever it is lost.
#[derive(Clone, Debug)]
pub struct GrpcComet {
    peer: Peer,
    goims: CometClient<Channel>,
    ours: HalleyClient<Channel>,
}

/// The server id is no address. Trying again is of no use.
#[derive(Debug, thiserror::Error)]
#[error("{server} is not the address of a comet: {error}")]
pub struct BadAddress {
    /// The id.
    pub server: ServerId,
    /// What is wrong with it.
    pub error: tonic::transport::Error,
}

impl GrpcComet {
    /// The comet that answers at `server`. No call takes longer than `dial` says; time in which this process stands still
    /// does not count. Needs a tokio runtime, and does not wait.
    ///
    /// # Errors
    /// [`BadAddress`].
    pub fn new(server: &ServerId, dial: &Dial) -> Result<Self, BadAddress> {
        let peer =
            Peer::new(server.as_str(), dial).map_err(|error| BadAddress { server: server.clone(), error })?;
        let (goims, ours) = (CometClient::new(peer.channel()), HalleyClient::new(peer.channel()));
        Ok(GrpcComet { peer, goims, ours })
    }

    /// Whether its answers have shown that it is goim's, which has no stream.
    pub fn is_goims(&self) -> bool {
        self.peer.is_goims()
    }

    /// Opens a dispatch stream; none if the comet has no streams.
    pub async fn open(
        &self,
        batches: impl Stream<Item = DispatchBatch> + Send + 'static,
    ) -> Option<Result<Streaming<DispatchReply>, DispatchError>> {
        let opened =
            self.peer.ours(self.peer.in_time(async { self.ours.clone().dispatch(batches).await })).await?;
        Some(opened.map(tonic::Response::into_inner).map_err(error))
    }
}

#[async_trait]
impl CometApi for GrpcComet {
    /// Makes one call after the other. If one fails, comet has taken those before it. Callers send batches of one,
    /// which are safe to repeat.
    async fn dispatch(&self, batch: &[Dispatch]) -> Result<(), DispatchError> {
        let mut client = self.goims.clone();
        for dispatch in batch {
            let Dispatch { receivers, filter, payload, origin, accepted_at_us } = dispatch;
            let accepted_at_us = *accepted_at_us;
            match receivers {
                Receivers::Keys(keys) => {
                    let keys = keys.iter().map(ToString::to_string).collect();
                    let proto = Some(frames(payload));
                    let request = PushMsgReq { keys, proto, proto_op: filter.0, accepted_at_us };
                    self.peer.in_time(client.push_msg(request)).await.map_err(error)?;
                }
                Receivers::Room(room) => {
                    let proto = Some(match origin {
                        Some(origin) => message(payload, origin.ver),
                        None => frames(payload),
                    });
                    let (origin_key, origin_seq) = origin
                        .as_ref()
                        .map_or_else(Default::default, |origin| (origin.key.to_string(), origin.seq));
                    let room_id = room.to_string();
                    let request = BroadcastRoomReq { room_id, proto, accepted_at_us, origin_key, origin_seq };
                    self.peer.in_time(client.broadcast_room(request)).await.map_err(error)?;
                }
                Receivers::All { speed } => {
                    let speed = i32::try_from(*speed).unwrap_or(i32::MAX);
                    let proto = Some(frames(payload));
                    let request = BroadcastReq { proto_op: filter.0, proto, speed, accepted_at_us };
                    self.peer.in_time(client.broadcast(request)).await.map_err(error)?;
                }
            }
        }
        Ok(())
    }

    async fn kick(
        &self,
        key: Key,
        below: Option<Generation>,
        reason: CloseReason,
        text: Option<Arc<str>>,
    ) -> Result<(), DispatchError> {
        let request = KickReq {
            key: key.as_str().to_owned(),
            below: Generation::to_wire(below),
            code: reason.code().into(),
            text: text.as_deref().unwrap_or_default().to_owned(),
        };
        match self.peer.ours(self.peer.in_time(async { self.ours.clone().kick(request).await })).await {
            Some(kicked) => kicked.map(|_| ()).map_err(error),
            None => Err(DispatchError::Invalid("goim's comet has no kick".into())),
        }
    }

    async fn rooms(&self) -> Result<Vec<RoomId>, DispatchError> {
        let reply =
            self.peer.in_time(self.goims.clone().rooms(RoomsReq {})).await.map_err(error)?.into_inner();
        Ok(reply.rooms.keys().filter_map(|room| RoomId::parse(room).ok()).collect())
    }
}

/// Writes a dispatch as it goes over the stream.
pub fn dispatch(dispatch: &Dispatch) -> halley::Dispatch {
    let text = |it: &Key| it.as_str().to_owned();
    let receivers = match &dispatch.receivers {
        Receivers::Keys(keys) => {
            halley::dispatch::Receivers::Keys(halley::Keys { keys: keys.iter().map(text).collect() })
        }
        Receivers::Room(room) => halley::dispatch::Receivers::Room(room.as_str().to_owned()),
        Receivers::All { speed } => halley::dispatch::Receivers::All(*speed),
    };
    let (op, body) = match &dispatch.payload {
        Payload::Message { op, body } => (*op, body),
        Payload::Frames(frames) => (Op::RAW, frames),
    };
    halley::Dispatch {
        receivers: Some(receivers),
        op: op.0,
        body: body.clone(),
        accepted_at_us: dispatch.accepted_at_us,
        origin_key: dispatch.origin.as_ref().map(|origin| text(&origin.key)).unwrap_or_default(),
        origin_seq: dispatch.origin.as_ref().map_or(0, |origin| origin.seq),
        origin_ver: dispatch.origin.as_ref().and_then(Origin::ver_to_wire),
    }
}

/// Wraps complete frames in operation 9.
fn frames(payload: &Payload) -> Proto {
    let body = match payload {
        Payload::Frames(frames) => frames.clone(),
        Payload::Message { op, body } => {
            let mut out = Vec::new();
            frame::encode(Header { ver: VER, op: *op, seq: 0 }, body, &mut out);
            Bytes::from(out)
        }
    };
    Proto { ver: VER.into(), op: Op::RAW.0, seq: 0, body }
}

/// A single message, with the client's version.
fn message(payload: &Payload, ver: i16) -> Proto {
    match payload {
        Payload::Message { op, body } => Proto { ver: ver.into(), op: op.0, seq: 0, body: body.clone() },
        frames @ Payload::Frames(_) => self::frames(frames),
    }
}

/// A Go comet answers UNKNOWN only about bad arguments. The transport reports UNKNOWN too if a connection breaks during
/// a call, but then the error has a source.
fn error(status: Status) -> DispatchError {
    match status.code() {
        Code::Unknown if !is_answer(&status) => DispatchError::Unreachable(status.message().to_owned()),
        Code::InvalidArgument | Code::Unknown | Code::Unimplemented | Code::OutOfRange => {
            DispatchError::Invalid(status.message().to_owned())
        }
        code => DispatchError::Unreachable(format!("{code:?}: {}", status.message())),
    }
}
