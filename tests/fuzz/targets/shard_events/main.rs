#![no_main]
//! Sequences of events on one shard, through its public interface: the rules of the gateway without sockets.
//!
//! The input is a script: each byte names an event and the bytes behind it say which client, which room, how many
//! bytes ([`events`]). The world around the shard keeps the contract of the real drivers, and checks the shard's side of
//! it and what the shard holds after every event ([`testkit::world`]). In the end everybody leaves, and nothing may be
//! left behind.

mod events;

use arbitrary::Unstructured;
use fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bounded(|| {
    let mut script = Unstructured::new(input);
    let mut play = events::Play::new(&mut script);
    while !script.is_empty() {
        play.step(&mut script);
    }
}));
