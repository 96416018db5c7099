//! Logs, and what the process says about itself.
//!
//! - [`init_logs`]: `tracing` to stderr, as text or JSON
//! - [`LogLimit`], [`OUTSIDERS`]: at most so many lines about what clients do
//! - [`register`]: build, memory, descriptors, CPU time

mod limit;
mod logs;
mod process;

pub use limit::{LogLimit, OUTSIDERS};
pub use logs::{Format, LogError, init_logs, lost_lines};
pub use process::{register, register_insecure};
