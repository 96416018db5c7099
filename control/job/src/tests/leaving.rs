//! Comets that leave: those that drain, those that lose their place in the registry, and those that are dead.

use registry::NodeState;

use super::{
    stream::{Ours, Served, StreamSetup},
    *,
};

fn offline() -> NodeState {
    NodeState { offline: true, ..NodeState::default() }
}

/// A comet over its stream, which has spoken on it.
async fn streaming(ours: &Ours, sets: &[&str]) -> (Served, String, StreamSetup) {
    let served = Served::start(ours.routes());
    let setup = StreamSetup::start_with(sets, &[served.address]).await;
    setup.publish([to_room("live://1", "first")]).await;
    until("the stream stands", || ours.bodies().concat() == ["first"]).await;
    let server = served.address.to_string();
    (served, server, setup)
}

/// It left the registry before its clients, and half of what was pushed to them was put aside or vanished.
#[tokio::test]
async fn a_comet_that_drains_gets_everything_until_it_has_left_and_what_waits_then() {
    let ours = Ours::new(0, 1 << 20);
    let (_served, server, mut setup) = streaming(&ours, &[]).await;
    setup.registrations[0].update(offline());
    setup.publish([to_keys(&server, &["k"], "key"), to_room("live://1", "room")]).await;
    settle().await;
    setup.registrations.remove(0).deregister().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(ours.0.ended.load(Relaxed), 0, "it has not taken what waited");
    ours.0.permits.add_permits(100);
    until("the stream is over", || ours.0.ended.load(Relaxed) == 1).await;
    assert_eq!(ours.bodies(), [["first", "key", "room"]]);
    assert_eq!(setup.broker.depth(), 0);
    assert_eq!(setup.drops(DropReason::CometUnreachable) + setup.drops(DropReason::NoComet), 0);

    setup.publish([to_keys(&server, &["k"], "late")]).await;
    until("put aside", || setup.drops(DropReason::NoComet) == 1).await;
    assert_eq!(setup.broker.dead_letters().len(), 1);
}

#[tokio::test]
async fn an_idle_stream_ends_when_its_comet_leaves() {
    let ours = Ours::default();
    let (_served, _, mut setup) = streaming(&ours, &[]).await;
    until("acknowledged", || setup.broker.depth() == 0).await;
    setup.registrations[0].update(offline());
    settle().await;
    assert_eq!(ours.0.ended.load(Relaxed), 0, "it is still listed");
    setup.registrations.remove(0).deregister().await;
    until("the stream is over", || ours.0.ended.load(Relaxed) == 1).await;
}

/// Its lease ended, or somebody deleted its key: what was pushed to a room until it was listed again did not reach its
/// clients, and stood in no counter.
#[tokio::test]
async fn a_comet_that_lost_its_place_gets_pushes_as_long_as_its_stream_stands() {
    let ours = Ours::default();
    let (served, server, mut setup) = streaming(&ours, &[]).await;
    setup.registrations.remove(0).deregister().await;
    settle().await;
    setup.publish([to_room("live://1", "room"), to_keys(&server, &["k"], "key")]).await;
    until("all there", || ours.bodies() == [["first", "room", "key"]]).await;
    until("acknowledged", || setup.broker.depth() == 0).await;
    assert_eq!(setup.drops(DropReason::CometUnreachable) + setup.drops(DropReason::NoComet), 0);

    served.stop();
    for _ in 0..1000 {
        setup.publish([to_keys(&server, &["k"], "nobody is there")]).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        if setup.drops(DropReason::NoComet) > 0 {
            return;
        }
    }
    panic!("a comet without a place and without a stream still gets pushes");
}

#[tokio::test]
async fn what_waits_for_a_comet_whose_process_ended_is_counted_whatever_it_is() {
    let ours = Ours::new(0, 1 << 20);
    let (served, server, mut setup) = streaming(&ours, &["dispatch.giveUp=1s"]).await;
    setup.registrations[0].update(offline());
    setup
        .publish([
            to_keys(&server, &["k"], "key"),
            to_room("live://1", "room"),
            envelope(Target::All { speed: 0 }, "all"),
        ])
        .await;
    settle().await;
    served.stop();
    setup.registrations.remove(0).deregister().await;
    until("given up", || setup.broker.depth() == 0).await;
    assert_eq!(setup.drops(DropReason::CometUnreachable), 4, "the first was not acknowledged either");
    assert_eq!(setup.broker.dead_letters().len(), 4);
}
