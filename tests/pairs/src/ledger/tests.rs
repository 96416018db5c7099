//! Each fault is planted once, and must be found under its name and no other.

use std::sync::Arc;

use super::*;
use crate::clock::{At, secs};

/// A device that is there from second 1 on, in `live://1` too.
fn device(key: &str, mid: i64) -> Connection {
    Connection {
        key: Arc::from(key),
        mid,
        comet: 0,
        dialled: secs(0),
        opened: secs(1),
        until: None,
        end: None,
        stays: vec![Stay { room: Arc::from("live://1"), from: secs(1), until: None }],
        received: Vec::new(),
    }
}

fn accepted(at: At) -> Answer {
    Answer::Accepted { at, offline: Vec::new() }
}

/// A push that was sent in this second and accepted in the next.
fn push(id: u64, target: Target, second: u64) -> Push {
    Push { id, target, sent: secs(second), answer: accepted(secs(second + 1)) }
}

fn to_key(key: &str) -> Target {
    Target::Keys(vec![Arc::from(key)])
}

fn to_room() -> Target {
    Target::Room(Arc::from("live://1"))
}

fn receive(connection: &mut Connection, id: u64, second: u64) {
    connection.received.push(Receipt { id, at: secs(second) });
}

fn story(pushes: Vec<Push>, connections: Vec<Connection>) -> Story {
    Story { pushes, connections, until: secs(100), ..Story::default() }
}

/// Exactly these findings, and what they were found in.
#[track_caller]
fn expect(story: &Story, findings: &[(Verdict, u64)]) {
    let book = judge(story, &Rules::default());
    for verdict in Verdict::ALL {
        let expected = findings.iter().find(|(other, _)| *other == verdict).map_or(0, |(_, count)| *count);
        assert_eq!(book.count(verdict), expected, "{}: {book}\n{book:#?}", verdict.word());
    }
}

#[test]
fn what_arrived_once_and_in_order_is_right() {
    let mut device = device("a", 1);
    for (id, second) in [(1, 3), (2, 5), (3, 7), (4, 9)] {
        receive(&mut device, id, second);
    }
    let pushes = vec![
        push(1, to_key("a"), 2),
        push(2, to_room(), 4),
        push(3, Target::Mids(vec![1]), 6),
        push(4, Target::All, 8),
    ];
    expect(&story(pushes, vec![device]), &[]);
}

#[test]
fn an_accepted_push_that_never_came_is_lost_of_every_kind() {
    for target in [to_key("a"), Target::Mids(vec![1]), to_room(), Target::All] {
        expect(&story(vec![push(1, target, 2)], vec![device("a", 1)]), &[(Verdict::Lost, 1)]);
    }
}

#[test]
fn each_member_of_a_room_counts() {
    let mut lucky = device("a", 1);
    receive(&mut lucky, 1, 3);
    let devices = vec![lucky, device("b", 2), device("c", 3)];
    expect(&story(vec![push(1, to_room(), 2)], devices), &[(Verdict::Lost, 2)]);
}

#[test]
fn refused_and_unknown_pushes_need_not_come() {
    let refused = Push { answer: Answer::Refused, ..push(1, to_key("a"), 2) };
    let unknown = Push { answer: Answer::Unknown, ..push(2, to_key("a"), 2) };
    expect(&story(vec![refused, unknown], vec![device("a", 1)]), &[]);
}

#[test]
fn a_refused_push_that_came_and_an_unknown_one_that_came_twice_are_doubles() {
    let refused = Push { answer: Answer::Refused, ..push(1, to_key("a"), 2) };
    let unknown = Push { answer: Answer::Unknown, ..push(2, to_key("a"), 2) };
    let mut device = device("a", 1);
    [1, 2, 2].iter().for_each(|id| receive(&mut device, *id, 5));
    expect(&story(vec![refused, unknown], vec![device]), &[(Verdict::Doubled, 2)]);
}

#[test]
fn a_push_that_came_twice_on_one_connection_is_a_double_on_two_it_is_not() {
    let mut twice = device("a", 1);
    receive(&mut twice, 1, 3);
    receive(&mut twice, 1, 4);
    expect(&story(vec![push(1, to_key("a"), 2)], vec![twice]), &[(Verdict::Doubled, 1)]);
    let (mut old, mut new) = (device("a", 1), Connection { opened: secs(3), ..device("a", 1) });
    old.until = Some(secs(3));
    receive(&mut old, 1, 3);
    receive(&mut new, 1, 4);
    expect(&story(vec![push(1, to_key("a"), 2)], vec![old, new]), &[]);
}

#[test]
fn later_before_earlier_is_disorder_per_key_and_per_room() {
    for target in [to_key("a"), Target::Mids(vec![1]), to_room()] {
        let mut device = device("a", 1);
        receive(&mut device, 2, 6);
        receive(&mut device, 1, 7);
        let pushes = vec![push(1, target.clone(), 2), push(2, target, 4)];
        expect(&story(pushes, vec![device]), &[(Verdict::Reordered, 1)]);
    }
}

