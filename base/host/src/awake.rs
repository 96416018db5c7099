//! Deadlines of a process that may stand still.
//!
//! A process can be stopped and go on later (SIGSTOP, a debugger, a virtual machine that moved). By then its deadlines
//! are over, while the answers lie unread in its sockets. By the wall clock it would consider these answers missing.
//! The functions here count only time in which the process could have read an answer.

use std::time::Duration;

use tokio::time::error::Elapsed;

/// A wait is divided into so many parts. However long the process stands still, it loses at most one of them.
const PARTS: u32 = 10;

/// Sleeps for `duration`, counting only time in which the process runs.
pub async fn sleep(duration: Duration) {
    for _ in 0..PARTS {
        tokio::time::sleep(duration / PARTS).await;
    }
}

/// Waits for `done`, at most for `limit`, counting only time in which the process runs.
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
