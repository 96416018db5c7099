//! Making one connection: where the master is, and whether it is one.

use std::{fmt, time::Duration};

use host::awake;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, Value,
    aio::MultiplexedConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use tracing::debug;

use super::{HostPort, RedisConfig, RedisError};

/// A silent server is probed this often by the kernel, and let go after [`SILENCE_MAX`]: for connections that only wait.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long a server may leave our bytes unacknowledged.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// A connection as the server knows it.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    id: u64,
    /// Our end of it. A number alone may be another client's at a server that started again.
    addr: String,
}

/// The commands by which a failover is noticed: whether a server is the master, and whether it is the one that it was.
/// Hosted Redis often has a user who may do neither.
const NOTICED_BY: [&str; 2] = ["ROLE", "INFO"];

/// How a connection is made.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    addr: HostPort,
    sentinels: Vec<HostPort>,
    master_name: String,
    login: RedisConnectionInfo,
    timeout: Duration,
}

impl Dial {
    pub(super) fn new(config: &RedisConfig) -> Self {
        let mut login = RedisConnectionInfo::default().set_db(config.db.get() as i64);
        if !config.auth.is_empty() {
            login = login.set_password(config.auth.get());
        }
        Dial {
            addr: config.addr.clone(),
            sentinels: config.sentinels.to_vec(),
            master_name: config.master_name.clone(),
            login,
            timeout: config.dial_timeout.get(),
        }
    }

    /// Who is spoken to, for the log.
    pub(super) fn target(&self) -> String {
        if self.sentinels.is_empty() {
            self.addr.to_string()
        } else {
            format!("{} (by Sentinel)", self.master_name)
        }
    }

    /// A new connection in the place of the one `before`, which becomes that one.
    ///
    /// A server that stood still may have commands of the one before in its buffers, whose senders have given them up. It is
    /// told to forget them before it gets anything new, or they would be carried out behind what is newer. A server whose
    /// user may not do that keeps them.
    pub(super) async fn takes_over(
        &self,
        before: &mut Option<Connected>,
    ) -> Result<(MultiplexedConnection, Vec<&'static str>), RedisError> {
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

    /// Does what a server or its user may lack.
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

    /// A new connection to the master, whoever that is by now, and which of [`NOTICED_BY`] its user may not use.
    pub(super) async fn open(&self) -> Result<(MultiplexedConnection, Vec<&'static str>), RedisError> {
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
            // Who may not ask learns it from the first write.
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

    /// A server that is loading tells its role, and refuses the rest.
    async fn ping(
        &self,
        addr: &HostPort,
        mut connection: MultiplexedConnection,
    ) -> Result<MultiplexedConnection, RedisError> {
        self.in_time(addr, redis::cmd("PING").query_async::<()>(&mut connection)).await?;
        Ok(connection)
    }

    /// The master's address: the answer of the first Sentinel that has one.
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
        let mut connection = self.open_to(sentinel, &RedisConnectionInfo::default()).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(&self.master_name);
        self.in_time(sentinel, question.query_async(&mut connection)).await
    }

    async fn open_to(
        &self,
        addr: &HostPort,
        login: &RedisConnectionInfo,
    ) -> Result<MultiplexedConnection, RedisError> {
        let keepalive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE);
        let tcp =
            TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(SILENCE_MAX);
        let info = ConnectionAddr::Tcp(addr.host.clone(), addr.port)
            .into_connection_info()?
            .set_redis_settings(login.clone())
            .set_tcp_settings(tcp);
        // Deadlines are set around each command instead, because a blocking read waits longer.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let client = Client::open(info)?;
        self.in_time(addr, client.get_multiplexed_async_connection_with_config(&config)).await
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

/// Reads the answer of `CLIENT INFO`.
fn connected(info: &str) -> Option<Connected> {
    let field =
        |name: &str| info.split_whitespace().find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    Some(Connected { id: field("id")?.parse().ok()?, addr: field("addr")?.to_owned() })
}
