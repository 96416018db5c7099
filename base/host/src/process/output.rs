//! What a program prints beside its logs. Printing may fail, and is no reason to panic: the status tells.

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use crate::telemetry::{flush, say};

/// Status of a question whose answer could not be printed (EX_IOERR of sysexits.h).
pub const EXIT_OUTPUT: u8 = 74;

/// Reads a command line. What asks for help or the version, or is wrong, is answered, and gives the status to end with.
///
/// # Errors
/// That status.
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

/// Prints the answer to a question on standard output; the status to end with.
pub fn print(program: &str, text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(program, format_args!("standard output: {error}"), EXIT_OUTPUT),
    }
}

/// Says what is wrong with a command line; the status to end with, which is clap's.
pub fn misused(program: &str, why: &str) -> ExitCode {
    failed(program, format_args!("{why} (--help)"), 2)
}

/// Says why a program ends; the status it ends with.
pub(super) fn failed(program: &str, why: impl Display, status: u8) -> ExitCode {
    say(&format!("{program}: {why}\n"));
    flush();
    ExitCode::from(status)
}
