//! Command lines: Halley's own options, and goim's flags as Go reads them.

use std::{
    ffi::OsString,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Command};
use config::ConfigError;

use super::{LogConfig, hostname, note};

/// Where a configuration comes from, and the two questions about it.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// TOML file; what it does not say stays at its default
    #[arg(long, visible_alias = "conf", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one key, over the file; may be repeated. A list may be one string with commas
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print every key with its default and what it means, and exit
    #[arg(long)]
    pub print_default_config: bool,
    /// Say whether the configuration is right, and exit
    #[arg(long)]
    pub check_config: bool,
}

/// Where a process of a cluster stands; goim's flags and environment, and glog's flags.
#[derive(Clone, Debug, Default, Args)]
#[command(args_override_self = true)] // as Go reads them, the last one counts
pub struct PlaceArgs {
    /// Region [environment: REGION] [default: sh]
    #[arg(long)]
    region: Option<String>,
    /// Zone of the region [environment: ZONE] [default: sh001]
    #[arg(long)]
    zone: Option<String>,
    /// Environment of the deployment, part of every key in etcd [environment: DEPLOY_ENV] [default: prod]
    #[arg(long = "deploy.env", value_name = "ENV")]
    deploy_env: Option<String>,
    /// Host under which the others reach this process; with the port of rpcServer.addr it is its name in the cluster
    /// [default: the host name, or the address of rpcServer.addr when that is loopback]
    #[arg(long)]
    host: Option<String>,
    /// More log lines, the same as -v=1 [environment: DEBUG]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    debug: Option<bool>,
    /// glog's: from 1 on, log level debug
    #[arg(long, value_name = "LEVEL", default_value_t = 0, hide_default_value = true)]
    v: i32,
    /// glog's: accepted, logs go to standard error always
    #[arg(long = "log_dir", value_name = "DIRECTORY")]
    log_dir: Option<PathBuf>,
    /// glog's: accepted, logs go to standard error always
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    alsologtostderr: Option<bool>,
    /// glog's: accepted, logs go to standard error always
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    logtostderr: Option<bool>,
}

/// How clients and comets find a process; goim's flags and environment.
#[derive(Clone, Debug, Default, Args)]
pub struct EntryArgs {
    /// Addresses or names under which clients reach this process, with commas [environment: ADDRS]
    #[arg(long)]
    addrs: Option<String>,
    /// Share of new clients, relative to the others [environment: WEIGHT] [default: 10]
    #[arg(long, value_parser = clap::value_parser!(u32))]
    weight: Option<u32>,
    /// Send no new clients here [environment: OFFLINE]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    offline: Option<bool>,
}

/// Where a process stands, everything said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `sh`.
    pub region: String,
    /// `sh001`.
    pub zone: String,
    /// `prod`.
    pub env: String,
    host: Option<String>,
}

/// How a process is found, everything said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Addresses for clients; none when nothing was said.
    pub addrs: Vec<String>,
    /// Share of new clients.
    pub weight: u32,
    /// No new clients are wanted.
    pub offline: bool,
}

/// A flag or an environment variable that cannot be read as what it is for. Not retried: the operator changes it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} = {value:?}: must be {allowed}")]
pub struct BadFlag {
    name: &'static str,
    value: String,
    allowed: &'static str,
}

impl From<BadFlag> for ConfigError {
    fn from(BadFlag { name, value, allowed }: BadFlag) -> Self {
        ConfigError::value(name, format_args!("{value:?}"), format!("must be {allowed}"))
    }
}

impl PlaceArgs {
    /// Flags over environment over defaults.
    ///
    /// # Errors
    /// When one cannot be part of a key in etcd.
    pub fn place(&self) -> Result<Place, BadFlag> {
        let said = |flag: &Option<String>, name: &'static str, default: &str| {
            let value = flag.clone().or_else(|| variable(name)).unwrap_or_else(|| default.to_owned());
            part(name, value)
        };
        let host = self.host.clone().filter(|host| !host.is_empty());
        Ok(Place {
            region: said(&self.region, "REGION", "sh")?,
            zone: said(&self.zone, "ZONE", "sh001")?,
            env: said(&self.deploy_env, "DEPLOY_ENV", "prod")?,
            host: host.map(|host| part("host", host)).transpose()?.map(in_brackets),
        })
    }

    /// Does what the flags say about logs, and tells about those that change nothing.
    ///
    /// # Errors
    /// When DEBUG is no boolean.
    pub fn set_log(&self, log: &mut LogConfig) -> Result<(), BadFlag> {
        if self.v > 0 || flag(self.debug, "DEBUG")? {
            log.level = DEBUG_LEVEL.to_owned();
        }
        if self.log_dir.is_some() {
            note("-log_dir is not used: logs go to standard error, redirect that");
        }
        Ok(())
    }
}

