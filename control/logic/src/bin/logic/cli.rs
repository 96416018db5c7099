//! Command line of `logic`.

use clap::Parser;
use host::process::{ConfigArgs, EntryArgs, PlaceArgs};

/// What can be said to `logic`.
#[derive(Debug, Parser)]
#[command(
    name = "logic",
    version = host::build::LONG_VERSION,
    about = "Halley's control plane: logins, sessions, the push API of a cluster. A goim logic can stand in its place.",
    max_term_width = 80,
    after_help = "Flags may have one dash or two, with = or a space before the value.

Examples:
  As goim's is started
    logic -conf=logic.toml -region=sh -zone=sh001 -host=10.0.0.8
  A commented file to start from, and whether one is right
    logic --print-default-config >logic.toml
    logic -conf logic.toml --check-config
  Single keys
    logic --set redis.addr=10.0.0.1:6379 --set redis.auth=env:SECRET"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) entry: EntryArgs,
}
