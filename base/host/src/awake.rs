//! Deadlines of a process that may stand still.
//!
//! A process that was stopped (SIGSTOP, a debugger, a virtual machine that moved) goes on with deadlines that are over, and
//! with answers in its sockets that nobody has read. By the time of day it would take them for missing. What waits here
//! counts only time during which it could have heard the answer.

use std::time::Duration;

use tokio::time::error::Elapsed;

/// A deadline is waited for in so many parts. However long the process stands still, no more than one of them is lost.
const PARTS: u32 = 10;

/// Sleeps for `duration` of the time that the process runs.
pub async fn sleep(duration: Duration) {
    for _ in 0..PARTS {
        tokio::time::sleep(duration / PARTS).await;
    }
}

/// Waits for `done`, no longer than `limit` of the time that the process runs.
///
/// # Errors
/// The time is over.
pub async fn timeout<T>(limit: Duration, done: impl Future<Output = T>) -> Result<T, Elapsed> {
    tokio::pin!(done);
    for _ in 1..PARTS {
        if let Ok(done) = tokio::time::timeout(limit / PARTS, &mut done).await {
            return Ok(done);
        }
    }
    tokio::time::timeout(limit / PARTS, done).await
}

#[cfg(test)]
mod tests {
    use tokio::{sync::oneshot, time::Instant};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_over_in_time_while_the_process_runs() {
        let started = Instant::now();
        assert!(timeout(LIMIT, std::future::pending::<()>()).await.is_err());
        assert_eq!(started.elapsed(), LIMIT);
        sleep(LIMIT).await;
        assert_eq!(started.elapsed(), 2 * LIMIT);
        assert!(timeout(LIMIT, async { tokio::time::sleep(LIMIT / 2).await }).await.is_ok());
    }

    /// The answer is there when the process goes on, and somebody else still has to read it.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_came_while_the_process_stood_still_is_heard() {
        for stood_still in [LIMIT / 2, 4 * LIMIT, 1000 * LIMIT] {
            let (answer, heard) = oneshot::channel();
            let waits = tokio::spawn(timeout(LIMIT, heard));
            tokio::task::yield_now().await;
            tokio::time::advance(stood_still).await;
            tokio::task::yield_now().await;
            assert!(!waits.is_finished(), "{stood_still:?}");
            answer.send("taken").unwrap();
            assert_eq!(waits.await.unwrap().expect("in time"), Ok("taken"));
        }
    }
}
