//! Metrics and health over HTTP: `/metrics`, `/healthz`, `/readyz`.

mod exposition;

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use config::Addrs;
use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::exposition::Exposition;
use crate::{
    accept::listen,
    http::{Guard, HttpLimits, IDLE_TIMEOUT, PROBES, serve},
    process::hostname,
    shutdown::Drain,
};

/// Longest time for a request to arrive, and for the client to take an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Most connections at once: some scrapers and probes.
const CONNECTIONS_MAX: usize = 64;

/// Metrics and health.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AdminConfig {
    /// Addresses of /metrics, /healthz and /readyz. Nobody is asked for a token there.
    pub addr: Addrs,
}

impl AdminConfig {
    /// Listens on loopback, a program's default.
    pub fn loopback(port: u16) -> AdminConfig {
        AdminConfig { addr: Addrs::loopback(port) }
    }
}

/// Serves `router` on these addresses until the process ends, also while it drains. Returns the addresses with the
/// ports that the system chose.
///
/// # Errors
/// The first address that cannot be listened on.
pub fn start(addrs: &Addrs, router: Router) -> Result<Vec<SocketAddr>, AdminError> {
    let (mut listeners, mut bound) = (Vec::new(), Vec::new());
    for addr in addrs.iter().copied() {
        let failed = |error| AdminError { addr, error };
        let listener = listen(addr).map_err(failed)?;
        bound.push(listener.local_addr().map_err(failed)?);
        listeners.push((listener, None));
    }
    let limits = HttpLimits {
        read_timeout: TIMEOUT,
        write_timeout: TIMEOUT,
        idle_timeout: IDLE_TIMEOUT,
        connections: CONNECTIONS_MAX,
    };
    tokio::spawn(serve(listeners, router, Guard::pages([hostname()]), limits, Drain::new()));
    Ok(bound)
}

/// The process cannot listen on this address. It does not try again: it ends and names the address.
#[derive(Debug, thiserror::Error)]
#[error("admin.addr = {addr} cannot be listened on: {error}")]
pub struct AdminError {
    addr: SocketAddr,
    error: io::Error,
}

