//! What becomes of the connection that a key had on another comet.

use super::*;
use crate::metrics::ReplacedKick;

const TOKEN: &str = r#"{"mid":1,"key":"k1"}"#;

impl Setup {
    fn replaced(&self) -> [u64; 3] {
        [ReplacedKick::Taken, ReplacedKick::Failed, ReplacedKick::Unsupported]
            .map(|result| self.deps.metrics.replaced.of(result).get())
    }
}

#[tokio::test(start_paused = true)]
async fn the_comet_that_had_the_key_is_told_to_close_what_is_older() {
    let setup = Setup::new(&[]).await;
    setup.logic.connect(login("a:1", TOKEN)).await.unwrap();
    // On its own comet the new connection does that itself.
    setup.logic.connect(login("a:1", TOKEN)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((setup.comet.kicks(), setup.replaced()), (vec![], [0, 0, 0]));

    let newest = setup.logic.connect(login("b:1", TOKEN)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let kick =
        Kick { key: Key::new("k1"), below: newest.generation, reason: CloseReason::Replaced, text: None };
    assert_eq!((setup.comet.kicks(), setup.replaced()), (vec![kick], [1, 0, 0]));
}

#[tokio::test(start_paused = true)]
async fn a_comet_that_is_away_holds_no_login_up_and_is_asked_again_for_a_while() {
    for state in [CometState::Unreachable, CometState::Stuck] {
        let setup = Setup::new(&[]).await;
        setup.comet.set(state);
        setup.logic.connect(login("a:1", TOKEN)).await.unwrap();
        let began = Instant::now();
        setup.logic.connect(login("b:1", TOKEN)).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(setup.replaced(), [0, 1, 0]);
    }
    let setup = Setup::new(&[]).await;
    setup.comet.set(CometState::Unreachable);
    setup.logic.connect(login("a:1", TOKEN)).await.unwrap();
    setup.logic.connect(login("b:1", TOKEN)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    setup.comet.set(CometState::Well);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((setup.comet.kicks().len(), setup.replaced()), (1, [1, 0, 0]));
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_kicked_is_counted() {
    let setup = Setup::new(&[]).await;
    setup.comet.set(CometState::Goims);
    setup.logic.connect(login("a:1", TOKEN)).await.unwrap();
    setup.logic.connect(login("b:1", TOKEN)).await.unwrap();
    // There is no way to that one.
    setup.logic.connect(login("away:1", TOKEN)).await.unwrap();
    setup.logic.connect(login("b:1", TOKEN)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(setup.replaced(), [0, 1, 2]);
}

/// However many devices move at once, what is under way is bounded, and the rest is left to the renewals.
#[tokio::test(start_paused = true)]
async fn kicks_under_way_are_bounded() {
    let setup = Setup::new(&[]).await;
    setup.comet.set(CometState::Stuck);
    for n in 0..3000 {
        // Logins are dated by the microsecond.
        tokio::time::advance(Duration::from_micros(2)).await;
        let token = format!(r#"{{"mid":1,"key":"k{n}"}}"#);
        setup.logic.connect(login("a:1", &token)).await.unwrap();
        setup.logic.connect(login("b:1", &token)).await.unwrap();
    }
    assert_eq!(setup.replaced(), [0, 3000 - 1024, 0]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(setup.replaced(), [0, 3000, 0]);
}
