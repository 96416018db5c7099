//! Connects to etcd, to one member at a time, and sorts what can go wrong.

use std::{error::Error as _, future::Future, time::Duration};

use config::ConfigError;
use etcd_client::{Client, ConnectOptions, Error, GetOptions};
use host::{awake, backoff::Backoff};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    DiscoveryConfig,
    metrics::{Failure, RegistryMetrics},
};

/// etcd's answer to a user's login while access control is off.
const NO_ACCESS_CONTROL: &str = "authentication is not enabled";

/// Pause between two attempts to reach a member. An attempt does not wait for the one before it, which may hang in a
/// cut link for `dialTimeout`. So a member that is back is noticed at once.
const ATTEMPT_EVERY: Duration = Duration::from_millis(300);

/// Most attempts under way. The next one then waits until one of them ends.
const ATTEMPTS_MAX: usize = 12;

/// Longest pause after a refused attempt, since checking a password costs etcd time.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(2);

/// The members of etcd, and how to reach them. Each part of the process that talks to etcd has one of these. A new
/// connection goes to the next member in the circle, so members that are away are passed over.
#[derive(Clone)]
pub(super) struct Members {
    urls: Vec<String>,
    /// The member of the last connection. It starts with the last one, so that the first connection goes to the first
    /// one.
    at: usize,
    options: ConnectOptions,
    has_tls: bool,
    user: Option<(String, String)>,
    /// How long a request may take.
    deadline: Duration,
    metrics: RegistryMetrics,
}

/// A question that shows whether a member answers.
#[derive(Clone, Debug)]
pub(super) struct Question {
    key: String,
    options: GetOptions,
}

impl Question {
    /// Asks whether this key exists.
    pub(super) fn key(key: &str) -> Self {
        Self { key: key.to_owned(), options: GetOptions::new().with_keys_only() }
    }

    /// Asks whether any key with this prefix exists.
    pub(super) fn prefix(prefix: &str) -> Self {
        let Self { key, options } = Self::key(prefix);
        Self { key, options: options.with_prefix().with_limit(1) }
    }
}

/// Why there was no answer, or a bad one. Everything is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// etcd is away.
    #[error("{0}")]
    Away(String),
    /// etcd answers and refuses, so an operator has to repair something.
    #[error("{0}")]
    Refused(String),
    /// The lease has ended.
    #[error("the lease is gone")]
    LeaseGone,
}

/// The gRPC codes of a refusal: INVALID_ARGUMENT (wrong password), PERMISSION_DENIED, FAILED_PRECONDITION,
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
        // The useful words ("Connection refused") are in the innermost source.
        let mut words = status.message().to_owned();
        let mut source = status.source();
        while let Some(error) = source {
            words = error.to_string();
            source = error.source();
        }
        match REFUSALS.contains(&i32::from(status.code())) {
            true => Self::Refused(words),
            // These are etcd's own words, whichever code they come with.
            false if words.contains("requested lease not found") => Self::LeaseGone,
            false => Self::Away(words),
        }
    }
}

impl Members {
    pub(super) fn new(config: &DiscoveryConfig, metrics: RegistryMetrics) -> Result<Self, ConfigError> {
        let etcd = &config.etcd;
        let deadline = etcd.dial_timeout.get();
        let mut options = ConnectOptions::new()
            .with_connect_timeout(deadline)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        let tls = config.tls()?;
        let has_tls = tls.is_some();
        if let Some(tls) = tls {
            options = options.with_tls(tls);
        }
        let user =
            (!etcd.username.is_empty()).then(|| (etcd.username.clone(), etcd.password.get().to_owned()));
        let urls = config.urls()?;
        Ok(Self { at: urls.len() - 1, urls, options, has_tls, user, deadline, metrics })
    }

    pub(super) fn len(&self) -> usize {
        self.urls.len()
    }

    /// The member of the last connection, for a log line.
    pub(super) fn current(&self) -> &str {
        &self.urls[self.at]
    }

    /// Tries the members in turn, several at once, until one answers, and returns a client of it. Calls `failed` with
    /// each member that did not, and why.
    pub(super) async fn reach(
        &mut self,
        question: Question,
        mut failed: impl FnMut(&str, &Trouble),
    ) -> Client {
        let mut attempts = JoinSet::new();
        let mut refused_pause = Backoff::new(ATTEMPT_EVERY, REFUSED_PAUSE_MAX);
        let mut next = Instant::now();
        loop {
            let (at, answer) = tokio::select! {
                biased;
                Some(attempt) = attempts.join_next() => match attempt {
                    Ok(attempt) => attempt,
                    // Nobody cancels it unseen, and a panic was reported where it happened.
                    Err(_) => continue,
                },
                () = sleep_until(next), if attempts.len() < ATTEMPTS_MAX => {
                    next = Instant::now() + ATTEMPT_EVERY;
                    self.at = self.next();
                    let (member, question) = (self.clone(), question.clone());
                    attempts.spawn(async move { (member.at, member.answering(question).await) });
                    continue;
                }
            };
            let result = match answer {
                Ok(client) if self.user.is_none() => Ok(client),
                // One login at a time, since a password costs etcd more time than everything else.
                Ok(_) => {
                    attempts.abort_all();
                    attempts = JoinSet::new();
                    self.at = at;
                    self.logged_in().await
                }
                Err(trouble) => Err(trouble),
            };
            match result {
                Ok(client) => {
                    self.at = at;
                    return client;
                }
                Err(trouble) => {
                    if matches!(trouble, Trouble::Refused(_)) {
                        next = Instant::now() + refused_pause.step();
                    }
                    failed(&self.urls[at], &trouble);
                }
            }
        }
    }

