//! Waking one task of a thread from another task of it.

use std::{
    cell::Cell,
    future::poll_fn,
    task::{Poll, Waker},
};

/// Wakes one task of the same thread; a signal set while nobody waits is kept.
#[derive(Default)]
pub(super) struct Signal {
    set: Cell<bool>,
    waiting: Cell<Option<Waker>>,
}

impl Signal {
    pub(super) fn set(&self) {
        self.set.set(true);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    pub(super) async fn wait(&self) {
        poll_fn(|context| {
            if self.set.take() {
                return Poll::Ready(());
            }
            self.waiting.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await
    }
}
