//! `halley.v1.Logic` over gRPC, for Halley's comets: renewals by the hundred, and counts in pages.

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use contract::{ClientCount, LogicApi, Renewed, SessionRef};
use futures_util::{Stream, TryStreamExt as _, stream};
use grpc::{
    ROOMS_PAGE,
    halley::{OnlineCounts, OnlineReport, RenewReply, RenewReq, Superseded, logic_server},
};
use host::awake;
use proto::ids::{Generation, Key, Mid, RoomId, ServerId};
use tonic::{Request, Response, Status, Streaming};

use super::rpc::{REQUEST_LEN_MAX, server_id, status};

/// Most rooms in one report, all pages together. This is more than a comet has connections.
const ROOMS_MAX: usize = 4 << 20;

/// Longest time of a report from its beginning to its last page. By then the comet has already begun the next one.
const REPORT_MAX: Duration = Duration::from_secs(10);

/// Any logic, as Halley's own gRPC service.
pub struct HalleyRpc<L>(Arc<L>);

impl<L: LogicApi> HalleyRpc<L> {
    /// The service, which the caller adds to a server beside goim's.
    pub fn service(logic: Arc<L>) -> logic_server::LogicServer<Self> {
        logic_server::LogicServer::new(HalleyRpc(logic)).max_decoding_message_size(REQUEST_LEN_MAX)
    }
}

/// An answer in pages.
type Pages = Pin<Box<dyn Stream<Item = Result<OnlineCounts, Status>> + Send>>;

#[async_trait]
impl<L: LogicApi> logic_server::Logic for HalleyRpc<L> {
    type OnlineStream = Pages;

    async fn renew(&self, request: Request<RenewReq>) -> Result<Response<RenewReply>, Status> {
        let RenewReq { server, sessions } = request.into_inner();
        let sessions = match sessions.is_empty() {
            true => Vec::new(),
            false => {
                let server = server_id(server)?;
                let sessions = sessions.into_iter().map(|session| SessionRef {
                    mid: Mid(session.mid),
                    key: Key::new(session.key),
                    server: server.clone(),
                    generation: Generation::from_wire(session.generation),
                });
                sessions.collect()
            }
        };
        let Renewed { incarnation, superseded, now_us } = self.0.renew(sessions).await.map_err(status)?;
        let superseded = superseded.into_iter();
        Ok(Response::new(RenewReply {
            incarnation: incarnation.unwrap_or_default(),
            superseded: superseded
                .map(|(key, by)| Superseded { key: key.as_str().to_owned(), by: by.0 })
                .collect(),
            now_us: now_us.unwrap_or_default(),
        }))
    }

    /// Answers at once. Otherwise a client's deadline for the head of the answer would also be one for a long report.
    async fn online(&self, request: Request<Streaming<OnlineReport>>) -> Result<Response<Pages>, Status> {
        let answer = stream::once(counts(Arc::clone(&self.0), request.into_inner())).try_flatten();
        Ok(Response::new(Box::pin(answer)))
    }
}

/// Reads all pages of a report and makes the pages of the answer.
async fn counts<L: LogicApi>(
    logic: Arc<L>,
    pages: Streaming<OnlineReport>,
) -> Result<impl Stream<Item = Result<OnlineCounts, Status>>, Status> {
    let report = awake::timeout(REPORT_MAX, report(pages)).await;
    let (server, rooms, clients) =
        report.map_err(|_| Status::deadline_exceeded("the report does not end"))??;
    let all = logic.renew_online(server, rooms, clients).await.map_err(status)?;
    let mut counts = all.into_iter().map(|(room, people)| (room.as_str().to_owned(), people));
    Ok(stream::iter(std::iter::from_fn(move || {
        let rooms: HashMap<String, u32> = counts.by_ref().take(ROOMS_PAGE).collect();
        (!rooms.is_empty()).then_some(Ok(OnlineCounts { rooms }))
    })))
}

/// Reads all pages of a report.
async fn report(
    mut pages: Streaming<OnlineReport>,
) -> Result<(ServerId, HashMap<RoomId, u32>, ClientCount), Status> {
    let first = pages.message().await?.ok_or_else(|| Status::invalid_argument("there is no page"))?;
    let server = server_id(first.server)?;
    let clients = ClientCount { connections: first.connections, addresses: first.addresses };
    let (mut rooms, mut named) = (HashMap::new(), 0);
    let mut page = Some(first.rooms);
    while let Some(counts) = page {
        named += counts.len();
        if named > ROOMS_MAX {
            return Err(Status::resource_exhausted(format!("more than {ROOMS_MAX} rooms in a report")));
        }
        // Every Halley comet checks its room ids, so nobody can ask for one that is malformed.
        rooms.extend(counts.into_iter().filter_map(|(id, people)| Some((RoomId::parse(&id).ok()?, people))));
        page = pages.message().await?.map(|page| page.rooms);
    }
    Ok((server, rooms, clients))
}
