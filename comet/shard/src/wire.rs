//! How the input of one connection becomes frames, by its wire.

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
    /// Nothing is read any more, or somebody is at it.
    Deaf,
}
