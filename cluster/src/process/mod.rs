//! What every program does around its services: command line, configuration, logs, exit status.
//!
//! - [`ConfigArgs`]: where the configuration comes from, and the two questions about it
//! - [`PlaceArgs`], [`EntryArgs`], [`go_args`]: goim's own flags and environment, for the programs of a cluster
//! - [`parse`], [`run`]: from the command line to the exit status
//! - [`print`], [`print_banner`]: what is printed beside the logs

mod args;
mod output;

use std::{fmt::Display, process::ExitCode};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::args::{BadFlag, ConfigArgs, Entry, EntryArgs, Place, PlaceArgs, go_args};
use self::output::failed;
pub use self::output::{EXIT_OUTPUT, parse, print};
use crate::{
    build,
    config::{BoundedDuration, ConfigError, Loaded, commented_default, load},
    telemetry::{Format, flush, init_logs, say},
};

/// Status of a refused configuration (EX_USAGE of sysexits.h): nothing was bound.
pub const EXIT_CONFIG: u8 = 64;

/// Status of a start that failed for another reason, such as an address in use (EX_UNAVAILABLE).
pub const EXIT_START: u8 = 69;

/// Logs, on standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LogConfig {
    /// "text" or "json".
    pub format: Format,
    /// Which lines: "error", "warn", "info", "debug", "trace", or by module, such as "info,halley_comet=debug".
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { format: Format::Text, level: "info".to_owned() }
    }
}

/// Calls of other processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RpcClientConfig {
    /// Longest time to connect, and for the answer of one call.
    pub timeout: BoundedDuration<10, 60_000>,
}

impl Default for RpcClientConfig {
    fn default() -> RpcClientConfig {
        RpcClientConfig { timeout: BoundedDuration::secs::<1>() }
    }
}

/// Everything that can be set about a program.
pub trait ProgramConfig: Serialize + DeserializeOwned + JsonSchema + Default {
    /// Keys of goim's files that name its own internals, see [`load`].
    fn unused_goim_keys() -> Vec<String>;

    /// The section about logs.
    fn log(&self) -> &LogConfig;
}

/// Runs `program` to its end: prints the default configuration, or reads one, has it checked, begins the logs and
/// serves. `check` tells what cannot be checked key by key, before any port is bound, may change what the command line
/// says differently, and gives what `serve` works with.
pub fn run<C: ProgramConfig, T, R: Display, F: Display>(
    program: &str,
    args: &ConfigArgs,
    check: impl FnOnce(&mut C) -> Result<T, R>,
    serve: impl FnOnce(C, T) -> Result<(), F>,
) -> ExitCode {
    if args.print_default_config {
        return print(program, &commented_default::<C>());
    }
    let refused = |error: &dyn Display| failed(program, error, EXIT_CONFIG);
    let mut config: C = match read(program, args) {
        Ok(config) => config,
        Err(error) => return refused(&error),
    };
    let checked = match check(&mut config) {
        Ok(checked) => checked,
        Err(error) => return refused(&error),
    };
    // It is part of the question whether all is right.
    let log = config.log();
    if let Err(error) = init_logs(log.format, &log.level) {
        return refused(&format_args!("log.level = {:?}: {error}", log.level));
    }
    if args.check_config {
        flush();
        return print(program, &format!("{program}: the configuration is right\n"));
    }
    match serve(config, checked) {
        Ok(()) => {
            flush();
            ExitCode::SUCCESS
        }
        Err(error) => failed(program, format_args!("{error:#}"), EXIT_START),
    }
}

/// Reads the configuration and says which of its keys mean nothing here.
fn read<C: ProgramConfig>(program: &str, args: &ConfigArgs) -> Result<C, ConfigError> {
    let unused = C::unused_goim_keys();
    let unused: Vec<&str> = unused.iter().map(String::as_str).collect();
    let Loaded { config, unused } = load(args.config.as_deref(), &args.set, &unused)?;
    if !unused.is_empty() {
        say(&format!("{program}: keys without a meaning here: {}\n", unused.join(", ")));
    }
    Ok(config)
}

/// Prints what a start has to say, aligned, in one piece: the program with its version, then a line for each name and
/// value.
pub fn print_banner(program: &str, rows: &[(&'static str, String)]) {
    let rows: String = rows.iter().map(|(name, value)| format!("  {name:<20}{value}\n")).collect();
    let lines = format!("{program} {}\n{rows}", build::LONG_VERSION);
    say(&lines);
}

/// Name of this machine, empty where there is no `/proc`.
pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    struct File {
        log: LogConfig,
    }

    impl ProgramConfig for File {
        fn unused_goim_keys() -> Vec<String> {
            Vec::new()
        }

        fn log(&self) -> &LogConfig {
            &self.log
        }
    }

    /// It was called right, and refused by the next start.
    #[test]
    fn a_log_level_that_is_none_is_found_by_the_question() {
        let asked = |level: &str| {
            let args = ConfigArgs {
                set: vec![format!("log.level={level}")],
                check_config: true,
                ..Default::default()
            };
            let serve = |_: File, ()| -> Result<(), ConfigError> { panic!("it was only asked") };
            format!("{:?}", run("comet", &args, |_| Ok::<_, ConfigError>(()), serve))
        };
        assert_eq!(asked("loud"), format!("{:?}", ExitCode::from(EXIT_CONFIG)));
        // The logs of this whole test program from now on.
        assert_eq!(asked("off"), format!("{:?}", ExitCode::SUCCESS));
    }
}