/// What `-debug` shows: the project's own lines, not those of every library.
const DEBUG_LEVEL: &str = "info,halley=debug,comet=debug,logic=debug,job=debug";

impl EntryArgs {
    /// Flags over environment over defaults.
    ///
    /// # Errors
    /// When WEIGHT is no number, or OFFLINE no boolean.
    pub fn entry(&self) -> Result<Entry, BadFlag> {
        let addrs = self.addrs.clone().or_else(|| variable("ADDRS")).unwrap_or_default();
        let addrs =
            addrs.split(',').map(str::trim).filter(|addr| !addr.is_empty()).map(str::to_owned).collect();
        let allowed = "an integer, at least 0";
        let weight = match (self.weight, variable("WEIGHT")) {
            (Some(weight), _) => weight,
            (None, None) => 10,
            (None, Some(value)) => value.parse().map_err(|_| BadFlag { name: "WEIGHT", value, allowed })?,
        };
        Ok(Entry { addrs, weight, offline: flag(self.offline, "OFFLINE")? })
    }
}

impl Place {
    /// The place in words: `prod/sh/sh001`.
    pub fn words(&self) -> String {
        format!("{}/{}/{}", self.env, self.region, self.zone)
    }

    /// This process's name in the cluster, its gRPC server being bound to `rpc`.
    pub fn server(&self, rpc: SocketAddr) -> String {
        match &self.host {
            Some(host) => format!("{host}:{}", rpc.port()),
            // Only this machine can reach the process, and the host name need not mean this address.
            None if rpc.ip().is_loopback() => rpc.to_string(),
            None => format!("{}:{}", hostname(), rpc.port()),
        }
    }
}

/// Why a flag that is goim's is none of a program that is all services in one; none when there is no such flag. `args` is the
/// whole command line.
pub fn goims_flag(args: &[OsString]) -> Option<String> {
    let programs = EntryArgs::augment_args(PlaceArgs::augment_args(Command::default()));
    // glog's that takes no effect anywhere is not declared.
    let is_goims =
        |name: &str| name == "vmodule" || programs.get_arguments().any(|arg| arg.get_long() == Some(name));
    let is_one = |flag: &str| flag.trim_start_matches('-').split('=').next().is_some_and(is_goims);
    let flags = args.iter().skip(1).filter_map(|arg| arg.to_str());
    let given = flags.filter(|arg| arg.starts_with('-')).find(|flag| is_one(flag))?;
    Some(format!(
        "{given} is a flag of goim's programs, and of comet, logic and job: one process has no use for it; what can be \
         set, --print-default-config says"
    ))
}

/// The command line with one dash before a name made two, as Go's flags mean the same by both. Single letters stay what
/// they are elsewhere, but for glog's `-v`.
pub fn go_args(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    args.into_iter().map(two_dashes).collect()
}

fn two_dashes(arg: OsString) -> OsString {
    let Some(name) = arg.to_str().and_then(|arg| arg.strip_prefix('-')) else { return arg };
    let word = name.split('=').next().unwrap_or(name);
    let is_name = word.starts_with(|c: char| c.is_ascii_alphabetic()) && (word.len() > 1 || word == "v");
    if is_name { format!("--{name}").into() } else { arg }
}

/// What Go's `strconv.ParseBool` takes.
fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// What can be a part of a key in etcd.
fn part(name: &'static str, value: String) -> Result<String, BadFlag> {
    match value.is_empty() || value.contains(['/', ' ']) || value.chars().any(char::is_control) {
        true => Err(BadFlag { name, value, allowed: "a word without slashes and spaces" }),
        false => Ok(value),
    }
}

/// Writes a host as it has to stand before a colon and a port.
fn in_brackets(host: String) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(_) => format!("[{host}]"),
        Err(_) => host,
    }
}

