//! Reads the owned streams, on a connection of its own.

use std::{sync::Arc, time::Duration};

use host::awake;
use redis::Value;
use store::RedisError;
use tokio::{sync::mpsc, time::timeout};

use super::{entry, member::Membership, share::Batch};
use crate::redis_shared::Trouble;

/// Longest wait of one `XREAD`. After it the reader notices streams that came or went.
const WAIT: Duration = Duration::from_millis(250);

/// Most entries of one stream in one answer.
const COUNT_MAX: usize = 256;

/// Most bytes that one answer should have. Redis counts only entries, so after a larger answer the reader asks for
/// fewer.
const ANSWER_BYTES: usize = 4 << 20;

/// Takes the batches, or why there are none.
pub(super) type Batches = mpsc::Sender<Result<Vec<Batch>, RedisError>>;

/// Reads until the consumer is gone.
pub(super) async fn run(membership: Arc<Membership>, batches: Batches) {
    let mut trouble = Trouble::default();
    let mut count = COUNT_MAX / 8;
    while !batches.is_closed() {
        if let Err(error) = read(&membership, &batches, &mut trouble, &mut count).await {
            membership.member.redis.metrics().failed(&error);
            if let Some(error) = trouble.pause(error).await {
                // If the consumer is gone, the loop ends.
                let _ = batches.send(Err(error)).await;
            }
        }
    }
}

/// Reads as long as its own connection lasts and the shared one, which knows the master, does not change. `count` is
/// how many entries of one stream the next answer may have, and outlives the call.
async fn read(
    membership: &Membership,
    batches: &Batches,
    trouble: &mut Trouble,
    count: &mut usize,
) -> Result<(), RedisError> {
    let Membership { member, share, .. } = membership;
    let mut ready = member.redis.ready();
    let mut connection = member.redis.dedicated().await?;
    ready.mark_unchanged();
    let names: Vec<String> = member.topic.numbers().map(|number| member.topic.stream(number)).collect();
    while !batches.is_closed() {
        let to_read = share.to_read();
        if to_read.is_empty() {
            let _ = timeout(WAIT, share.changed.notified()).await;
            continue;
        }
        // Look the incarnations up after the entries: if they are still the same, so are the streams.
        let mut both = redis::pipe();
        let read = both
            .cmd("XREAD")
            .arg("COUNT")
            .arg(*count)
            .arg("BLOCK")
            .arg(WAIT.as_millis() as u64)
            .arg("STREAMS");
        to_read.iter().for_each(|stream| {
            read.arg(&names[stream.stream as usize]);
        });
        to_read.iter().for_each(|stream| {
            read.arg(stream.after.to_string());
        });
        both.cmd("MGET");
        to_read.iter().for_each(|stream| {
            both.arg(member.topic.incarnation(stream.stream));
        });
        let deadline = WAIT + member.redis.deadline();
        let (entries, incarnations): (Value, Vec<Option<String>>) = tokio::select! {
            answer = awake::timeout(deadline, both.query_async(&mut connection)) => {
                match answer {
                    Ok(answer) => answer.map_err(|error| RedisError::from(error).under_way())?,
                    Err(_) => {
                        // Perhaps the answer was too large for the time.
                        *count = (*count / 2).max(1);
                        let why = format!("no entries and no answer within {deadline:?}");
                        return Err(RedisError::Unknown(why));
                    }
                }
            }
            // Perhaps another Redis is master now.
            _ = ready.changed() => return Ok(()),
        };
        trouble.is_over();
        let Some(streams) = entry::streams(entries) else {
            return Err(RedisError::Other("an answer to XREAD that is none".to_owned()));
        };
        let mut read = Vec::new();
        let (mut bytes, mut is_full, mut is_another) = (0, false, false);
        for (name, entries) in streams {
            bytes += entries.iter().map(|entry| entry.bytes.len()).sum::<usize>();
            is_full |= entries.len() >= *count;
            let found =
                to_read.iter().zip(&incarnations).find(|(stream, _)| names[stream.stream as usize] == name);
            let (Some((stream, incarnation)), Some(last)) = (found, entries.last()) else { continue };
            // A stream that another program made has no incarnation. It gets one before anything is handed out;
            // otherwise everything would come twice.
            if incarnation.as_deref() != Some(&stream.incarnation) {
                is_another = true;
            } else if share.has_read(stream.stream, stream.term, last.id) {
                let (stream, term) = (stream.stream, stream.term);
                read.push(Batch { stream, term, entries: entries.into_iter() });
            }
        }
        *count = next_count(*count, bytes, is_full);
        if !read.is_empty() && batches.send(Ok(read)).await.is_err() {
            break;
        }
        if is_another {
            share.hurry.notify_one();
            let _ = timeout(WAIT, share.changed.notified()).await;
        }
    }
    Ok(())
}

/// How many entries of one stream to ask for next.
fn next_count(count: usize, bytes: usize, is_full: bool) -> usize {
    if bytes > ANSWER_BYTES {
        (count * ANSWER_BYTES / bytes).max(1)
    } else if is_full && bytes < ANSWER_BYTES / 4 {
        (count * 2).min(COUNT_MAX)
    } else {
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_entries_are_read_a_few_at_a_time() {
        assert_eq!(next_count(32, 1000, true), 64);
        assert_eq!(next_count(32, 1000, false), 32);
        assert_eq!(next_count(COUNT_MAX, 1000, true), COUNT_MAX);
        assert_eq!(next_count(32, 2 * ANSWER_BYTES, true), 16);
        assert_eq!(next_count(1, 100 * ANSWER_BYTES, true), 1);
    }
}
