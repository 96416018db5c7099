//! gRPC `goim.comet.Comet`: the four unary calls of a goim job, served by the trait that an in-process job calls.

use std::sync::Arc;

use bytes::Bytes;
use contract::{CometApi, Dispatch, DispatchError, Payload, Receivers};
use grpc::{
    comet::{
        BroadcastReply, BroadcastReq, BroadcastRoomReply, BroadcastRoomReq, PushMsgReply, PushMsgReq,
        RoomsReply, RoomsReq, comet_server,
    },
    protocol::Proto,
};
use proto::{
    frame::{HEADER_LEN, Header, VER, encode},
    ids::{Key, RoomId},
    op::Op,
    origin::Origin,
};
use tonic::{Request, Response, Status, codec::CompressionEncoding};

/// Bytes in a gRPC message for the fields around a push.
pub(super) const ENVELOPE_BYTES: usize = 1 << 20;

/// The tonic service for a comet.
pub fn service<C: CometApi>(
    comet: Arc<C>,
    push_bytes_max: usize,
) -> comet_server::CometServer<CometService<C>> {
    comet_server::CometServer::new(CometService { comet })
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(push_bytes_max + ENVELOPE_BYTES)
}

/// Adapter from gRPC to [`CometApi`].
pub struct CometService<C> {
    comet: Arc<C>,
}

impl<C: CometApi> CometService<C> {
    async fn dispatch(&self, dispatch: Dispatch) -> Result<(), Status> {
        self.comet.dispatch(&[dispatch]).await.map_err(status)
    }
}

#[tonic::async_trait]
impl<C: CometApi> comet_server::Comet for CometService<C> {
    async fn push_msg(&self, request: Request<PushMsgReq>) -> Result<Response<PushMsgReply>, Status> {
        let PushMsgReq { keys, proto, proto_op, accepted_at_us } = request.into_inner();
        if keys.is_empty() {
            return Err(Status::invalid_argument("keys: at least one is needed"));
        }
        self.dispatch(Dispatch {
            receivers: Receivers::Keys(keys.into_iter().map(Key::new).collect()),
            filter: Op(proto_op),
            payload: proto_payload(proto)?,
            origin: None,
            accepted_at_us,
        })
        .await?;
        Ok(Response::new(PushMsgReply {}))
    }

    async fn broadcast(&self, request: Request<BroadcastReq>) -> Result<Response<BroadcastReply>, Status> {
        let BroadcastReq { proto_op, proto, speed, accepted_at_us } = request.into_inner();
        let speed =
            u32::try_from(speed).map_err(|_| Status::invalid_argument("speed: must not be negative"))?;
        self.dispatch(Dispatch {
            receivers: Receivers::All { speed },
            filter: Op(proto_op),
            payload: proto_payload(proto)?,
            origin: None,
            accepted_at_us,
        })
        .await?;
        Ok(Response::new(BroadcastReply {}))
    }

    async fn broadcast_room(
        &self,
        request: Request<BroadcastRoomReq>,
    ) -> Result<Response<BroadcastRoomReply>, Status> {
        let BroadcastRoomReq { room_id, proto, accepted_at_us, origin_key, origin_seq } =
            request.into_inner();
        let room =
            RoomId::parse(&room_id).map_err(|error| Status::invalid_argument(format!("roomID: {error}")))?;
        let (filter, ver) = proto.as_ref().map_or((Op(0), 0), |proto| (Op(proto.op), proto.ver));
        let origin = Origin::from_wire(origin_key, origin_seq, Some(ver));
        let payload = match (proto, &origin) {
            (Some(proto), Some(_)) => payload(filter, proto.body),
            (proto, _) => proto_payload(proto)?,
        };
        self.dispatch(Dispatch { receivers: Receivers::Room(room), filter, payload, origin, accepted_at_us })
            .await?;
        Ok(Response::new(BroadcastRoomReply {}))
    }

    async fn rooms(&self, _: Request<RoomsReq>) -> Result<Response<RoomsReply>, Status> {
        let rooms = self.comet.rooms().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let rooms = rooms.into_iter().map(|room| (room.as_str().to_owned(), true)).collect();
        Ok(Response::new(RoomsReply { rooms }))
    }
}

/// The payload for room members and other receivers. As in goim, a message keeps its version and sequence number.
fn proto_payload(proto: Option<Proto>) -> Result<Payload, Status> {
    let Proto { ver, op, seq, body } = proto.ok_or_else(|| Status::invalid_argument("proto: missing"))?;
    let header = Header { ver: ver as i16, op: Op(op), seq };
    if header.op == Op::RAW || (header.ver, seq) == (VER, 0) {
        return Ok(payload(header.op, body));
    }
    let mut frame = Vec::with_capacity(HEADER_LEN + body.len());
    encode(header, &body, &mut frame);
    Ok(Payload::Frames(frame.into()))
}

/// goim's job sends frames in operation 9; any other operation is one message.
pub(super) fn payload(op: Op, body: Bytes) -> Payload {
    match op {
        Op::RAW => Payload::Frames(body),
        op => Payload::Message { op, body },
    }
}

pub(super) fn status(error: DispatchError) -> Status {
    match error {
        DispatchError::Invalid(_) => Status::invalid_argument(error.to_string()),
        DispatchError::Unreachable(_) => Status::unavailable(error.to_string()),
    }
}
