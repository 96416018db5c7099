//! The settings of a registration and its keys.

use std::{sync::Arc, time::Duration};

use super::{contact::Contact, layout::Layout, metrics::RegistryMetrics};

/// Least time between two updates of the counts.
pub(super) const UPDATE_EVERY: Duration = Duration::from_secs(1);

/// What a registration shares with its registry.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) layout: Layout,
    pub(super) lease_ttl: Duration,
    pub(super) contact: Arc<Contact>,
    pub(super) metrics: RegistryMetrics,
}
