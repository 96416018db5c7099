//! What every program does around its services: command line, configuration, logs, exit status.
//!
//! - [`ConfigArgs`]: where the configuration comes from, and two questions about it
//! - [`PlaceArgs`], [`EntryArgs`], [`go_args`]: goim's own flags and environment, for the programs of a cluster
//! - [`Program`]: from the command line to the exit status, for all of them
//! - [`print`], [`print_banner`]: what a program prints beside the logs

mod args;
mod output;
mod program;

use std::{
    fmt::Display,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::{error, info};

use self::output::failed;
pub use self::{
    args::{BadFlag, ConfigArgs, Entry, EntryArgs, Place, PlaceArgs, go_args, goims_flag},
    output::{EXIT_OUTPUT, misused, print},
    program::{Program, Start, Threads},
};
use config::{BoundedDuration, ConfigError, Draft, Mistakes, commented_default, draft};

use crate::{
    build,
    telemetry::{Format, LogError, announce, check_filter, flush, hold_back, init_logs, release, say},
};

/// Exit status after a refused configuration (EX_USAGE of sysexits.h). No port was bound.
pub const EXIT_CONFIG: u8 = 64;

/// Exit status if the start failed for another reason, such as an address in use (EX_UNAVAILABLE).
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
    /// Keys of goim's files that name its own internals, see [`load`](config::load).
    fn unused_goim_keys() -> Vec<String>;

    /// The section about logs.
    fn log(&self) -> &LogConfig;

    /// Called where there is no file, before the checks. A file that leaves a section out may mean what goim means by it;
    /// where there is no file, that is nobody's wish.
    fn without_a_file(&mut self) {}

    /// What will differ on this machine from what the configuration says, a sentence each.
    fn doubts(&self) -> Vec<String> {
        Vec::new()
    }

    /// More words about a key that this file does not have.
    fn hint(_key: &str) -> Option<String> {
        None
    }

    /// What to do with a file that has such keys.
    const ADVICE: &str = "";
}

/// Runs `program` to its end: prints the default configuration, or reads one, checks it, starts the logs and serves.
/// `check` checks what cannot be checked key by key, before any port is bound. It may change what the command line says
/// differently, and returns what `serve` works with.
fn run<C: ProgramConfig, T, F: Display>(
    program: &str,
    args: &ConfigArgs,
    check: impl FnOnce(&mut C) -> Result<T, Vec<ConfigError>>,
    serve: impl FnOnce(C, T) -> Result<(), F>,
) -> ExitCode {
    if args.print_default_config {
        return print(program, &commented_default::<C>());
    }
    let unused = C::unused_goim_keys();
    let unused: Vec<&str> = unused.iter().map(String::as_str).collect();
    let (mut config, unused, mut mistakes) = match draft::<C>(args.config.as_deref(), &args.set, &unused) {
        Ok(Draft { config, unused, mistakes }) => (config, unused, mistakes),
        Err(mistakes) => return refuse::<C>(program, Format::Text, mistakes),
    };
    if !unused.is_empty() {
        note(format!("keys without a meaning here: {}", unused.join(", ")));
    }
    if args.config.is_none() {
        config.without_a_file();
    }
    let checked = check(&mut config).map_err(|wrong| mistakes.extend(wrong)).ok();
    let LogConfig { format, level } = config.log().clone();
    if let Err(LogError::Filter { filter, reason }) = check_filter(&level) {
        mistakes.extend(vec![ConfigError::value("log.level", format_args!("{filter:?}"), reason)]);
    }
    let checked = match checked {
        Some(checked) if mistakes.is_empty() => checked,
        _ => return refuse::<C>(program, format, mistakes),
    };
    let notes = std::mem::take(&mut *NOTES.lock().unwrap_or_else(PoisonError::into_inner));
    if args.check_config {
        notes.into_iter().chain(config.doubts()).for_each(|note| say(&format!("{program}: {note}\n")));
        flush();
        return print(program, &format!("{program}: the configuration is right\n"));
    }
    if let Err(error) = init_logs(format, &level) {
        return failed(program, error, EXIT_START);
    }
    // The banner has to come before all other lines.
    hold_back();
    notes.iter().for_each(|note| info!("{note}"));
    let served = serve(config, checked);
    release();
    let status = match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(program, format, &format!("{error:#}"));
            ExitCode::from(EXIT_START)
        }
    };
    flush();
    status
}

/// Notes that are worth a line, but came up before the logs were started.
static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note(text: impl Into<String>) {
    NOTES.lock().unwrap_or_else(PoisonError::into_inner).push(text.into());
}

/// Reports everything that is wrong with a configuration.
fn refuse<C: ProgramConfig>(program: &str, format: Format, mut mistakes: Mistakes) -> ExitCode {
    let is_of_others = mistakes.explain_unknown(C::hint);
    // The logs are not started yet. If a machine reads the log, it has to be able to read these lines too.
    if format == Format::Json {
        let _ = init_logs(format, "error");
    }
    mistakes.lines().iter().for_each(|line| complain(program, format, line));
    if is_of_others {
        complain(program, format, C::ADVICE);
    }
    flush();
    ExitCode::from(EXIT_CONFIG)
}

/// Writes a line about why the process ends.
fn complain(program: &str, format: Format, line: &str) {
    match format {
        Format::Text => say(&format!("{program}: {line}\n")),
        Format::Json => error!("{line}"),
    }
}

/// Prints the banner of a starting process, before every other line of the log: the program with its version, then a
/// line for each name and value, aligned. If the log is JSON, the banner is one object.
pub fn print_banner(program: &str, rows: &[(&'static str, String)]) {
    announce(&format!("{program} {}", build::LONG_VERSION), rows);
}

/// The name of this machine; empty if there is no `/proc`.
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
            format!("{:?}", run("comet", &args, |_| Ok(()), serve))
        };
        assert_eq!(asked("loud"), format!("{:?}", ExitCode::from(EXIT_CONFIG)));
        assert_eq!(asked("off"), format!("{:?}", ExitCode::SUCCESS));
    }
}
