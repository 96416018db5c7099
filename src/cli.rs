//! Command line of `halley`.

use clap::Parser;
use cluster::process::ConfigArgs;

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
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}
