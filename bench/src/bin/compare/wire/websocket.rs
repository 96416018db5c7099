//! Clients over WebSocket: goim's frames inside messages, or nchan's, whose messages are the bodies themselves.

use proto::{
    frame,
    websocket::{ClientUpgrade, Item, MessageLimits, Opcode, Reader, client_frame},
};

use super::{BODY_MAX, Heard, Wire, hear_frame};

const LIMITS: MessageLimits = MessageLimits { message_max: BODY_MAX, fragments_max: 100 };

/// A constant: nobody between client and server could be fooled by a mask here.
const MASK: [u8; 4] = [1, 2, 3, 4];

/// A client over WebSocket.
pub(super) struct WebSocket {
    upgrade: Option<Box<ClientUpgrade>>,
    reader: Reader,
    path: &'static str,
    /// goim: what is said after the upgrade; messages hold frames.
    login: Option<Vec<u8>>,
}

impl WebSocket {
    /// goim's, which logs in after the upgrade.
    pub(super) fn goim(login: Vec<u8>) -> Self {
        Self::new("/sub", Some(login))
    }

    /// nchan's, which is in the room after the upgrade.
    pub(super) fn nchan() -> Self {
        Self::new("/sub/room", None)
    }

    fn new(path: &'static str, login: Option<Vec<u8>>) -> Self {
        Self {
            upgrade: Some(Box::new(ClientUpgrade::new([7; 16]))),
            reader: Reader::of_server(),
            path,
            login,
        }
    }

    #[cfg(test)]
    pub(super) fn skip_upgrade(&mut self) {
        self.upgrade = None;
    }
}

impl Wire for WebSocket {
    fn hello(&mut self) -> Vec<u8> {
        self.upgrade.as_ref().map_or_else(Vec::new, |upgrade| upgrade.request("127.0.0.1", self.path, &[]))
    }

    fn hear(&mut self, mut input: &mut [u8], on: &mut dyn FnMut(Heard<'_>)) -> Result<(), String> {
        if let Some(upgrade) = &mut self.upgrade {
            let mut rest = &*input;
            if !upgrade.push(&mut rest).map_err(|error| error.to_string())? {
                return Ok(());
            }
            let used = input.len() - rest.len();
            input = &mut input[used..];
            self.upgrade = None;
            match &self.login {
                Some(login) => {
                    let mut message = Vec::new();
                    client_frame(Opcode::Binary, login, MASK, &mut message);
                    on(Heard::Say(message));
                }
                None => on(Heard::Joined),
            }
        }
        while let Some(item) =
            self.reader.next(&mut input, &LIMITS).map_err(|violation| violation.to_string())?
        {
            match item {
                Item::Message(message) if self.login.is_none() => on(Heard::Message(message)),
                Item::Message(message) => {
                    for frame in frame::frames_of_message(message, BODY_MAX) {
                        hear_frame(frame.map_err(|violation| violation.to_string())?, on)?;
                    }
                }
                Item::Ping(payload) => {
                    let mut pong = Vec::new();
                    client_frame(Opcode::Pong, payload, MASK, &mut pong);
                    on(Heard::Say(pong));
                }
                Item::Pong => {}
                Item::Close(code) => return Err(format!("the server closed: {code:?}")),
            }
        }
        Ok(())
    }
}
