//! Makes one connection: finds the master, and checks whether it is one.

use std::{fmt, time::Duration};

use host::awake;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, Value,
    aio::MultiplexedConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use tracing::debug;

use super::{HostPort, RedisConfig, RedisError};

/// The kernel probes a silent server this often, and closes the connection after [`SILENCE_MAX`]. This matters to
/// connections that only wait.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long a server may leave our bytes unacknowledged.
const SILENCE_MAX: Duration = Duration::from_secs(15);

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
    async fn ping(
        &self,
        addr: &HostPort,
        mut connection: MultiplexedConnection,
    ) -> Result<MultiplexedConnection, RedisError> {
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
        // Each command gets its own deadline instead, since a blocking read waits longer.
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
