//! A comet as job and logic see it.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use contract::{CometApi, Dispatch, DispatchError, Payload, Receivers};
use proto::{
    close::CloseReason,
    frame::frames_of_message,
    ids::{Generation, Key, RoomId},
};

use super::{Gate, lock};

/// A comet that keeps what is dispatched to it, and its kicks.
#[derive(Default)]
pub struct FakeComet {
    /// How it answers dispatches.
    pub dispatch: Gate<DispatchError>,
    /// How it answers kicks.
    pub kick: Gate<DispatchError>,
    batches: Mutex<Vec<Vec<Dispatch>>>,
    kicks: Mutex<Vec<Kick>>,
    /// The body that is malformed for it.
    refuses: Mutex<Option<&'static str>>,
}

/// One kick that it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kick {
    /// Whose connection.
    pub key: Key,
    /// Only a connection of a generation below.
    pub below: Option<Generation>,
    /// Why.
    pub reason: CloseReason,
    /// What the client reads.
    pub text: Option<String>,
}

impl FakeComet {
    /// One that answers no dispatch until it is told to.
    pub fn stuck() -> FakeComet {
        let comet = FakeComet::default();
        comet.dispatch.stop();
        comet
    }

    /// Batches with this body are malformed for it.
    pub fn refuse(&self, body: &'static str) {
        *lock(&self.refuses) = Some(body);
    }

    /// What it took, call by call.
    pub fn batches(&self) -> Vec<Vec<Dispatch>> {
        lock(&self.batches).clone()
    }

    /// Number of dispatches in each call.
    pub fn sizes(&self) -> Vec<usize> {
        lock(&self.batches).iter().map(Vec::len).collect()
    }

    /// Number of messages in each dispatch.
    pub fn joined(&self) -> Vec<usize> {
        lock(&self.batches).iter().flatten().map(|dispatch| messages(dispatch).len()).collect()
    }

    /// Receivers and body of every message, whether it came alone or joined.
    pub fn messages(&self) -> Vec<(String, String)> {
        lock(&self.batches).iter().flatten().flat_map(messages).collect()
    }

    /// Body of every message.
    pub fn bodies(&self) -> Vec<String> {
        self.messages().into_iter().map(|(_, body)| body).collect()
    }

    /// The kicks since the last call.
    pub fn kicks(&self) -> Vec<Kick> {
        std::mem::take(&mut *lock(&self.kicks))
    }
}

/// Receivers and body of each message of a dispatch.
///
/// # Panics
/// Its frames are not complete, or no text.
pub fn messages(dispatch: &Dispatch) -> Vec<(String, String)> {
    let to = match &dispatch.receivers {
        Receivers::Keys(keys) => keys.iter().map(Key::as_str).collect::<Vec<_>>().join(","),
        Receivers::Room(room) => room.to_string(),
        Receivers::All { speed } => format!("all at {speed}"),
    };
    let text = |body: &[u8]| String::from_utf8(body.to_vec()).expect("text");
    match &dispatch.payload {
        Payload::Message { body, .. } => vec![(to, text(body))],
        Payload::Frames(frames) => frames_of_message(frames, 1 << 20)
            .map(|frame| {
                let frame = frame.expect("complete frames");
                assert_eq!((frame.header.ver, frame.header.seq), (1, 0));
                (to.clone(), text(frame.body))
            })
            .collect(),
    }
}

#[async_trait]
impl CometApi for FakeComet {
    async fn dispatch(&self, batch: &[Dispatch]) -> Result<(), DispatchError> {
        self.dispatch.pass().await?;
        let refused = *lock(&self.refuses);
        let is_refused =
            |dispatch: &Dispatch| messages(dispatch).iter().any(|(_, body)| Some(&**body) == refused);
        if batch.iter().any(is_refused) {
            return Err(DispatchError::Invalid("as told".into()));
        }
        lock(&self.batches).push(batch.to_vec());
        Ok(())
    }

    async fn kick(
        &self,
        key: Key,
        below: Option<Generation>,
        reason: CloseReason,
        text: Option<Arc<str>>,
    ) -> Result<(), DispatchError> {
        self.kick.pass().await?;
        let text = text.map(|text| text.to_string());
        lock(&self.kicks).push(Kick { key, below, reason, text });
        Ok(())
    }

    async fn rooms(&self) -> Result<Vec<RoomId>, DispatchError> {
        Ok(Vec::new())
    }
}
