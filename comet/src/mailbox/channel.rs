//! A bounded queue with one producer and one consumer, each of which can wake the other.

use std::{fmt, sync::Arc};

use super::wake_flag::{Wake, WakeFlag, Wish};

/// A queue of `capacity` places; memory for all of them is taken now.
///
/// `consumer` is the flag of whoever will receive, `producer` of whoever will send; one flag may serve many queues.
/// A producer that never waits for space is given `WakeFlag<()>`.
///
/// # Panics
/// When `capacity` is 0.
pub fn channel<T, C: Wake, P: Wake>(
    capacity: usize,
    consumer: Arc<WakeFlag<C>>,
    producer: Arc<WakeFlag<P>>,
) -> (Sender<T, C>, Receiver<T, P>) {
    assert!(capacity > 0, "a queue without places can carry nothing");
    let (pushing, popping) = rtrb::RingBuffer::new(capacity);
    let wish = Arc::new(Wish::default());
    let sender = Sender { queue: pushing, wish: Arc::clone(&wish), consumer: LastWake(consumer) };
    let receiver = Receiver { queue: popping, wish, producer: LastWake(producer) };
    (sender, receiver)
}

/// The producing end.
pub struct Sender<T, C: Wake> {
    queue: rtrb::Producer<T>,
    wish: Arc<Wish>,
    /// After `queue`: fields are dropped in order, and the last wake tells of an end already marked.
    consumer: LastWake<C>,
}

impl<T, C: Wake> Sender<T, C> {
    /// Puts a value into the queue and wakes nobody: [`notify`](Self::notify) follows after the last of a batch.
    ///
    /// # Errors
    /// Gives the value back when the queue is full.
    pub fn push(&mut self, value: T) -> Result<(), T> {
        self.queue.push(value).map_err(|rtrb::PushError::Full(value)| value)
    }

    /// Makes sure that the consumer sees what was pushed, waking it if it sleeps.
    pub fn notify(&self) {
        self.consumer.0.wake();
    }

    /// Free places. Only the consumer changes the figure meanwhile, and only upwards.
    pub fn free(&self) -> usize {
        self.queue.slots()
    }

    /// Values the consumer has not taken.
    pub fn depth(&self) -> usize {
        self.capacity() - self.free()
    }

    /// Places, free or not.
    pub fn capacity(&self) -> usize {
        self.queue.buffer().capacity()
    }

    /// Whether `places` are free or the consumer is gone. If not, the producer is woken once they are; leaving
    /// another wish replaces this one.
    ///
    /// What the producer gives its own flag as `ready` when it waits for space; to keep some in reserve, it asks for more
    /// than the reserve.
    ///
    /// # Panics
    /// When `places` exceeds the capacity: nobody could ever grant that.
    pub fn has_space(&self, places: usize) -> bool {
        assert!(places <= self.capacity(), "a wish for {places} places in a queue of {}", self.capacity());
        self.wish.satisfied(places, || self.free()) || self.is_closed()
    }

    /// Whether the consumer is gone; what is pushed now is dropped with the queue.
    pub fn is_closed(&self) -> bool {
        self.queue.is_abandoned()
    }
}

/// The consuming end.
pub struct Receiver<T, P: Wake> {
    queue: rtrb::Consumer<T>,
    wish: Arc<Wish>,
    /// After `queue`, as in [`Sender`].
    producer: LastWake<P>,
}

impl<T, P: Wake> Receiver<T, P> {
    /// Takes values until the queue is found empty or the caller stops, and tells a waiting producer once, when dropped.
    /// Bound it by `take` where a producer that keeps up could hold the caller for ever.
    pub fn drain(&mut self) -> Drain<'_, T, P> {
        Drain { receiver: self }
    }

    /// Takes one value. Costs a fence more per value than [`drain`](Self::drain).
    pub fn pop(&mut self) -> Option<T> {
        self.drain().next()
    }

    /// Whether there is nothing to take: what the consumer gives its flag, negated, as `ready`. Takes `&mut` so that what
    /// waits can move between threads, as a tokio task must.
    pub fn is_empty(&mut self) -> bool {
        self.queue.is_empty()
    }

    /// Values to take.
    pub fn depth(&self) -> usize {
        self.queue.slots()
    }

    /// Whether the producer is gone. What it had pushed can still be taken.
    pub fn is_closed(&self) -> bool {
        self.queue.is_abandoned()
    }

    fn free(&self) -> usize {
        self.queue.buffer().capacity() - self.depth()
    }
}

