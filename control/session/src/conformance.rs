//! What every session store must do. Each implementation runs [`run`] over itself; a failure is a panic that names the
//! rule.

use std::{sync::Arc, time::Duration};

use contract::SessionRef;
use proto::ids::{Generation, Key, Mid, ServerId};
use tokio::time::sleep;

use super::{Holder, NewSession, Put, Renewal, Sessions, StoredSession};

/// A store to test. It is empty.
pub struct Subject {
    /// The store.
    pub sessions: Arc<dyn Sessions>,
    /// How long its sessions live, at least 2 s. The suite sleeps for several times as long (if the store is on tokio's
    /// clock, pause that clock).
    pub ttl: Duration,
}

/// Runs the whole suite; `fresh` makes a new subject for each rule.
///
/// # Panics
/// When the store breaks a rule.
pub async fn run(fresh: impl AsyncFn() -> Subject) {
    a_login_is_found_by_key_and_by_user(fresh().await).await;
    a_session_is_told_as_it_was_stored(fresh().await).await;
    answers_come_in_the_order_asked(fresh().await).await;
    a_newer_login_replaces_and_learns_of_the_old_one(fresh().await).await;
    an_older_login_that_comes_late_changes_nothing(fresh().await).await;
    two_logins_of_one_generation_get_two(fresh().await).await;
    a_session_from_the_future_keeps_no_login_out(fresh().await).await;
    of_two_renewed_sessions_the_one_from_the_future_is_older(fresh().await).await;
    the_end_of_an_old_login_leaves_the_new_one(fresh().await).await;
    an_end_without_generation_counts_only_from_the_stored_comet(fresh().await).await;
    a_session_ends_once(fresh().await).await;
    a_device_that_changes_its_user_leaves_the_old_one(fresh().await).await;
    an_unrenewed_session_expires_and_a_renewed_one_lives(fresh().await).await;
    a_renewal_puts_back_what_the_store_lost(fresh().await).await;
    a_renewal_of_an_old_login_changes_nothing(fresh().await).await;
    a_renewal_of_a_newer_login_wins(fresh().await).await;
    a_renewal_without_generation_never_takes_over(fresh().await).await;
    renewals_of_a_batch_are_answered_each_for_itself(fresh().await).await;
}

fn new(mid: i64, key: &str, server: &str, generation: i64) -> NewSession {
    let (key, server) = (Key::new(key), ServerId::new(server));
    NewSession { mid: Mid(mid), key, server, generation: Generation(generation) }
}

fn reference(mid: i64, key: &str, server: &str, generation: Option<i64>) -> SessionRef {
    let (key, server) = (Key::new(key), ServerId::new(server));
    SessionRef { mid: Mid(mid), key, server, generation: generation.map(Generation) }
}

fn stored(mid: i64, key: &str, server: &str, generation: Option<i64>) -> StoredSession {
    let SessionRef { mid, key, server, generation } = reference(mid, key, server, generation);
    StoredSession { mid: Some(mid), key, server, generation }
}

fn put(previous: Option<Holder>, generation: i64) -> Put {
    Put::Stored { previous, generation: Generation(generation) }
}

fn holder(server: &str, generation: i64) -> Holder {
    Holder { server: ServerId::new(server), generation: Generation(generation) }
}

impl Subject {
    async fn put(&self, session: NewSession) -> Put {
        self.sessions.put(session).await.expect("the store is there")
    }

    async fn end(&self, session: SessionRef) -> bool {
        self.sessions.end(&session).await.expect("the store is there")
    }

    async fn renew(&self, session: SessionRef) -> bool {
        self.sessions.renew(&[session]).await.expect("the store is there") == [Renewal::Current]
    }

    async fn server(&self, key: &str) -> Option<String> {
        let servers = self.sessions.servers_of_keys(&[Key::new(key)]).await.expect("the store is there");
        servers[0].as_ref().map(ToString::to_string)
    }

    async fn sessions(&self, keys: &[&str]) -> Vec<Option<StoredSession>> {
        let keys: Vec<Key> = keys.iter().map(|key| Key::new(*key)).collect();
        self.sessions.sessions_of_keys(&keys).await.expect("the store is there")
    }

    /// `key@server` of each of a user's devices, sorted.
    async fn devices(&self, mid: i64) -> Vec<String> {
        let found = self.sessions.sessions_of_mids(&[Mid(mid)]).await.expect("the store is there");
        let mut devices: Vec<_> = found[0].iter().map(|s| format!("{}@{}", s.key, s.server)).collect();
        devices.sort();
        devices
    }
}

