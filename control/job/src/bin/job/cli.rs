//! Command line of `job`.

use clap::Parser;
use host::process::{ConfigArgs, PlaceArgs};

/// What can be said to `job`.
#[derive(Debug, Parser)]
#[command(
    name = "job",
    version = host::build::LONG_VERSION,
    about = "Halley's carrier: from the broker to the gateways of a cluster. A goim job can stand in its place.",
    max_term_width = 80,
    after_help = "Flags may have one dash or two, with = or a space before the value.

Examples:
  As goim's is started
    job -conf=job.toml -region=sh -zone=sh001 -deploy.env=prod
  A commented file to start from, and whether one is right
    job --print-default-config >job.toml
    job -conf job.toml --check-config
  Single keys
    job --set consume.kafkaEnable=true --set kafka.brokers=10.0.0.1:9092"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}
