//! Makes envelopes of a push and hands them to the broker.

use std::collections::{HashMap, HashSet};

use broker::{Broker, PublishError};
use bytes::Bytes;
use grpc::envelope::{Envelope, Target};
use proto::{
    ids::{Key, Mid, RoomId, ServerId},
    op::Op,
};
use seam::wall_micros;
use tokio::time::Instant;

use super::Logic;
use crate::metrics::PushKind;

/// One push of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Whom it is for.
    pub target: PushTarget,
    /// Its operation, not one of the protocol's own.
    pub op: Op,
    /// The message.
    pub body: Bytes,
}

/// To whom a push goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushTarget {
    /// Devices. A key given twice gets the push twice.
    Keys(Vec<Key>),
    /// All devices of each user. A user given twice gets the push twice.
    Mids(Vec<Mid>),
    /// The members of each room.
    Rooms(Vec<RoomId>),
    /// Everybody who accepts the operation.
    All {
        /// Receivers a second over all comets; 0 = at once.
        speed: u32,
    },
}

impl PushTarget {
    const fn kind(&self) -> PushKind {
        match self {
            PushTarget::Keys(_) => PushKind::Keys,
            PushTarget::Mids(_) => PushKind::Mids,
            PushTarget::Rooms(_) => PushKind::Room,
            PushTarget::All { .. } => PushKind::All,
        }
    }
}

/// Whom an accepted push did not find online; each once, in the order asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offline {
    /// Keys without a session.
    pub keys: Vec<Key>,
    /// Users without a session.
    pub mids: Vec<Mid>,
}

/// Why a push was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushFailure {
    /// Broker or sessions are away or full. The caller may try again later.
    #[error("{0}")]
    Unavailable(String),
    /// The broker did not say whether it took the push, so it may be delivered. A caller that tries again may deliver
    /// it twice.
    #[error("{0}")]
    Unknown(String),
    /// The push is larger than the broker can ever hold. Trying again is of no use.
    #[error("{0}")]
    TooLarge(String),
}

impl From<PublishError> for PushFailure {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Full(_) | PublishError::Unavailable(_) => {
                PushFailure::Unavailable(error.to_string())
            }
            PublishError::Unknown(_) => PushFailure::Unknown(error.to_string()),
            PublishError::TooLarge { .. } => PushFailure::TooLarge(error.to_string()),
        }
    }
}

impl Logic {
    /// Accepts a push. When it returns `Ok`, the broker has all of it.
    ///
    /// # Errors
    /// [`PushFailure`]. Nobody gets the push, except perhaps after [`PushFailure::Unknown`].
    pub async fn push(&self, push: Push) -> Result<Offline, PushFailure> {
        let accepted_at_us = wall_micros();
        let Push { target, op, body } = push;
        let kind = target.kind();
        let (targets, offline) = self.resolve(target).await?;
        let envelopes = targets.into_iter().map(|target| {
            let body = body.clone();
            Envelope { target, op, body, accepted_at_us, origin: None }
        });
        self.publish(envelopes.collect(), accepted_at_us).await?;
        self.metrics.pushes.of(kind).inc();
        self.metrics.push_offline.inc_by((offline.keys.len() + offline.mids.len()) as u64);
        Ok(offline)
    }

    /// Hands envelopes to the broker, which takes all or none.
    pub(super) async fn publish(
        &self,
        envelopes: Vec<Envelope>,
        accepted_at_us: u64,
    ) -> Result<(), PublishError> {
        if envelopes.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        self.broker.publish(envelopes).await?;
        self.metrics.publish.observe(started.elapsed());
        self.metrics.accept_to_broker.observe_since(accepted_at_us, wall_micros());
        Ok(())
    }

    async fn resolve(&self, target: PushTarget) -> Result<(Vec<Target>, Offline), PushFailure> {
        match target {
            PushTarget::Rooms(rooms) => {
                Ok((rooms.into_iter().map(Target::Room).collect(), Offline::default()))
            }
            PushTarget::All { speed } => Ok((vec![Target::All { speed }], Offline::default())),
            PushTarget::Keys(keys) => {
                let servers = self.sessions.servers_of_keys(&keys).await?;
                let (online, offline) = split(keys.into_iter().zip(servers));
                Ok((group(&*self.broker, online), Offline { keys: offline, ..Offline::default() }))
            }
            PushTarget::Mids(mids) => {
                let sessions = self.sessions.sessions_of_mids(&mids).await?;
                let sessions = sessions.into_iter().map(|sessions| Some(sessions).filter(|s| !s.is_empty()));
                let (online, offline) = split(mids.into_iter().zip(sessions));
                let sessions = online.into_iter().flat_map(|(_, sessions)| sessions);
                let devices = sessions.map(|session| (session.key, session.server)).collect();
                Ok((group(&*self.broker, devices), Offline { mids: offline, ..Offline::default() }))
            }
        }
    }
}

impl From<session::SessionsUnavailable> for PushFailure {
    fn from(error: session::SessionsUnavailable) -> Self {
        PushFailure::Unavailable(error.to_string())
    }
}

/// Splits what was asked for into those that were found, with what was found, and the others, each once.
pub(super) fn split<T, F>(asked: impl Iterator<Item = (T, Option<F>)>) -> (Vec<(T, F)>, Vec<T>)
where
    T: Clone + Eq + std::hash::Hash,
{
    let (mut online, mut offline, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for (one, found) in asked {
        match found {
            Some(found) => online.push((one, found)),
            None if seen.insert(one.clone()) => offline.push(one),
            None => {}
        }
    }
    (online, offline)
}

/// One target for each comet and partition of the log. The keys keep their order, and repeated keys stay.
fn group(broker: &dyn Broker, devices: Vec<(Key, ServerId)>) -> Vec<Target> {
    let mut groups: Vec<(ServerId, Vec<Key>)> = Vec::new();
    let mut places: HashMap<(ServerId, u32), usize> = HashMap::new();
    for (key, server) in devices {
        let place = *places.entry((server.clone(), broker.partition(&key))).or_insert_with(|| {
            groups.push((server, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(key);
    }
    groups.into_iter().map(|(server, keys)| Target::Keys { server, keys }).collect()
}
