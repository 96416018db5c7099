//! gRPC `halley.v1.Comet`, for Halley's job and logic: the stream of dispatches, and the kick.

use std::{pin::Pin, sync::Arc};

use cluster::services::{CometApi, Dispatch, DispatchError, Origin, Payload, Receivers};
use futures_util::{Stream, stream};
use proto::{
    close::CloseReason,
    ids::{Generation, Key, RoomId},
    op::Op,
    rpc::halley::{self, DispatchBatch, DispatchReply, KickReply, KickReq, Refused, comet_server},
};
use tonic::{Request, Response, Status, Streaming};

use super::rpc::ENVELOPE_BYTES;

/// Bytes of batches that one job may have under way: enough to keep the shards busy while an answer travels.
const CREDIT_BYTES: u64 = 4 << 20;

/// The tonic service over a comet.
pub fn service<C: CometApi>(comet: Arc<C>, push_bytes_max: usize) -> comet_server::CometServer<HalleyRpc<C>> {
    // Room for a push of the longest kind, and for what came to stand before it in its batch.
    let batch_max = push_bytes_max + 2 * ENVELOPE_BYTES;
    comet_server::CometServer::new(HalleyRpc { comet, batch_max }).max_decoding_message_size(batch_max)
}

/// Adapter from gRPC to [`CometApi`].
pub struct HalleyRpc<C> {
    comet: Arc<C>,
    batch_max: usize,
}

/// What comes of a stream of batches.
type Replies = Pin<Box<dyn Stream<Item = Result<DispatchReply, Status>> + Send>>;

#[tonic::async_trait]
impl<C: CometApi> comet_server::Comet for HalleyRpc<C> {
    type DispatchStream = Replies;

    /// One batch after the other: the next is read when this one is in the shards' rings, so a job that is faster than
    /// the shards runs out of credit. Ends with the job's side of the stream, wherever it stands.
    async fn dispatch(
        &self,
        request: Request<Streaming<DispatchBatch>>,
    ) -> Result<Response<Replies>, Status> {
        let credit = DispatchReply {
            credit: CREDIT_BYTES,
            batch_max: self.batch_max as u64,
            ..DispatchReply::default()
        };
        let (comet, batches) = (Arc::clone(&self.comet), request.into_inner());
        let replies =
            stream::try_unfold((comet, batches, Some(credit)), async |(comet, mut batches, first)| {
                if let Some(credit) = first {
                    return Ok(Some((credit, (comet, batches, None))));
                }
                let Some(batch) = batches.message().await? else { return Ok(None) };
                let taken = batch.serial;
                let refused = take(&*comet, batch).await?;
                let reply = DispatchReply { taken, credit: CREDIT_BYTES, refused, batch_max: 0 };
                Ok(Some((reply, (comet, batches, None))))
            });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn kick(&self, request: Request<KickReq>) -> Result<Response<KickReply>, Status> {
        let KickReq { key, below, code, text } = request.into_inner();
        let reason = [CloseReason::Replaced, CloseReason::Kicked]
            .into_iter()
            .find(|reason| u32::from(reason.code()) == code)
            .ok_or_else(|| Status::invalid_argument(format!("code: {code} is not the code of a kick")))?;
        let below = Some(below).filter(|below| *below != 0).map(Generation);
        let text = Some(text).filter(|text| !text.is_empty()).map(Arc::from);
        self.comet.kick(Key::new(key), below, reason, text).await.map_err(status)?;
        Ok(Response::new(KickReply {}))
    }
}

/// Hands a batch out, without what can never be: nothing in it reorders or holds up the rest.
async fn take<C: CometApi>(comet: &C, batch: DispatchBatch) -> Result<Vec<Refused>, Status> {
    let serial = batch.serial;
    let refuse = |index: usize, reason: String| Refused { serial, index: index as u32, reason };
    let mut refused = Vec::new();
    let mut good = Vec::with_capacity(batch.dispatches.len());
    for (index, dispatch) in batch.dispatches.into_iter().enumerate() {
        match parse(dispatch) {
            Ok(dispatch) => good.push((index, dispatch)),
            Err(reason) => refused.push(refuse(index, reason)),
        }
    }
    // Nothing of a refused batch is handed out, so it is made again one by one.
    match comet.dispatch(good.iter().map(|(_, dispatch)| dispatch.clone()).collect()).await {
        Ok(()) => {}
        Err(DispatchError::Invalid(_)) => {
            for (index, dispatch) in good {
                match comet.dispatch(vec![dispatch]).await {
                    Err(DispatchError::Invalid(reason)) => refused.push(refuse(index, reason)),
                    other => other.map_err(status)?,
                }
            }
        }
        Err(error) => return Err(status(error)),
    }
    Ok(refused)
}

fn parse(dispatch: halley::Dispatch) -> Result<Dispatch, String> {
    let halley::Dispatch { receivers, op, body, accepted_at_us, origin_key, origin_seq } = dispatch;
    let receivers = match receivers.ok_or("receivers: missing")? {
        halley::dispatch::Receivers::Keys(keys) if keys.keys.is_empty() => {
            return Err("keys: at least one is needed".to_owned());
        }
        halley::dispatch::Receivers::Keys(keys) => {
            Receivers::Keys(keys.keys.into_iter().map(Key::new).collect())
        }
        halley::dispatch::Receivers::Room(room) => {
            Receivers::Room(RoomId::parse(&room).map_err(|error| format!("room: {error}"))?)
        }
        halley::dispatch::Receivers::All(speed) => Receivers::All { speed },
    };
    // As in goim's calls, operation 9 is complete frames.
    let payload = match Op(op) {
        Op::RAW => Payload::Frames(body),
        op => Payload::Message { op, body },
    };
    let origin = (!origin_key.is_empty()).then(|| Origin { key: Key::new(origin_key), seq: origin_seq });
    Ok(Dispatch { receivers, filter: Op(op), payload, origin, accepted_at_us })
}

fn status(error: DispatchError) -> Status {
    match error {
        DispatchError::Invalid(_) => Status::invalid_argument(error.to_string()),
        DispatchError::Unreachable(_) => Status::unavailable(error.to_string()),
    }
}
