//! What a program prints beside its logs. If printing fails, the program does not panic: its exit status tells.

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use crate::telemetry::{flush, say};

/// Exit status if the answer to a question could not be printed (EX_IOERR of sysexits.h).
pub const EXIT_OUTPUT: u8 = 74;

/// Reads a command line. If it asks for help or the version, or is wrong, this prints the answer.
///
/// # Errors
/// The exit status, after an answer was printed.
pub(super) fn parse<C: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<C, ExitCode> {
    C::try_parse_from(args).map_err(|answer| {
        let text = answer.render().to_string();
        if answer.use_stderr() {
            say(&text);
            flush();
            return ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(1));
        }
        print(C::command().get_name(), &text)
    })
}

/// Prints the answer to a question on standard output. Returns the exit status.
pub fn print(program: &str, text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(program, format_args!("standard output: {error}"), EXIT_OUTPUT),
    }
}

/// Reports what is wrong with a command line. Returns the exit status, which is clap's.
pub fn misused(program: &str, why: &str) -> ExitCode {
    failed(program, format_args!("{why} (--help)"), 2)
}

/// Reports why a program ends. Returns its exit status.
pub(super) fn failed(program: &str, why: impl Display, status: u8) -> ExitCode {
    say(&format!("{program}: {why}\n"));
    flush();
    ExitCode::from(status)
}