async fn a_login_is_found_by_key_and_by_user(subject: Subject) {
    assert_eq!(subject.put(new(1, "k1", "a:1", 1)).await, put(None, 1));
    assert_eq!(subject.put(new(1, "k2", "b:1", 2)).await, put(None, 2));
    assert_eq!(subject.put(new(0, "k3", "b:1", 3)).await, put(None, 3));
    assert_eq!(subject.server("k1").await.as_deref(), Some("a:1"));
    assert_eq!(subject.devices(1).await, ["k1@a:1", "k2@b:1"]);
    assert_eq!(subject.devices(0).await, ["k3@b:1"], "user 0 is a user");
    assert_eq!((subject.server("k4").await, subject.devices(2).await), (None, vec![]));
}

async fn a_session_is_told_as_it_was_stored(subject: Subject) {
    subject.put(new(1, "k1", "a:1", 1)).await;
    subject.put(new(2, "k2", "a:1", 2)).await;
    subject.put(new(3, "k2", "b:1", 3)).await;
    subject.renew(reference(4, "k3", "a:1", Some(4))).await;
    subject.renew(reference(0, "k4", "b:1", None)).await;
    let told = [
        stored(1, "k1", "a:1", Some(1)),
        stored(3, "k2", "b:1", Some(3)),
        stored(4, "k3", "a:1", Some(4)),
        stored(0, "k4", "b:1", None),
    ];
    assert_eq!(subject.sessions(&["k1", "k2", "k3", "k4"]).await, told.clone().map(Some));
    let of_mids = subject.sessions.sessions_of_mids(&[1, 2, 3, 4, 0].map(Mid)).await.unwrap();
    let [k1, k2, k3, k4] = told.clone();
    assert_eq!(of_mids, [vec![k1], vec![], vec![k2], vec![k3], vec![k4]]);
    assert!(subject.renew(reference(1, "k1", "a:1", Some(1))).await);
    assert_eq!(subject.sessions(&["k1"]).await, [Some(told[0].clone())], "a renewal is no login");
    assert!(subject.end(reference(3, "k2", "b:1", Some(3))).await);
    assert_eq!(subject.sessions(&["k2", "k0"]).await, [None, None]);
    sleep(subject.ttl + Duration::from_secs(1)).await;
    assert_eq!(subject.sessions(&["k1", "k3", "k4"]).await, [None, None, None], "expired");
}

async fn answers_come_in_the_order_asked(subject: Subject) {
    subject.put(new(1, "k1", "a:1", 1)).await;
    subject.put(new(2, "k2", "b:1", 2)).await;
    let keys = ["k2", "k0", "k1", "k2"].map(Key::new);
    let servers = subject.sessions.servers_of_keys(&keys).await.unwrap();
    let (a, b) = (Some(ServerId::new("a:1")), Some(ServerId::new("b:1")));
    assert_eq!(servers, [b.clone(), None, a, b]);
    let [one, two] = [stored(1, "k1", "a:1", Some(1)), stored(2, "k2", "b:1", Some(2))].map(Some);
    assert_eq!(subject.sessions(&["k2", "k0", "k1", "k2"]).await, [two.clone(), None, one, two]);
    assert!(subject.sessions(&[]).await.is_empty());
    let found = subject.sessions.sessions_of_mids(&[2, 7, 1, 2].map(Mid)).await.unwrap();
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0, 1, 1]);
    assert_eq!(found[0], found[3]);
    assert!(subject.sessions.servers_of_keys(&[]).await.unwrap().is_empty());
    assert!(subject.sessions.sessions_of_mids(&[]).await.unwrap().is_empty());
}

async fn a_newer_login_replaces_and_learns_of_the_old_one(subject: Subject) {
    subject.put(new(1, "k1", "a:1", 1)).await;
    let previous = Some(holder("a:1", 1));
    assert_eq!(subject.put(new(1, "k1", "b:1", 2)).await, put(previous, 2));
    assert_eq!(subject.devices(1).await, ["k1@b:1"]);
}

async fn an_older_login_that_comes_late_changes_nothing(subject: Subject) {
    subject.put(new(1, "k1", "b:1", 2)).await;
    let by = holder("b:1", 2);
    assert_eq!(subject.put(new(1, "k1", "a:1", 1)).await, Put::Superseded { by });
    assert_eq!(subject.server("k1").await.as_deref(), Some("b:1"));
}

