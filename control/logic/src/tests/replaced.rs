//! What becomes of the connection that a key had on another comet.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

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
    for trouble in [is_unreachable, is_stuck] {
        let setup = Setup::new(&[]).await;
        trouble(&setup.comet);
        setup.logic.connect(login("a:1", TOKEN)).await.unwrap();
        let began = Instant::now();
        setup.logic.connect(login("b:1", TOKEN)).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(setup.replaced(), [0, 1, 0]);
    }
    let setup = Setup::new(&[]).await;
    is_unreachable(&setup.comet);
    setup.logic.connect(login("a:1", TOKEN)).await.unwrap();
    setup.logic.connect(login("b:1", TOKEN)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    setup.comet.kick.recover();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((setup.comet.kicks().len(), setup.replaced()), (1, [1, 0, 0]));
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_kicked_is_counted() {
    let setup = Setup::new(&[]).await;
    knows_no_kick(&setup.comet);
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
    is_stuck(&setup.comet);
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

/// A store that stores, and may be silent about it.
struct SilentSessions {
    store: MemorySessions,
    mood: AtomicU8,
}

const WELL: u8 = 0;
const SILENT: u8 = 1;
const AWAY: u8 = 2;
const STUCK: u8 = 3;

impl SilentSessions {
    fn mood(&self) -> Result<(), SessionsUnavailable> {
        match self.mood.load(Relaxed) {
            WELL => Ok(()),
            SILENT => Err(SessionsUnavailable::Unknown("as told".into())),
            _ => Err(SessionsUnavailable::Away("as told".into())),
        }
    }
}

#[async_trait]
impl Sessions for SilentSessions {
    fn now_us(&self) -> u64 {
        self.store.now_us()
    }

    fn incarnation(&self) -> Option<u64> {
        self.store.incarnation()
    }

    async fn put(&self, session: NewSession) -> Result<Put, SessionsUnavailable> {
        if self.mood.load(Relaxed) == AWAY {
            return Err(SessionsUnavailable::Away("as told".into()));
        }
        let put = self.store.put(session).await?;
        if self.mood.load(Relaxed) == STUCK {
            std::future::pending::<()>().await;
        }
        self.mood().map(|()| put)
    }

    async fn end(&self, session: &SessionRef) -> Result<bool, SessionsUnavailable> {
        self.store.end(session).await
    }

    async fn renew(&self, sessions: &[SessionRef]) -> Result<Vec<Renewal>, SessionsUnavailable> {
        self.store.renew(sessions).await
    }

    async fn sessions_of_keys(
        &self,
        keys: &[Key],
    ) -> Result<Vec<Option<StoredSession>>, SessionsUnavailable> {
        self.mood()?;
        self.store.sessions_of_keys(keys).await
    }

    async fn servers_of_keys(&self, keys: &[Key]) -> Result<Vec<Option<ServerId>>, SessionsUnavailable> {
        self.store.servers_of_keys(keys).await
    }

    async fn sessions_of_mids(&self, mids: &[Mid]) -> Result<Vec<Vec<StoredSession>>, SessionsUnavailable> {
        self.store.sessions_of_mids(mids).await
    }
}

/// Redis stood still under a login and carried it out later. Who tried again found its own login there, and the connection
/// before both stayed open until its next renewal, minutes later.
#[tokio::test(start_paused = true)]
async fn a_login_of_which_the_store_said_nothing_closes_what_it_replaced_when_the_store_answers() {
    for mood in [SILENT, STUCK] {
        let store = MemorySessions::new(Duration::from_secs(1800), SessionMetrics::default());
        let sessions = Arc::new(SilentSessions { store, mood: AtomicU8::new(WELL) });
        let setup = Setup::with_sessions(&[], Arc::clone(&sessions) as _).await;
        setup.logic.connect(login("a:1", TOKEN)).await.unwrap();

        // What was not done replaced nothing.
        sessions.mood.store(AWAY, Relaxed);
        assert!(setup.logic.connect(login("b:1", TOKEN)).await.is_err());
        sessions.mood.store(mood, Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Comet may not wait that long.
        let asked = tokio::time::timeout(Duration::from_secs(1), setup.logic.connect(login("b:1", TOKEN)));
        assert!(!matches!(asked.await, Ok(Ok(_))));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((setup.comet.kicks(), setup.replaced()), (vec![], [0, 0, 0]));

        sessions.mood.store(WELL, Relaxed);
        let newest = setup.logic.connect(login("b:1", TOKEN)).await.unwrap();
        assert_eq!(setup.comet.kicks(), [], "as far as the store knows it was on b before");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (key, below) = (Key::new("k1"), newest.generation);
        let kick = Kick { key, below, reason: CloseReason::Replaced, text: None };
        assert_eq!((setup.comet.kicks(), setup.replaced()), (vec![kick], [1, 0, 0]), "on a");
    }
}
