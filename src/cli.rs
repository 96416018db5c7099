//! Command line of `halley`.

use std::path::PathBuf;

use clap::Parser;

/// What can be said to `halley`.
#[derive(Debug, Parser)]
#[command(
    name = "halley",
    version = cluster::build::LONG_VERSION,
    about = "A push gateway: goim's protocol and APIs in one process, on io_uring.",
    after_help = "Examples:
  halley                                        serve on 127.0.0.1 with defaults
  halley --print-default-config > halley.toml   a commented file to start from
  halley --config halley.toml --check-config    is the file right?
  halley --set comet.tcp.bind=127.0.0.1:13101 --set log.level=debug

Then, from another terminal:
  curl -d hello 'http://127.0.0.1:3111/goim/push/room?operation=1000&type=live&room=1000'
  loadgen 9999 100 127.0.0.1:3101"
)]
pub(crate) struct Cli {
    /// TOML file; what it does not say stays at its default
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one key, over the file; may be repeated. A list may be one string with commas
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Print every key with its default and what it means, and exit
    #[arg(long)]
    pub(crate) print_default_config: bool,
    /// Say whether the configuration is right, and exit
    #[arg(long)]
    pub(crate) check_config: bool,
}
