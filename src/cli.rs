//! Command line of `halley`.

use std::path::PathBuf;

use clap::Parser;
use host::process::ConfigArgs;

/// What can be said to `halley`.
#[derive(Debug, Parser)]
#[command(
    name = "halley",
    version = host::build::LONG_VERSION,
    about = "A push gateway: goim's protocol and APIs in one process, on io_uring.",
    max_term_width = 80,
    after_help = "Examples:
  Serve on 127.0.0.1 with defaults
    halley
  A commented file to start from, and whether one is right
    halley --print-default-config >halley.toml
    halley --config halley.toml --check-config
  Single keys
    halley --set comet.tcp.bind=:13101 --set log.level=debug

Then, from another terminal:
    loadgen 9999 100 127.0.0.1:3101
    loadgen push --room live://1000 hello"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print one file made of goim's: its comet's, logic's and job's, or some of these
    #[arg(long, value_name = "FILE", num_args = 1..=3)]
    pub(crate) import: Vec<PathBuf>,
}
