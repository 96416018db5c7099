//! Noise that gets far.

use proptest::{collection::vec, prelude::*, sample::Index};

/// A few bytes of a good stream overwritten: noise that gets far.
pub(crate) fn spoil(mut stream: Vec<u8>, spots: &[(Index, u8)]) -> Vec<u8> {
    for (spot, byte) in spots {
        if !stream.is_empty() {
            let at = spot.index(stream.len());
            stream[at] = *byte;
        }
    }
    stream
}

pub(crate) fn spots() -> impl Strategy<Value = Vec<(Index, u8)>> {
    vec((any::<Index>(), any::<u8>()), 0..4)
}
