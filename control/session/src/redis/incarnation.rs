//! Notices whether Redis has lost something.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use store::{Redis, RedisError};
use tokio::time::timeout;
use uuid::Uuid;

/// How often it looks.
const LOOK: Duration = Duration::from_secs(1);

/// A number that changes if Redis was wiped or started again, or if a replica took over. It is made of the name that
/// the first logic leaves in a wiped Redis, and of the name that each Redis gives itself when it starts. So all logics
/// compute the same number.
pub(super) struct Incarnation {
    /// 0 until Redis was reached.
    number: AtomicU64,
}

impl Incarnation {
    /// Starts to look. The task ends when nobody needs it.
    pub(super) fn start(redis: Redis, marker: String) -> Arc<Self> {
        let incarnation = Arc::new(Incarnation { number: AtomicU64::new(0) });
        tokio::spawn(Self::follow(Arc::downgrade(&incarnation), redis, marker));
        incarnation
    }

    pub(super) fn get(&self) -> Option<u64> {
        Some(self.number.load(Relaxed)).filter(|number| *number != 0)
    }

    async fn follow(incarnation: Weak<Self>, redis: Redis, marker: String) {
        let mut ready = redis.ready();
        loop {
            let connected = *ready.borrow_and_update();
            let found = if connected { look(&redis, &marker).await } else { Ok(None) };
            let Some(incarnation) = incarnation.upgrade() else { return };
            // While Redis is away, nobody knows whether it lost something. The connection logs that it is away.
            if let Ok(Some(number)) = found {
                incarnation.number.store(number, Relaxed);
            }
            drop(incarnation);
            let _ = timeout(LOOK, ready.changed()).await;
        }
    }
}

/// None if Redis was wiped between the two commands.
async fn look(redis: &Redis, marker: &str) -> Result<Option<u64>, RedisError> {
    let mut look = redis::pipe();
    look.cmd("SET").arg(marker).arg(Uuid::new_v4().to_string()).arg("NX").ignore();
    look.cmd("GET").arg(marker);
    let (name,): (Option<Vec<u8>>,) = redis.pipeline(&look).await?;
    // A user who may not use INFO still notices a wiped Redis, but not that a replica took over.
    let info: Option<String> = redis.if_allowed(redis::cmd("INFO").arg("server")).await?;
    let run_id = info.iter().flat_map(|info| info.lines()).find_map(|line| line.strip_prefix("run_id:"));
    let run_id = run_id.unwrap_or_default();
    Ok(name.map(|name| fnv1a([&name, run_id.as_bytes()].concat()).max(1)))
}

/// 64-bit FNV-1a. Unlike the standard library's hash it is the same in every process.
fn fnv1a(bytes: Vec<u8>) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
