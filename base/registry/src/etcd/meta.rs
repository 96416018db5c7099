//! The value that Halley keeps beside goim's key.

use std::time::{Duration, UNIX_EPOCH};

use contract::ClientCount;
use serde::{Deserialize, Serialize};

use super::{
    super::Node,
    layout::{Layout, Place},
};

/// The value of `/halley.meta/<path>`: JSON. Others may read it, so fields may be added, but none changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Meta {
    addrs: Vec<String>,
    weight: u32,
    offline: bool,
    conn_count: u64,
    ip_count: u64,
    version: String,
    hostname: String,
    /// Milliseconds since the epoch.
    updated: u64,
    /// The next three are written only if the path leaves them out.
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
}

impl Default for Meta {
    fn default() -> Self {
        Self {
            addrs: Vec::new(),
            // goim's default.
            weight: 10,
            offline: false,
            conn_count: 0,
            ip_count: 0,
            version: String::new(),
            hostname: String::new(),
            updated: 0,
            env: None,
            region: None,
            zone: None,
        }
    }
}

impl Meta {
    /// What to write for `node`, with the counts and the time that it contains.
    pub(super) fn of(node: &Node, layout: &Layout) -> Self {
        let updated = node.updated.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            addrs: node.addrs.clone(),
            weight: node.weight,
            offline: node.offline,
            conn_count: node.clients.connections,
            ip_count: node.clients.addresses,
            version: node.version.clone(),
            hostname: node.hostname.clone(),
            updated: u64::try_from(updated.as_millis()).unwrap_or(u64::MAX),
            env: (!layout.has_env()).then(|| node.env.clone()),
            region: (!layout.has_region()).then(|| node.region.clone()),
            zone: (!layout.has_zone()).then(|| node.zone.clone()),
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers are JSON")
    }

    pub(super) fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Fills in what is known about `node`.
    pub(super) fn describe(&self, node: &mut Node, place: &Place<'_>) {
        let said = |path: Option<&str>, meta: &Option<String>| {
            path.map(str::to_owned).or_else(|| meta.clone()).unwrap_or_default()
        };
        node.env = said(place.env, &self.env);
        node.region = said(place.region, &self.region);
        node.zone = said(place.zone, &self.zone);
        node.addrs.clone_from(&self.addrs);
        node.weight = self.weight;
        node.offline = self.offline;
        node.clients = ClientCount { connections: self.conn_count, addresses: self.ip_count };
        node.version.clone_from(&self.version);
        node.hostname.clone_from(&self.hostname);
        if let Some(updated) = UNIX_EPOCH.checked_add(Duration::from_millis(self.updated))
            && self.updated > 0
        {
            node.updated = updated;
        }
    }
}