/// The conditions for getting traffic, by name. A condition counts as met until it is reported unmet, so a program
/// reports each as [`unmet`](Health::unmet) once before it serves the routes.
#[derive(Debug, Default)]
pub struct Health(watch::Sender<BTreeMap<&'static str, String>>);

impl Health {
    /// Nothing is unmet, so this is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reports that the condition is not met, and why, in one line without secrets.
    pub fn unmet(&self, condition: &'static str, why: impl Into<String>) {
        let why = why.into();
        self.0.send_if_modified(|unmet| unmet.insert(condition, why.clone()).as_ref() != Some(&why));
    }

    /// Reports that the condition is met.
    pub fn met(&self, condition: &'static str) {
        self.0.send_if_modified(|unmet| unmet.remove(condition).is_some());
    }

    /// Keeps the condition up to date with what `is_met` says of `watched`, from now on until its sender is gone. `why`
    /// is the reason while it is unmet. Needs a tokio runtime.
    pub fn follow<T: Send + Sync + 'static>(
        self: &Arc<Self>,
        condition: &'static str,
        why: &'static str,
        mut watched: watch::Receiver<T>,
        is_met: impl Fn(&T) -> bool + Send + 'static,
    ) {
        let health = Arc::clone(self);
        let say = move |watched: &mut watch::Receiver<T>| match is_met(&watched.borrow_and_update()) {
            true => health.met(condition),
            false => health.unmet(condition, why),
        };
        say(&mut watched);
        tokio::spawn(async move {
            while watched.changed().await.is_ok() {
                say(&mut watched);
            }
        });
    }

    /// Whether every condition is met.
    pub fn is_ready(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Waits until every condition is met.
    pub async fn ready(&self) {
        // Cannot fail: `self` holds the sender.
        let _ = self.0.subscribe().wait_for(BTreeMap::is_empty).await;
    }

    /// The unmet conditions, one a line: `name: why`. Empty if there are none.
    pub fn report(&self) -> String {
        self.0.borrow().iter().map(|(condition, why)| format!("{condition}: {why}\n")).collect()
    }
}

/// The three routes. A program merges them into a larger router, or serves them on `[admin] addr`.
///
/// - `GET /metrics`: everything registered, as OpenMetrics for who accepts it, else in Prometheus' text format 0.0.4
/// - `GET /healthz`: 200 `ok` for as long as the process answers
/// - `GET /readyz`: 200 `ok`, or 503 with the unmet conditions, one a line
pub fn router(health: Arc<Health>, metrics: Arc<Registry>) -> Router {
    let [healthz, readyz, metrics_path] = PROBES;
    Router::new()
        .route(healthz, get(|| async { "ok\n" }))
        .route(readyz, get(readiness).with_state(health))
        .route(metrics_path, get(render).with_state(metrics))
}

async fn render(State(metrics): State<Arc<Registry>>, headers: HeaderMap) -> Response {
    let exposition = Exposition::accepted(&headers);
    match exposition.encode(&metrics) {
        Ok(body) => {
            let headers = [(header::CONTENT_TYPE, exposition.content_type()), (header::VARY, "Accept")];
            (headers, body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the metrics: {error}\n"))
            .into_response(),
    }
}

async fn readiness(State(health): State<Arc<Health>>) -> (StatusCode, String) {
    match health.report() {
        unmet if unmet.is_empty() => (StatusCode::OK, "ok\n".to_owned()),
        unmet => (StatusCode::SERVICE_UNAVAILABLE, unmet),
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, to_bytes},
        http::Request,
    };
    use prometheus_client::metrics::counter::Counter;
    use tower::ServiceExt as _;

    use super::*;

    async fn request(router: &Router, method: &str, path: &str) -> (u16, Option<String>, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let content_type =
            response.headers().get(header::CONTENT_TYPE).map(|t| t.to_str().unwrap().to_owned());
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, content_type, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_names_what_is_unmet_and_comes_and_goes() {
        let health = Arc::new(Health::new());
        health.unmet("shards", "2 of 4 started");
        health.unmet("logic", "unreachable");
        let router = router(health.clone(), Arc::default());
        let (status, _, body) = request(&router, "GET", "/readyz").await;
        assert_eq!((status, body.as_str()), (503, "logic: unreachable\nshards: 2 of 4 started\n"));

        health.met("logic");
        health.met("logic");
        health.unmet("shards", "3 of 4 started");
        assert!(!health.is_ready());
        assert_eq!(request(&router, "GET", "/readyz").await.2, "shards: 3 of 4 started\n");

        health.met("shards");
        health.ready().await;
        let (status, _, body) = request(&router, "GET", "/readyz").await;
        assert_eq!((status, body.as_str()), (200, "ok\n"));

        health.unmet("shards", "stalled");
        assert_eq!(request(&router, "GET", "/readyz").await.0, 503);
    }

    #[tokio::test]
    async fn a_condition_follows_what_it_is_about() {
        let (health, redis) = (Arc::new(Health::new()), watch::Sender::new(false));
        health.follow("redis", "no connection", redis.subscribe(), |ready| *ready);
        assert_eq!(health.report(), "redis: no connection\n");
        redis.send_replace(true);
        health.ready().await;
    }

    #[tokio::test]
    async fn the_process_is_healthy_while_it_answers_ready_or_not() {
        let health = Arc::new(Health::new());
        health.unmet("logic", "unreachable");
        let router = router(health, Arc::default());
        let (status, _, body) = request(&router, "GET", "/healthz").await;
        assert_eq!((status, body.as_str()), (200, "ok\n"));
    }

    #[tokio::test]
    async fn metrics_come_in_the_format_that_is_asked_for() {
        let counter = Counter::<u64>::default();
        counter.inc_by(3);
        let mut metrics = Registry::default();
        metrics.register("halley_pushes", "Pushes accepted", counter);
        let router = router(Arc::default(), Arc::new(metrics));
        let (status, content_type, body) = request(&router, "GET", "/metrics").await;
        assert_eq!(
            (status, content_type.as_deref()),
            (200, Some("text/plain; version=0.0.4; charset=utf-8"))
        );
        assert!(body.ends_with("\nhalley_pushes_total 3\n"), "{body}");

        let asked = Request::get("/metrics").header("Accept", "application/openmetrics-text");
        let response = router.oneshot(asked.body(Body::empty()).unwrap()).await.unwrap();
        let content_type = response.headers()[header::CONTENT_TYPE].clone();
        assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        assert!(body.ends_with(b"\nhalley_pushes_total 3\n# EOF\n"), "{body:?}");
    }

    #[tokio::test]
    async fn other_methods_and_paths_are_refused() {
        let router = router(Arc::default(), Arc::default());
        assert_eq!(request(&router, "POST", "/metrics").await.0, 405);
        assert_eq!(request(&router, "GET", "/metric").await.0, 404);
    }
}
