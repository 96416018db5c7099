//! Command line of `comet`.

use clap::Parser;
use host::process::{ConfigArgs, EntryArgs, PlaceArgs};

/// What can be said to `comet`.
#[derive(Debug, Parser)]
#[command(
    name = "comet",
    version = host::build::LONG_VERSION,
    about = "Halley's gateway: it holds the client connections of a cluster. A goim comet can stand in its place.",
    max_term_width = 80,
    after_help = "Flags may have one dash or two, with = or a space before the value.

Examples:
  As goim's is started
    comet -conf=comet.toml -region=sh -zone=sh001 -host=10.0.0.7
  A commented file to start from, and whether one is right
    comet --print-default-config >comet.toml
    comet -conf comet.toml --check-config
  Single keys
    comet --set discovery.nodes=127.0.0.1:2379 --set log.level=debug"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) entry: EntryArgs,
}
