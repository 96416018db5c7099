//! RFC 6455, sans-IO.

mod opcode;

pub use opcode::Opcode;
pub(crate) use opcode::server_header;
