//! goim's HTTP API and Halley's own routes beside it (docs/PROTOCOL.md section 7).

mod admit;
mod answer;
mod devices;
mod query;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Extensions, HeaderMap},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use proto::{
    ids::{Key, Mid, RoomId},
    op::Op,
};
use serde::Serialize;
use tokio::time::timeout;

use self::{
    admit::{Rate, Tokens},
    answer::{ApiError, data, success},
    query::{Query, number},
};
use super::{Logic, NodesApi as _, Offline, Push, PushFailure, PushTarget};
use crate::config::{LimitsConfig, LogicConfig};

/// What the handlers share.
struct Api {
    logic: Arc<Logic>,
    tokens: Tokens,
    rate: Rate,
    /// Longest message, bytes.
    body_max: usize,
    /// Longest time for a body to arrive.
    body_timeout: Duration,
}

/// The routes below `/goim` and `/halley`, each with or without a slash at its end, and the answers for every other
/// path and method.
pub fn router(logic: Arc<Logic>, config: &LogicConfig, limits: &LimitsConfig) -> Router {
    let api = Arc::new(Api {
        logic,
        tokens: Tokens::new(&config.push.tokens),
        rate: Rate::new(limits.push_rate.get()),
        body_max: config.push.max_body.usize(),
        body_timeout: config.http_server.read_timeout.get(),
    });
    let routes: [(&str, MethodRouter<Arc<Api>>); 13] = [
        ("/goim/push/keys", post(push_keys)),
        ("/goim/push/mids", post(push_mids)),
        ("/goim/push/room", post(push_room)),
        ("/goim/push/all", post(push_all)),
        ("/goim/online/top", get(online_top)),
        ("/goim/online/room", get(online_room)),
        ("/goim/online/total", get(online_total)),
        ("/goim/nodes/weighted", get(nodes_weighted)),
        ("/goim/nodes/instances", get(nodes_instances)),
        ("/halley/online/keys", get(devices::online_keys)),
        ("/halley/online/mids", get(devices::online_mids)),
        ("/halley/kick/keys", post(devices::kick_keys)),
        ("/halley/kick/mids", post(devices::kick_mids)),
    ];
    let mut router = Router::new();
    for (path, handler) in routes {
        router = router.route(path, handler.clone()).route(&format!("{path}/"), handler);
    }
    router
        .fallback(|State(api): State<Arc<Api>>| async move { api.fail(ApiError::NotFound) })
        .method_not_allowed_fallback(|State(api): State<Arc<Api>>| async move {
            api.fail(ApiError::MethodNotAllowed)
        })
        .with_state(api)
}

async fn push_keys(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.push(request, |query| {
        let op = optional_operation(query)?;
        Ok((op, PushTarget::Keys(keys(query)?)))
    })
    .await
}

async fn push_mids(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.push(request, |query| {
        let op = optional_operation(query)?;
        Ok((op, PushTarget::Mids(mids(query)?)))
    })
    .await
}

async fn push_room(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.push(request, |query| {
        let op = required_operation(query)?;
        let kind = query.required("type")?;
        Ok((op, PushTarget::Rooms(query.all("room", |name| room_id(kind, name, "room"))?)))
    })
    .await
}

async fn push_all(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.push(request, |query| {
        let op = required_operation(query)?;
        let speed = match query.get("speed") {
            None => 0,
            Some(speed) => match number::<i32>("speed", speed, "an integer of 32 bits")? {
                speed if speed < 0 => return Err(ApiError::BadRequest("speed is negative".into())),
                speed => speed.unsigned_abs(),
            },
        };
        Ok((op, PushTarget::All { speed }))
    })
    .await
}

async fn online_top(State(api): State<Arc<Api>>, request: Request) -> Response {
    #[derive(Serialize)]
    struct Room<'a> {
        room_id: &'a str,
        count: u64,
    }

    api.get(&request, |query| {
        let kind = query.required("type")?;
        let limit = match number::<i32>("limit", query.required("limit")?, "an integer of 32 bits")? {
            limit if limit < 1 => return Err(ApiError::BadRequest("limit is below 1".into())),
            limit => limit.unsigned_abs() as usize,
        };
        let rooms = api.logic.room_counts().top(kind, limit);
        Ok(data(
            rooms
                .iter()
                .map(|(room, count)| Room { room_id: room.name(), count: *count })
                .collect::<Vec<_>>(),
        ))
    })
}

async fn online_room(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.get(&request, |query| {
        let kind = query.required("type")?;
        let rooms = query.all("rooms", |name| Ok((name.to_owned(), room_id(kind, name, "rooms")?)))?;
        let counts = api.logic.room_counts();
        // goim writes the rooms sorted by name.
        let counts: BTreeMap<String, u64> =
            rooms.into_iter().map(|(name, room)| (name, counts.room(&room))).collect();
        Ok(data(counts))
    })
}

async fn online_total(State(api): State<Arc<Api>>, request: Request) -> Response {
    #[derive(Serialize)]
    struct Total {
        conn_count: u64,
        ip_count: u64,
    }

    api.get(&request, |_| {
        let total = api.logic.total();
        Ok(data(Total { conn_count: total.connections, ip_count: total.addresses }))
    })
}

async fn nodes_weighted(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.get(&request, |query| {
        let platform = query.get("platform").unwrap_or_default();
        Ok(data(api.logic.nodes(platform, client_ip(request.headers(), request.extensions()))))
    })
}

async fn nodes_instances(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.get(&request, |_| Ok(data(api.logic.instances())))
}

