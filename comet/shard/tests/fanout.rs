//! Pushes: who gets them, the bytes, and how many leave in one write.

use std::{rc::Rc, time::Duration};

use contract::{Session, Transport};
use proto::{encoded::Encoded, ids::Key, op::Op};
use seam::Time;
use shard::{
    Batch, FlushState, SlowConsumer,
    mail::{ConnectionId, Push, PushTo, ToShard},
    stats::DropReason,
};
use testkit::{
    wire::{self, BOTH, Got, bodies, frame, hex, pushed, versioned},
    world::{World, room, session, session_in},
};

fn open(world: &mut World, transport: Transport, key: &str, accepts: &[i32]) -> ConnectionId {
    let accepts = accepts.iter().copied().map(Op).collect();
    world.open(transport, Session { accepts, ..session_in(key, "live://1") })
}

fn to_room(world: &World, body: &str) -> ToShard {
    ToShard::Push(Box::new(world.push_of(PushTo::Room(room("live://1")), body)))
}

fn push(world: &mut World, to: PushTo, filter: i32, encoded: Encoded) {
    let push = Push { to, filter: Op(filter), encoded, origin: None, accepted: None, dispatched: world.now };
    world.mail(ToShard::Push(Box::new(push)));
}

#[test]
fn a_push_has_the_bytes_of_the_protocol() {
    let mut world = World::new();
    let tcp = open(&mut world, Transport::Tcp, "tcp", &[]);
    let web = open(&mut world, Transport::WebSocket, "web", &[]);
    push(&mut world, PushTo::Room(room("live://1")), 1000, Encoded::push(Op(1000), br#"{"a":1}"#));
    let bare = hex("00 00 00 17 00 10 00 01 00 00 03 e8 00 00 00 00 7b 22 61 22 3a 31 7d");
    assert_eq!(world.bytes(tcp), bare);
    let around = hex("82 27 | 00 00 00 27 00 10 00 01 00 00 00 09 00 00 00 00");
    assert_eq!(world.bytes(web), [around, bare].concat());
}

#[test]
fn a_batch_stays_one_operation_9_frame_on_websocket_and_is_bare_frames_on_tcp() {
    let mut world = World::new();
    let tcp = open(&mut world, Transport::Tcp, "tcp", &[]);
    let web = open(&mut world, Transport::WebSocket, "web", &[]);
    let frames = [frame(1000, 0, b"one"), frame(1001, 0, b"two"), frame(1002, 0, b"three")].concat();
    let encoded = Encoded::push_frames(&frames).expect("three frames");
    push(&mut world, PushTo::Room(room("live://1")), 9, encoded);
    assert_eq!(world.bytes(tcp), frames);
    let around = hex("82 4b | 00 00 00 4b 00 10 00 01 00 00 00 09 00 00 00 00");
    assert_eq!(world.bytes(web), [around, frames].concat());
    assert_eq!(world.shard.stats().deliveries, 2 + 6, "two logins, three frames each");
}

#[test]
fn keyed_pushes_reach_who_accepts_them() {
    for transport in BOTH {
        let mut world = World::new();
        let some = open(&mut world, transport, "some", &[1000, 0]);
        let other = open(&mut world, transport, "other", &[1001]);
        let none = open(&mut world, transport, "none", &[]);
        let keys = || PushTo::Keys(["some", "other", "none", "absent"].map(Key::new).to_vec());
        for op in [1000, 1001, 0, 7000] {
            push(&mut world, keys(), op, Encoded::push(Op(op), op.to_string().as_bytes()));
        }
        assert_eq!(bodies(&world.got(some)), ["1000", "0"]);
        assert_eq!(bodies(&world.got(other)), ["1001"]);
        assert!(world.bytes(none).is_empty());
        assert_eq!(world.drops(DropReason::Absent), 4);
        assert_eq!(world.shard.stats().pushes, 4);
    }
}

#[test]
fn a_key_given_twice_gets_it_twice() {
    for transport in BOTH {
        let mut world = World::new();
        let id = open(&mut world, transport, "k", &[1000]);
        world.push_keys(&["k", "absent", "k"], "twice");
        let one = pushed(transport, &frame(1000, 0, b"twice"));
        assert_eq!(world.bytes(id), [&one[..], &one].concat());
    }
}

#[test]
fn an_absent_key_drops_all_frames_of_a_batch() {
    let mut world = World::new();
    let encoded = Encoded::push_frames(&frame(1000, 0, b"a").repeat(3)).expect("three frames");
    push(&mut world, PushTo::Keys(vec![Key::new("absent")]), 1000, encoded);
    assert_eq!(world.drops(DropReason::Absent), 3);
}

/// The counter had 16 bits: a batch of more frames was counted as if it had 65,535.
#[test]
fn a_batch_of_very_many_frames_is_counted_in_full() {
    let mut world = World::new();
    let id = open(&mut world, Transport::Tcp, "k", &[]);
    let encoded = Encoded::push_frames(&frame(1000, 0, b"").repeat(70_000)).expect("frames");
    push(&mut world, PushTo::Room(room("live://1")), 1000, encoded);
    assert_eq!(world.bytes(id).len(), 70_000 * 16);
    assert_eq!(world.shard.stats().deliveries, 1 + 70_000);
}

#[test]
fn room_pushes_are_not_filtered() {
    let mut world = World::new();
    let inside = open(&mut world, Transport::Tcp, "inside", &[]);
    let outside = world.open(Transport::Tcp, Session { accepts: vec![Op(1000)], ..session("outside") });
    world.push_room("live://1", "x");
    world.push_room("live://nobody", "y");
    assert_eq!(bodies(&world.got(inside)), ["x"]);
    assert!(world.bytes(outside).is_empty());
    assert!(world.shard.stats().drops.is_empty(), "a room without members here is no loss");
}

#[test]
fn a_push_to_all_reaches_who_accepts_it() {
    let mut world = World::new();
    let ids = [&[1000][..], &[], &[1000, 1001], &[1001]].map(|accepts| {
        let key = format!("{accepts:?}");
        open(&mut world, Transport::Tcp, &key, accepts)
    });
    world.connect(Transport::Tcp);
    world.ask_login(Transport::WebSocket);
    world.push(PushTo::All { speed: 0 }, "all");
    assert_eq!(ids.map(|id| bodies(&world.got(id)).len()), [1, 0, 1, 0]);
}

#[test]
fn a_push_to_all_with_a_speed_is_spread_over_time() {
    let mut world = World::new();
    let ids: Vec<_> = (0..60)
        .map(|n| open(&mut world, BOTH[n % 2], &format!("k{n}"), if n % 3 == 0 { &[] } else { &[1000] }))
        .collect();
    world.push(PushTo::All { speed: 20 }, "slowly");
    let mut per_tick = Vec::new();
    let mut before = 60;
    for _ in 0..30 {
        world.advance(Duration::from_millis(100));
        let now = world.shard.stats().deliveries;
        per_tick.push(now - before);
        before = now;
    }
    assert_eq!(per_tick.iter().sum::<u64>(), 40);
    assert!(per_tick.iter().all(|delivered| *delivered <= 4), "{per_tick:?}");
    assert!(per_tick[0] > 0 && per_tick[17] > 0 && per_tick[22] == 0, "{per_tick:?}");
    let second: Vec<u64> = per_tick.windows(10).map(|ten| ten.iter().sum()).collect();
    assert!(second.iter().all(|delivered| *delivered <= 22), "{second:?}");
    for (n, id) in ids.into_iter().enumerate() {
        assert_eq!(bodies(&world.got(id)).len(), usize::from(n % 3 != 0));
    }
}

#[test]
fn who_comes_while_a_broadcast_is_under_way_gets_it_at_most_once() {
    let mut world = World::new();
    let ids: Vec<_> = (0..10).map(|n| open(&mut world, Transport::Tcp, &format!("k{n}"), &[1000])).collect();
    world.push(PushTo::All { speed: 10 }, "slowly");
    world.advance(Duration::from_millis(300));
    world.leave(ids[0], false);
    world.leave(ids[9], false);
    // One in a slot that was served already, one behind all others.
    let late: Vec<_> =
        (10..13).map(|n| open(&mut world, Transport::Tcp, &format!("k{n}"), &[1000])).collect();
    world.advance(Duration::from_secs(2));
    for id in &ids[1..9] {
        assert_eq!(bodies(&world.got(*id)).len(), 1);
    }
    let late: Vec<usize> = late.iter().map(|id| bodies(&world.got(*id)).len()).collect();
    assert!(late.iter().all(|count| *count <= 1) && late.contains(&1), "{late:?}");
}

#[test]
fn broadcasts_with_a_speed_run_side_by_side_and_the_oldest_gives_way() {
    let mut world = World::new();
    let ids: Vec<_> = (0..3).map(|n| open(&mut world, Transport::Tcp, &format!("k{n}"), &[1000])).collect();
    for n in 0..65 {
        world.push(PushTo::All { speed: 1 }, &n.to_string());
    }
    for id in &ids {
        assert_eq!(bodies(&world.got(*id)), ["0"], "one too many: the first one is finished at once");
    }
    world.advance(Duration::from_secs(4));
    for id in ids {
        let mut got: Vec<u32> =
            bodies(&world.got(id)).iter().map(|body| body.parse().expect("a number")).collect();
        got.sort();
        assert_eq!(got, (1..65).collect::<Vec<_>>());
    }
}

#[test]
fn the_sender_of_a_room_message_gets_one_copy_with_its_own_sequence_number() {
    for transport in BOTH {
        let mut world = World::new();
        let sender = open(&mut world, transport, "sender", &[]);
        let other = open(&mut world, transport, "other", &[]);
        let copy = Encoded::push_frames(&versioned(1, 5, 42, b"hi")).expect("one frame");
        let mut push = world.push_of(PushTo::Room(room("live://1")), "");
        push.encoded = Encoded::push(Op(5), b"hi");
        push.origin = Some((Key::new("sender"), copy));
        world.mail(ToShard::Push(Box::new(push.clone())));
        assert_eq!(world.bytes(sender), pushed(transport, &frame(5, 42, b"hi")));
        assert_eq!(world.bytes(other), pushed(transport, &frame(5, 0, b"hi")));

        // Gone from the room, or on another shard, it gets none.
        world.say(sender, 12, 1, b"");
        world.bytes(sender);
        world.mail(ToShard::Push(Box::new(push.clone())));
        push.origin = push.origin.map(|(_, copy)| (Key::new("elsewhere"), copy));
        world.mail(ToShard::Push(Box::new(push)));
        assert!(world.bytes(sender).is_empty());
        assert_eq!(world.bytes(other), pushed(transport, &frame(5, 0, b"hi")).repeat(2));
    }
}

#[test]
fn what_waits_in_the_mailbox_together_leaves_in_one_write() {
    let mut world = World::new();
    world.over_tls = false; // with TLS each client has bytes of its own
    let tcp = open(&mut world, Transport::Tcp, "tcp", &[]);
    let web = open(&mut world, Transport::WebSocket, "web", &[]);
    let mails = ["one", "two", "three"].map(|body| to_room(&world, body));
    world.mails(mails);
    for (id, transport) in [(tcp, Transport::Tcp), (web, Transport::WebSocket)] {
        let run = world.socket(id).runs.last().expect("a write").clone();
        let wanted: Vec<u8> = ["one", "two", "three"]
            .iter()
            .flat_map(|body| pushed(transport, &frame(1000, 0, body.as_bytes())))
            .collect();
        assert_eq!((run.as_slice(), run.frames), (&wanted[..], 3));
    }
}

#[test]
fn what_comes_while_a_write_is_under_way_leaves_in_one_write_after_it() {
    for transport in BOTH {
        let mut world = World::new();
        world.over_tls = false; // with TLS each client has bytes of its own
        let id = open(&mut world, transport, "k", &[]);
        world.stall(id, true);
        for body in ["a", "b", "c", "d"] {
            world.push_room("live://1", body);
        }
        world.say(id, 2, 8, b"");
        world.take_write(id, true);
        assert_eq!(bodies(&world.got(id)), ["a"]);
        assert!(world.is_writing(id));
        world.take_write(id, true);
        let got = world.got(id);
        assert_eq!(bodies(&got), ["b", "c", "d"]);
        assert_eq!(got[3], Got::Reply { op: 3, seq: 8, body: vec![0, 0, 0, 1] });
        assert!(!world.is_writing(id));
        assert_eq!(world.shard.stats().writes, 3 + u64::from(transport == Transport::WebSocket));
    }
}

#[test]
fn members_share_the_bytes_of_one_frame_and_of_several() {
    let mut world = World::new();
    world.over_tls = false; // with TLS each client has bytes of its own
    let ids: Vec<_> = (0..8).map(|n| open(&mut world, BOTH[n % 2], &format!("k{n}"), &[])).collect();
    world.push_room("live://1", "alone");
    let mails = ["one", "two", "three"].map(|body| to_room(&world, body));
    world.mails(mails);
    let runs = |id: ConnectionId| world.socket(id).runs.iter().rev().take(2).cloned().collect::<Vec<_>>();
    let (tcp, web) = (runs(ids[0]), runs(ids[1]));
    for id in &ids {
        let [several, alone] = &runs(*id)[..] else { panic!("two writes") };
        let first = if several.start == tcp[0].start && alone.start == tcp[1].start { &tcp } else { &web };
        assert!(Rc::ptr_eq(&several.bytes, &first[0].bytes), "joined once per wire");
        assert!(Rc::ptr_eq(&alone.bytes, &tcp[1].bytes), "one allocation for both wires");
    }
    assert_ne!(tcp[0].as_slice(), web[0].as_slice());
    assert_eq!(Rc::strong_count(&web[0].bytes), 4 + 1, "the shard keeps none of it");
}

#[test]
fn a_slow_member_gets_the_same_joined_bytes_as_the_others_later() {
    let mut world = World::new();
    world.over_tls = false; // with TLS each client has bytes of its own
    let ids = ["a", "b"].map(|key| open(&mut world, Transport::Tcp, key, &[]));
    ids.iter().for_each(|id| world.stall(*id, true));
    for body in ["first", "second", "third"] {
        world.push_room("live://1", body);
    }
    for id in ids {
        world.take_write(id, true);
        world.take_write(id, true);
        assert_eq!(bodies(&world.got(id)), ["first", "second", "third"]);
    }
    let last = ids.map(|id| world.socket(id).runs.last().expect("a write").clone());
    assert!(Rc::ptr_eq(&last[0].bytes, &last[1].bytes));
    world.advance(Duration::from_millis(100));
    assert_eq!(Rc::strong_count(&last[0].bytes), 4, "the shard does not keep it, however quiet it is");
}

#[test]
fn a_flush_keeps_to_its_budget_and_goes_on_where_it_stopped() {
    let mut world = World::new();
    world.over_tls = false; // with TLS each client has bytes of its own
    let ids: Vec<_> = (0..25).map(|n| open(&mut world, Transport::Tcp, &format!("k{n}"), &[])).collect();
    world.auto_flush = None;
    world.push_room("live://1", "x");
    let got = |world: &World| ids.iter().filter(|id| world.socket(**id).runs.len() > 1).count();
    assert_eq!((world.flush(10), got(&world)), (FlushState::More, 10));
    // What comes meanwhile joins what has not left, and goes behind it for those who have theirs.
    world.push_room("live://1", "y");
    assert_eq!((world.flush(10), got(&world)), (FlushState::More, 20));
    assert_eq!((world.flush(10), got(&world)), (FlushState::More, 25));
    assert_eq!(world.flush(10), FlushState::Idle);
    assert_eq!(world.flush(10), FlushState::Idle);
    for id in &ids {
        assert_eq!(bodies(&world.got(*id)), ["x", "y"]);
    }
    assert_eq!(world.shard.stats().writes, 25 + 25 + 10);
}

/// A push of 1 MiB to a thousand clients with TLS was sealed in one turn: a gigabyte, for which everybody waited.
#[test]
fn a_flush_seals_only_so_much_at_once() {
    let mut world = World::new();
    world.over_tls = true;
    let ids: Vec<_> = (0..25).map(|n| open(&mut world, Transport::Tcp, &format!("k{n}"), &[])).collect();
    world.auto_flush = None;
    let before: Vec<usize> = ids.iter().map(|id| world.socket(*id).runs.len()).collect();
    let body = "x".repeat(300 << 10);
    world.push_room("live://1", &body);
    let mut turns = 0;
    while world.flush(1000) == FlushState::More {
        turns += 1;
        let got = ids.iter().zip(&before).filter(|(id, before)| world.socket(**id).runs.len() > **before);
        assert_eq!(got.count(), (4 * turns).min(25), "1 MiB, and the run that goes beyond it");
        assert!(world.shard.is_sealing(), "the driver takes no more pushes");
    }
    assert!(!world.shard.is_sealing());
    assert_eq!(turns, 6);
    for id in &ids {
        assert_eq!(bodies(&world.got(*id)), [body.as_str()]);
    }
}

/// Under a load that never let a flush come to its end, the list of connections to flush grew by every one that was
/// flushed.
#[test]
fn a_flush_that_never_ends_holds_no_more_than_one_place_per_connection() {
    let mut world = World::new();
    world.checks = false;
    for n in 0..20 {
        open(&mut world, Transport::Tcp, &format!("k{n}"), &[]);
    }
    world.auto_flush = None;
    for _ in 0..500 {
        world.push_room("live://1", "x");
        assert_eq!(world.flush(10), FlushState::More);
    }
    assert!(world.shard.lazy_lists().to_flush_capacity <= 64);
}

#[test]
fn a_fixed_window_gathers_what_comes_within_it() {
    let mut world = World::with(|config| config.batch = Batch::Fixed(Duration::from_millis(30)));
    let ids = BOTH.map(|transport| open(&mut world, transport, &format!("{transport:?}"), &[]));
    for body in ["a", "b", "c"] {
        world.push_room("live://1", body);
        world.advance(Duration::from_millis(9));
    }
    assert!(ids.iter().all(|id| world.bytes(*id).is_empty()));
    world.advance(Duration::from_millis(3));
    for id in ids {
        assert_eq!(bodies(&world.got(id)), ["a", "b", "c"]);
        assert_eq!(world.socket(id).runs.last().map(|run| run.frames), Some(3));
    }
    world.push_room("live://1", "next");
    world.advance(Duration::from_millis(29));
    assert!(world.bytes(ids[0]).is_empty());
    world.advance(Duration::from_millis(1));
    assert_eq!(bodies(&world.got(ids[0])), ["next"]);
}

#[test]
fn a_fixed_window_holds_for_what_came_while_a_write_was_under_way() {
    let mut world = World::with(|config| config.batch = Batch::Fixed(Duration::from_millis(30)));
    let id = open(&mut world, Transport::Tcp, "k", &[]);
    world.stall(id, true);
    world.push_room("live://1", "a");
    world.advance(Duration::from_millis(30));
    world.push_room("live://1", "b");
    world.take_write(id, true);
    assert!(!world.is_writing(id), "it waits for others");
    world.advance(Duration::from_millis(10));
    world.push_room("live://1", "c");
    world.advance(Duration::from_millis(20));
    assert!(world.is_writing(id));
    world.take_write(id, true);
    assert_eq!(bodies(&world.got(id)), ["a", "b", "c"]);
}

/// A reply that came while a write was under way waited for the window as pushes do: a second, where one is set.
#[test]
fn replies_wait_for_no_window() {
    let mut world = World::with(|config| config.batch = Batch::Fixed(Duration::from_secs(1)));
    let id = open(&mut world, Transport::Tcp, "k", &[]);
    world.say(id, 2, 1, b"");
    assert_eq!(world.got(id).len(), 1);
    world.stall(id, true);
    world.say(id, 2, 2, b"");
    world.push_room("live://1", "waits with it");
    world.say(id, 2, 3, b"");
    world.take_write(id, true);
    assert!(world.is_writing(id));
    world.take_write(id, true);
    assert_eq!(world.got(id).len(), 3);
}

#[test]
fn the_adaptive_window_is_none_while_idle_and_grows_with_the_load() {
    let mut world = World::with(|config| config.batch = Batch::Adaptive(Duration::from_millis(40)));
    let id = open(&mut world, Transport::Tcp, "k", &[]);
    for (load, window) in [(0, 0), (500, 0), (600, 10), (700, 20), (900, 40), (1000, 40), (300, 0)] {
        world.load = load;
        world.advance(Duration::from_millis(100));
        world.push_room("live://1", "x");
        if window > 0 {
            world.advance(Duration::from_millis(window - 1));
            assert!(world.bytes(id).is_empty(), "{load}");
            world.advance(Duration::from_millis(1));
        }
        assert_eq!(bodies(&world.got(id)), ["x"], "{load}");
    }
}

/// A burst that waited in the mailbox together was cut to the bound of a send queue although the client was idle: what
/// it had not been given a chance to take was dropped.
#[test]
fn a_burst_is_not_dropped_for_a_client_that_was_not_behind() {
    for policy in [SlowConsumer::DropOldest, SlowConsumer::Close] {
        let mut world =
            World::with(|config| (config.queue_bytes_max, config.slow_consumer) = (10_000, policy));
        let ids = BOTH.map(|transport| open(&mut world, transport, &format!("{transport:?}"), &[]));
        let mails: Vec<_> = (0..18).map(|n| to_room(&world, &format!("{n:>01000}"))).collect();
        world.mails(mails);
        for id in ids {
            assert_eq!(bodies(&world.got(id)).len(), 18, "{policy:?}");
        }
        let mails = [to_room(&world, "small"), to_room(&world, &"large".repeat(10_000))];
        world.mails(mails);
        for id in ids {
            assert_eq!(bodies(&world.got(id)).len(), 2, "{policy:?}");
        }
        assert!(world.shard.stats().drops.is_empty());
    }
}

#[test]
fn latencies_are_measured_from_dispatch_and_from_the_hand_out() {
    let mut world = World::new();
    let id = open(&mut world, Transport::Tcp, "k", &[]);
    world.stall(id, true);
    let push = to_room(&world, "x");
    world.advance(Duration::from_micros(3));
    world.mail(push);
    world.advance(Duration::from_micros(700));
    world.stall(id, false);
    let stats = world.shard.stats();
    assert_eq!((stats.dispatch_to_shard.counts[2], stats.dispatch_to_shard.sum_micros), (1, 3));
    assert_eq!((stats.shard_to_written.counts[10], stats.shard_to_written.sum_micros), (1, 700));
    assert_eq!(wire::bodies(&world.got(id)), ["x"]);
}

/// Joined, a write counts with the push that waited longest; what has no time of acceptance counts nowhere.
#[test]
fn the_whole_way_is_measured_once_a_write_for_its_oldest_push() {
    let mut world = World::new();
    let id = open(&mut world, Transport::Tcp, "k", &[]);
    let accepted = |world: &World, body, micros| {
        let mut push = world.push_of(PushTo::Room(room("live://1")), body);
        push.accepted = Some(Time::from_micros(world.now.as_micros() - micros));
        ToShard::Push(Box::new(push))
    };
    let mails = vec![to_room(&world, "a"), accepted(&world, "b", 40), accepted(&world, "c", 900)];
    world.mails(mails);
    let mail = to_room(&world, "d");
    world.mail(mail);
    assert_eq!(wire::bodies(&world.got(id)), ["a", "b", "c", "d"]);
    let whole = world.shard.stats().accept_to_written;
    assert_eq!((whole.counts.iter().sum::<u64>(), whole.sum_micros), (1, 900));
}
