//! The connection to Redis. Each process has one, which all of its parts share.
//!
//! A task makes it in the background, tries until it succeeds, and makes it again whenever it broke. While there is
//! none, commands fail at once. Every command has a deadline. If a connection was given up with commands under way,
//! Redis does not carry these out after commands of the next one ([`Dial::takes_over`]). After a failover the task
//! finds the new master, with or without Sentinels: it hangs up on a server that calls itself a replica or answers
//! READONLY.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

mod config;
mod connection;
mod dial;
mod error;
pub mod metrics;

#[cfg(test)]
mod tests;

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use ::config::ConfigError;
use host::{awake, backoff::Backoff, telemetry::LogLimit};
use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, ScriptInvocation};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tracing::{Level, info, warn};

use self::dial::{Connected, Dial};
pub use self::{
    config::{HostPort, HostPortError, RedisConfig, RedisDataConfig, RedisMode, RedisServerConfig},
    connection::Connection,
    error::RedisError,
};
use crate::metrics::RedisMetrics;

/// First pause between attempts to connect; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// Longest pause between attempts to connect.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// If a connection lasted this long, the next pause is the shortest again.
const STEADY: Duration = Duration::from_secs(5);

/// How often an idle connection is pinged.
const PING: Duration = Duration::from_secs(1);

/// After this time the same trouble is logged again.
const TELL: Duration = Duration::from_secs(30);

/// Limits the lines about commands that a connected Redis did not carry out.
pub static REFUSALS: LogLimit = LogLimit::new(3, Duration::from_secs(10));

/// The connection. Clones share it. It ends when the last of them is dropped.
#[derive(Clone)]
pub struct Redis(Arc<Shared>);

struct Shared {
    dial: Dial,
    deadline: Duration,
    link: Mutex<Link>,
    ready: watch::Sender<bool>,
    lost: Notify,
    metrics: RedisMetrics,
}

enum Link {
    Up {
        /// Tells this connection from later ones.
        number: u64,
        connection: Connection,
    },
    /// There is none, for this reason.
    Down(RedisError),
}

impl Redis {
    /// Starts to connect, in the background. Reads the files of TLS before that, and never again.
    ///
    /// # Errors
    /// What [`RedisConfig::check`] finds in these files.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect(config: &RedisConfig) -> Result<Self, ConfigError> {
        let shared = Arc::new(Shared {
            dial: Dial::new(config)?,
            deadline: config.deadline(),
            link: Mutex::new(Link::Down(RedisError::Away("not connected yet".to_owned()))),
            ready: watch::Sender::new(false),
            lost: Notify::new(),
            metrics: RedisMetrics::default(),
        });
        tokio::spawn(keep_connected(Arc::downgrade(&shared)));
        Ok(Redis(shared))
    }

    /// True while a connection to a master is up.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.0.ready.subscribe()
    }

    /// Carries out one command.
    ///
    /// # Errors
    /// [`RedisError`]; at once if there is no connection.
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let (number, mut connection) = self.0.connection()?;
        self.0.finish(number, command.query_async(&mut connection)).await
    }

    /// Carries out a command that the user may not be allowed to use. Then the answer is none, without a log line,
    /// since a line was written when the connection was made.
    ///
    /// # Errors
    /// [`RedisError`]; at once if there is no connection.
    pub async fn if_allowed<T: FromRedisValue>(&self, command: &Cmd) -> Result<Option<T>, RedisError> {
        let (number, mut connection) = self.0.connection()?;
        let answer = async {
            match command.query_async(&mut connection).await {
                Ok(answer) => Ok(Some(answer)),
                Err(error) => match RedisError::from(error.clone()) {
                    RedisError::Forbidden(_) => Ok(None),
                    _ => Err(error),
                },
            }
        };
        self.0.finish(number, answer).await
    }

    /// Carries out commands in one round trip.
    ///
    /// # Errors
    /// [`RedisError`]; at once if there is no connection. Unless the pipeline ignores errors, the error is that of the
    /// first command that failed; the others were carried out.
    pub async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, RedisError> {
        let (number, mut connection) = self.0.connection()?;
        self.0.finish(number, pipeline.query_async(&mut connection)).await
    }

    /// Carries out a script by its hash. This takes one round trip if the server knows the script already.
    ///
    /// # Errors
    /// [`RedisError`]; at once if there is no connection.
    pub async fn script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, RedisError> {
        let (number, mut connection) = self.0.connection()?;
        self.0.finish(number, script.invoke_async(&mut connection)).await
    }

    /// A connection for one caller alone, for commands that block. It has no deadline, is not made again, and ends when
    /// it is dropped. If its server vanishes silently, this shows after 15 s.
    ///
    /// # Errors
    /// [`RedisError`], after a single attempt.
    pub async fn dedicated(&self) -> Result<Connection, RedisError> {
        self.0.dial.open().await.map(|(connection, _)| connection)
    }

    /// What it measures.
    pub fn metrics(&self) -> &RedisMetrics {
        &self.0.metrics
    }

    /// Longest time for the answer of a command that does not block.
    pub fn deadline(&self) -> Duration {
        self.0.deadline
    }
}

