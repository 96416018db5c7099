//! Logs logins, refusals and ends of single clients: at debug for everybody, at info for the users listed in
//! `whitelist.Whitelist`. Each of the two has its own limit of lines a second, so that a crowd does not hide the few
//! that an operator looks for.
//!
//! Lines contain names and addresses only, since what a client logs in with may be a secret. What clients name stands
//! in quotes, so that it cannot pass for a field of its own.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use bytes::Bytes;
use contract::{LogicError, Session, Transport};
use host::telemetry::LogLimit;
use proto::{
    close::CloseReason,
    ids::{Key, Mid},
    login::claimed,
};
use shard::mail::Login;
use tracing::{Level, debug, info, level_filters::LevelFilter};

/// Limits of the lines about users that are not listed, and about listed ones.
static ANYBODY: LogLimit = LogLimit::new(10, Duration::from_secs(1));
static LISTED: LogLimit = LogLimit::new(10, Duration::from_secs(1));

/// Logs a line about a client of this user.
macro_rules! line {
    ($log:expr, $mid:expr, $($line:tt)+) => {
        match $log.is_listed($mid) {
            true => LISTED.log(Level::INFO, || info!($($line)+)),
            false => ANYBODY.log(Level::DEBUG, || debug!($($line)+)),
        }
    };
}

/// The users whom the log names at info.
#[derive(Debug, Default)]
pub struct ClientLog {
    listed: HashSet<Mid>,
}

/// What the log may tell about a login while logic decides it.
pub(super) struct Asked {
    token: Bytes,
    peer: IpAddr,
    transport: Transport,
}

impl Asked {
    pub(super) fn of(login: &Login) -> Asked {
        Asked { token: login.token.clone(), peer: login.peer, transport: login.transport }
    }
}

impl ClientLog {
    /// A log that names these users at info.
    pub fn new(listed: impl IntoIterator<Item = Mid>) -> ClientLog {
        ClientLog { listed: listed.into_iter().collect() }
    }

    /// A client has logged in.
    pub(super) fn opened(&self, mid: Mid, key: &Key, peer: IpAddr) {
        line!(self, mid, user = mid.0, key = key.as_str(), address = %peer, "logged in");
    }

    /// The connection of a client that had logged in ended.
    pub(super) fn ended(&self, mid: Mid, key: &Key, peer: IpAddr, reason: CloseReason) {
        let (code, reason) = (reason.code(), reason.label());
        line!(self, mid, user = mid.0, key = key.as_str(), address = %peer, %reason, code, "closed");
    }

    /// A login was refused, or was accepted too late for its client.
    pub(super) fn not_opened(&self, asked: &Asked, result: &Result<Session, Option<LogicError>>) {
        if self.listed.is_empty() && LevelFilter::current() < Level::DEBUG {
            return;
        }
        let why = match result {
            Err(Some(error)) => error.to_string(),
            Ok(_) | Err(None) => "the client left, or its time was up".to_owned(),
        };
        // Who the client is according to logic, or, if logic has not accepted it, according to itself.
        let (mid, key) = match result {
            Ok(session) => (Some(session.mid), Some(session.key.clone())),
            Err(_) => claimed(&asked.token),
        };
        let (user, key) = (mid.map(|mid| mid.0), key.as_ref().map(Key::as_str));
        let (address, transport, why) = (asked.peer, asked.transport.label(), &*why);
        line!(self, mid.unwrap_or_default(), user, key, %address, %transport, why, "login refused");
    }

    fn is_listed(&self, mid: Mid) -> bool {
        self.listed.contains(&mid)
    }
}
