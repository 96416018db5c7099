#![no_main]
//! Sequences of events on one shard, through its public interface only: the rules of the gateway without sockets.
//!
//! The input is a script: each byte names an event and the bytes behind it say which client, which room, how many
//! bytes ([`events`]). The driver around the shard ([`driver`]) keeps the contract of the real ones and checks the
//! shard's side of it at every step; what a client gets must be well formed ([`client`]). In the end everybody leaves,
//! and nothing may be left behind.

mod client;
mod driver;
mod events;

use arbitrary::Unstructured;
use fuzz::bounded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bounded(|| {
    let mut script = Unstructured::new(input);
    let mut world = events::world(&mut script);
    while !script.is_empty() {
        world.step(&mut script);
    }
    world.end();
}));
