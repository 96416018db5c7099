//! Descriptor ownership and the kernel interfaces Halley needs beyond what safe crates offer.
//!
//! **What it is.** A safe interface over what the gateway's drivers ask of Linux: listening sockets
//! with options that accepted sockets inherit, a socket that can be awaited and written at the same
//! time, handing a connection to another thread, waking a thread asleep in the kernel, giving the
//! kernel a turn, and asking at start whether io_uring may be used. Whatever waits runs on monoio, on
//! io_uring and on epoll alike, and with the feature `glommio` on glommio.
//!
//! **What it never does.** It holds no protocol rule, keeps no queue, spawns no thread, logs nothing.
//!
//! **Invariants.**
//! - This is the only crate of the project with `unsafe` code. Every block states who keeps the
//!   memory or the descriptor alive.
//! - A descriptor has exactly one owner and is closed exactly once.
//! - Every [`Socket`] is `O_NONBLOCK` and `CLOEXEC`, so it can move between drivers and threads.
//!
//! **Modules.** `runtime` (what a driver asks of a runtime and of a socket), `monoio` and `glommio` (how
//! they do it), `descriptor` (what is asked of a descriptor alone), `listen` (listening sockets and their
//! options), `listener` (accepting), `event` (waking a thread), `turn` (letting the kernel in),
//! `send_ring` (sends in batches, without a runtime), `probe` (may io_uring be used), `process` (limits
//! and figures of the process).
#![deny(unsafe_op_in_unsafe_fn)]

mod descriptor;
mod event;
#[cfg(feature = "glommio")]
mod glommio;
mod listen;
mod listener;
mod monoio;
mod probe;
mod process;
mod runtime;
mod send_ring;
mod turn;

#[cfg(feature = "glommio")]
pub use self::glommio::{Glommio, GlommioSocket};
pub use self::monoio::{Monoio, MonoioSocket};
pub use event::{WakeReceiver, WakeReceiverSeed, WakeSender, wake_pair};
pub use listen::{ListenOptions, listen, refuse_second_process};
pub use listener::Listener;
pub use probe::{Refusal, probe_io_uring};
pub use process::{OpenFileLimit, descriptors_open, raise_open_file_limit, resident_anonymous_bytes};
pub use runtime::{DetachError, Runtime, Socket};
pub use send_ring::{SendDone, SendRing};
pub use turn::Turns;
