//! Halley's own routes, below `/halley`: devices that are online, and kicks.

use std::{
    collections::{BTreeMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    response::Response,
};
use proto::{
    close::CLOSE_TEXT_LEN_MAX,
    ids::{Key, Mid, ServerId},
};
use serde::Serialize;
use session::{SessionsUnavailable, StoredSession};

use super::{
    Api, accepted,
    answer::{ApiError, data},
    query::Query,
};
use crate::{KickFailure, devices::since};

/// The device of a key that was asked for.
#[derive(Serialize)]
struct OfKey {
    /// As text, since JavaScript cannot read every number above 2^53 exactly.
    mid: Option<String>,
    server: ServerId,
    since: Option<i64>,
}

/// One device of a user that was asked for.
#[derive(Serialize)]
struct OfMid {
    key: Key,
    server: ServerId,
    since: Option<i64>,
}

impl OfKey {
    fn new(session: StoredSession) -> Self {
        let since = since(&session);
        OfKey { mid: session.mid.map(|mid| mid.to_string()), server: session.server, since }
    }
}

impl OfMid {
    fn new(session: StoredSession) -> Self {
        let since = since(&session);
        OfMid { key: session.key, server: session.server, since }
    }
}

pub(super) async fn online_keys(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.ask(request, keys, async |keys| {
        let sessions = api.logic.sessions_of_keys(&keys).await?;
        let sessions = sessions.into_iter().map(|session| session.map(OfKey::new));
        Ok(data(keys.into_iter().zip(sessions).collect::<BTreeMap<_, _>>()))
    })
    .await
}

pub(super) async fn online_mids(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.ask(request, mids, async |mids| {
        let sessions = api.logic.sessions_of_mids(&mids).await?;
        let sessions = sessions.into_iter().map(|of_one| of_one.into_iter().map(OfMid::new).collect());
        Ok(data(mids.into_iter().zip(sessions).collect::<BTreeMap<_, Vec<_>>>()))
    })
    .await
}

pub(super) async fn kick_keys(State(api): State<Arc<Api>>, request: Request) -> Response {
    let read = |query: &Query<'_>| Ok((keys(query)?, reason(query)?));
    api.ask(request, read, async |(keys, text)| Ok(accepted(api.logic.kick_keys(keys, text).await?))).await
}

pub(super) async fn kick_mids(State(api): State<Arc<Api>>, request: Request) -> Response {
    let read = |query: &Query<'_>| Ok((mids(query)?, reason(query)?));
    api.ask(request, read, async |(mids, text)| Ok(accepted(api.logic.kick_mids(mids, text).await?))).await
}

fn keys(query: &Query<'_>) -> Result<Vec<Key>, ApiError> {
    super::keys(query).map(once)
}

fn mids(query: &Query<'_>) -> Result<Vec<Mid>, ApiError> {
    super::mids(query).map(once)
}

/// Each one once, in the order asked. User 0 may have very many devices, and a URL has room to name her ten thousand
/// times.
fn once<T: Clone + Eq + Hash>(asked: Vec<T>) -> Vec<T> {
    let mut seen = HashSet::new();
    asked.into_iter().filter(|one| seen.insert(one.clone())).collect()
}

/// The words that the kicked clients read.
fn reason(query: &Query<'_>) -> Result<Option<Arc<str>>, ApiError> {
    let Some(text) = query.get("reason") else { return Ok(None) };
    if text.len() > CLOSE_TEXT_LEN_MAX {
        return Err(ApiError::BadRequest(format!("reason is longer than {CLOSE_TEXT_LEN_MAX} bytes")));
    }
    Ok(Some(text.into()))
}

impl Api {
    /// Answers a request that consists of its parameters alone; a body is not read.
    async fn ask<T>(
        &self,
        request: Request,
        read: impl FnOnce(&Query<'_>) -> Result<T, ApiError>,
        answer: impl AsyncFnOnce(T) -> Result<Response, ApiError>,
    ) -> Response {
        let asked = self.query(&request).and_then(|query| read(&query));
        let answered = match asked {
            Ok(asked) => answer(asked).await,
            Err(error) => Err(error),
        };
        answered.unwrap_or_else(|error| self.fail(error))
    }
}

impl From<SessionsUnavailable> for ApiError {
    fn from(error: SessionsUnavailable) -> Self {
        ApiError::Unavailable(error.to_string())
    }
}

impl From<KickFailure> for ApiError {
    fn from(failure: KickFailure) -> Self {
        ApiError::Unavailable(failure.to_string())
    }
}