    /// Connects to this member without a user, and asks. If a user is needed, a refusal counts as an answer.
    async fn answering(&self, question: Question) -> Result<Client, Trouble> {
        let mut client = self.client(self.options.clone()).await?;
        let Question { key, options } = question;
        match self.uncounted(client.get(key, Some(options))).await {
            Ok(_) => Ok(client),
            Err((_, Trouble::Refused(_))) if self.user.is_some() => Ok(client),
            Err(failed) => Err(self.counted(failed).at_first(self.has_tls)),
        }
    }

    /// Asks a member whether it answers.
    pub(super) async fn question(&self, client: &mut Client, question: Question) -> Result<(), Trouble> {
        let Question { key, options } = question;
        self.ask(client.get(key, Some(options))).await?;
        Ok(())
    }

    fn next(&self) -> usize {
        (self.at + 1) % self.urls.len()
    }

    /// Connects to the next member. This sends nothing but the user's login.
    pub(super) async fn connect(&mut self) -> Result<Client, Trouble> {
        self.at = self.next();
        self.logged_in().await
    }

    /// Connects to this member. This sends nothing but the user's login.
    async fn logged_in(&self) -> Result<Client, Trouble> {
        let Some((name, password)) = self.user.clone() else {
            return self.client(self.options.clone()).await;
        };
        match self.client(self.options.clone().with_user(name, password)).await {
            // Go on without a user, as goim's client does.
            Err(Trouble::Refused(why)) if why.contains(NO_ACCESS_CONTROL) => {
                self.client(self.options.clone()).await
            }
            answer => answer,
        }
    }

    async fn client(&self, options: ConnectOptions) -> Result<Client, Trouble> {
        let connected = self.ask(Client::connect([self.current()], Some(options))).await;
        connected.map_err(|trouble| trouble.at_first(self.has_tls))
    }

    /// Waits for an answer until the deadline, and counts failures.
    pub(super) async fn ask<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
        self.uncounted(request).await.map_err(|failed| self.counted(failed))
    }

    fn counted(&self, (failure, trouble): (Failure, Trouble)) -> Trouble {
        self.metrics.failed(failure);
        trouble
    }

    /// Boxes the request, since the futures of the client are large.
    fn uncounted<T>(
        &self,
        request: impl Future<Output = Result<T, Error>>,
    ) -> impl Future<Output = Result<T, (Failure, Trouble)>> {
        let (deadline, request) = (self.deadline, Box::pin(request));
        async move {
            match awake::timeout(deadline, request).await {
                Ok(answer) => answer.map_err(|error| {
                    let trouble = Trouble::from(error);
                    (trouble.failure(), trouble)
                }),
                Err(_) => Err((Failure::Timeout, Trouble::Away(format!("no answer within {deadline:?}")))),
            }
        }
    }
}

impl Trouble {
    /// The same with what an operator may do about it, if it was met by the first request of a connection. The words are
    /// those of rustls, of the system and of HTTP/2.
    fn at_first(self, has_tls: bool) -> Self {
        let Self::Away(text) = &self else { return self };
        let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
        let hint = match has_tls {
            true if says(&["invalid peer certificate"]) => {
                "see discovery.ca, and the names in its certificate"
            }
            true if says(&["handshake eof", "corrupt message"]) => {
                "an etcd without TLS does this, see discovery.tls"
            }
            true if says(&["connection closed", "fatal alert"]) => "see discovery.cert and discovery.key",
            false if says(&["broken pipe", "connection closed", "reset by peer"]) => {
                "an etcd that speaks TLS only does this, see discovery.tls"
            }
            _ => return self,
        };
        Self::Away(format!("{text}: {hint}"))
    }

    fn failure(&self) -> Failure {
        match self {
            Trouble::Away(_) => Failure::Away,
            Trouble::Refused(_) => Failure::Refused,
            Trouble::LeaseGone => Failure::LeaseGone,
        }
    }
}

/// Pauses before a member is tried again. They are well below the second within which a node has to be registered
/// again.
pub(super) fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_millis(400))
}

/// Pauses before etcd is asked again after this trouble.
pub(super) async fn pause(backoff: &mut Backoff, trouble: &Trouble) {
    match trouble {
        Trouble::Refused(_) => sleep(REFUSED_PAUSE_MAX).await,
        _ => backoff.pause().await,
    }
}