#[test]
fn pushes_under_way_at_once_and_to_different_lanes_have_no_order() {
    let mut device = device("a", 1);
    [4, 2, 1, 3].iter().for_each(|id| receive(&mut device, *id, 9));
    // The first two overlap; the fourth is for another lane; an unknown one may come at any time.
    let pushes = vec![
        push(1, to_key("a"), 2),
        Push { sent: secs(3), ..push(2, to_key("a"), 2) },
        Push { answer: Answer::Unknown, ..push(3, to_room(), 2) },
        push(4, to_room(), 6),
    ];
    expect(&story(pushes, vec![device]), &[]);
}

#[test]
fn a_repetition_is_a_double_and_no_disorder() {
    let mut device = device("a", 1);
    [1, 2, 1, 2].iter().for_each(|id| receive(&mut device, *id, 9));
    let pushes = vec![push(1, to_key("a"), 2), push(2, to_key("a"), 4)];
    expect(&story(pushes, vec![device]), &[(Verdict::Doubled, 2)]);
}

#[test]
fn counters_cover_what_was_lost_and_no_more() {
    let devices = || vec![device("a", 1), device("b", 2), device("c", 3)];
    let pushes = || vec![push(1, to_room(), 2), push(2, to_key("a"), 2), push(3, to_key("b"), 2)];
    // One dispatch is the room's three deliveries, one frame is one of the others.
    let drops = Drops { dispatches: 1, frames: 1 };
    let story = Story { drops, ..story(pushes(), devices()) };
    expect(&story, &[(Verdict::LostButCounted, 4), (Verdict::Lost, 1)]);
}

#[test]
fn an_answer_that_calls_a_connected_device_offline_is_a_counted_loss() {
    let mut one = push(1, to_key("a"), 2);
    one.answer = Answer::Accepted { at: secs(3), offline: vec!["a".to_owned()] };
    let mut other = push(2, Target::Mids(vec![1]), 2);
    other.answer = Answer::Accepted { at: secs(3), offline: vec!["1".to_owned()] };
    expect(&story(vec![one, other], vec![device("a", 1)]), &[(Verdict::LostButCounted, 2)]);
}

#[test]
fn who_was_not_there_yet_or_left_before_it_came_is_owed_nothing() {
    let late = Connection { opened: secs(5), ..device("a", 1) };
    expect(&story(vec![push(1, to_room(), 2)], vec![late]), &[]);
    let gone = Connection { until: Some(secs(3)), ..device("a", 1) };
    expect(&story(vec![push(1, to_room(), 2)], vec![gone]), &[]);
}

#[test]
fn who_leaves_is_owed_what_was_accepted_before_something_that_came() {
    let mut gone = Connection { until: Some(secs(5)), ..device("a", 1) };
    receive(&mut gone, 2, 5);
    let pushes = vec![push(1, to_room(), 2), Push { sent: secs(4), ..push(2, to_room(), 3) }];
    expect(&story(pushes, vec![gone]), &[(Verdict::Lost, 1)]);
}

#[test]
fn where_pushes_take_long_who_leaves_is_owed_less() {
    for (second, lost) in [(3, 1), (6, 0)] {
        let gone = Connection { until: Some(secs(8)), ..device("a", 1) };
        let mut stays = device("b", 2);
        receive(&mut stays, 1, second);
        expect(&story(vec![push(1, to_room(), 2)], vec![gone, stays]), &[(Verdict::Lost, lost)]);
    }
}

#[test]
fn a_room_is_owed_to_who_is_in_it_from_answer_to_request() {
    let stay = |from, until| Stay { room: Arc::from("live://1"), from: secs(from), until };
    let moved = |stays| Connection { stays, ..device("a", 1) };
    for stays in [vec![stay(5, None)], vec![stay(1, Some(secs(4)))], vec![]] {
        expect(&story(vec![push(1, to_room(), 2)], vec![moved(stays)]), &[]);
    }
    let came_back = moved(vec![stay(0, Some(secs(1))), stay(2, Some(secs(60)))]);
    expect(&story(vec![push(1, to_room(), 2)], vec![came_back]), &[(Verdict::Lost, 1)]);
}

#[test]
fn what_was_in_a_killed_comet_is_not_owed_what_came_long_before_is() {
    let ended = Some((secs(50), End::Lost));
    let gone = Connection { until: Some(secs(50)), end: ended, ..device("a", 1) };
    let pushes = vec![push(1, to_key("a"), 2), push(2, to_key("a"), 48)];
    let story = Story { kills: vec![(0, secs(50))], ..story(pushes, vec![gone]) };
    expect(&story, &[(Verdict::Lost, 1)]);
}