impl Shared {
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> Result<(u64, Connection), RedisError> {
        match &*self.link() {
            Link::Up { number, connection } => Ok((*number, connection.clone())),
            Link::Down(why) => Err(why.clone()),
        }
    }

    async fn finish<T>(
        &self,
        number: u64,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, RedisError> {
        let (error, broken) = match awake::timeout(self.deadline, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => {
                let broken = error.is_unrecoverable_error();
                let error = RedisError::from(error).under_way();
                let broken = broken || error.ends_connection();
                (error, broken)
            }
            // The next ping tells whether the connection is to blame or the command.
            Err(_) => (RedisError::Unknown(format!("no answer within {:?}", self.deadline)), false),
        };
        self.metrics.failed(&error);
        if broken {
            self.lose(number, &error);
        } else {
            REFUSALS.log(Level::WARN, || warn!("{error}"));
        }
        Err(error)
    }

    /// Gives up a connection, unless a later one has replaced it already.
    fn lose(&self, lost: u64, why: &RedisError) {
        let mut link = self.link();
        if matches!(&*link, Link::Up { number, .. } if *number == lost) {
            *link = Link::Down(why.as_reason());
            drop(link);
            self.ready.send_replace(false);
            self.lost.notify_one();
        }
    }
}

/// Keeps the process connected as long as somebody needs the connection.
async fn keep_connected(shared: Weak<Shared>) {
    let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
    let mut told: Option<(RedisError, Instant)> = None;
    let mut told_forbidden = Vec::new();
    let mut before: Option<Connected> = None;
    for number in 1.. {
        let Some(strong) = shared.upgrade() else { return };
        let target = strong.dial.target();
        let why = match strong.dial.takes_over(&mut before).await {
            Ok((connection, forbidden)) => {
                if !forbidden.is_empty() && forbidden != told_forbidden {
                    warn!(
                        "Redis {target}: the user may not use {}: all works, but a failover is not noticed: a replica only by the \
                         first write that it refuses, and lost sessions are back when their clients renew them. To change that: \
                         ACL SETUSER … +role +info",
                        forbidden.join(" and ")
                    );
                    told_forbidden = forbidden;
                }
                *strong.link() = Link::Up { number, connection };
                strong.ready.send_replace(true);
                drop(strong);
                if told.take().is_some() {
                    info!("Redis {target}: connected");
                }
                let since = Instant::now();
                let Some(why) = until_lost(&shared, number).await else { return };
                if since.elapsed() >= STEADY {
                    backoff.reset();
                }
                why
            }
            Err(why) => {
                *strong.link() = Link::Down(why.clone());
                why
            }
        };
        if told.as_ref().is_none_or(|(old, at)| !old.is_like(&why) || at.elapsed() >= TELL) {
            warn!("Redis {target}: {why}; trying again until it works");
            told = Some((why, Instant::now()));
        }
        backoff.pause().await;
    }
}

/// Pings a connection until it is lost, and returns why; none if nobody needs it any more.
async fn until_lost(shared: &Weak<Shared>, number: u64) -> Option<RedisError> {
    loop {
        let strong = shared.upgrade()?;
        let (current, mut connection) = match strong.connection() {
            Ok(connection) => connection,
            Err(why) => return Some(why),
        };
        debug_assert_eq!(current, number, "only this task connects");
        let ping = redis::cmd("PING");
        let failed = match awake::timeout(strong.deadline, ping.query_async::<()>(&mut connection)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(RedisError::from(error)),
            Err(_) => Some(RedisError::Away(format!("no answer within {:?}", strong.deadline))),
        };
        if let Some(why) = failed {
            strong.lose(number, &why);
            continue;
        }
        let lost = strong.lost.notified();
        tokio::pin!(lost);
        let _ = timeout(PING, lost).await;
    }
}
