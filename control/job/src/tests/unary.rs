//! goim's calls, one push each: what is joined, and what is under way at once.

use proptest::prelude::*;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_busy_unary_link_joins_what_waited_of_a_room() {
    let (comet, setup) = busy_link(UNARY, "live://1", "0").await;
    setup.publish((1..=30).map(|n| to_room("live://1", &n.to_string()))).await;
    settle().await;
    comet.dispatch.resume();
    until("all there", || comet.bodies().len() == 31).await;
    assert_eq!(comet.joined(), [1, 20, 10], "20 at most in one call");
    assert_eq!(comet.bodies(), (0..=30).map(|n: u32| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_arrived_too_far_apart_is_not_joined() {
    let (comet, setup) = busy_link(UNARY, "live://1", "busy").await;
    for body in ["a", "b", "c"] {
        setup.publish([to_room("live://1", body)]).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    comet.dispatch.resume();
    until("all there", || comet.bodies().len() == 4).await;
    assert_eq!(comet.joined(), [1, 2, 1], "b within a second of a, c not");
}

#[tokio::test(start_paused = true)]
async fn what_clients_send_is_never_joined_and_keeps_its_place() {
    let (comet, setup) = busy_link(UNARY, "live://0", "busy").await;
    let room = "live://1";
    setup
        .publish([
            to_room(room, "a"),
            to_room(room, "b"),
            from_client(room, "c"),
            to_room(room, "d"),
            to_room(room, "e"),
        ])
        .await;
    settle().await;
    comet.dispatch.resume();
    until("all there", || comet.bodies().len() == 6).await;
    let calls: Vec<_> = comet
        .batches()
        .iter()
        .flatten()
        .map(|d| (messages(d).len(), d.origin.as_ref().map(|origin| origin.seq)))
        .collect();
    assert_eq!(calls, [(1, None), (2, None), (1, Some(7)), (2, None)]);
    assert_eq!(comet.bodies(), ["busy", "a", "b", "c", "d", "e"]);
}

#[tokio::test(start_paused = true)]
async fn large_messages_are_joined_only_as_far_as_a_client_can_take_them() {
    let (comet, setup) = busy_link(UNARY, "live://0", "busy").await;
    let large = "x".repeat(15_000);
    setup.publish((0..5).map(|_| to_room("live://1", &large))).await;
    settle().await;
    comet.dispatch.resume();
    until("all there", || comet.bodies().len() == 6).await;
    assert_eq!(comet.joined(), [1, 2, 2, 1]);
}

/// goim's job has 32 calls under way to one comet, and keeps no order.
#[tokio::test(start_paused = true)]
async fn unary_calls_to_different_receivers_are_under_way_at_once() {
    let comet = Arc::new(FakeComet::stuck());
    let setup = Setup::start(UNARY, &[("a:1", &comet)]).await;
    settle().await;
    setup
        .publish([
            to_keys("a:1", &["k1", "k2"], "0"),
            to_room("live://1", "1"),
            envelope(Target::All { speed: 0 }, "2"),
            to_keys("a:1", &["k2", "k3"], "behind 0"),
            to_room("live://1", "behind 1"),
            envelope(Target::All { speed: 0 }, "behind 2"),
            to_keys("a:1", &["k3"], "behind the one behind 0"),
            to_room("live://2", "3"),
        ])
        .await;
    settle().await;
    assert_eq!(comet.dispatch.count(), 4, "those behind nobody");
    setup.publish((0..50).map(|n| to_keys("a:1", &[&format!("more-{n}")], "more"))).await;
    settle().await;
    assert_eq!(comet.dispatch.count(), 16, "no more at once");
    comet.dispatch.resume();
    until("all there", || comet.bodies().len() == 58).await;
    let place = |body: &str| comet.bodies().iter().position(|other| other == body).unwrap();
    for n in 0..3 {
        assert!(place(&n.to_string()) < place(&format!("behind {n}")));
    }
    assert!(place("behind 0") < place("behind the one behind 0"));
}

/// One waiting push, for the property below.
fn waiting() -> impl Strategy<Value = (u8, bool, u16)> {
    (0..4u8, prop::bool::weighted(0.2), 0..400u16)
}

proptest! {
    /// However pushes to rooms and keys, with and without origin, wait, and in whatever order comet answers, unary calls lose,
    /// repeat and reorder none of a room or key, and none starts beside another of it.
    #[test]
    fn joining_keeps_every_room_in_order(
        pushes in prop::collection::vec(waiting(), 0..120),
        join_max in 1..25usize,
        answers in prop::collection::vec(0..16usize, 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let tracker = super::tracker::Tracker::default();
            let position = broker::Position {
                source: broker::Source::new("s"), offset: broker::Offset(0),
            };
            let delivery = Delivery { position, bytes: Bytes::new() };
            let mut queue = VecDeque::new();
            let mut clock = super::awake::AwakeClock::new(GIVE_UP);
            for (n, (room, is_from_client, pause_ms)) in pushes.iter().enumerate() {
                tokio::time::advance(Duration::from_millis((*pause_ms).into())).await;
                let body = n.to_string();
                let room_id = format!("live://{room}");
                let envelope = match room {
                    0 => to_keys("a:1", &["k"], &body),
                    _ if *is_from_client => from_client(&room_id, &body),
                    _ => to_room(&room_id, &body),
                };
                let ticket = tracker.start(delivery.clone(), 1);
                queue.push_back(super::link::queue::Item::new(route(envelope, 1).1, ticket, clock.now()));
            }
            let calls = Calls::Unary { join_max, join_within: Duration::from_secs(1) };
            let mut seen: HashMap<String, Vec<usize>> = HashMap::new();
            let (mut busy, mut under_way) = (link::batch::Busy::default(), Vec::new());
            let mut answers = answers.iter().cycle();
            loop {
                let items = match under_way.len() < calls.at_once() {
                    true => calls.take(&mut queue, &mut busy),
                    false => Vec::new(),
                };
                if items.is_empty() {
                    if under_way.is_empty() {
                        break;
                    }
                    let answered: Vec<_> = under_way.swap_remove(answers.next().unwrap() % under_way.len());
                    busy.remove(&answered);
                    continue;
                }
                let dispatches = calls.dispatches(&items);
                prop_assert_eq!(dispatches.len(), 1);
                let joined = messages(&dispatches[0]);
                prop_assert_eq!(joined.len(), items.len());
                prop_assert!(joined.len() <= join_max);
                prop_assert!(joined.len() == 1 || dispatches[0].origin.is_none());
                for (to, body) in joined {
                    seen.entry(to).or_default().push(body.parse().unwrap());
                }
                let to = items[0].dispatch.receivers.clone();
                let is_other = |other: &Vec<link::queue::Item>| other[0].dispatch.receivers != to;
                prop_assert!(under_way.iter().all(is_other), "two calls for {:?}", to);
                under_way.push(items);
            }
            prop_assert!(queue.is_empty());
            prop_assert_eq!(seen.values().map(Vec::len).sum::<usize>(), pushes.len());
            for (to, numbers) in seen {
                prop_assert!(numbers.is_sorted(), "{}: {:?}", to, numbers);
            }
            Ok(())
        })?;
    }
}
