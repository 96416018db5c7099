//! The command line.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use proto::{ids::RoomId, op::Op};

use crate::{
    api, fleet,
    fleet::{Fleet, Transport},
    plan::Kind,
    tls::Trust,
    units::{duration, size},
};

const EXAMPLES: &str = "\
Examples:
  A hundred clients in room live://1000, until Ctrl-C
    loadgen 9999 100 127.0.0.1:3101
  With 8 messages a second to their room; status 1 if any is lost
    loadgen 1 500 127.0.0.1:3101 --push http://127.0.0.1:3111 --rate 8
  Idle WebSocket connections held for a minute
    loadgen 1 15000 127.0.0.1:3102 --ws --duration 60s
  The same over TLS, with the certificate of README's example
    loadgen 1 500 127.0.0.1:3103 --ws --tls localhost.crt --tls-name localhost
  Who comes and goes at random, with the online counts checked
    loadgen churn 1 500 127.0.0.1:3101 --push http://127.0.0.1:3111
  What one client receives, and a message for it
    loadgen sub --mid 1 --room live://1000 127.0.0.1:3101
    loadgen push --room live://1000 hello

Exit status: 0 when everybody connected and stayed, and nothing was lost,
duplicated, out of order or damaged; 1 otherwise; 2 for a command line that
cannot be run.";

/// Clients of a goim gateway by the thousand: holds connections, pushes on a fixed schedule, checks that
/// every client receives every message once and in order, and measures how long that takes.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, after_help = EXAMPLES, max_term_width = 80)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) who: Option<Who>,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// How many clients, and of which server.
#[derive(Debug, Args)]
pub(crate) struct Who {
    /// User id of the first client; the others count up from it
    pub(crate) first_mid: i64,
    /// How many clients
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) count: u32,
    /// host:port[,host:port…]: the clients take turns
    pub(crate) addresses: String,
}

/// Beside the load itself.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connects and disconnects clients at random, and checks the online counts
    Churn(ChurnArgs),
    /// Prints what one client receives, one line each
    Sub(SubArgs),
    /// Pushes one message and prints the answer
    Push(PushArgs),
}

/// What `loadgen <first mid> <count> <addresses>` may be told beside.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub(crate) clients: ClientArgs,
    /// New connections a second, at most; unlimited when absent
    #[arg(long, value_name = "N", help_heading = "Connecting")]
    pub(crate) connect_rate: Option<f64>,
    /// Threads that read; the clients are shared out evenly
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256), help_heading = "Connecting")]
    pub(crate) threads: u32,
    /// How long to push, or to hold the connections without --push; until Ctrl-C when absent
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    #[command(flatten)]
    pub(crate) pushing: PushingArgs,
    /// Writes the final table as JSON too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Who the clients are and how they connect.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// Rooms, separated by commas: the clients take turns; empty for none
    #[arg(long, value_name = "ROOM,…", default_value = "live://1000", help_heading = "Clients")]
    pub(crate) room: String,
    /// Operations the clients accept
    #[arg(
        long,
        value_name = "OP,…",
        value_delimiter = ',',
        default_value = "1000,1001,1002",
        help_heading = "Clients"
    )]
    pub(crate) accepts: Vec<i32>,
    /// Device keys are this and the mid
    #[arg(long, value_name = "TEXT", default_value = "web_", help_heading = "Clients")]
    pub(crate) key_prefix: String,
    /// Features of Halley to ask for at login, such as `reasons`
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', help_heading = "Clients")]
    pub(crate) features: Vec<String>,
    /// Speak WebSocket
    #[arg(long, help_heading = "Clients")]
    pub(crate) ws: bool,
    /// Path of the WebSocket upgrade
    #[arg(long, value_name = "PATH", default_value = "/sub", help_heading = "Clients")]
    pub(crate) path: String,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    /// Time between a client's heartbeats; must be well inside the server's deadline
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, help_heading = "Clients")]
    pub(crate) heartbeat: Duration,
    /// Connects and logins under way at once, over all threads
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Connecting")]
    pub(crate) in_flight: u32,
    /// How long one connect and login may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration, help_heading = "Connecting")]
    pub(crate) connect_timeout: Duration,
    /// Source addresses, taking turns. Loopback targets get 127.0.0.2, 127.0.0.3, … when one is too few
    #[arg(long, value_name = "IP,…", value_delimiter = ',', help_heading = "Connecting")]
    pub(crate) source: Vec<IpAddr>,
}

/// TLS of clients.
#[derive(Debug, Args)]
pub(crate) struct TlsArgs {
    /// Speak TLS (3103, 3104), and trust the certificates in this file: an authority's, or the server's own
    #[arg(long, value_name = "FILE", help_heading = "Clients")]
    pub(crate) tls: Option<PathBuf>,
    /// Host that the server's certificate is for, if it is not the one of the address
    #[arg(long, value_name = "NAME", requires = "tls", help_heading = "Clients")]
    pub(crate) tls_name: Option<String>,
}

