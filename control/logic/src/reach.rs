//! Reaches the comets of a registry over gRPC, for kicks.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use comet_client::GrpcComet;
use host::dial::Dial;
use proto::ids::ServerId;
use registry::{Registry, Service};
use tracing::warn;

use super::Reach;

/// Reaches every comet that `registry` knows by gRPC; as `dial` says. The first call of a comet
/// makes its connection, which stays until the comet leaves the registry. Call this on a tokio runtime.
pub fn reach_by_grpc(registry: &dyn Registry, dial: Dial) -> Reach {
    let nodes = registry.watch();
    let comets = Mutex::new(HashMap::<ServerId, Arc<GrpcComet>>::new());
    Arc::new(move |server| {
        let nodes = Arc::clone(&nodes.borrow());
        let mut comets = comets.lock().unwrap_or_else(PoisonError::into_inner);
        comets.retain(|server, _| nodes.get(Service::Comet, server).is_some());
        nodes.get(Service::Comet, server)?;
        if let Some(comet) = comets.get(server) {
            return Some(Arc::clone(comet) as _);
        }
        match GrpcComet::new(server, &dial) {
            Ok(comet) => Some(Arc::clone(comets.entry(server.clone()).or_insert(Arc::new(comet))) as _),
            Err(error) => {
                warn!("{error}: nobody is kicked there");
                None
            }
        }
    })
}