/// Takes values out of a queue; see [`Receiver::drain`].
#[must_use = "an iterator takes nothing until it is asked"]
pub struct Drain<'a, T, P: Wake> {
    receiver: &'a mut Receiver<T, P>,
}

impl<T, P: Wake> Iterator for Drain<'_, T, P> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.receiver.queue.pop().ok()
    }
}

impl<T, P: Wake> Drop for Drain<'_, T, P> {
    fn drop(&mut self) {
        let receiver = &self.receiver;
        if receiver.wish.grant(|| receiver.free()) {
            receiver.producer.0.wake();
        }
    }
}

/// Wakes once more when its end of the queue is gone, so that a sleeper learns of it.
struct LastWake<W: Wake>(Arc<WakeFlag<W>>);

impl<W: Wake> Drop for LastWake<W> {
    fn drop(&mut self) {
        self.0.wake();
    }
}

impl<T, C: Wake> fmt::Debug for Sender<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("depth", &self.depth()).field("capacity", &self.capacity()).finish()
    }
}

impl<T, P: Wake> fmt::Debug for Receiver<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("depth", &self.depth()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn wakes(flag: &WakeFlag<Count>) -> u32 {
        flag.waker().0.load(Ordering::Relaxed)
    }

    struct Ends {
        sender: Sender<u32, Count>,
        receiver: Receiver<u32, Count>,
        consumer: Arc<WakeFlag<Count>>,
        producer: Arc<WakeFlag<Count>>,
    }

    fn queue_of(capacity: usize) -> Ends {
        let (consumer, producer) = (Arc::<WakeFlag<Count>>::default(), Arc::<WakeFlag<Count>>::default());
        let (sender, receiver) = channel(capacity, Arc::clone(&consumer), Arc::clone(&producer));
        Ends { sender, receiver, consumer, producer }
    }

    #[test]
    fn values_come_out_in_order_and_a_full_queue_gives_the_value_back() {
        let Ends { mut sender, mut receiver, .. } = queue_of(2);
        assert_eq!((sender.push(1), sender.push(2), sender.push(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!((sender.free(), sender.depth(), receiver.depth()), (0, 2, 2));
        assert_eq!(receiver.drain().collect::<Vec<_>>(), [1, 2]);
        assert!(receiver.is_empty());
        assert_eq!((sender.free(), receiver.pop()), (2, None));
    }

    #[test]
    fn a_consumer_that_is_awake_costs_no_wake_and_a_sleeping_one_a_single_one() {
        let Ends { mut sender, mut receiver, consumer, .. } = queue_of(8);
        for value in 0..3 {
            sender.push(value).unwrap();
            sender.notify();
        }
        assert_eq!(wakes(&consumer), 0);
        assert!(!consumer.try_sleep(|| !receiver.is_empty()), "there is something to take");
        sender.notify();
        assert_eq!(wakes(&consumer), 0, "so it has not slept");

        receiver.drain().for_each(drop);
        assert!(consumer.try_sleep(|| !receiver.is_empty()));
        for value in 0..3 {
            sender.push(value).unwrap();
            sender.notify();
        }
        assert_eq!(wakes(&consumer), 1);
    }

    #[test]
    fn a_wish_for_space_is_granted_once_and_only_when_enough_is_free() {
        let Ends { mut sender, mut receiver, producer, .. } = queue_of(4);
        (0..4).for_each(|value| sender.push(value).unwrap());
        assert!(producer.try_sleep(|| sender.has_space(3)));
        assert_eq!(receiver.drain().take(2).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(wakes(&producer), 0, "two places are not three");
        assert_eq!(receiver.pop(), Some(2));
        assert_eq!(wakes(&producer), 1);
        assert!(sender.has_space(3));
        assert!(producer.try_sleep(|| false));
        assert_eq!(receiver.pop(), Some(3));
        assert_eq!(wakes(&producer), 1, "nobody wishes for anything any more");
    }

    #[test]
    fn the_end_of_one_side_wakes_the_other() {
        let Ends { mut sender, mut receiver, consumer, .. } = queue_of(4);
        sender.push(7).unwrap();
        assert!(consumer.try_sleep(|| receiver.is_closed()));
        drop(sender);
        assert_eq!(wakes(&consumer), 1);
        assert!(receiver.is_closed());
        assert_eq!(receiver.pop(), Some(7), "what was pushed is not lost");

        let Ends { mut sender, receiver, producer, .. } = queue_of(1);
        sender.push(1).unwrap();
        assert!(producer.try_sleep(|| sender.has_space(1)));
        drop(receiver);
        assert_eq!(wakes(&producer), 1);
        assert!(sender.has_space(1), "to see that nobody takes it");
        assert!(sender.is_closed());
    }
}
