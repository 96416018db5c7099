//! The page at `/_/` and the numbers that it shows. Its files are in `page/` and become part of the program.
//!
//! It stands here and not beside the HTTP API because only the all-in-one process has the numbers of all services. Like
//! `/metrics` it needs no token: it shows only sums, and pushes only with what the person types in.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use comet::front::Metrics;
use job::metrics::JobMetrics;
use logic::{
    Logic,
    metrics::{LogicMetrics, MessageResult},
};
use seam::Time;
use serde::Serialize;
use shard::stats::Histogram;

/// Name, content type and content of each file. The first one is also served as `/_/`.
const FILES: [(&str, &str, &str); 6] = [
    ("index.html", "text/html; charset=utf-8", include_str!("../page/index.html")),
    ("style.css", "text/css; charset=utf-8", include_str!("../page/style.css")),
    ("app.js", "text/javascript; charset=utf-8", include_str!("../page/app.js")),
    ("live.js", "text/javascript; charset=utf-8", include_str!("../page/live.js")),
    ("goim.js", "text/javascript; charset=utf-8", include_str!("../page/goim.js")),
    ("icon.svg", "image/svg+xml", include_str!("../page/icon.svg")),
];

/// The page may run only its own files and talk only to this process, but on any port, since the WebSocket has another
/// one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The sources of the page's numbers.
pub(crate) struct Page {
    /// Counters of the gateway.
    pub(crate) comet: Arc<Metrics>,
    /// Counters of logic.
    pub(crate) logic: LogicMetrics,
    /// Counters of job.
    pub(crate) job: JobMetrics,
    /// Set as soon as everything is bound.
    pub(crate) started: OnceLock<Started>,
}

/// What is known as soon as everything is bound.
pub(crate) struct Started {
    /// When everything was bound.
    pub(crate) at: Time,
    /// Knows how many rooms there are.
    pub(crate) logic: Arc<Logic>,
    /// The content of `config.json`.
    pub(crate) config: Config,
}

/// `GET /_/config.json`: what does not change while the process lives.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Config {
    /// Version and commit.
    pub(crate) version: &'static str,
    /// io_uring, epoll or glommio.
    pub(crate) driver: &'static str,
    /// Shard threads.
    pub(crate) shards: usize,
    /// Port of the WebSocket. Its host is the one from which the page came.
    pub(crate) websocket_port: Option<u16>,
    /// The same over TLS; none: there is no such port.
    pub(crate) wss_port: Option<u16>,
    /// Path of the WebSocket.
    pub(crate) websocket_path: String,
    /// Pushes need a bearer token.
    pub(crate) push_token: bool,
}

/// `GET /_/stats`: counters since the start, except where the field says "now".
#[derive(Debug, Serialize)]
struct Stats {
    uptime_ms: u64,
    /// Open sockets now.
    connections: BTreeMap<&'static str, u64>,
    /// Clients logged in now.
    open: u64,
    /// Rooms with people in them now, as reported once a second.
    rooms: usize,
    /// Pushes accepted from backends and from clients.
    pushes: u64,
    /// Frames written.
    deliveries: u64,
    /// Frames and dispatches not delivered.
    drops: BTreeMap<&'static str, u64>,
    /// By protocol and reason, `websocket/utf8`.
    bad_input: BTreeMap<String, u64>,
    /// Counts per bucket. Bucket n counts what took less than 2^n µs, the last one everything else.
    stages: BTreeMap<&'static str, Vec<u64>>,
}

impl Page {
    fn stats(&self, started: &Started) -> Stats {
        let comet = self.comet.snapshot();
        let said = self.logic.client_messages.of(MessageResult::Room).get();
        let pushes = self.logic.pushes.all().map(|(_, count)| count).sum::<u64>() + said;
        let mut drops = comet.drops;
        drops.extend(self.job.drops.all().filter(|(_, count)| *count > 0));
        let counts = |histogram: &Histogram| histogram.counts.to_vec();
        Stats {
            uptime_ms: Time::now().since(started.at).as_millis() as u64,
            connections: [("tcp", comet.connections.tcp), ("websocket", comet.connections.websocket)].into(),
            open: comet.open,
            rooms: started.logic.room_count(),
            pushes,
            deliveries: comet.deliveries,
            drops,
            bad_input: comet
                .bad_input
                .iter()
                .map(|((proto, reason), count)| (format!("{proto}/{reason}"), *count))
                .collect(),
            stages: [
                ("accept_to_dispatch", counts(&comet.accept_to_dispatch)),
                ("dispatch_to_shard", counts(&comet.dispatch_to_shard)),
                ("shard_to_written", counts(&comet.shard_to_written)),
                ("accept_to_written", counts(&comet.accept_to_written)),
            ]
            .into(),
        }
    }
}

/// The routes: `/_/` with its files, `/_/config.json`, `/_/stats`. `/` and `/_` redirect to `/_/`.
pub(crate) fn router(page: Arc<Page>) -> Router {
    let mut router = Router::new()
        .route("/", get(|| async { Redirect::temporary("/_/") }))
        .route("/_", get(|| async { Redirect::temporary("/_/") }))
        .route("/_/config.json", get(config))
        .route("/_/stats", get(stats));
    for (name, kind, content) in FILES {
        let file = get(move || async move { answer(kind, content) });
        if name == FILES[0].0 {
            router = router.route("/_/", file.clone());
        }
        router = router.route(&format!("/_/{name}"), file);
    }
    router.with_state(page)
}

async fn config(State(page): State<Arc<Page>>) -> Response {
    page.started.get().map_or_else(starting, |started| json(&started.config))
}

async fn stats(State(page): State<Arc<Page>>) -> Response {
    page.started.get().map_or_else(starting, |started| json(&page.stats(started)))
}

fn starting() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response()
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => answer("application/json; charset=utf-8", body),
        // Only maps whose keys are no text cannot become JSON, and neither value has one.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn answer(kind: &'static str, body: impl IntoResponse) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        // The files are small, and the next answer may come from a process of another version.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, body).into_response()
}
