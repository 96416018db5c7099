//! `tracing` to stderr.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt,
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
    str::FromStr,
    thread,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::{Dispatch, level_filters::LevelFilter};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use super::{
    hold::{Held, remember},
    stderr::{Lines, flush, say},
};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// for people, in colour on a terminal
    #[default]
    Text,
    /// one object a line
    Json,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is malformed.
    #[error("log level {filter:?}: {reason}")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Logging was started already.
    #[error("logs are set up already")]
    Twice,
}

/// Sends the logs of the whole process to stderr, panics among them. `filter` is a level (`info`), or levels by module
/// (`info,comet=debug`).
///
/// # Errors
/// The filter is malformed, or logs were started before.
pub fn init_logs(format: Format, filter: &str) -> Result<(), LogError> {
    let colour =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let dispatch = dispatch(format, filter, colour, Held(|| Lines))?;
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| LogError::Twice)?;
    remember(format);
    panic::set_hook(Box::new(move |panic| tell(format, panic)));
    Ok(())
}

/// Reports a panic, after which the process ends. This does not use `tracing`, where the panic may have happened.
fn tell(format: Format, panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let message = format!("thread {} {panic}", thread.name().unwrap_or("without a name"));
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => backtrace.to_string(),
        _ => String::new(),
    };
    say(&match format {
        Format::Text => format!("{message}\n{backtrace}"),
        Format::Json => {
            let line = serde_json::json!({ "level": "ERROR", "message": message, "backtrace": backtrace });
            format!("{line}\n")
        }
    });
    flush();
}

fn dispatch<W>(format: Format, filter: &str, colour: bool, writer: W) -> Result<Dispatch, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parse(filter)?)
        .with_writer(writer)
        .with_ansi(colour)
        .log_internal_errors(false);
    Ok(match format {
        Format::Text => builder.into(),
        Format::Json => builder.json().flatten_event(true).into(),
    })
}

/// Checks whether the logs can be started with this filter.
///
/// # Errors
/// [`LogError::Filter`].
pub fn check_filter(filter: &str) -> Result<(), LogError> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let refuse = |reason: String| LogError::Filter { filter: filter.to_owned(), reason };
    let parts: Vec<&str> = filter.split(',').map(str::trim).collect();
    if !parts.iter().all(|part| is_directive(part)) {
        return Err(refuse("write off, error, warn, info, debug or trace, or module=level".to_owned()));
    }
    EnvFilter::builder().parse(parts.join(",")).map_err(|error| refuse(error.to_string()))
}

/// Whether this is `level` or `module=level`. A part with a span in brackets is left to the filter's own parser. For
/// the other parts that parser would take a mistyped level for the name of a module, and then log nothing.
fn is_directive(part: &str) -> bool {
    let (module, level) = part.rsplit_once('=').unwrap_or(("", part));
    let is_module = module.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:-".contains(&b));
    part.contains('[') || (is_module && !level.is_empty() && LevelFilter::from_str(level).is_ok())
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Text => "text",
            Format::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use tracing::{debug, info, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, filter: &str, what: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let dispatch = dispatch(format, filter, false, move || writer.clone()).unwrap();
        tracing::dispatcher::with_default(&dispatch, what);
        String::from_utf8(captured.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn text_is_one_plain_line() {
        let line = logged(Format::Text, "info", || info!(shard = 3, "started"));
        assert!(line.contains(" INFO ") && line.ends_with(": started shard=3\n"), "{line}");
        assert!(!line.contains('\u{1b}'), "{line}");
    }

    #[test]
    fn json_is_one_object_with_the_fields_beside_the_message() {
        let line = logged(Format::Json, "info", || info!(shard = 3, "two\nlines"));
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&object["message"], &object["shard"], &object["level"]),
            (&"two\nlines".into(), &3.into(), &"INFO".into())
        );
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn the_filter_works_by_level_and_by_module() {
        let say = || {
            info!("quiet");
            warn!("loud");
            debug!(target: "comet::shard", "detail");
        };
        let text = logged(Format::Text, "warn,comet=debug", say);
        assert!(!text.contains("quiet") && text.contains("loud") && text.contains("detail"), "{text}");
        assert_eq!(logged(Format::Text, "off", say), "");
    }

    #[test]
    fn a_mistyped_filter_is_refused() {
        for filter in ["", "inof", "info,debgu", "comet=loud", "info comet=debug"] {
            let error = parse(filter).unwrap_err().to_string();
            assert!(error.starts_with(&format!("log level {filter:?}: ")), "{error}");
        }
        for filter in ["info", "WARN", "off", "info, comet=debug", "shard[login]=trace,info"] {
            assert!(parse(filter).is_ok(), "{filter}");
        }
    }
}
