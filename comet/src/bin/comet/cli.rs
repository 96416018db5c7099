//! Command line of `comet`.

use clap::Parser;
use cluster::process::{ConfigArgs, EntryArgs, PlaceArgs};

/// What can be said to `comet`.
#[derive(Debug, Parser)]
#[command(
    name = "comet",
    version = cluster::build::LONG_VERSION,
    about = "Halley's gateway: it holds the client connections of a cluster. A goim comet can stand in its place.",
    after_help = "Flags may have one dash or two, with = or a space before the value, as Go reads them.

Examples:
  comet -conf=comet.toml -region=sh -zone=sh001 -deploy.env=prod -host=10.0.0.7 -addrs=203.0.113.7
  comet --print-default-config > comet.toml   a commented file to start from
  comet -conf comet.toml --check-config       is the file right?
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
