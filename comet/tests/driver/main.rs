//! The contract of a driver, checked on each: the same cases run on io_uring and on epoll, and with the feature `glommio`
//! on glommio, against real sockets.
//!
//! io_uring may be refused where this runs (containers block it by default). Then those cases say so and fail, unless
//! `HALLEY_ALLOW_NO_IO_URING=1` is set: a machine without it proves only half of the contract.

#![allow(clippy::disallowed_methods)] // real time passes here

extern crate halley_comet as comet;

mod cases;
#[path = "../client/mod.rs"]
mod client;
mod world;

use comet::config::DriverChoice;

/// Runs each case on each driver, as a test of its own.
macro_rules! conformance {
    ($($case:ident),* $(,)?) => {
        mod io_uring {
            $(#[test] fn $case() { crate::on(comet::config::DriverChoice::IoUring, crate::cases::$case) })*
        }
        mod epoll {
            $(#[test] fn $case() { crate::on(comet::config::DriverChoice::Epoll, crate::cases::$case) })*
        }
        #[cfg(feature = "glommio")]
        mod glommio {
            $(#[test] fn $case() { crate::on(comet::config::DriverChoice::Glommio, crate::cases::$case) })*
        }
    };
}

conformance!(
    a_login_is_answered_and_a_push_arrives,
    order_holds_over_many_pushes_to_a_slow_reader,
    deliveries_do_not_wake_the_front,
    a_burst_for_a_fast_reader_is_not_dropped,
    a_short_write_is_continued,
    a_write_that_waits_for_room_holds_nobody_else_up,
    a_held_client_is_not_read_and_loses_nothing,
    bytes_sent_behind_the_login_survive_the_hand_over,
    logins_at_once_that_swap_shards_are_all_answered,
    a_hang_up_in_the_lobby_is_seen,
    a_hang_up_behind_unread_bytes_is_seen,
    clients_that_leave_while_they_log_in_leave_nothing_behind,
    every_descriptor_is_closed_once,
    a_push_to_a_sleeping_shard_is_seen_at_once,
    one_huge_room_does_not_starve_a_heartbeat,
    a_reset_ends_the_session,
    logic_is_told_the_address_that_a_proxy_tells,
    a_drain_closes_everybody,
);

fn on(driver: DriverChoice, case: fn(world::World)) {
    if driver != DriverChoice::Epoll
        && let Err(refusal) = ring::probe_io_uring(1024, 2)
        && std::env::var_os("HALLEY_ALLOW_NO_IO_URING").is_some()
    {
        println!("skipped on request: {refusal}");
        return;
    }
    case(world::World::start(driver));
}
