//! Logs, and what the process says about itself.
//!
//! - [`init_logs`]: `tracing` to stderr, as text or JSON
//! - [`say`], [`flush`], [`lost_lines`]: stderr itself, without waiting for its reader
//! - [`LogLimit`], [`OUTSIDERS`]: a bound on lines about what clients do
//! - [`register`]: build, memory, descriptors, CPU time

mod hold;
mod limit;
mod logs;
mod process;
mod stderr;

pub(crate) use hold::{announce, hold_back, release};
pub use limit::{LogLimit, OUTSIDERS};
pub use logs::{Format, LogError, check_filter, init_logs};
pub use process::{register, register_insecure};
pub use stderr::{flush, lost_lines, say};
