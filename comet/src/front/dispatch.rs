//! Takes pushes, encodes each once, and hands one command to each shard concerned.

use std::sync::Arc;

use async_trait::async_trait;
use contract::{CometApi, Dispatch, DispatchError, Payload, Receivers};
use proto::{
    close::CloseReason,
    encoded::Encoded,
    frame::{Header, VER},
    ids::{Generation, Key, RoomId},
    op::Op,
    origin::Origin,
};
use seam::{Time, wall_micros};
use shard::mail::{Push, PushTo, ToShard};

use super::Front;

#[async_trait]
impl CometApi for Front {
    async fn dispatch(&self, batch: &[Dispatch]) -> Result<(), DispatchError> {
        // Encode all before handing out any. After a refusal the caller sends the batch again without what was wrong.
        let encoded: Vec<Encoded> =
            batch.iter().map(|dispatch| self.encode(dispatch)).collect::<Result<_, _>>()?;
        // Batches go out in the order in which they came, even if one has to wait for a full queue.
        let _turn = self.turn.lock().await;
        for (dispatch, encoded) in batch.iter().zip(encoded) {
            self.metrics.dispatched(dispatch);
            self.hand_out(dispatch, encoded).await;
        }
        self.outboxes.notify_all();
        Ok(())
    }

    async fn kick(
        &self,
        key: Key,
        below: Option<Generation>,
        reason: CloseReason,
        text: Option<Arc<str>>,
    ) -> Result<(), DispatchError> {
        if below.is_some() {
            self.lanes.superseded(&key);
        }
        let shard = self.outboxes.owner(&key);
        self.outboxes.send(shard, ToShard::Kick { key, below, reason, text }).await;
        Ok(())
    }

    async fn rooms(&self) -> Result<Vec<RoomId>, DispatchError> {
        Ok(self.counts().rooms())
    }
}

impl Front {
    async fn hand_out(&self, dispatch: &Dispatch, encoded: Encoded) {
        let Dispatch { receivers, filter, payload, origin, accepted_at_us } = dispatch;
        let (filter, accepted) = (*filter, from_wall(*accepted_at_us));
        let origin = origin.as_ref().map(|origin| {
            let copy = sender_copy(payload, origin);
            (origin.key.clone(), copy.unwrap_or_else(|| encoded.clone()))
        });
        let push = |to| Push {
            to,
            filter,
            encoded: encoded.clone(),
            origin: origin.clone(),
            accepted,
            dispatched: Time::now(),
        };
        match receivers {
            Receivers::Keys(keys) => {
                for (shard, keys) in self.by_owner(keys) {
                    self.outboxes.push(shard, ToShard::Push(Box::new(push(PushTo::Keys(keys))))).await;
                }
            }
            Receivers::Room(room) => {
                for shard in 0..self.outboxes.shards() as u16 {
                    let push = push(PushTo::Room(room.clone()));
                    self.outboxes.push(shard, ToShard::Push(Box::new(push))).await;
                }
            }
            Receivers::All { speed } => {
                let shards = self.outboxes.shards() as u32;
                for shard in 0..shards {
                    let push = push(PushTo::All { speed: share(*speed, shards, shard) });
                    self.outboxes.push(shard as u16, ToShard::Push(Box::new(push))).await;
                }
            }
        }
    }

    fn encode(&self, dispatch: &Dispatch) -> Result<Encoded, DispatchError> {
        let Dispatch { payload, origin, .. } = dispatch;
        let bytes = match payload {
            Payload::Message { body, .. } | Payload::Frames(body) => body.len(),
        };
        if bytes > self.push_bytes_max {
            return Err(DispatchError::Invalid(format!(
                "{bytes} bytes, the limit (limits.push) is {}",
                self.push_bytes_max
            )));
        }
        match payload {
            Payload::Message { op, body } => {
                let ver = origin.as_ref().map_or(VER, |origin| origin.ver);
                Ok(Encoded::message(Header { ver, op: *op, seq: 0 }, body))
            }
            Payload::Frames(frames) => Encoded::push_frames(frames)
                .map_err(|violation| DispatchError::Invalid(violation.to_string())),
        }
    }

    /// Splits keys by the shard that owns them. The keys of each shard keep their order.
    fn by_owner(&self, keys: &[Key]) -> Vec<(u16, Vec<Key>)> {
        let mut owners: Vec<(u16, Vec<Key>)> = Vec::new();
        for key in keys {
            let shard = self.outboxes.owner(key);
            match owners.iter_mut().find(|(owner, _)| *owner == shard) {
                Some((_, keys)) => keys.push(key.clone()),
                None => owners.push((shard, vec![key.clone()])),
            }
        }
        owners
    }
}

/// A client's own message as its sender gets it back: with the sequence number of its request.
fn sender_copy(payload: &Payload, origin: &Origin) -> Option<Encoded> {
    let Payload::Message { op, body } = payload else { return None };
    debug_assert_ne!(*op, Op::RAW);
    Some(Encoded::message(Header { ver: origin.ver, op: *op, seq: origin.seq }, body))
}

/// Converts a moment of the wall clock to the shards' own clock, since shards read no wall clock. None if `at_us` is 0.
fn from_wall(at_us: u64) -> Option<Time> {
    let passed = wall_micros().saturating_sub(at_us);
    (at_us > 0).then(|| Time::from_micros(Time::now().as_micros().saturating_sub(passed)))
}

/// A shard's part of a speed: at least 1, since 0 means unlimited.
fn share(speed: u32, shards: u32, shard: u32) -> u32 {
    match speed {
        0 => 0,
        speed => (speed / shards + u32::from(shard < speed % shards)).max(1),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_shares_of_a_speed_add_up_and_none_becomes_unlimited() {
        assert_eq!((0..4).map(|shard| share(10, 4, shard)).sum::<u32>(), 10);
        assert_eq!((0..4).map(|shard| share(1, 4, shard)).collect::<Vec<_>>(), [1, 1, 1, 1]);
        assert_eq!(share(0, 4, 2), 0);
    }

    #[test]
    fn a_moment_of_the_wall_clock_is_found_on_the_shards_clock() {
        let origin = Time::now();
        std::thread::sleep(Duration::from_millis(30));
        let accepted = from_wall(wall_micros() - 20_000).expect("a moment");
        let ago = Time::now().since(accepted);
        assert!(ago >= Duration::from_millis(19) && ago < Duration::from_secs(10), "{ago:?}");
        assert!(accepted > origin);
        assert_eq!(from_wall(0), None, "nobody said it");
        // A clock that is ahead makes nothing younger than now.
        let ahead = from_wall(wall_micros() + 60_000_000).expect("a moment");
        assert!(ahead <= Time::now());
    }
}