impl Api {
    fn get(
        &self,
        request: &Request,
        answer: impl FnOnce(&Query<'_>) -> Result<Response, ApiError>,
    ) -> Response {
        let answered = self.query(request).and_then(|query| answer(&query));
        answered.unwrap_or_else(|error| self.fail(error))
    }

    /// The parameters of a request, if its token is right.
    fn query<'a>(&self, request: &'a Request) -> Result<Query<'a>, ApiError> {
        self.tokens.check(request.headers())?;
        Query::parse(request.uri().query())
    }

    async fn push(
        &self,
        request: Request,
        read: impl FnOnce(&Query<'_>) -> Result<(Op, PushTarget), ApiError>,
    ) -> Response {
        self.try_push(request, read).await.unwrap_or_else(|error| self.fail(error))
    }

    async fn try_push(
        &self,
        request: Request,
        read: impl FnOnce(&Query<'_>) -> Result<(Op, PushTarget), ApiError>,
    ) -> Result<Response, ApiError> {
        let (parts, body) = request.into_parts();
        self.tokens.check(&parts.headers)?;
        self.rate.take()?;
        let (op, target) = read(&Query::parse(parts.uri.query())?)?;
        let body = self.body(body).await?;
        let offline = self.logic.push(Push { target, op, body }).await?;
        Ok(accepted(offline))
    }

    /// Reads the whole body. If it is too long, the rest stays unread; if its announced length is too long, all of it
    /// does.
    async fn body(&self, body: Body) -> Result<Bytes, ApiError> {
        let too_large =
            || ApiError::TooLarge(format!("the body is longer than the maximum of {} bytes", self.body_max));
        let announced = hyper::body::Body::size_hint(&body).lower();
        if announced > self.body_max as u64 {
            return Err(too_large());
        }
        let mut chunks = body.into_data_stream();
        let whole = async {
            let mut whole = Bytes::new();
            let mut parts = BytesMut::new();
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(|_| ApiError::BadRequest("the body ended early".into()))?;
                if whole.len() + parts.len() + chunk.len() > self.body_max {
                    return Err(too_large());
                }
                // Nearly every message comes in one chunk. Taking it as it is saves a copy.
                if whole.is_empty() && parts.is_empty() {
                    whole = chunk;
                } else {
                    parts.extend_from_slice(&std::mem::take(&mut whole));
                    parts.extend_from_slice(&chunk);
                }
            }
            Ok(if parts.is_empty() { whole } else { parts.freeze() })
        };
        timeout(self.body_timeout, whole).await.map_err(|_| ApiError::Timeout)?
    }

    fn fail(&self, error: ApiError) -> Response {
        self.logic.metrics.http_error(error.status().as_u16());
        error.into_response()
    }
}

impl From<PushFailure> for ApiError {
    fn from(failure: PushFailure) -> Self {
        match failure {
            PushFailure::Unavailable(why) => ApiError::Unavailable(why),
            PushFailure::Unknown(why) => ApiError::Unknown(why),
            PushFailure::TooLarge(why) => ApiError::TooLarge(why),
        }
    }
}

/// Success, with the names of those who are offline.
fn accepted(offline: Offline) -> Response {
    #[derive(Serialize)]
    struct Absent<T> {
        offline: Vec<T>,
    }

    match offline {
        Offline { keys, .. } if !keys.is_empty() => data(Absent { offline: keys }),
        // As text, since JavaScript cannot read every number above 2^53 exactly.
        Offline { mids, .. } if !mids.is_empty() => {
            data(Absent { offline: mids.iter().map(Mid::to_string).collect() })
        }
        Offline { .. } => success(),
    }
}

/// The operation of a push to keys or users; 0 if the request gives none.
fn optional_operation(query: &Query<'_>) -> Result<Op, ApiError> {
    query.get("operation").map_or(Ok(Op(0)), operation)
}

/// The operation of a push to a room or to everybody. There goim takes 0 for "not given".
fn required_operation(query: &Query<'_>) -> Result<Op, ApiError> {
    match operation(query.required("operation")?)? {
        Op(0) => Err(ApiError::BadRequest("operation is required".into())),
        op => Ok(op),
    }
}

fn operation(text: &str) -> Result<Op, ApiError> {
    let op = Op(number("operation", text, "an integer of 32 bits")?);
    if op.is_reserved() {
        return Err(ApiError::BadRequest(format!(
            "operation {op} is the protocol's own: 1 to 21 and from 2000000000"
        )));
    }
    Ok(op)
}

fn keys(query: &Query<'_>) -> Result<Vec<Key>, ApiError> {
    query.all("keys", |key| Ok(Key::new(key)))
}

fn mids(query: &Query<'_>) -> Result<Vec<Mid>, ApiError> {
    // No user id is negative.
    query.all("mids", |mid| match number::<i64>("mids", mid, "an integer of 64 bits")? {
        mid if mid < 0 => Err(ApiError::BadRequest("mids is negative".into())),
        mid => Ok(Mid(mid)),
    })
}

fn room_id(kind: &str, name: &str, parameter: &str) -> Result<RoomId, ApiError> {
    RoomId::of(kind, name).map_err(|error| ApiError::BadRequest(format!("{parameter}: {error}")))
}

/// Address of the client that asks for nodes: what a proxy says, or else the peer's. logic may believe it, since it
/// only decides which region's comets come first.
pub(super) fn client_ip(headers: &HeaderMap, extensions: &Extensions) -> Option<IpAddr> {
    let said = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        value.split(',').next()?.trim().parse().ok()
    };
    said("x-forwarded-for")
        .or_else(|| said("x-real-ip"))
        .or_else(|| extensions.get::<host::http::Peer>().map(|peer| peer.0.ip()))
}