/// Two logics may give two logins the same generation. If the store kept both, nothing would tell the logins apart.
async fn two_logins_of_one_generation_get_two(subject: Subject) {
    subject.put(new(1, "k1", "a:1", 9)).await;
    assert_eq!(subject.put(new(1, "k1", "b:1", 9)).await, put(Some(holder("a:1", 9)), 10));
    assert!(!subject.end(reference(1, "k1", "a:1", Some(9))).await);
    assert!(!subject.renew(reference(1, "k1", "a:1", Some(9))).await);
    assert_eq!(subject.put(new(2, "k1", "b:1", 10)).await, put(Some(holder("b:1", 10)), 11), "another user");
    // The same login, asked for twice of two logics, counts as one: its connection has the session either way.
    assert_eq!(subject.put(new(2, "k1", "b:1", 11)).await, put(Some(holder("b:1", 11)), 11));
    assert!(subject.renew(reference(2, "k1", "b:1", Some(11))).await);
}

/// A session began while the clock was ahead, and the clock was set right afterwards. This must not keep the device out
/// until the clock has passed that time again.
async fn a_session_from_the_future_keeps_no_login_out(subject: Subject) {
    const SECOND: i64 = 1_000_000;
    for (n, ahead) in [2, 55, 3600].into_iter().enumerate() {
        let key = format!("k{n}");
        let now = || subject.sessions.now_us() as i64;
        let future = now() + ahead * SECOND;
        let by = holder("a:1", future);
        subject.put(new(1, &key, "a:1", future)).await;
        // A login that waited may be older than the stored one or not.
        let waited = subject.put(new(1, &key, "b:1", now() - 3 * SECOND)).await;
        assert_eq!(waited, Put::Undecided { by: by.clone() });
        assert_eq!(subject.server(&key).await.as_deref(), Some("a:1"));
        // A login that comes now is newer, and stays so whatever the other login does late.
        assert_eq!(subject.put(new(1, &key, "b:1", now())).await, put(Some(by), future + 1));
        assert!(!subject.renew(reference(1, &key, "a:1", Some(future))).await);
        assert!(!subject.end(reference(1, &key, "a:1", Some(future))).await);
        assert!(subject.renew(reference(1, &key, "b:1", Some(future + 1))).await);
        let back = subject.put(new(1, &key, "a:1", now())).await;
        assert_eq!(back, put(Some(holder("b:1", future + 1)), future + 2));
    }
    // If the stored session is ahead by no more than two logics may disagree, nobody knows which is newer, and the
    // client must not hear that it was replaced.
    let now = subject.sessions.now_us() as i64;
    subject.put(new(1, "near", "a:1", now + SECOND * 9 / 10)).await;
    assert!(matches!(subject.put(new(1, "near", "b:1", now)).await, Put::Undecided { .. }));
    // A stored session that is not ahead at all has overtaken the login.
    subject.put(new(1, "past", "a:1", now)).await;
    assert_eq!(subject.put(new(1, "past", "b:1", now - 1)).await, Put::Superseded { by: holder("a:1", now) });
}

/// The store lost two sessions, and their comets put them back. The one that began before the clock was set right is no
/// newer than the one that began after that.
async fn of_two_renewed_sessions_the_one_from_the_future_is_older(subject: Subject) {
    let now = subject.sessions.now_us() as i64;
    let (right, future) = (reference(1, "k", "b:1", Some(now)), now + 3_600_000_000);
    let ahead = reference(1, "k", "a:1", Some(future));
    assert!(subject.renew(right.clone()).await);
    assert!(!subject.renew(ahead.clone()).await);
    assert_eq!(subject.server("k").await.as_deref(), Some("b:1"));
    assert!(subject.end(right.clone()).await);
    assert!(subject.renew(ahead).await, "alone it is put back");
    assert!(subject.renew(right).await);
    assert_eq!(subject.server("k").await.as_deref(), Some("b:1"));
}

async fn the_end_of_an_old_login_leaves_the_new_one(subject: Subject) {
    subject.put(new(1, "k1", "a:1", 1)).await;
    subject.put(new(1, "k1", "a:1", 2)).await;
    assert!(!subject.end(reference(1, "k1", "a:1", Some(1))).await);
    assert_eq!(subject.devices(1).await, ["k1@a:1"]);
    assert!(subject.end(reference(1, "k1", "a:1", Some(2))).await);
    assert_eq!((subject.server("k1").await, subject.devices(1).await), (None, vec![]));
}

async fn an_end_without_generation_counts_only_from_the_stored_comet(subject: Subject) {
    subject.put(new(1, "k1", "b:1", 2)).await;
    assert!(!subject.end(reference(1, "k1", "a:1", None)).await);
    assert_eq!(subject.server("k1").await.as_deref(), Some("b:1"));
    assert!(subject.end(reference(1, "k1", "b:1", None)).await);
    assert_eq!(subject.server("k1").await, None);
}

