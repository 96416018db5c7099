//! Knows whether etcd answers, for all parts of the process that talk to it. There is one log line when etcd goes away
//! and one when it is back, a metric, and a flag for `/readyz`.

use std::{
    collections::BTreeMap,
    mem::{Discriminant, discriminant},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::watch;

use super::{connect::Trouble, metrics::RegistryMetrics};

/// A part of the process that talks to etcd: the watch, or a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Talker(u64);

impl Talker {
    pub(super) const WATCH: Talker = Talker(0);
}

#[derive(Debug)]
pub(super) struct Contact {
    /// The talkers that get no answer, and the kind of their trouble.
    troubles: Mutex<BTreeMap<Talker, Discriminant<Trouble>>>,
    talkers: AtomicU64,
    up: watch::Sender<bool>,
    metrics: RegistryMetrics,
}

impl Contact {
    pub(super) fn new(metrics: RegistryMetrics) -> Self {
        Self {
            troubles: Mutex::default(),
            talkers: AtomicU64::new(0),
            up: watch::Sender::new(false),
            metrics,
        }
    }

    pub(super) fn talker(&self) -> Talker {
        Talker(self.talkers.fetch_add(1, Relaxed) + 1)
    }

    /// True while all talkers get answers; false before the first one.
    pub(super) fn up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// Notes that a request to this member failed.
    pub(super) fn failed(&self, talker: Talker, member: &str, trouble: &Trouble) {
        if !self.note(talker, trouble) {
            return;
        }
        match trouble {
            Trouble::Refused(why) => tracing::warn!(
                "etcd at {member} refuses: {why}. The nodes known so far stay, and it is tried again for ever: \
                 see discovery.username, discovery.password and what this user may do"
            ),
            trouble => tracing::warn!(
                "etcd at {member} is away: {trouble}. The nodes known so far stay, and it is tried again for ever: \
                 see discovery.nodes"
            ),
        }
    }

    /// Notes that a request succeeded.
    pub(super) fn worked(&self, talker: Talker) {
        if self.clear(talker) {
            tracing::info!("etcd answers again");
        }
    }

    /// Whether trouble of this kind is new.
    fn note(&self, talker: Talker, trouble: &Trouble) -> bool {
        let kind = discriminant(trouble);
        self.settle(|troubles| {
            let known = troubles.values().any(|other| *other == kind);
            troubles.insert(talker, kind);
            !known
        })
    }

    /// Whether this was the last trouble.
    fn clear(&self, talker: Talker) -> bool {
        self.settle(|troubles| troubles.remove(&talker).is_some() && troubles.is_empty())
    }

    /// Forgets a talker that has ended.
    pub(super) fn ended(&self, talker: Talker) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if troubles.remove(&talker).is_some() && troubles.is_empty() {
            self.set(true);
        }
    }

    fn settle(&self, change: impl FnOnce(&mut BTreeMap<Talker, Discriminant<Trouble>>) -> bool) -> bool {
        // A panic cannot leave the map half changed.
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let news = change(&mut troubles);
        self.set(troubles.is_empty());
        news
    }

    fn set(&self, up: bool) {
        self.metrics.up.set(i64::from(up));
        self.up.send_if_modified(|known| std::mem::replace(known, up) != up);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> Trouble {
        Trouble::Away("connection refused".to_owned())
    }

    #[test]
    fn it_is_up_when_everybody_gets_answers() {
        let contact = Contact::new(RegistryMetrics::default());
        let up = contact.up();
        let now = || *up.borrow();
        assert!(!now(), "nobody has asked yet");
        contact.worked(Talker::WATCH);
        assert!(now());
        let own = contact.talker();
        assert_ne!(own, Talker::WATCH);
        contact.failed(Talker::WATCH, "a", &away());
        contact.failed(own, "a", &Trouble::Refused("permission denied".to_owned()));
        contact.worked(Talker::WATCH);
        assert!(!now(), "one of two is not enough");
        contact.ended(own);
        assert!(now(), "who does not ask gets no answer and needs none");
        assert_eq!(contact.metrics.up.get(), 1);
    }

    #[test]
    fn one_line_says_that_etcd_is_away_and_one_that_it_is_back() {
        let contact = Contact::new(RegistryMetrics::default());
        let own = contact.talker();
        assert!(!contact.clear(own), "there was no trouble");
        assert!(contact.note(own, &away()));
        for talker in [Talker::WATCH, own, Talker::WATCH] {
            assert!(!contact.note(talker, &away()), "it was said");
        }
        assert!(!contact.clear(own), "the watch has none yet");
        assert!(contact.clear(Talker::WATCH));
        assert!(!contact.clear(Talker::WATCH));
        assert!(contact.note(own, &away()), "it is away again");
    }

    #[test]
    fn a_refusal_has_a_line_of_its_own() {
        let contact = Contact::new(RegistryMetrics::default());
        let refused = Trouble::Refused("authentication failed".to_owned());
        let said = [&away(), &refused, &refused].map(|trouble| contact.note(Talker::WATCH, trouble));
        assert_eq!(said, [true, true, false]);
    }

    #[test]
    fn the_end_of_one_that_worked_says_nothing() {
        let contact = Contact::new(RegistryMetrics::default());
        contact.ended(contact.talker());
        assert!(!*contact.up().borrow());
    }
}