impl TlsArgs {
    /// What the clients trust; none: they come without TLS.
    pub(crate) fn trust(&self) -> Result<Option<Trust>> {
        self.tls.as_ref().map(|file| Trust::new(file, self.tls_name.as_deref())).transpose()
    }
}

/// The pushes of a load.
#[derive(Debug, Args)]
pub(crate) struct PushingArgs {
    /// Pushes through the HTTP API at this address, such as http://127.0.0.1:3111, once all are connected
    #[arg(long, value_name = "URL", help_heading = "Pushing")]
    pub(crate) push: Option<String>,
    /// Pushes a second in all, on a fixed schedule
    #[arg(long, value_name = "N", default_value_t = 1.0, requires = "push", help_heading = "Pushing")]
    pub(crate) rate: f64,
    /// Whom each push is for; rooms, users and devices take turns
    #[arg(long, value_enum, default_value_t = Kind::Room, requires = "push", help_heading = "Pushing")]
    pub(crate) kind: Kind,
    /// Length of a message in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 60, requires = "push", value_parser = size, help_heading = "Pushing")]
    pub(crate) size: usize,
    /// Operation of the pushes
    #[arg(long, default_value_t = 1000, requires = "push", help_heading = "Pushing")]
    pub(crate) op: i32,
    /// Bearer token of the push API
    #[arg(long, help_heading = "Pushing")]
    pub(crate) token: Option<String>,
    /// HTTP connections that push; as many as the rate asks for when absent
    #[arg(long, value_name = "N", requires = "push", value_parser = clap::value_parser!(u32).range(1..=256), help_heading = "Pushing")]
    pub(crate) pushers: Option<u32>,
    /// Messages of this first part of the run are checked but not timed
    #[arg(long, value_name = "TIME", default_value = "0s", requires = "push", value_parser = duration, help_heading = "Pushing")]
    pub(crate) warmup: Duration,
    /// How long to wait after the last push for what has not arrived
    #[arg(long, value_name = "TIME", default_value = "5s", requires = "push", value_parser = duration, help_heading = "Pushing")]
    pub(crate) drain: Duration,
}

/// `loadgen churn …`.
#[derive(Debug, Args)]
pub(crate) struct ChurnArgs {
    #[command(flatten)]
    pub(crate) who: Who,
    #[command(flatten)]
    pub(crate) clients: ClientArgs,
    /// How often everybody connects, comes and goes at random, and leaves
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Random steps of a round, each a connect or a disconnect; as many as clients when absent
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<u32>,
    /// Compares /goim/online/room and /goim/online/total of this server with what is connected
    #[arg(long, value_name = "URL")]
    pub(crate) push: Option<String>,
    /// Bearer token of the push API
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// How long the counts may take to become exact
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub(crate) settle: Duration,
    /// Repeats the random choices of an earlier run
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

/// `loadgen sub …`.
#[derive(Debug, Args)]
pub(crate) struct SubArgs {
    /// host:port
    pub(crate) address: String,
    /// User id
    #[arg(long)]
    pub(crate) mid: i64,
    /// Room; none when absent
    #[arg(long)]
    pub(crate) room: Option<String>,
    /// Device key; `web_` and the mid when absent
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Operations to accept
    #[arg(long, value_name = "OP,…", value_delimiter = ',', default_value = "1000,1001,1002")]
    pub(crate) accepts: Vec<i32>,
    /// Features of Halley to ask for, such as `reasons`
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) features: Vec<String>,
    /// Speak WebSocket
    #[arg(long)]
    pub(crate) ws: bool,
    /// Path of the WebSocket upgrade
    #[arg(long, value_name = "PATH", default_value = "/sub")]
    pub(crate) path: String,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    /// Time between heartbeats
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) heartbeat: Duration,
    /// Shows the answers to heartbeats too
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

/// `loadgen push …`.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The message
    pub(crate) body: String,
    /// Address of the push API
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3111")]
    pub(crate) push: String,
    /// Bearer token of the push API
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// Whom it is for; understood from --room, --mid and --key when absent
    #[arg(long, value_enum)]
    pub(crate) kind: Option<Kind>,
    /// Room
    #[arg(long)]
    pub(crate) room: Option<String>,
    /// User, may be repeated
    #[arg(long)]
    pub(crate) mid: Vec<i64>,
    /// Device, may be repeated
    #[arg(long)]
    pub(crate) key: Vec<String>,
    /// Operation
    #[arg(long, default_value_t = 1000)]
    pub(crate) op: i32,
}

