//! How the input of one connection becomes frames. That depends on its wire.

use proto::{
    frame::FrameReader,
    websocket::{Reader, Upgrade},
};

/// How input becomes frames.
#[derive(Debug)]
pub enum Wire {
    /// Bare frames.
    Tcp(FrameReader),
    /// The head of a WebSocket upgrade.
    Http(Box<Upgrade>),
    /// WebSocket messages of frames.
    WebSocket(Reader),
    /// Nothing: input is thrown away, or the wire is in use right now.
    Deaf,
}
