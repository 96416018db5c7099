//! What job can be told, with goim's key names. A key is here when it does something.

use config::{Bounded, BoundedDuration, ByteSize};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Configuration of job: from the broker to the comets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct JobConfig {
    /// Joining of room messages, on the way to comets that are called once per message. Only messages that wait anyway,
    /// because the link is busy, are joined; none waits for another one.
    pub room: RoomConfig,
    /// The way to each comet.
    pub dispatch: DispatchConfig,
}

/// Joining of room messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RoomConfig {
    /// Messages of one room in one call at most; 1 = never join.
    pub batch: Bounded<1, 1000>,
    /// Messages that arrived further apart than this are not joined.
    pub signal: BoundedDuration<1, 60_000>,
}

impl Default for RoomConfig {
    fn default() -> Self {
        RoomConfig { batch: Bounded::of::<20>(), signal: BoundedDuration::millis::<1000>() }
    }
}

/// The way to each comet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct DispatchConfig {
    /// How long a push waits for a comet that does not take it. Then that comet does not get it, which is counted; when no
    /// other comet took it either, it is put aside as a dead letter.
    pub give_up: BoundedDuration<100, 600_000>,
    /// Longest time for one gRPC call to a comet, after which it is made again.
    pub timeout: BoundedDuration<10, 600_000>,
    /// Pushes that wait for one comet, bytes; beyond that they are given up for it at once. One push of any size always
    /// fits into an empty queue.
    pub queue_bytes: ByteSize<{ 64 << 10 }, { 4 << 30 }>,
    /// The same, in pushes.
    pub queue_entries: Bounded<16, 10_000_000>,
}

impl Default for DispatchConfig {
    fn default() -> Self {
        DispatchConfig {
            give_up: BoundedDuration::millis::<10_000>(),
            timeout: BoundedDuration::millis::<3000>(),
            queue_bytes: ByteSize::mib::<16>(),
            queue_entries: Bounded::of::<65_536>(),
        }
    }
}

impl JobConfig {
    /// Keys of goim's job that name its own internals, or that mean nothing where no message waits for another one.
    pub const UNUSED_GOIM_KEYS: &[&str] = &["room.idle", "comet.*"];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commented_default_is_the_default() {
        let text = config::commented_default::<JobConfig>();
        assert_eq!(
            toml::from_str::<JobConfig>(&text).expect("the default file is valid"),
            JobConfig::default()
        );
    }
}
