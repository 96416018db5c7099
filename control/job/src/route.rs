//! Finds the comets that an envelope concerns, and what job tells each of them.

use contract::{Dispatch, Payload, Receivers};
use grpc::envelope::{Envelope, Target};
use proto::ids::ServerId;

/// The comets that one envelope concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// The one that holds the keys.
    One(ServerId),
    /// All there are.
    Every,
}

/// Whom to tell what, if there are `comets` comets. They share the speed of a push to everybody: each gets an equal
/// part, at least one receiver a second.
pub(super) fn route(envelope: Envelope, comets: usize) -> (To, Dispatch) {
    let (to, receivers) = match envelope.target {
        Target::Keys { server, keys } => (To::One(server), Receivers::Keys(keys)),
        Target::Room(room) => (To::Every, Receivers::Room(room)),
        Target::All { speed: 0 } => (To::Every, Receivers::All { speed: 0 }),
        Target::All { speed } => {
            let share = speed / u32::try_from(comets.max(1)).unwrap_or(u32::MAX);
            (To::Every, Receivers::All { speed: share.max(1) })
        }
    };
    let dispatch = Dispatch {
        receivers,
        filter: envelope.op,
        payload: Payload::Message { op: envelope.op, body: envelope.body },
        origin: envelope.origin,
        accepted_at_us: envelope.accepted_at_us,
    };
    (to, dispatch)
}

/// Bytes that a dispatch holds while it waits.
pub(super) fn size(dispatch: &Dispatch) -> usize {
    let payload = match &dispatch.payload {
        Payload::Message { body, .. } => body.len(),
        Payload::Frames(frames) => frames.len(),
    };
    let receivers = match &dispatch.receivers {
        Receivers::Keys(keys) => keys.iter().map(|key| size_of_val(key) + key.as_str().len()).sum(),
        Receivers::Room(room) => room.as_str().len(),
        Receivers::All { .. } => 0,
    };
    size_of::<Dispatch>() + payload + receivers
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proto::{
        ids::{Key, RoomId},
        op::Op,
        origin::Origin,
    };

    use super::*;

    fn envelope(target: Target) -> Envelope {
        let body = Bytes::from_static(b"hello");
        Envelope { target, op: Op(1000), body, accepted_at_us: 7, origin: None }
    }

    #[test]
    fn keys_go_to_the_comet_that_holds_them() {
        let (server, keys) = (ServerId::new("a:1"), vec![Key::new("k"), Key::new("k")]);
        let (to, dispatch) = route(envelope(Target::Keys { server: server.clone(), keys: keys.clone() }), 3);
        assert_eq!(to, To::One(server));
        let payload = Payload::Message { op: Op(1000), body: Bytes::from_static(b"hello") };
        let receivers = Receivers::Keys(keys);
        assert_eq!(
            dispatch,
            Dispatch { receivers, filter: Op(1000), payload, origin: None, accepted_at_us: 7 }
        );
    }

    #[test]
    fn a_room_message_keeps_its_sender() {
        let room = RoomId::parse("live://1").unwrap();
        let origin = Some(Origin { key: Key::new("k"), seq: 9, ver: 0 });
        let (to, dispatch) = route(Envelope { origin, ..envelope(Target::Room(room.clone())) }, 3);
        assert_eq!(to, To::Every);
        assert_eq!(dispatch.receivers, Receivers::Room(room));
        assert_eq!(dispatch.origin, Some(Origin { key: Key::new("k"), seq: 9, ver: 0 }));
    }

    #[test]
    fn the_speed_of_a_broadcast_is_shared_out() {
        for (speed, comets, each) in [(0, 3, 0), (64, 1, 64), (64, 3, 21), (2, 3, 1), (5, 0, 5)] {
            let (to, dispatch) = route(envelope(Target::All { speed }), comets);
            assert_eq!(to, To::Every);
            assert_eq!(dispatch.receivers, Receivers::All { speed: each }, "{speed} over {comets}");
        }
    }

    #[test]
    fn size_counts_what_is_held() {
        let room = |body: usize| Dispatch {
            receivers: Receivers::Room(RoomId::parse("live://1").unwrap()),
            filter: Op(1),
            payload: Payload::Message { op: Op(1), body: Bytes::from(vec![0; body]) },
            origin: None,
            accepted_at_us: 0,
        };
        assert_eq!(size(&room(1000)) - size(&room(0)), 1000);
        assert!(size(&room(0)) > 8);
    }
}
