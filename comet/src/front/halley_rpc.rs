//! gRPC `halley.v1.Comet`, for Halley's job and logic: the stream of dispatches, and kicks.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use contract::{CometApi, Dispatch, DispatchError, Receivers};
use futures_util::{Stream, StreamExt as _, stream};
use grpc::{
    halley,
    halley::{DispatchBatch, DispatchReply, KickReply, KickReq, Refused, comet_server},
};
use proto::{
    close::CloseReason,
    ids::{Generation, Key, RoomId},
    op::Op,
    origin::Origin,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::{
    lock,
    rpc::{ENVELOPE_BYTES, payload, status},
};

/// Bytes of batches that one job may have under way: enough to keep the shards busy while an answer travels.
const CREDIT_BYTES: u64 = 4 << 20;

/// How many streams jobs have open to this comet. Clones share the number.
#[derive(Clone, Debug, Default)]
pub struct Streams(watch::Sender<usize>);

impl Streams {
    /// Returns when no stream is open. A job ends its stream when this comet has left the registry and has all pushes
    /// that were meant for it.
    pub async fn ended(&self) {
        // `self` holds the sender, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|streams| *streams == 0).await;
    }

    fn open(&self) -> OpenStream {
        self.0.send_modify(|streams| *streams += 1);
        OpenStream(self.clone())
    }
}

/// Counts as one of [`Streams`] until it is dropped.
struct OpenStream(Streams);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.0.send_modify(|streams| *streams -= 1);
    }
}

/// The tonic service over a comet.
pub fn service<C: CometApi>(
    comet: Arc<C>,
    push_bytes_max: usize,
    streams: Streams,
) -> comet_server::CometServer<HalleyRpc<C>> {
    // One message has room for the longest push, and for what stands before that push in its batch.
    let batch_max = push_bytes_max + 2 * ENVELOPE_BYTES;
    let rpc = HalleyRpc { comet, batch_max, streams, last_number: AtomicU64::new(0), newest: Arc::default() };
    comet_server::CometServer::new(rpc).max_decoding_message_size(batch_max)
}

/// Adapter from gRPC to [`CometApi`].
pub struct HalleyRpc<C> {
    comet: Arc<C>,
    batch_max: usize,
    streams: Streams,
    /// Number of streams opened so far.
    last_number: AtomicU64,
    newest: Newest,
}

/// The number of the newest stream of each link.
type Newest = Arc<Mutex<HashMap<String, u64>>>;

/// One stream.
struct Taking<C> {
    comet: Arc<C>,
    batches: Streaming<DispatchBatch>,
    number: u64,
    newest: Newest,
    /// The link's name. The first batch of the stream gives it.
    link: Option<String>,
    _open: OpenStream,
}

impl<C: CometApi> Taking<C> {
    /// Takes the next batch; none at the end of the stream.
    async fn next(&mut self) -> Result<Option<DispatchReply>, Status> {
        let Some(mut batch) = self.batches.message().await? else { return Ok(None) };
        let link = std::mem::take(&mut batch.link);
        if self.link.is_none() && !link.is_empty() {
            let mut newest = lock(&self.newest);
            let number = newest.entry(link.clone()).or_default();
            *number = self.number.max(*number);
            self.link = Some(link);
        }
        // A connection that job has given up may still deliver here. What it holds would come after newer pushes.
        if self.link.as_ref().is_some_and(|link| lock(&self.newest).get(link) != Some(&self.number)) {
            return Err(Status::aborted("a newer stream has taken its place"));
        }
        let taken = batch.serial;
        let refused = take(&*self.comet, batch).await?;
        Ok(Some(DispatchReply { taken, credit: CREDIT_BYTES, refused, batch_max: 0 }))
    }
}

impl<C> Drop for Taking<C> {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            let mut newest = lock(&self.newest);
            if newest.get(link) == Some(&self.number) {
                newest.remove(link);
            }
        }
    }
}

/// The replies to a stream of batches.
type Replies = Pin<Box<dyn Stream<Item = Result<DispatchReply, Status>> + Send>>;

#[tonic::async_trait]
impl<C: CometApi> comet_server::Comet for HalleyRpc<C> {
    type DispatchStream = Replies;

    /// Takes one batch after the other. It reads the next one when this one is in the shards' queues, so a job that is
    /// faster than the shards runs out of credit. The replies end when job ends its side of the stream.
    async fn dispatch(
        &self,
        request: Request<Streaming<DispatchBatch>>,
    ) -> Result<Response<Replies>, Status> {
        let credit = DispatchReply {
            credit: CREDIT_BYTES,
            batch_max: self.batch_max as u64,
            ..DispatchReply::default()
        };
        let taking = Taking {
            comet: Arc::clone(&self.comet),
            batches: request.into_inner(),
            number: self.last_number.fetch_add(1, Relaxed) + 1,
            newest: Arc::clone(&self.newest),
            link: None,
            _open: self.streams.open(),
        };
        let replies = stream::once(async { Ok(credit) })
            .chain(stream::try_unfold(taking, async |mut taking| {
                Ok(taking.next().await?.map(|reply| (reply, taking)))
            }));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn kick(&self, request: Request<KickReq>) -> Result<Response<KickReply>, Status> {
        let KickReq { key, below, code, text } = request.into_inner();
        let reason = [CloseReason::Replaced, CloseReason::Kicked]
            .into_iter()
            .find(|reason| u32::from(reason.code()) == code)
            .ok_or_else(|| Status::invalid_argument(format!("code: {code} is not the code of a kick")))?;
        let below = Generation::from_wire(below);
        let text = Some(text).filter(|text| !text.is_empty()).map(Arc::from);
        self.comet.kick(Key::new(key), below, reason, text).await.map_err(status)?;
        Ok(Response::new(KickReply {}))
    }
}

/// Hands out a batch except for malformed pushes, which it returns. They neither reorder nor delay the rest.
async fn take<C: CometApi>(comet: &C, batch: DispatchBatch) -> Result<Vec<Refused>, Status> {
    let serial = batch.serial;
    let refuse = |index: usize, reason: String| Refused { serial, index: index as u32, reason };
    let mut refused = Vec::new();
    let (mut good, mut places) = (Vec::with_capacity(batch.dispatches.len()), Vec::new());
    for (index, dispatch) in batch.dispatches.into_iter().enumerate() {
        match parse(dispatch) {
            Ok(dispatch) => {
                good.push(dispatch);
                places.push(index);
            }
            Err(reason) => refused.push(refuse(index, reason)),
        }
    }
    // comet hands out nothing of a batch that it refuses, so try the pushes one by one.
    match comet.dispatch(&good).await {
        Ok(()) => {}
        Err(DispatchError::Invalid(_)) => {
            for (dispatch, index) in good.iter().zip(places) {
                match comet.dispatch(std::slice::from_ref(dispatch)).await {
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
    let halley::Dispatch { receivers, op, body, accepted_at_us, origin_key, origin_seq, origin_ver } =
        dispatch;
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
    let (op, origin) = (Op(op), Origin::from_wire(origin_key, origin_seq, origin_ver));
    Ok(Dispatch { receivers, filter: op, payload: payload(op, body), origin, accepted_at_us })
}
