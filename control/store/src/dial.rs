//! Makes one connection: finds the master, and checks whether it is one.

use std::{fmt, sync::Arc, time::Duration};

use config::{ConfigError, Secret};
use host::awake;
use redis::{RedisConnectionInfo, Value};
use rustls::ClientConfig;
use tracing::debug;

use super::{Connection, HostPort, RedisConfig, RedisError, config::SECTION};

/// The identity of a connection at the server.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    id: u64,
    /// Our end of the connection. The number alone could be another client's if the server has restarted.
    addr: String,
}

/// The commands that show a failover: whether a server is the master, and whether it is still the same server. The user
/// of a hosted Redis often may use neither.
const NOTICED_BY: [&str; 2] = ["ROLE", "INFO"];

/// How to make a connection.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    addr: HostPort,
    sentinels: Vec<HostPort>,
    master_name: String,
    login: RedisConnectionInfo,
    sentinel_login: RedisConnectionInfo,
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
}

impl Dial {
    /// Reads the files of TLS.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub(super) fn new(config: &RedisConfig) -> Result<Self, ConfigError> {
        let tls = config.tls.load(SECTION).map_err(|mut errors| errors.swap_remove(0))?;
        let server = &config.server;
        Ok(Dial {
            addr: server.addr.clone(),
            sentinels: server.sentinels.to_vec(),
            master_name: server.master_name.clone(),
            login: login(&server.user, &server.auth).set_db(server.db.get() as i64),
            sentinel_login: login(&server.sentinel_user, &server.sentinel_auth),
            tls: tls.map(|tls| Arc::new(tls.rustls())),
            timeout: server.dial_timeout.get(),
        })
    }

    /// The server we speak with, for the log.
    pub(super) fn target(&self) -> String {
        if self.sentinels.is_empty() {
            self.addr.to_string()
        } else {
            format!("{} (by Sentinel)", self.master_name)
        }
    }

    /// Makes a new connection that replaces the one in `before`.
    ///
    /// A server that stood still may still have commands of the old connection in its buffers, although their senders
    /// have given them up. So we tell it to kill the old connection before it gets anything new; otherwise it would
    /// carry these commands out after newer ones. If its user may not kill connections, they stay.
    pub(super) async fn takes_over(
        &self,
        before: &mut Option<Connected>,
    ) -> Result<(Connection, Vec<&'static str>), RedisError> {
        let (mut connection, forbidden) = self.open().await?;
        if let Some(Connected { id, addr }) = before {
            let mut kill = redis::cmd("CLIENT");
            kill.arg("KILL").arg("ID").arg(*id).arg("ADDR").arg(&*addr);
            self.may(kill.query_async::<Value>(&mut connection)).await?;
        }
        let mut own = redis::cmd("CLIENT");
        own.arg("INFO");
        *before =
            self.may(own.query_async::<String>(&mut connection)).await?.and_then(|info| connected(&info));
        Ok((connection, forbidden))
    }

    /// Does a step that the server may not know or its user may not take. None if it was refused.
    async fn may<T>(
        &self,
        step: impl Future<Output = Result<T, redis::RedisError>>,
    ) -> Result<Option<T>, RedisError> {
        match self.in_time(&self.target(), step).await {
            Ok(done) => Ok(Some(done)),
            Err(error @ RedisError::Away(_)) => Err(error),
            Err(error) => {
                debug!("what a lost connection had sent may be carried out late: {error}");
                Ok(None)
            }
        }
    }

    /// Makes a new connection to the present master. Also tells which of [`NOTICED_BY`] its user may not use.
    pub(super) async fn open(&self) -> Result<(Connection, Vec<&'static str>), RedisError> {
        let addr = if self.sentinels.is_empty() { self.addr.clone() } else { self.ask_sentinels().await? };
        let mut connection = self.open_to(&addr, &self.login).await?;
        let mut forbidden = Vec::new();
        let [role, info] = NOTICED_BY;
        match self.in_time(&addr, redis::cmd(role).query_async::<Vec<Value>>(&mut connection)).await {
            Ok(answer) => match answer.first() {
                Some(Value::BulkString(role)) if role != b"master" => {
                    let role = String::from_utf8_lossy(role);
                    return Err(RedisError::ReadOnly(format!("{addr} is a {role}")));
                }
                _ => {}
            },
            // A user who may not ask notices a replica with the first write.
            Err(RedisError::Forbidden(_)) => forbidden.push(role),
            Err(error) => return Err(error),
        }
        let question = redis::cmd(info).arg("server").to_owned();
        match self.in_time(&addr, question.query_async::<Value>(&mut connection)).await {
            Ok(_) => {}
            Err(RedisError::Forbidden(_)) => forbidden.push(info),
            Err(error) => return Err(error),
        }
        Ok((self.ping(&addr, connection).await?, forbidden))
    }

    /// Checks that the server serves commands. One that is still loading tells its role but refuses the rest.
    async fn ping(&self, addr: &HostPort, mut connection: Connection) -> Result<Connection, RedisError> {
        self.in_time(addr, redis::cmd("PING").query_async::<()>(&mut connection)).await?;
        Ok(connection)
    }

    /// The master's address, from the first Sentinel that knows it.
    async fn ask_sentinels(&self) -> Result<HostPort, RedisError> {
        let mut last = RedisError::Away(format!("no Sentinel knows {}", self.master_name));
        for sentinel in &self.sentinels {
            match self.ask_sentinel(sentinel).await {
                Ok(Some((host, port))) => return Ok(HostPort { host, port }),
                Ok(None) => {
                    last =
                        RedisError::Away(format!("Sentinel {sentinel} does not know {}", self.master_name));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn ask_sentinel(&self, sentinel: &HostPort) -> Result<Option<(String, u16)>, RedisError> {
        let asked = async {
            let mut connection = self.open_to(sentinel, &self.sentinel_login).await?;
            let mut question = redis::cmd("SENTINEL");
            question.arg("get-master-addr-by-name").arg(&self.master_name);
            self.in_time(sentinel, question.query_async(&mut connection)).await
        };
        asked.await.map_err(|error| match error {
            RedisError::Refused(text) => RedisError::SentinelRefused(format!("{sentinel}: {text}")),
            error => error,
        })
    }

    async fn open_to(&self, addr: &HostPort, login: &RedisConnectionInfo) -> Result<Connection, RedisError> {
        let opened = Box::pin(Connection::open(addr, self.tls.as_ref(), login));
        self.in_time(addr, opened).await.map_err(|error| match error {
            RedisError::Away(text) => {
                let hint = hint(self.tls.is_some(), &text);
                RedisError::Away(text + hint)
            }
            error => error,
        })
    }

    async fn in_time<T>(
        &self,
        addr: &impl fmt::Display,
        step: impl Future<Output = Result<T, redis::RedisError>>,
    ) -> Result<T, RedisError> {
        match awake::timeout(self.timeout, step).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(match RedisError::from(error) {
                RedisError::Away(text) => RedisError::Away(format!("{addr}: {text}")),
                error => error,
            }),
            Err(_) => Err(RedisError::Away(format!("{addr} did not answer within {:?}", self.timeout))),
        }
    }
}

/// What an operator may do about a connection that was not made. The words are those of rustls, of the system and ours.
fn hint(has_tls: bool, text: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
    match has_tls {
        true if says(&["invalid peer certificate"]) => {
            ": see redis.ca, and the names in the server's certificate"
        }
        true if says(&["received fatal alert"]) => ": see redis.cert and redis.key",
        true if says(&["did not answer", "corrupt message"]) => {
            ": a server without TLS does this, see redis.tls"
        }
        false if says(&["reset by peer", "roken pipe", "end of file"]) => {
            ": a server that speaks TLS only does this, see redis.tls"
        }
        _ => "",
    }
}

fn login(user: &str, password: &Secret) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default();
    if !user.is_empty() {
        login = login.set_username(user);
    }
    if !password.is_empty() {
        login = login.set_password(password.get());
    }
    login
}

/// Reads the answer of `CLIENT INFO`.
fn connected(info: &str) -> Option<Connected> {
    let field =
        |name: &str| info.split_whitespace().find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    Some(Connected { id: field("id")?.parse().ok()?, addr: field("addr")?.to_owned() })
}
