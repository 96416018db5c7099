//! Connections to etcd, one member at a time, and what can go wrong with them.

use std::{error::Error as _, future::Future, time::Duration};

use etcd_client::{Client, ConnectOptions, Error};
use tokio::time::timeout;

use super::DiscoveryConfig;
use crate::{backoff::Backoff, config::ConfigError};

/// What etcd says to a user while its access control is off.
const NO_ACCESS_CONTROL: &str = "authentication is not enabled";

/// The members of etcd and how to reach them. Everybody who talks to etcd has one: a connection is to the next member in
/// the circle, so that one that is away is passed over.
#[derive(Clone)]
pub(super) struct Members {
    urls: Vec<String>,
    /// The one connected to last: the last one at first, so that the first is the first.
    at: usize,
    options: ConnectOptions,
    user: Option<(String, String)>,
    /// How long a request may take.
    deadline: Duration,
}

/// Why there was no answer, or a bad one. Everything is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// etcd is away.
    #[error("{0}")]
    Away(String),
    /// etcd answers and refuses: an operator has to repair something.
    #[error("{0}")]
    Refused(String),
    /// The lease has run out.
    #[error("the lease is gone")]
    LeaseGone,
}

/// Codes of gRPC by which etcd refuses: INVALID_ARGUMENT (wrong password), PERMISSION_DENIED, FAILED_PRECONDITION,
/// UNAUTHENTICATED.
const REFUSALS: [i32; 4] = [3, 7, 9, 16];

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        let Error::GRpcStatus(status) = &error else {
            return match error {
                Error::LeaseKeepAliveError(_) => Self::LeaseGone,
                error => Self::Away(error.to_string()),
            };
        };
        // The words that help ("Connection refused") are at the bottom.
        let mut words = status.message().to_owned();
        let mut source = status.source();
        while let Some(error) = source {
            words = error.to_string();
            source = error.source();
        }
        match REFUSALS.contains(&i32::from(status.code())) {
            true => Self::Refused(words),
            // etcd's own word, whichever code it comes with.
            false if words.contains("requested lease not found") => Self::LeaseGone,
            false => Self::Away(words),
        }
    }
}

impl Members {
    pub(super) fn new(config: &DiscoveryConfig) -> Result<Self, ConfigError> {
        let deadline = config.dial_timeout.get();
        let mut options = ConnectOptions::new()
            .with_connect_timeout(deadline)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(tls) = config.tls()? {
            options = options.with_tls(tls);
        }
        let user = (!config.username.is_empty())
            .then(|| (config.username.clone(), config.password.get().to_owned()));
        let urls = config.urls()?;
        Ok(Self { at: urls.len() - 1, urls, options, user, deadline })
    }

    pub(super) fn len(&self) -> usize {
        self.urls.len()
    }

    /// The member connected to last, for a log line.
    pub(super) fn current(&self) -> &str {
        &self.urls[self.at]
    }

    /// A client of the next member. Nothing but a user's login is sent yet.
    pub(super) async fn connect(&mut self) -> Result<Client, Trouble> {
        self.at = (self.at + 1) % self.urls.len();
        let Some((name, password)) = self.user.clone() else {
            return self.client(self.options.clone()).await;
        };
        match self.client(self.options.clone().with_user(name, password)).await {
            // goim's client goes on without, too.
            Err(Trouble::Refused(why)) if why.contains(NO_ACCESS_CONTROL) => {
                self.client(self.options.clone()).await
            }
            answer => answer,
        }
    }

    async fn client(&self, options: ConnectOptions) -> Result<Client, Trouble> {
        self.ask(Client::connect([self.current()], Some(options))).await
    }

    /// Waits for an answer, but not for ever. The request is boxed: those of the client are large.
    pub(super) fn ask<T>(
        &self,
        request: impl Future<Output = Result<T, Error>>,
    ) -> impl Future<Output = Result<T, Trouble>> {
        let (deadline, request) = (self.deadline, Box::pin(request));
        async move {
            match timeout(deadline, request).await {
                Ok(answer) => Ok(answer?),
                Err(_) => Err(Trouble::Away(format!("no answer within {deadline:?}"))),
            }
        }
    }
}

/// Pauses between attempts that leave time to save a lease.
pub(super) fn backoff(lease_ttl: Duration) -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(2).min(lease_ttl / 8))
}