impl ClientArgs {
    /// The fleet these arguments describe.
    pub(crate) fn fleet(&self, who: &Who) -> Result<Fleet> {
        ensure!(!self.heartbeat.is_zero(), "--heartbeat must be more than 0s");
        let targets = fleet::resolve(&who.addresses)?;
        let sources = fleet::sources(&self.source, &targets, who.count, fleet::local_ports())?;
        let rooms = self.room.split(',').filter(|room| !room.is_empty()).map(room);
        Ok(Fleet {
            first_mid: who.first_mid,
            count: who.count,
            targets,
            sources,
            rooms: rooms.collect::<Result<_>>()?,
            accepts: self.accepts.clone(),
            features: self.features.clone(),
            key_prefix: self.key_prefix.clone(),
            key: None,
            transport: transport(self.ws, &self.path),
            tls: self.tls.trust()?,
            heartbeat: self.heartbeat,
            connect_timeout: self.connect_timeout,
        })
    }
}

impl PushArgs {
    /// Whom the message is for.
    pub(crate) fn target(&self) -> Result<api::Target> {
        let room_given = self.room.is_some();
        let (mids_given, keys_given) = (!self.mid.is_empty(), !self.key.is_empty());
        let kind = match (self.kind, room_given, mids_given, keys_given) {
            (None | Some(Kind::Room), true, false, false) => Kind::Room,
            (None | Some(Kind::Mids), false, true, false) => Kind::Mids,
            (None | Some(Kind::Keys), false, false, true) => Kind::Keys,
            (Some(Kind::All), false, false, false) => Kind::All,
            _ => anyhow::bail!("a push is for exactly one of --room, --mid, --key or --kind all"),
        };
        Ok(match kind {
            Kind::Room => api::Target::Room(room(self.room.as_deref().unwrap_or_default())?),
            Kind::All => api::Target::All,
            Kind::Mids => api::Target::Mids(self.mid.iter().copied().map(proto::ids::Mid).collect()),
            Kind::Keys => {
                let keys = self.key.iter().map(|key| proto::ids::Key::new(key.as_str()));
                api::Target::Keys(keys.collect())
            }
        })
    }

    /// Its operation.
    pub(crate) fn op(&self) -> Op {
        Op(self.op)
    }
}

/// What `--ws` and `--path` say.
pub(crate) fn transport(ws: bool, path: &str) -> Transport {
    match ws {
        true => Transport::WebSocket(path.to_owned()),
        false => Transport::Tcp,
    }
}

/// A room as written on the command line.
pub(crate) fn room(text: &str) -> Result<RoomId> {
    RoomId::parse(text).with_context(|| format!("{text:?} is not a room"))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("loadgen").chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_form_of_goims_client_needs_no_subcommand() {
        let cli = parse("9999 100 127.0.0.1:3101,127.0.0.1:3102 --duration 20s").expect("a load");
        let (who, load) = (cli.who.expect("no subcommand"), cli.load);
        assert_eq!((who.first_mid, who.count), (9999, 100));
        let fleet = load.clients.fleet(&who).expect("a fleet");
        assert_eq!(fleet.targets.len(), 2);
        assert_eq!(fleet.key(1).as_str(), "web_10000");
        assert_eq!(fleet.accepts, [1000, 1001, 1002]);
        assert_eq!(load.duration, Some(Duration::from_secs(20)));
        assert!(cli.command.is_none());
    }

    #[test]
    fn subcommands_stand_beside_it() {
        let cli = parse("sub --mid 1 --room live://1000 127.0.0.1:3101").expect("sub");
        assert!(matches!(cli.command, Some(Command::Sub(_))) && cli.who.is_none());
        let cli = parse("churn 1 10 127.0.0.1:3101 --rounds 2").expect("churn");
        assert!(matches!(cli.command, Some(Command::Churn(ref a)) if a.rounds == 2));
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        for line in [
            "9999 100",
            "9999 0 127.0.0.1:1",
            "9999 100 127.0.0.1:1 --rate 5",
            "9999 100 127.0.0.1:1 --duration 20",
            "9999 100 127.0.0.1:1 --push http://h --size 46",
        ] {
            let error = parse(line).expect_err(line);
            assert_ne!(error.kind(), ErrorKind::DisplayHelp, "{line}");
        }
    }

    #[test]
    fn a_push_is_for_exactly_one_kind() {
        let target = |line: &str| match parse(line).expect("a push").command {
            Some(Command::Push(args)) => args.target(),
            other => panic!("{other:?}"),
        };
        assert!(matches!(target("push --room live://1 hi"), Ok(api::Target::Room(_))));
        assert!(matches!(target("push --kind all hi"), Ok(api::Target::All)));
        assert!(matches!(target("push --mid 1 --mid 2 hi"), Ok(api::Target::Mids(m)) if m.len() == 2));
        assert!(target("push hi").is_err());
        assert!(target("push --kind keys --mid 1 hi").is_err());
        assert!(target("push --key a --mid 1 hi").is_err());
    }
}
