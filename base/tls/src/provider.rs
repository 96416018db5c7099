//! The one provider of cryptography.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

/// It.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
