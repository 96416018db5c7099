//! The lines a start prints: what is served where, and what one should know about it.

use std::{fmt::Display, net::SocketAddr};

use comet::Comet;
use control::config::AuthMode;

/// What the lines are made from.
pub(crate) struct Banner<'a> {
    /// The gateway.
    pub(crate) comet: &'a Comet,
    /// Path of the WebSocket upgrade.
    pub(crate) websocket_path: &'a str,
    /// Addresses of the HTTP API.
    pub(crate) http: &'a [SocketAddr],
    /// Addresses of logic's gRPC port.
    pub(crate) rpc: &'a [SocketAddr],
    /// How logins are decided.
    pub(crate) login: AuthMode,
    /// The push API asks for a token.
    pub(crate) push_token: bool,
    /// Descriptors this process may open.
    pub(crate) open_files: u64,
    /// Connections they allow.
    pub(crate) connections: usize,
}

impl Banner<'_> {
    /// The lines, aligned.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Banner { comet, http, rpc, .. } = self;
        let shards = match comet.cpus.as_slice() {
            [] => format!("{}, not pinned", comet.shards),
            cpus => format!("{}, pinned to cores {}", comet.shards, join(cpus)),
        };
        let login = match self.login {
            AuthMode::Trust => "trust: clients say who they are".to_owned(),
        };
        let push = match self.push_token {
            true => "needs a bearer token",
            false => "open to whoever reaches it",
        };
        let limit = format!("{}, enough for {} connections", self.open_files, self.connections);
        let urls = |path| http.iter().map(|address| format!("http://{address}{path}")).collect::<Vec<_>>();
        let rows = [
            ("clients, TCP", join(&comet.tcp)),
            (
                "clients, WebSocket",
                comet
                    .websocket
                    .iter()
                    .map(|address| format!("ws://{address}{}", self.websocket_path))
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
            ("HTTP API", join(&urls(""))),
            ("page", join(&urls("/_/"))),
            ("gRPC", format!("comet {}, logic {}", comet.rpc, join(rpc))),
            ("driver", comet.driver.to_string()),
            ("shards", shards),
            ("login", login),
            ("push API", push.to_owned()),
            ("open files", limit),
        ];
        let first = format!("halley {}", cluster::build::LONG_VERSION);
        std::iter::once(first).chain(rows.map(|(name, value)| format!("  {name:<20}{value}"))).collect()
    }
}

fn join<T: Display>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
