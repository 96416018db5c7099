//! Checks who may ask, and how often.

use std::{
    hint::black_box,
    sync::{Mutex, PoisonError},
};

use axum::http::{HeaderMap, header::AUTHORIZATION};
use config::Secret;
use tokio::time::Instant;

use super::answer::ApiError;

/// The tokens of which a request must carry one.
#[derive(Debug)]
pub(super) struct Tokens(Vec<Secret>);

impl Tokens {
    pub(super) fn new(tokens: &[Secret]) -> Self {
        Tokens(tokens.to_vec())
    }

    /// Lets a request pass if it carries one of the tokens, or if there are no tokens.
    ///
    /// The time this takes tells how long the tokens are, and nothing else about them.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let given = headers.get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
        let given = match given.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"Bearer ") => token.trim_ascii(),
            _ => b"",
        };
        // Compare with every token, even after one was right, so that the time does not tell which.
        let right = self.0.iter().filter(|token| equal(token.get().as_bytes(), given)).count();
        if right > 0 { Ok(()) } else { Err(ApiError::Unauthorized) }
    }
}

/// Compares every byte, even after a difference, so that the time does not tell where it is.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let differ = a.iter().zip(b).fold(0, |differ, (a, b)| black_box(differ | (a ^ b)));
    a.len() == b.len() && differ == 0
}

/// Allows at most so many pushes a second. A second's worth of them may come at once.
#[derive(Debug)]
pub(super) struct Rate {
    /// 0 = no limit.
    per_second: u64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    filled: Instant,
}

impl Rate {
    pub(super) fn new(per_second: u64) -> Self {
        let bucket = Bucket { left: per_second as f64, filled: Instant::now() };
        Rate { per_second, bucket: Mutex::new(bucket) }
    }

    /// Takes one push out of the bucket.
    pub(super) fn take(&self) -> Result<(), ApiError> {
        if self.per_second == 0 {
            return Ok(());
        }
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, rate) = (Instant::now(), self.per_second as f64);
        let earned = (now - bucket.filled).as_secs_f64() * rate;
        *bucket = Bucket { left: (bucket.left + earned).min(rate), filled: now };
        if bucket.left < 1.0 {
            return Err(ApiError::TooFast(self.per_second));
        }
        bucket.left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_right_token_passes() {
        let tokens = Tokens::new(&["sesame".into(), "other".into()]);
        for (header, passes) in [
            (Some("Bearer sesame"), true),
            (Some("bearer  other "), true),
            (Some("Bearer sesam"), false),
            (Some("Bearer sesamee"), false),
            (Some("Bearer sesamE"), false),
            (Some("Bearer "), false),
            (Some("Bearer"), false),
            (Some("Basic sesame"), false),
            (Some("sesame"), false),
            (Some(""), false),
            (None, false),
        ] {
            let headers: HeaderMap =
                header.into_iter().map(|value| (AUTHORIZATION, HeaderValue::from_static(value))).collect();
            assert_eq!(tokens.check(&headers).is_ok(), passes, "{header:?}");
        }
        assert!(Tokens::new(&[]).check(&HeaderMap::new()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_over_time_and_allows_one_second_at_once() {
        let rate = Rate::new(10);
        let taken = || (0..100).filter(|_| rate.take().is_ok()).count();
        assert_eq!(taken(), 10);
        tokio::time::advance(Duration::from_millis(350)).await;
        assert_eq!(taken(), 3);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(taken(), 10);
        assert!((0..1000).all(|_| Rate::new(0).take().is_ok()));
    }
}
