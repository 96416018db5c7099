//! What the tests stand on: the built binary and a raw HTTP client, beside what all tests share ([`testkit`]).

pub(crate) mod frozen;
pub(crate) mod go_comet;
pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod server;
pub(crate) mod tls;

pub(crate) use contract::Transport;
pub(crate) use testkit::{
    client::{Client, End, Next},
    clock::{PATIENCE, Stopwatch, epoch_s, eventually, within},
    login::Login,
    wire::{self, BOTH, Frame, hex, masked},
};

pub(crate) use self::{
    frozen::Frozen,
    http::{Answer, Http, SUCCESS},
    server::{Server, drivers, run},
};
