//! TLS between services, and for operators and backends: HTTPS, and gRPC whose both ends show a certificate. TLS of
//! clients is comet's own.
//!
//! - [`certificates`]: reads them, and tells when they are over
//! - `client`: to Redis, Kafka and etcd (feature `tls-client`)
//! - [`mutual`]: how the parts of a cluster know each other
//! - [`current`]: what is exchanged when its files have changed
//! - [`stream`]: a connection with or without TLS

pub mod certificates;
#[cfg(feature = "tls-client")]
mod client;
mod current;
mod mutual;
mod stream;

#[cfg(feature = "tls-client")]
pub use self::client::{TlsClient, TlsClientConfig};
pub use self::{
    current::Current,
    mutual::{Mutual, MutualConfig, MutualRead},
    stream::{Stream, accept, connect},
};

#[cfg(test)]
mod tests;