/// A boolean: the flag, or else its environment variable, or else false.
fn flag(given: Option<bool>, name: &'static str) -> Result<bool, BadFlag> {
    match (given, variable(name)) {
        (Some(given), _) => Ok(given),
        (None, None) => Ok(false),
        (None, Some(value)) => go_bool(&value).map_err(|_| BadFlag { name, value, allowed: "true or false" }),
    }
}

/// An environment variable. As in goim, an empty one counts as missing.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use clap::{Parser, error::ErrorKind};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        entry: EntryArgs,
    }

    fn parse(args: &str) -> Result<Cli, clap::Error> {
        let args = ["comet"].into_iter().chain(args.split_whitespace()).map(OsString::from);
        Cli::try_parse_from(go_args(args))
    }

    #[test]
    fn goim_s_command_lines_mean_the_same_with_one_dash_and_with_two() {
        for args in [
            "-conf=a.toml -region=bj -zone=bj001 -deploy.env=dev -host=h -addrs=1.2.3.4,5.6.7.8 -weight=7 -offline=true",
            "--conf a.toml --region bj --zone bj001 --deploy.env dev --host h --addrs 1.2.3.4,5.6.7.8 --weight 7 --offline",
            "--config a.toml -region bj -zone=bj001 -deploy.env dev -host h -addrs=1.2.3.4,5.6.7.8, -weight 7 -offline=T",
        ] {
            let Cli { config, place, entry } = parse(args).unwrap();
            assert_eq!(config.config, Some(PathBuf::from("a.toml")), "{args}");
            let (region, zone, env) = ("bj".to_owned(), "bj001".to_owned(), "dev".to_owned());
            let host = Some("h".to_owned());
            assert_eq!(place.place(), Ok(Place { region, zone, env, host }), "{args}");
            let addrs = vec!["1.2.3.4".to_owned(), "5.6.7.8".to_owned()];
            assert_eq!(entry.entry(), Ok(Entry { addrs, weight: 7, offline: true }), "{args}");
        }
    }

    #[test]
    fn glog_s_flags_are_taken_and_raise_the_level() {
        let level = |args| {
            let mut log = LogConfig::default();
            parse(args).unwrap().place.set_log(&mut log).unwrap();
            log.level
        };
        assert_eq!(level("-logtostderr -alsologtostderr=true -log_dir=/tmp -debug=false -v=0"), "info");
        for args in ["-v 2", "-v=1", "-debug", "--debug=true", "-debug=1"] {
            assert_eq!(level(args), DEBUG_LEVEL, "{args}");
        }
    }

    /// A unit's command line and what an operator adds to it.
    #[test]
    fn of_a_flag_that_is_given_twice_the_last_one_counts() {
        let args = "-conf=a.toml -v=0 -offline -set a=1 -conf b.toml -v=1 -offline=false --set b=2";
        let Cli { config, place, entry } = parse(args).unwrap();
        assert_eq!((config.config, place.v), (Some(PathBuf::from("b.toml")), 1));
        assert!(!entry.entry().unwrap().offline);
        assert_eq!(config.set, ["a=1", "b=2"], "these are all meant");
    }

    #[test]
    fn what_no_flag_is_is_refused_and_short_options_stay() {
        for args in ["-nonsense", "-offline=maybe", "-weight=-1", "-weight=many", "-x"] {
            assert!(parse(args).is_err(), "{args}");
        }
        assert_eq!(parse("-h").unwrap_err().kind(), ErrorKind::DisplayHelp);
        for args in ["-region=a/b", "-zone=", "-host=a/b"] {
            assert!(parse(args).unwrap().place.place().is_err(), "{args}");
        }
    }

    #[test]
    fn a_process_is_named_by_its_host_and_the_port_it_listens_on() {
        let named =
            |args: &str, rpc: &str| parse(args).unwrap().place.place().unwrap().server(rpc.parse().unwrap());
        assert_eq!(named("-host=10.0.0.7", "0.0.0.0:3109"), "10.0.0.7:3109");
        assert_eq!(named("-host=gate-1", "127.0.0.1:3109"), "gate-1:3109");
        for args in ["-host=::1", "-host=[::1]"] {
            assert_eq!(named(args, "[::]:3109"), "[::1]:3109", "{args}");
        }
        assert_eq!(named("", "127.0.0.1:3109"), "127.0.0.1:3109");
        assert_eq!(named("", "0.0.0.0:3109"), format!("{}:3109", hostname()));
    }
}
