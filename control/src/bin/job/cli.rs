//! Command line of `job`.

use clap::Parser;
use cluster::process::{ConfigArgs, PlaceArgs};

/// What can be said to `job`.
#[derive(Debug, Parser)]
#[command(
    name = "job",
    version = cluster::build::LONG_VERSION,
    about = "Halley's carrier: from the broker to the gateways of a cluster. A goim job can stand in its place.",
    after_help = "Flags may have one dash or two, with = or a space before the value, as Go reads them.

Examples:
  job -conf=job.toml -region=sh -zone=sh001 -deploy.env=prod
  job --print-default-config > job.toml   a commented file to start from
  job -conf job.toml --check-config       is the file right?
  job --set consume.kafkaEnable=true --set kafka.brokers=127.0.0.1:9092"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}