async fn a_session_ends_once(subject: Subject) {
    subject.put(new(1, "k1", "a:1", 1)).await;
    subject.put(new(1, "k2", "a:1", 2)).await;
    assert!(subject.end(reference(1, "k1", "a:1", Some(1))).await);
    assert!(!subject.end(reference(1, "k1", "a:1", Some(1))).await);
    assert_eq!(subject.devices(1).await, ["k2@a:1"], "the user's other device stays");
}

async fn a_device_that_changes_its_user_leaves_the_old_one(subject: Subject) {
    subject.put(new(1, "k1", "a:1", 1)).await;
    subject.put(new(2, "k1", "a:1", 2)).await;
    assert_eq!(subject.devices(1).await, Vec::<String>::new());
    assert_eq!(subject.devices(2).await, ["k1@a:1"]);
}

async fn an_unrenewed_session_expires_and_a_renewed_one_lives(subject: Subject) {
    subject.put(new(1, "k1", "a:1", 1)).await;
    subject.put(new(1, "k2", "a:1", 2)).await;
    for _ in 0..3 {
        sleep(subject.ttl * 3 / 4).await;
        assert!(subject.renew(reference(1, "k2", "a:1", Some(2))).await);
    }
    assert_eq!(subject.server("k1").await, None);
    assert_eq!(subject.devices(1).await, ["k2@a:1"]);
    assert!(!subject.end(reference(1, "k1", "a:1", Some(1))).await, "what expired cannot end");
    sleep(subject.ttl + Duration::from_secs(1)).await;
    assert_eq!(subject.devices(1).await, Vec::<String>::new());
    assert_eq!(subject.put(new(1, "k2", "b:1", 1)).await, put(None, 1), "what expired is no holder");
}

async fn a_renewal_puts_back_what_the_store_lost(subject: Subject) {
    assert!(subject.renew(reference(1, "k1", "a:1", Some(5))).await);
    assert!(subject.renew(reference(2, "k2", "b:1", None)).await);
    assert_eq!(subject.devices(1).await, ["k1@a:1"]);
    assert_eq!(subject.devices(2).await, ["k2@b:1"]);
    let by = holder("a:1", 5);
    assert_eq!(subject.put(new(1, "k1", "b:1", 4)).await, Put::Superseded { by }, "with its fence");
    assert!(
        matches!(subject.put(new(2, "k2", "a:1", 1)).await, Put::Stored { .. }),
        "with none, any login is newer"
    );
}

async fn a_renewal_of_an_old_login_changes_nothing(subject: Subject) {
    subject.put(new(1, "k1", "b:1", 2)).await;
    assert!(!subject.renew(reference(1, "k1", "a:1", Some(1))).await);
    assert_eq!(subject.server("k1").await.as_deref(), Some("b:1"));
}

async fn a_renewal_of_a_newer_login_wins(subject: Subject) {
    subject.put(new(1, "k1", "a:1", 1)).await;
    assert!(subject.renew(reference(1, "k1", "b:1", Some(2))).await, "the store lost the newer login");
    assert_eq!(subject.server("k1").await.as_deref(), Some("b:1"));
}

async fn a_renewal_without_generation_never_takes_over(subject: Subject) {
    subject.put(new(1, "k1", "b:1", 2)).await;
    assert!(!subject.renew(reference(1, "k1", "a:1", None)).await);
    assert!(subject.renew(reference(1, "k1", "b:1", None)).await);
    assert_eq!(subject.server("k1").await.as_deref(), Some("b:1"));
    assert!(!subject.end(reference(1, "k1", "b:1", Some(1))).await, "the fence is still the login's");
}

async fn renewals_of_a_batch_are_answered_each_for_itself(subject: Subject) {
    subject.put(new(1, "k1", "a:1", 1)).await;
    subject.put(new(2, "k2", "b:1", 5)).await;
    let batch = [
        reference(1, "k1", "a:1", Some(1)),
        reference(2, "k2", "a:1", Some(3)),
        reference(3, "k3", "a:1", Some(4)),
        reference(2, "k2", "a:1", None),
    ];
    let superseded = Renewal::Superseded { by: holder("b:1", 5) };
    let expected = [Renewal::Current, superseded.clone(), Renewal::Current, superseded];
    assert_eq!(subject.sessions.renew(&batch).await.unwrap(), expected);
    assert_eq!(subject.devices(3).await, ["k3@a:1"]);
    assert!(subject.sessions.renew(&[]).await.unwrap().is_empty());
}
