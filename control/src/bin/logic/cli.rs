//! Command line of `logic`.

use clap::Parser;
use cluster::process::{ConfigArgs, EntryArgs, PlaceArgs};

/// What can be said to `logic`.
#[derive(Debug, Parser)]
#[command(
    name = "logic",
    version = cluster::build::LONG_VERSION,
    about = "Halley's control plane: logins, sessions, the push API of a cluster. A goim logic can stand in its place.",
    after_help = "Flags may have one dash or two, with = or a space before the value, as Go reads them.

Examples:
  logic -conf=logic.toml -region=sh -zone=sh001 -deploy.env=prod -host=10.0.0.8
  logic --print-default-config > logic.toml   a commented file to start from
  logic -conf logic.toml --check-config       is the file right?
  logic --set consume.redisEnable=true --set redis.addr=127.0.0.1:6379 --set redis.auth=env:REDIS_PASSWORD"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) entry: EntryArgs,
}
