//! One `main` for all programs. A value holds what differs between them.

use std::{ffi::OsString, fmt::Display, process::ExitCode, sync::Arc};

use clap::Parser;
use config::ConfigError;
use prometheus_client::registry::Registry;

use super::{ConfigArgs, ProgramConfig, args::go_args, output::parse, run};
use crate::{
    admin::Health,
    shutdown::{Drain, Reload, on_signals},
    telemetry,
};

/// What differs between programs. `L` is the command line, `C` the configuration, `K` the result of checking both.
pub struct Program<L, C, K> {
    /// Its name.
    pub name: &'static str,
    /// Where the configuration comes from.
    pub config: fn(&L) -> &ConfigArgs,
    /// What to do instead of serving, if the command line asks for it. Returns the exit status.
    pub instead: fn(&L) -> Option<ExitCode>,
    /// Checks what cannot be checked key by key, before any port is bound. It may change what the command line says
    /// differently, and returns what the program works with.
    pub check: fn(&L, &mut C) -> Result<K, Vec<ConfigError>>,
    /// Threads of the runtime.
    pub threads: Threads,
}

/// Threads of a program's tokio runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The main thread alone, since the shards have the cores.
    Main,
    /// One per core.
    PerCore,
}

/// What a program starts with.
pub struct Start {
    /// The first signal that ends a process begins it.
    pub drain: Drain,
    /// SIGHUP asks for it: files may have changed.
    pub reload: Reload,
    /// The metrics of the process. A program adds its own and serves them.
    pub metrics: Registry,
    /// What `/readyz` answers.
    pub health: Arc<Health>,
}

impl<L: Parser, C: ProgramConfig, K> Program<L, C, K> {
    /// Goes from the command line to the exit status: answers questions, reads and checks the configuration, starts the
    /// logs, and runs until `serve` ends.
    pub fn main<F: Display>(
        self,
        args: impl IntoIterator<Item = OsString>,
        serve: impl AsyncFnOnce(C, K, Start) -> Result<(), F>,
    ) -> ExitCode {
        // goim's programs take their flags with one dash.
        let cli: L = match parse(go_args(args)) {
            Ok(cli) => cli,
            Err(status) => return status,
        };
        if let Some(status) = (self.instead)(&cli) {
            return status;
        }
        let check = |config: &mut C| (self.check)(&cli, config);
        run(self.name, (self.config)(&cli), check, |config, checked| {
            let mut builder = match self.threads {
                Threads::Main => tokio::runtime::Builder::new_current_thread(),
                Threads::PerCore => tokio::runtime::Builder::new_multi_thread(),
            };
            let runtime = builder.enable_all().build().map_err(|error| format!("no runtime: {error}"))?;
            runtime.block_on(async {
                let (drain, reload, mut metrics) = (Drain::new(), Reload::new(), Registry::default());
                on_signals(drain.clone(), reload.clone())
                    .map_err(|error| format!("no signal handlers: {error}"))?;
                telemetry::register(&mut metrics);
                let start = Start { drain, reload, metrics, health: Arc::new(Health::new()) };
                serve(config, checked, start).await.map_err(|error| format!("{error:#}"))
            })
        })
    }
}
