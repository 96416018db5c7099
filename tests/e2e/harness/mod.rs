//! What the tests stand on: the built binary, a raw client, a raw HTTP client.

pub(crate) mod client;
pub(crate) mod clock;
pub(crate) mod frozen;
pub(crate) mod go_comet;
pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod server;
pub(crate) mod wire;

pub(crate) use self::{
    client::{BOTH, Client, End, Next, Transport},
    clock::{PATIENCE, Stopwatch, epoch_s, eventually, within},
    frozen::Frozen,
    http::{Answer, Http, SUCCESS},
    server::{Server, run},
    wire::{Frame, Login, hex, masked},
};
