//! Decides who a client is.

use contract::{ConnectRequest, LogicError};
use proto::{close::CloseReason, login::Login};

use crate::config::AuthMode;

/// Decides logins. Modes that verify the client become variants beside `Trust`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Auth {
    /// goim's mode: logic believes what the client says about itself.
    Trust,
}

impl Auth {
    pub(super) fn new(mode: AuthMode) -> Self {
        match mode {
            AuthMode::Trust => Auth::Trust,
        }
    }

    /// Tells who the client is and what it may do.
    ///
    /// # Errors
    /// [`LogicError::Refused`] with words for the client. They never repeat what it sent.
    pub(super) fn login(self, request: &ConnectRequest) -> Result<Login, LogicError> {
        match self {
            Auth::Trust => Login::parse(&request.token).map_err(|error| LogicError::Refused {
                reason: CloseReason::LoginRefused,
                text: error.to_string(),
            }),
        }
    }
}