#[test]
fn what_a_moving_device_misses_must_be_in_a_counter() {
    let moving = || {
        let end = Some((secs(3), End::Closed(4409)));
        let old = Connection { until: Some(secs(2)), end, ..device("a", 1) };
        vec![old, Connection { opened: secs(4), comet: 1, ..device("a", 1) }]
    };
    let missed = story(vec![push(1, to_key("a"), 2)], moving());
    expect(&missed, &[(Verdict::InNoCounter, 1)]);
    expect(&Story { drops: Drops { frames: 1, dispatches: 0 }, ..missed.clone() }, &[]);
    expect(&Story { drops: Drops { frames: 0, dispatches: 1 }, ..missed }, &[]);
    // A user with one device that got it was reached.
    let mut devices = moving();
    receive(&mut devices[0], 1, 3);
    expect(&story(vec![push(1, Target::Mids(vec![1]), 2)], devices), &[]);
}

#[test]
fn what_was_on_a_connection_that_its_client_broke_off_cannot_be_reckoned() {
    let ended = |end| Connection { until: Some(secs(3)), end: Some((secs(3), end)), ..device("a", 1) };
    let pushed = |end, second| story(vec![push(1, to_key("a"), second)], vec![ended(end)]);
    expect(&pushed(End::BrokenOff, 2), &[]);
    // Who fell silent is taken for alive for some time, who broke off is not.
    expect(&pushed(End::Silent, 12), &[]);
    expect(&pushed(End::BrokenOff, 12), &[(Verdict::InNoCounter, 1)]);
}

#[test]
fn a_probe_reaches_everybody_it_is_for_exactly_once() {
    let probes = [push(1, to_key("a"), 2), push(2, to_room(), 2), push(3, Target::Mids(vec![2]), 2)];
    let (mut a, mut b) = (device("a", 1), device("b", 2));
    [1, 2].iter().for_each(|id| receive(&mut a, *id, 3));
    [2, 3].iter().for_each(|id| receive(&mut b, *id, 3));
    assert_eq!(expect_reached(&probes, &[a.clone(), b.clone()]).count(Verdict::Unreachable), 0);
    b.received.clear();
    receive(&mut a, 1, 4);
    let book = expect_reached(&probes, &[a, b]);
    assert_eq!(book.count(Verdict::Unreachable), 3, "{book:#?}");
}

#[test]
fn every_figure_of_the_online_api_counts() {
    let truth = Online {
        total: 2,
        rooms: [("live://1".to_owned(), 2)].into(),
        keys: [("a".to_owned(), Some("c:1".to_owned())), ("b".to_owned(), None)].into(),
    };
    assert_eq!(expect_online("logic 0", &truth, &truth).count(Verdict::CountedWrong), 0);
    let mut said = truth.clone();
    said.total = 3;
    said.rooms.clear();
    said.keys = [("b".to_owned(), Some("c:2".to_owned()))].into();
    let book = expect_online("logic 0", &truth, &said);
    assert_eq!(book.count(Verdict::CountedWrong), 4, "{book:#?}");
}

#[test]
fn a_push_that_arrived_and_is_counted_as_dropped_is_counted_wrong() {
    let mut device = device("a", 1);
    receive(&mut device, 1, 3);
    let unknown = Push { answer: Answer::Unknown, ..push(2, to_key("a"), 2) };
    let drops = Drops { frames: 0, dispatches: 3 };
    let story = Story { drops, ..story(vec![push(1, to_key("a"), 2), unknown], vec![device]) };
    expect(&story, &[(Verdict::CountedWrong, 2)]);
}

#[test]
fn what_comes_again_long_after_its_story_is_a_double() {
    let mut device = device("a", 1);
    [3, 7].iter().for_each(|id| receive(&mut device, *id, 5));
    expect(&story(vec![push(7, to_key("a"), 2)], vec![device]), &[(Verdict::Doubled, 1)]);
}

#[test]
fn a_book_says_what_is_beyond_what_is_allowed() {
    let mut book = Book::default();
    assert_eq!(book.beyond(&Allowed::nothing()), None);
    book.note(Verdict::Doubled, || "push 1".to_owned());
    book.note_many(Verdict::LostButCounted, 3, || "push 2".to_owned());
    let allowed = Allowed::nothing().and(Verdict::Doubled, 1);
    let beyond = book.beyond(&allowed).expect("three are lost");
    assert!(beyond.starts_with("lost, counted: 3 (0 allowed)\n") && !beyond.contains("doubled"), "{beyond}");
    let enough = Allowed::nothing().and(Verdict::LostButCounted, 3).or(&allowed);
    assert_eq!(book.beyond(&enough), None);
    assert_eq!(book.to_string(), "3 lost, counted, 1 doubled");
}
